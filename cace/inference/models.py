"""A trained model, as it is on the disk, with the encoders that it was trained with."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from cace.data.annotations import AVE_CATEGORIES
from cace.encoders.audio import audio_encoder
from cace.encoders.checkpoint import load_encoder
from cace.encoders.frames import map_sides
from cace.encoders.visual import VisualEncoder, visual_encoder
from cace.encoders.weights import fingerprint
from cace.extraction.convert import RELEASED_WEIGHTS
from cace.extraction.encode import Encoding
from cace.inference.localize import EventLocalizer
from cace.inference.timeline import Training
from cace.localizers.parts import checkpoints
from cace.system.device import choose_device
from cace.system.errors import UserError
from cace.system.files import expect_file, sha256

ENCODED_FRAMES = 40  # at once

# How the released features were made, as far as it is known.
RELEASED_ENCODERS: dict[str, dict[str, Any]] = {
    "visual": {"name": "vgg19", "weights": "imagenet", "finetuned_epochs": 0},
    "audio": {"name": "vggish", "weights": "youtube8m"},
}
RELEASED_FRAMES: dict[str, Any] = {
    "fps": 16,
    "short_side": 256,
    "crop": 224,
    "jpeg_quality": 95,
    "precision": "float32",
}


def load(
    path: Path | str = Path("data/models/localizer"),
    *,
    encoder: Path | str | None = None,
    localizer: str | None = None,
    **settings: Any,
) -> EventLocalizer:
    """A trained model with the encoders that it needs.

    path: what `train` writes: a folder of `seed-<n>`, which are averaged, or one checkpoint; or an
        authors' checkpoint, which is used with VGG-19 and VGGish.
    encoder: the fine-tuned visual encoder; by default the `visual_encoder.pt` beside the model, or
        in a folder above it.
    localizer, settings: method and settings of an authors' checkpoint, which does not contain them.
    Raises: UserError if a file is missing, or the encoders are not those of training.
    """
    files = _checkpoints(Path(path))
    read = [checkpoints.read(file, localizer, **settings) for file in files]
    about = read[0].about
    if any(
        (type(other.localizer), other.localizer.sizes)
        != (type(read[0].localizer), read[0].localizer.sizes)
        for other in read
    ):
        raise UserError(f"{path}: its seeds are of different methods; name one of its checkpoints")
    for key in ("encoders", "frames", "categories", "silenced"):
        if any(other.about.get(key) != about.get(key) for other in read):
            raise UserError(f"{path}: its seeds differ in their {key}; run `dvc repro train`")
    count = read[0].localizer.sizes.categories
    lacks = _lacks(about) if about else []
    if lacks or len(about.get("categories", AVE_CATEGORIES)) != count:
        raise UserError(
            f"{path}: expected a checkpoint that names its {count} categories, its encoders and "
            f"frames{', got none of ' if lacks else ''}{', '.join(lacks)}; run `dvc repro train`"
        )
    device = choose_device()
    is_released = not about or about["encoders"]["visual"]["weights"] == RELEASED_WEIGHTS
    encoders = RELEASED_ENCODERS if is_released else about["encoders"]
    frames: dict[str, Any] = RELEASED_FRAMES if is_released else about["frames"]
    if is_released and encoder:
        raise UserError(
            f"{path}: trained on released features, so it uses their encoder; name no other one"
        )
    visual = _visual(encoders["visual"], Path(path), Path(encoder) if encoder else None)
    audio = audio_encoder(encoders["audio"]["name"], encoders["audio"]["weights"])
    _expect_same("audio", audio, encoders["audio"], path)
    localizers = [one.localizer.to(device) for one in read]
    title, ours = localizers[0].title, localizers[0].reconstruction
    method = f"{title}, a reconstruction: {ours}" if ours else title
    needed = localizers[0].sizes[:2]
    if (got := (visual.channels, audio.channels)) != needed:
        raise UserError(f"{path}: expects features of {needed} channels, its encoders give {got}")
    if not is_released and "grid" in about:
        _expect_grid(about["grid"], visual, frames, path)
    names = f"{encoders['visual']['name']} and {encoders['audio']['name']}"
    identity = [
        *map(sha256, files),
        *map(fingerprint, (visual, audio)),
        *(json.dumps(some, sort_keys=True) for some in (frames, [localizer, settings])),
    ]
    count_of = f"{len(files)} localizer{'s' * (len(files) > 1)}"
    return EventLocalizer(
        localizers,
        Encoding(visual, audio, ENCODED_FRAMES, frames["precision"], frames.get("grid")).to(device),
        tuple(about.get("categories", AVE_CATEGORIES)),
        frames,
        device,
        f"{path}: {count_of} ({method}) on {names}",
        _training(about),
        about.get("silenced"),
        hashlib.sha256("".join(identity).encode()).hexdigest(),
    )


def _checkpoints(path: Path) -> list[Path]:
    expect_file(path, made_by="train")
    if path.is_file():
        return [path]
    files = sorted(path.glob("seed-*/best.pt"))
    if not files:
        raise UserError(
            f"{path}: expected seed-<n>/best.pt in it, got none; run `dvc repro train`, or name a "
            f"checkpoint"
        )
    return files


def _lacks(about: dict[str, Any]) -> list[str]:
    """What is needed to encode a video as the clips of the training were, and is not there."""
    cards = about.get("encoders", {})
    visual, audio, frames = cards.get("visual", {}), cards.get("audio", {}), about.get("frames", {})
    needed = {
        "": (about, ["categories"]),
        "encoders.visual.": (visual, ["name", "weights"]),
        "encoders.audio.": (audio, ["name", "weights"]),
    }
    if visual.get("weights") != RELEASED_WEIGHTS:
        needed["encoders.visual."][1].append("finetuned_epochs")
        needed["frames."] = frames, [*RELEASED_FRAMES]
    return [
        f"{where}{key}" for where, (has, keys) in needed.items() for key in keys if key not in has
    ]


def _training(about: dict[str, Any]) -> Training:
    return Training(about.get("source"), tuple(about.get("trained_categories", ())) or None)


def _visual(about: dict[str, Any], model: Path, given: Path | None) -> VisualEncoder:
    """The visual encoder that a localizer was trained with."""
    if not about["finetuned_epochs"] and given is None:
        encoder = visual_encoder(about["name"], about["weights"])
        _expect_same("visual", encoder, about, model)
        return encoder
    beside = [folder / "visual_encoder.pt" for folder in list(model.parents)[:3]]
    path = given or next((file for file in beside if file.is_file()), beside[0])
    encoder = load_encoder(path, about["name"], needed_by="the localizer").network
    _expect_same("visual", encoder, about, path)
    return encoder


def _expect_grid(
    expected: list[int], encoder: VisualEncoder, frames: dict[str, Any], path: Path | str
) -> None:
    """Raises: UserError if the encoder's map, pooled as the frames say, has another size."""
    pooled = frames.get("grid")
    found = (pooled, pooled) if pooled else map_sides(encoder, frames["crop"])
    if tuple(expected) != found:
        ours, theirs = ("×".join(map(str, sides)) for sides in (expected, found))
        raise UserError(
            f"{path}: expects a grid of {ours}, its encoder gives {theirs}; name the model and the "
            f"encoder of one training"
        )


def _expect_same(
    modality: str, encoder: torch.nn.Module, about: dict[str, Any], path: Path | str
) -> None:
    if about.get("sha256") not in (None, fingerprint(encoder)):
        raise UserError(
            f"{path}: expected the {modality} encoder that the localizer was trained with "
            f"({about['name']}, sha256 {about['sha256'][:12]}...), got one with other weights"
        )
