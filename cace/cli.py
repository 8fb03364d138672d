"""The command line: `cace <command>`.

Each command imports what it needs: importing torch and pandas here would delay `--help` by seconds.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from cace import __version__, paths
from cace.conventions import DEADLINE_SECONDS, MIN_SECONDS, SPLITS, THRESHOLD
from cace.settings import LOCALIZERS, Guidance, Source, load_params
from cace.system.errors import DISK, UserError, listed, printable, run, shown
from cace.system.files import expect_writable, write_atomically
from cace.system.workers import workers

if TYPE_CHECKING:
    from cace.inference.timeline import TimedEvent, Timeline

FORMATS = ("json", "csv", "vtt", "audacity", "html")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        hint = f"put a name that starts with '-' after '--': {self.prog} -- -4f2kD8aQxw"
        takes_names = self.prog.endswith(("inspect", "localize"))
        message = printable(message)
        super().error(f"{message}\n{self.prog}: {hint}" if takes_names else message)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; a failure that the user can fix prints its message, with status 1."""
    try:
        run(lambda: _run(_parser().parse_args(arguments)))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # the program that read the output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _run(options: argparse.Namespace) -> None:
    if "threshold" in options and options.threshold is None:
        top = paths.project_top()
        options.threshold = THRESHOLD if top is None else load_params(top).evaluate.threshold
    options.command(options)


