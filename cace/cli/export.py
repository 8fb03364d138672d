"""The command `cace export`."""

import argparse
from pathlib import Path

from cace import paths
from cace.cli import arguments
from cace.system.errors import UserError, printable


def add(commands: arguments.Commands, top: Path) -> None:
    """Adds the command; `top` is the project's folder."""
    parser = commands.add_parser(
        "export",
        help="write a trained model into one file, to share it",
        description="Writes one file of a trained model: the localizers of all seeds, the "
        "fine-tuned encoder, the categories, the settings of the frames, where all of it comes "
        "from, and the licences. `cace localize --model FILE` uses it, in any folder. Encoders "
        "with public weights are named in it, with their hash, and are not part of it.",
        formatter_class=arguments.ShowDefaults,
    )
    parser.add_argument("file", type=arguments.path, metavar="FILE", help="file to write")
    parser.add_argument(
        "--model",
        type=arguments.path,
        default=top / paths.LOCALIZERS,
        metavar="PATH",
        help="what `train` wrote: a folder of seeds, or one checkpoint",
    )
    parser.add_argument(
        "--encoder",
        type=arguments.path,
        metavar="FILE",
        help="the fine-tuned visual encoder (default: visual_encoder.pt beside the model)",
    )
    parser.add_argument(
        "--licence", metavar="TEXT", help="the terms under which you share it, as CC BY 4.0"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Writes the file, and prints its size.

    Raises: UserError if it exists already, or the model cannot be loaded. Only such files are
        replaced: --overwrite could name a part of the model itself.
    """
    from cace.inference.export import export
    from cace.inference.model_file import is_model_file

    if options.file.is_dir() or (options.file.exists() and not options.overwrite):
        raise UserError(f"{options.file}: exists already; choose another name, or use --overwrite")
    if options.file.exists() and not is_model_file(options.file):
        raise UserError(f"{options.file}: not a file of `cace export`; choose another name")
    model = export(options.model, options.file, options.encoder, options.licence)
    seeds = f"{len(model.files)} localizer{'s' * (len(model.files) > 1)}"
    size = options.file.stat().st_size / 1e6
    print(printable(f"{options.file}: {seeds} ({model.method}), {size:.1f} MB"))
    if not options.licence:
        print("its terms are not stated; --licence TEXT states them")
