"""DVC stage of the baselines: train one method over its seeds, and score it."""

import argparse
from pathlib import Path
from typing import Any

from cace import paths
from cace.evaluation.metrics import always_background, never_background
from cace.evaluation.predict import load_for
from cace.settings import Params, changed, load_params
from cace.system.errors import UserError, run
from cace.system.files import read_text, read_yaml
from cace.tables.cells import Trained, run_cell

SETTINGS = Path("baselines/settings")


def main() -> None:
    """Writes the scores of both protocols, and the predictions on test, of one method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", help=f"a file in {SETTINGS}, without .yaml")
    parser.add_argument("--weak", action="store_true", help="train on the tags of clips alone")
    options = parser.parse_args()
    params = settings(options.method, weak=options.weak)
    run_cell(options.method, "weak" if options.weak else "baselines", paths.FEATURES, params, about)


def about(trained: Trained) -> dict[str, Any]:
    """What the table says about a method beside its scores."""
    test = trained.test
    first = load_for(test, trained.models[0] / "best.pt", trained.params.localizer.name)
    background = test.store.background
    return {
        "title": first.title,
        "reconstruction": first.reconstruction,
        "parameters": sum(parameter.numel() for parameter in first.parameters()),
        "train": trained.params.train.model_dump(mode="json"),
        "anchors": {
            "always_background": always_background(test.labels, background),
            "never_background": never_background(test.labels, background),
        },
    }


def settings(method: str, *, weak: bool = False) -> Params:
    """The profile's, with the settings that the method was published with.

    weak: with weak supervision, in the form that all methods have.
    Raises: UserError if there is no such method, or its file has an error.
    """
    file = SETTINGS / f"{method}.yaml"
    if not file.is_file():
        known = sorted(path.stem for path in SETTINGS.glob("*.yaml"))
        raise UserError(f"{SETTINGS}: expected one of {', '.join(known)}, got {method!r}")
    published: dict[str, Any] = read_yaml(read_text(file), file)
    few_clips = published.pop("few_clips")
    params = load_params()
    published["train"] |= {"seeds": params.baselines.seeds, "narrower": 1}
    if params.baselines.few_clips:
        published["train"] |= few_clips
    published["supervision"] = "weak" if weak else "full"
    published["weak"] = {"form": "common"}
    return changed(params, published, where=str(file))


if __name__ == "__main__":
    run(main)
