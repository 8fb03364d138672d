"""From decoded clips, or released feature files, to the feature store."""
