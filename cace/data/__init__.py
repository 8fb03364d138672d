"""Clips and their labels: sources, annotations, and the list of files."""
