"""DVC stage of the ablations: features of a visual encoder that Table 3 compares."""

import argparse
from pathlib import Path

from cace.encoders.visual import visual_encoder
from cace.settings import Params, load_params
from cace.system.errors import run
from cace.system.files import write_atomically
from stages.extract import encode


def main() -> None:
    """Writes data/ablations/<weights>/: the store, or why this source has none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", choices=("random", "pretrained"))
    weights = parser.parse_args().weights
    params = load_params()
    out = Path("data/ablations") / weights
    if reason := not_run(weights, params):
        write_atomically(out / "not_run.txt", f"{reason}\n")
    elif params.encoders is not None and params.extract is not None:
        named = "none" if weights == "random" else params.encoders.visual_weights
        encoder = visual_encoder(params.encoders.visual, named)
        about = {"name": params.encoders.visual, "weights": named, "finetuned_epochs": 0}
        store = out / "features.h5"
        encode(encoder, about, params.encoders, params.extract, store, params.compute.engine)


def not_run(weights: str, params: Params) -> str | None:
    """Why a source has no such store, or None where it has."""
    if params.encoders is None:
        return f"source {params.data.source} has finished features and no frames"
    if weights == "random" and params.data.source == "ave":
        return "the encoders of the paper's row are those of source released"
    return None


if __name__ == "__main__":
    run(main)
