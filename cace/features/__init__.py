"""The feature store, and batches of its samples."""
