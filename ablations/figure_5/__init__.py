"""The page of the paper's Figure 5."""
