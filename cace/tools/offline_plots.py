"""`dvc plots show` without a network.

DVC's page loads the plotting library from the internet. A page template that contains the library
itself, and a setting in `.dvc/config.local` that names it, make DVC's own command work offline.
"""

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
    if not DVC.is_dir():
        raise UserError(f"{DVC}: not there; run this in the project's top folder")
    library = vl_convert.javascript_bundle(GLOBAL, VEGA_LITE)
    write_atomically(DVC / TEMPLATE, PAGE % library)
    setting = ("config", "--local", "plots.html_template", TEMPLATE)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *setting],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise UserError(f"`dvc {' '.join(setting)}` failed:\n{done.stderr.strip()}")
    return DVC / TEMPLATE
