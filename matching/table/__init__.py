"""The table of cross-modality localization on the current source: Markdown, JSON, and a page."""
