"""The command `cace compare`."""

import argparse
from pathlib import Path

from cace import paths
from cace.cli import arguments
from cace.system.errors import UserError, printable
from cace.system.files import expect_writable


def add(commands: arguments.Commands, _: Path) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "compare",
        help="tell whether a run is better than another, and with what certainty",
        description="Compares the predictions of runs on the same test clips: the differences of "
        "accuracy, category accuracy, event F1 and background recall, each with a 95 % interval "
        "and a p-value, and a verdict in words; kinds of errors, settings that differ, categories, "
        f"and the clips that changed most. Reads {paths.SAVED_PREDICTIONS} from git, or the "
        "complete table from DVC's cache; the workspace is not changed.",
        epilog="A run is one of: a branch, tag or commit; an experiment, as `dvc exp show` names "
        "it; `workspace`, the files as they are; a file of predictions, FILE.csv; a cell of the "
        "tables, as ablations/CELL, baselines/METHOD or weak/METHOD, and at a revision as "
        "main:baselines/METHOD.",
    )
    parser.add_argument("a", metavar="A", help="the run that the others are compared with")
    parser.add_argument(
        "others",
        nargs="*",
        metavar="B",
        help="another run; without one, the result of A in one sentence",
    )
    parser.add_argument(
        "--common",
        action="store_true",
        help="if the test data differ: compare on the clips that all runs have with equal labels",
    )
    parser.add_argument(
        "--format",
        choices=("text", "markdown", "json"),
        default="text",
        help="what is printed (default: text)",
    )
    parser.add_argument(
        "--out",
        type=arguments.path,
        metavar="DIR",
        help="folder to write compare.md, compare.json and compare.html to",
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Prints the comparison, and writes it with --out."""
    from cace.comparison import reports
    from cace.comparison.results import compare_runs
    from cace.comparison.sentence import sentence
    from cace.comparison.sources import find

    names = [options.a, *options.others]
    if repeated := sorted({name for name in options.others if options.others.count(name) > 1}):
        raise UserError(f"name each run once, got several times: {', '.join(repeated)}")
    if not options.others:
        if options.common or options.out or options.format != "text":
            raise UserError("--common, --format and --out need a second run to compare with")
        print(printable(sentence(find(options.a, paths.project_top()))))
        return
    if options.out:
        expect_writable(options.out)
    top = paths.project_top()
    comparison = compare_runs([find(name, top) for name in names], common=options.common)
    if options.format == "json":
        print(reports.as_json(comparison), end="")
    else:
        print(reports.as_text(comparison, markdown=options.format == "markdown"), end="")
    if options.out:
        written = reports.write(comparison, options.out)
        if options.format == "text":  # the others may be read by a program
            print("\n".join(printable(str(path)) for path in written))
