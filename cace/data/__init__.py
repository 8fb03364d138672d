"""Clips and labels: where they come from, how they are annotated, split and listed."""
