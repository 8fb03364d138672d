"""The command `cace evaluate`."""

import argparse
import json
from pathlib import Path

from cace import paths
from cace.cli import arguments
from cace.conventions import SPLITS


def add(commands: arguments.Commands, top: Path) -> None:
    """Adds the command; `top` is the project's folder."""
    parser = commands.add_parser(
        "evaluate",
        help="score a checkpoint, ours or one of a method's authors, on the feature store",
        description="Scores a checkpoint on the current feature store and prints the metrics as "
        "JSON. An authors' checkpoint (.pth.tar) does not contain its settings: --localizer, "
        "--guidance, --beta, --psi and --lambda give them. Ours contains them: these options are "
        "ignored, except that --localizer must name its method.",
        formatter_class=arguments.ShowDefaults,
    )
    parser.add_argument(
        "--checkpoint",
        type=arguments.path,
        required=True,
        metavar="FILE",
        help="checkpoint to score",
    )
    parser.add_argument(
        "--features",
        type=arguments.path,
        default=top / paths.FEATURES,
        metavar="FILE",
        help="the feature store",
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="split to score")
    arguments.add_threshold(parser)
    arguments.add_authors_settings(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Prints the scores as JSON."""
    from cace.evaluation.predict import expect_fit
    from cace.evaluation.protocols import evaluate
    from cace.features.batches import Split
    from cace.features.store import FeatureStore
    from cace.localizers.parts import checkpoints
    from cace.system.device import choose_device

    arguments.expect_no_export(options.checkpoint)
    settings, device = arguments.authors_settings(options), choose_device()
    store = FeatureStore(options.features)
    checkpoint = checkpoints.read(options.checkpoint, settings.pop("localizer", None), **settings)
    silenced = checkpoint.about.get("silenced")  # a baseline of one modality is scored as one
    split = Split(store, options.split, device, silenced)
    expect_fit(checkpoint, split, options.checkpoint)
    scores, _ = evaluate(checkpoint.localizer.to(device), split, options.threshold)
    of = {
        "split": options.split,
        "clips": len(split),
        "silenced": silenced,
        "supervision": checkpoint.about.get("supervision"),
    }
    print(json.dumps({**of, **scores._asdict()}, indent=2))
