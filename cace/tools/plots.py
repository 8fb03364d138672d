"""DVC's plots without a network, and as pictures.

DVC's page loads the plotting library from the internet. A page template that contains the library
itself, and a setting in `.dvc/config.local` that names it, make `dvc plots show` work offline.
"""

import json
import subprocess
import sys
from pathlib import Path

import vl_convert

from cace.system.errors import UserError
from cace.system.files import write_atomically

DVC = Path(".dvc")
TEMPLATE = "offline.html"  # under .dvc; 0.9 MB that git ignores
VEGA_LITE = "5.21"  # DVC's plots are written for version 5
GLOBAL = "window.vegaEmbed = vegaEmbed;"  # what DVC's plots call
PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Plots</title>
<link rel="icon" href="data:,">
{refresh_tag}
<script>
%s
</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""  # DVC fills in the names in braces


def make_plots_offline() -> Path:
    """Writes the template and the setting of the project in the current folder.

    Raises: UserError if the folder is not a DVC project.
    """
    _expect_project()
    library = vl_convert.javascript_bundle(GLOBAL, VEGA_LITE)
    write_atomically(DVC / TEMPLATE, PAGE % library)
    _dvc("config", "--local", "plots.html_template", TEMPLATE)
    return DVC / TEMPLATE


def draw_plots(into: Path, base: str | None = None) -> list[Path]:
    """Writes each plot of the project in the current folder as a PNG, and returns the files.

    base: a branch, tag or commit to draw beside the workspace.
    Raises: UserError if there are none, or DVC cannot read them, as of an unknown commit.
    """
    _expect_project()
    command = ("show",) if base is None else ("diff", base, "workspace")
    found = json.loads(_dvc("plots", *command, "--json", "--out", str(into))).get("data", {})
    files = []
    for name, plots in found.items():
        for plot in (plot for plot in plots if plot["type"] == "vega"):
            path = into / Path(name).with_suffix(".png")
            write_atomically(path, vl_convert.vegalite_to_png(plot["content"]))
            files.append(path)
    if not files:
        raise UserError("there are no plots; run `dvc repro`")
    return files


def _expect_project() -> None:
    if not DVC.is_dir():
        raise UserError(f"{DVC}: not there; run this in the project's top folder")


def _dvc(*arguments: str) -> str:
    """What a DVC command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise UserError(f"`dvc {' '.join(arguments)}` failed:\n{done.stderr.strip()}")
    return done.stdout
