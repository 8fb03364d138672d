"""Sources of clips: each makes a folder in the AVE layout."""
