"""The command `cace plots`."""

import argparse
from pathlib import Path

from cace.cli import arguments
from cace.system.errors import UserError
from cace.system.files import expect_writable


def add(commands: arguments.Commands, _: Path) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "plots",
        help="make `dvc plots show` work without a network, or draw the plots as pictures",
        description="Writes a page template that contains the plotting library, and names it in "
        ".dvc/config.local: the pages of `dvc plots show` and `dvc plots diff` then load nothing "
        "from the internet. With --png it writes the plots as pictures instead.",
    )
    parser.add_argument(
        "--png", type=arguments.path, metavar="DIR", help="folder to write a PNG of each plot to"
    )
    parser.add_argument("--base", metavar="REV", help="with --png: a commit to draw beside them")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Writes the template or the pictures, and prints their paths."""
    if options.base and not options.png:
        raise UserError("--base needs --png DIR, the folder to write the pictures to")
    from cace.tools.plots import draw_plots, make_plots_offline

    if options.png:
        expect_writable(options.png)
        for path in draw_plots(options.png, options.base):
            print(path)
        return
    print(f"{make_plots_offline()}: `dvc plots show` uses it from now on")
