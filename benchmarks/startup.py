"""What it takes until a command does its work: imports, building networks, loading a model.

CPU seconds, not wall seconds: they are nearly the same on a busy machine. Each program runs in a
process of its own, and its fastest run counts. It is compared with what it needs in any case.
"""

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.measuring import Report, children_seconds, parser

IMPORTS = "import cace.inference, cace.encoders.audio, cace.encoders.visual"
MODEL = """
import sys
from pathlib import Path
from cace.inference.export import export
from tests.models import write_model
export(write_model(Path(sys.argv[1]).parent), Path(sys.argv[1]))
"""
# For each program what it is compared with, and the goal.
PROGRAMS = {
    "python": ("pass", None, None),
    "`cace --help`": (
        "from cace.cli import main; main(['--help'])",
        "python",
        "at most 0.5 s",
    ),
    "import torch": ("import torch", "python", None),
    "imports of `cace localize`": (IMPORTS, "import torch", None),
    **{
        f"building {name}": (
            f"{IMPORTS}; cace.encoders.{modality}.{modality}_encoder('{name}', '{weights}')",
            "imports of `cace localize`",
            None,
        )
        for modality, name, weights in (
            ("visual", "efficientnet_lite0", "imagenet"),
            ("visual", "resnet50", "none"),
            ("audio", "logmel", "none"),
            ("audio", "cnn14", "none"),
        )
    },
    "loading a model of two seeds": (
        f"{IMPORTS}; import sys; cace.load(sys.argv[1])",
        "imports of `cace localize`",
        None,
    ),
}


def main() -> None:
    """Prints all figures."""
    options = parser(__doc__).parse_args()
    report = Report("startup", __doc__)
    fastest: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / "model.cace"
        subprocess.run([sys.executable, "-c", MODEL, model], check=True)
        for _ in report.rounds(options.rounds):
            for name, (code, needed, goal) in PROGRAMS.items():
                command = [sys.executable, "-c", code, str(model)]
                seconds = children_seconds(
                    partial(subprocess.run, command, capture_output=True, check=True)
                )
                fastest[name] = min(seconds, fastest.get(name, seconds))
                compared = fastest[needed] if needed else None
                report.add(name, "CPU s", fastest[name], compared, goal)


if __name__ == "__main__":
    main()
