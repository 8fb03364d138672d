"""A folder with the least that half-done work needs: stages with their code, and settings."""

from pathlib import Path

STAGES = ("download", "decode", "finetune", "extract", "train")
SETTINGS = "data: {source: mini}\n"


def make_workspace(folder: Path, monkeypatch) -> Path:
    """Writes dvc.yaml, params.yaml and one file of code, and makes `folder` the current one."""
    stages = "".join(
        f"  {name}:\n    deps:\n    - data/{before}\n    - cace/code.py\n"
        f"    outs:\n    - data/{name}\n"
        for before, name in zip(("index", *STAGES), STAGES, strict=False)
    )
    (folder / "dvc.yaml").write_text(f"stages:\n{stages}")
    if not (folder / "params.yaml").exists():
        (folder / "params.yaml").write_text(SETTINGS)
    (folder / "cace").mkdir()
    (folder / "cace/code.py").write_text("answer = 41\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    return folder


def work_of(folder: Path, stage: str) -> list[str]:
    """The names of a stage's half-done work: `<code>-<inputs>`."""
    return sorted(path.name for path in folder.glob(f".work/{stage}/*") if path.is_dir())
