"""Files, processes, errors and half-done work; nothing here changes a result."""
