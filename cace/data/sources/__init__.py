"""The sources of clips and labels, one module each, and how they are collected."""