def _parser() -> argparse.ArgumentParser:
    top = paths.project_top() or Path()
    parser = _Parser(
        prog="cace",
        description="Audio-visual event localization. The pipeline itself runs with `dvc repro`.",
    )
    parser.add_argument("--version", action="version", version=f"cace {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    localize = commands.add_parser(
        "localize",
        help="find the events of videos: when, and of which category",
        description="Prints when something of a known category is both visible and audible in "
        "each video, of any length. First prints what the model was trained on; a model knows "
        "only the categories that had training clips. With --out it also writes files for "
        "players, tables and editors, and a page with the video, its timeline and where the model "
        "looked; if it is stopped, the same command continues.",
        formatter_class=_Help,
    )
    localize.add_argument(
        "video", nargs="+", type=_path, metavar="VIDEO", help="video file, or folder with videos"
    )
    localize.add_argument(
        "--model",
        type=_path,
        default=top / paths.LOCALIZERS,
        metavar="PATH",
        help="what `train` wrote: a folder of seeds, which are averaged, or one checkpoint; or a "
        "checkpoint of a method's authors (.pth.tar)",
    )
    localize.add_argument(
        "--encoder",
        type=_path,
        metavar="FILE",
        help="the fine-tuned visual encoder (default: visual_encoder.pt beside the model)",
    )
    localize.add_argument("--out", type=_path, metavar="DIR", help="folder to write files to")
    localize.add_argument(
        "--format",
        type=_formats,
        default=",".join(FORMATS),
        metavar="F,F,...",
        help="files to write: " + ", ".join(FORMATS),
    )
    localize.add_argument(
        "--embed", action="store_true", help="put the video into the page, instead of a link to it"
    )
    localize.add_argument(
        "--truth",
        type=_path,
        metavar="FOLDER",
        help="folder with an Annotations.txt; the page shows its events for the file's name",
    )
    localize.add_argument(
        "--overwrite", action="store_true", help="process all videos again, and replace their files"
    )
    localize.add_argument(
        "--top", type=_count, metavar="N", help="only the N events of the highest confidence"
    )
    _add_threshold(localize)
    _add_authors_settings(localize)
    localize.set_defaults(command=_localize)

    inspect = commands.add_parser(
        "inspect",
        help="show a clip as the pipeline reads it",
        description="Writes a contact sheet (one frame per segment, with its label and, for test "
        "clips, its prediction), the spectrogram, and the sound as WAV.",
    )
    inspect.add_argument(
        "id", nargs="+", metavar="CLIP_ID", help=f"as in {paths.CLIPS / 'clips.csv'}"
    )
    inspect.add_argument(
        "--out", type=_path, default=Path("inspect"), metavar="DIR", help="default: inspect/"
    )
    inspect.set_defaults(command=_inspect)

    check = commands.add_parser(
        "check",
        help="show what is in a folder of clips, and what is wrong with it",
        description="Reads the annotations of a folder in the AVE layout and decodes all its "
        "clips, as the pipeline would; with --source released, reads the released features. "
        "Prints all problems and what to do about them; the exit status is 1 if there is one.",
        formatter_class=_Help,
    )
    check.add_argument("folder", type=_path, metavar="FOLDER", help="the folder of data.path")
    check.add_argument("--csv", type=_path, metavar="FILE", help="table to write, one row per clip")
    check.add_argument(
        "--source",
        choices=("folder", "ave", "released"),
        help="check the folder as this data.source would (default: that of the project; folder "
        "if that is mini, or outside of a project)",
    )
    check.add_argument(
        "--min-seconds",
        type=_seconds,
        metavar="S",
        help="a clip with less picture or sound is refused (default: decode.min_seconds of the "
        f"project; outside of one {MIN_SECONDS:g})",
    )
    check.add_argument(
        "--deadline-seconds",
        type=_seconds,
        metavar="S",
        help="a clip that takes longer to decode is refused (default: decode.deadline_seconds of "
        f"the project; outside of one {DEADLINE_SECONDS:g})",
    )
    check.set_defaults(command=_check)

    doctor = commands.add_parser(
        "doctor",
        help="show what is installed, found and missing, and how to fix it",
        description="Checks this machine and the project in the current folder. Changes nothing. "
        "The exit status is 1 if there is something to fix.",
    )
    doctor.set_defaults(command=_doctor)

    clean = commands.add_parser(
        "clean",
        help="remove what interrupted runs left in .work",
        description="Removes the work of stages from .work, for all branches and settings, unless "
        "a run uses it. A stage that was interrupted then starts from its beginning. Downloads, "
        "and all that DVC has recorded, remain.",
    )
    clean.set_defaults(command=_clean)

    index = commands.add_parser(
        "index",
        help="record a folder's clips, so that the pipeline notices when they change",
        description=f"Writes {paths.INDEX}: size and hash of every annotated clip, and of the "
        "annotation files, of a folder in the AVE layout. The pipeline depends on this file: after "
        "a change in the folder, index it again, and `dvc repro` reads the folder again.",
    )
    index.add_argument("folder", type=_path, metavar="FOLDER", help="the folder of data.path")
    index.set_defaults(command=_index)

    plots = commands.add_parser(
        "plots",
        help="make `dvc plots show` work without a network",
        description="Writes a page template that contains the plotting library, and names it in "
        ".dvc/config.local: the pages of `dvc plots show` and `dvc plots diff` then load nothing "
        "from the internet.",
    )
    plots.set_defaults(command=_plots)

    evaluate = commands.add_parser(
        "evaluate",
        help="score a checkpoint, ours or one of a method's authors, on the feature store",
        description="Scores a checkpoint on the current feature store and prints the metrics as "
        "JSON. An authors' checkpoint (.pth.tar) does not contain its settings: --localizer, "
        "--guidance, --beta, --psi and --lambda give them. Ours contains them: these options are "
        "ignored, except that --localizer must name its method.",
        formatter_class=_Help,
    )
    evaluate.add_argument(
        "--checkpoint", type=_path, required=True, metavar="FILE", help="checkpoint to score"
    )
    evaluate.add_argument(
        "--features",
        type=_path,
        default=top / paths.FEATURES,
        metavar="FILE",
        help="the feature store",
    )
    evaluate.add_argument("--split", choices=SPLITS, default="test", help="split to score")
    _add_threshold(evaluate)
    _add_authors_settings(evaluate)
    evaluate.set_defaults(command=_evaluate)
    return parser


def _add_threshold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threshold",
        type=_share,
        metavar="θ",
        help="a segment with a relevance above it is an event (default: evaluate.threshold of the "
        f"project; outside of one {THRESHOLD})",
    )


def _add_authors_settings(parser: argparse.ArgumentParser) -> None:
    """Settings that a checkpoint of a method's authors does not contain."""
    group = parser.add_argument_group(
        "settings of an authors' checkpoint, which does not contain them"
    )
    group.add_argument(
        "--localizer",
        choices=LOCALIZERS,
        help="the method (default: cace_net); our checkpoints contain it",
    )
    group.add_argument(
        "--guidance", choices=get_args(Guidance), help="which modality guides (cace_net: both)"
    )
    group.add_argument("--beta", type=float, metavar="β", help="β of Eq. 2 (cace_net, cmbs: 0.4)")
    group.add_argument("--psi", type=float, metavar="ψ", help="ψ of Eq. 6 (cace_net: 0.3)")
    group.add_argument(
        "--lambda", type=float, metavar="λ", help="λ of Eq. 8 (cace_net: 0.6)", dest="bece_lambda"
    )


