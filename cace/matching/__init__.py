"""Cross-modality localization: finds the window of one modality that fits one of the other."""
