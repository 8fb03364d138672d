"""Tables of results: their cells, and how they are written."""
