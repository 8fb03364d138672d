"""Is one run better than another? Differences on the same test clips, with their certainty."""
