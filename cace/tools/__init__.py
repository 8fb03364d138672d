"""What the commands check, doctor, inspect and plots do."""
