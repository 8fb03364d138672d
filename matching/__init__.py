"""Cross-modality localization as a DVC matrix: `dvc repro matching/dvc.yaml`."""
