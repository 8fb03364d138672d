"""The systems of the paper's Table 5 as a DVC matrix: `dvc repro baselines/dvc.yaml`."""
