"""The paper's ablations (Tables 1-4) as a DVC matrix: `dvc repro ablations/dvc.yaml`."""