def _authors_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The options that were given; the method has defaults for the others."""
    names = ("localizer", "guidance", "beta", "psi", "bece_lambda")
    given = {name: getattr(options, name) for name in names}
    return {name: value for name, value in given.items() if value is not None}


def _path(text: str) -> Path:
    if not text:  # as of a variable of the shell that is not set; Path would take it for "."
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return Path(text)


def _share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, got {shown(text)}")
    return int(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= 1e6:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected seconds > 0, got {shown(text)}")


def _formats(text: str) -> list[str]:
    wanted = list(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    if strange := sorted(set(wanted) - set(FORMATS)):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(FORMATS)}, got {strange}")
    return wanted


def _localize(options: argparse.Namespace) -> None:
    from cace.inference.exports import Writer, videos
    from cace.inference.localize import load

    left_out: list[str] = []
    files = videos(options.video, left_out)
    if left_out:
        print(f"left out:{listed(left_out)}\n")
    if not options.out and (options.embed or options.truth or options.format != list(FORMATS)):
        raise UserError("--format, --embed and --truth need --out DIR, the folder to write to")
    localizer = load(options.model, encoder=options.encoder, **_authors_settings(options))
    writer = options.out and Writer(
        options.out,
        options.format,
        files,
        made_with={
            "model": localizer.identity,
            "threshold": options.threshold,
            "top": options.top,
        },
        embed=options.embed,
        truth=options.truth,
        overwrite=options.overwrite,
    )
    print(printable(localizer.model))
    print(f"  {printable(localizer.training.described(len(localizer.categories)))}")
    if localizer.training.warning:
        print(f"  {localizer.training.warning}")
    print()
    failures = []
    for file in files:
        name = printable(str(file))
        if writer and file in writer.finished:
            print(f"{name}: skipped, finished by an earlier run with the same settings\n")
            continue
        try:
            timeline = localizer.localize(
                file, show_progress=True, deadline_seconds=DEADLINE_SECONDS
            )
            events = timeline.events(options.threshold, options.top)
            written = writer.write(timeline, events, options.threshold) if writer else []
        except UserError as error:
            failures.append(str(error))
        except OSError as error:
            if error.errno in DISK:  # the other videos would fail too
                raise
            failures.append(f"{error.filename or file}: {error.strerror}")
        else:
            _print_events(timeline, events, options.threshold, written)
            continue
        print(f"{name}: failed, see below\n")
    if failures:
        raise UserError(f"{len(failures)} of {len(files)} videos failed:{listed(failures)}")


def _print_events(
    timeline: "Timeline", events: list["TimedEvent"], threshold: float, written: list[Path]
) -> None:
    from cace.inference.exports import shown

    print(f"{printable(str(timeline.file))} ({timeline.seconds:.1f} s)")
    for remark in timeline.remarks:
        print(f"  {printable(remark)}")
    none = (
        f"no event above the threshold of {threshold:g} in the {timeline.known.sum()} categories "
        f"that the model knows"
    )
    print(shown(events) if events else none)
    for path in written:
        print(f"  {printable(str(path))}")
    print()


def _inspect(options: argparse.Namespace) -> None:
    from cace.data.annotations import load_annotations
    from cace.media.store import ClipStore
    from cace.tools.inspect import inspect_clip

    top = paths.project_top() or Path()
    folder, predictions = top / paths.CLIPS, top / paths.PREDICTIONS / "test.csv"
    clips, annotations = ClipStore(folder), load_annotations(folder / "annotations.json")
    for id_ in options.id:
        *files, remarks = inspect_clip(id_, clips, annotations, predictions, options.out / id_)
        for line in (*map(str, files), *(f"  {remark}" for remark in remarks)):
            print(printable(line))


def _check(options: argparse.Namespace) -> None:
    import pandas as pd

    from cace.data.sources.folder import INDEX_COLUMNS, read_index
    from cace.system.tables import markdown
    from cace.tools.check import Limits, check_folder

    if options.csv:
        _expect_file_to_write(options.csv)
    top = paths.project_top()
    source: Source = options.source or "folder"
    if not options.source and top is not None and (own := load_params(top).data.source) != "mini":
        source = own
    if source == "released":
        from cace.tools.check_released import check_released

        checked = check_released(_folder(options.folder))
    else:
        decode = load_params(top, source).decode if top is not None else None
        limits = Limits(**decode.model_dump(include=set(Limits._fields))) if decode else Limits()
        given = {key: getattr(options, key) for key in ("min_seconds", "deadline_seconds")}
        index = (top or Path()) / paths.INDEX
        checked = check_folder(
            _folder(options.folder),
            read_index(index) if index.exists() else pd.DataFrame(columns=INDEX_COLUMNS),
            source=source,
            limits=limits._replace(**{key: value for key, value in given.items() if value}),
            workers=workers(),
        )
    print(markdown(checked.summary))
    if options.csv:
        write_atomically(options.csv, checked.clips.to_csv(index=False))
    if checked.remarks:
        print(f"\nremarks:{listed(checked.remarks, most=len(checked.remarks))}")
    if count := len(checked.problems):
        plural = "s" if count > 1 else ""
        raise UserError(
            f"{options.folder}: {count} problem{plural}:{listed(checked.problems, most=count)}\n"
            f"What to do before you run this again:{listed(checked.advice)}"
        )
    print(f"\n{options.folder}: no problems")


def _expect_file_to_write(path: Path) -> None:
    try:
        if path.is_dir():
            raise UserError(f"{path}: expected a file to write, got a folder")
        if path.is_file() or not path.exists():  # no pipe, and no device such as /dev/stdout
            expect_writable(path.parent)
    except OSError as error:  # of a name that is too long
        raise UserError(f"{shown(str(path))}: {error.strerror}") from None


def _folder(path: Path) -> Path:
    with contextlib.suppress(OSError):  # of a name that is too long
        if path.is_dir():
            return path
    raise UserError(f"{shown(str(path))}: expected a folder")


def _doctor(_: argparse.Namespace) -> None:
    from cace.tools.doctor import examine

    findings = examine()
    for finding in findings:
        print(f"{'!' if finding.fix else ' '} {finding.what:<28} {finding.found}")
        if finding.fix:
            print(f"    {finding.fix}")
    if wrong := sum(bool(finding.fix) for finding in findings):
        raise UserError(f"{wrong} of {len(findings)} to fix, marked with !")


def _clean(_: argparse.Namespace) -> None:
    from cace.system.scratch import all_work, remove, work_root

    if not (found := all_work()):
        print(f"{work_root()}: nothing to remove")
    for work in found:
        size = f"{work.bytes / 1e9:.1f} GB"
        print(f"{work.name} ({size}): {'removed' if remove(work.folder) else 'in use, stays'}")


def _index(options: argparse.Namespace) -> None:
    from cace.data.annotations import read_annotations
    from cace.data.sources.folder import differences, find_clips, index_of, label_files, read_index

    if (top := paths.project_top()) is None:
        raise UserError(
            f"{paths.INDEX} belongs to a project: run this in a folder with params.yaml and "
            f"dvc.yaml, or below it, got {Path.cwd()}"
        )
    path, folder = top / paths.INDEX, _folder(options.folder)
    annotations = read_annotations(folder)
    before = read_index(path) if path.exists() else None  # not after the hours of hashing
    clips = find_clips(folder, annotations)
    index = index_of({**clips, **label_files(folder)})
    changed = differences(before, index) if before is not None else []
    write_atomically(path, index.to_csv(index=False))
    print(
        f"{path}: {len(clips)} clips and {len(index) - len(clips)} annotation files, "
        f"{len(changed)} of them new, gone or changed"
    )
    if missing := [id_ for id_ in annotations.ids if id_ not in clips]:
        print(f"annotated, but without a file:{listed(missing)}")
    print(f"run `git add {path}` to keep it")


def _plots(_: argparse.Namespace) -> None:
    from cace.tools.offline_plots import make_plots_offline

    print(f"{make_plots_offline()}: `dvc plots show` uses it from now on")


def _evaluate(options: argparse.Namespace) -> None:
    from cace.evaluation.predict import expect_fit
    from cace.evaluation.protocols import evaluate
    from cace.features.batches import Split
    from cace.features.store import FeatureStore
    from cace.localizers.parts import checkpoints
    from cace.system.device import choose_device

    settings, device = _authors_settings(options), choose_device()
    store = FeatureStore(options.features)
    checkpoint = checkpoints.read(options.checkpoint, settings.pop("localizer", None), **settings)
    silenced = checkpoint.about.get("silenced")  # a baseline of one modality is scored as one
    split = Split(store, options.split, device, silenced)
    expect_fit(checkpoint, split, options.checkpoint)
    scores, _ = evaluate(checkpoint.localizer.to(device), split, options.threshold)
    of = {"split": options.split, "clips": len(split), "silenced": silenced}
    print(json.dumps({**of, **scores._asdict()}, indent=2))
