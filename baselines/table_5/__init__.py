"""The paper's Table 5 on the current source: Markdown, JSON, and a page."""
