"""The tables of the baselines on the current source: Markdown, JSON, and a page."""
