"""Cross-modality localization: the window of one modality that belongs to a window of the other."""
