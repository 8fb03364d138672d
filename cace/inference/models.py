"""A trained model, as it is on the disk, with the encoders that it was trained with."""

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cace.data.annotations import AVE_CATEGORIES
from cace.encoders import transformers_models
from cace.encoders.audio import AudioEncoder, audio_encoder
from cace.encoders.checkpoint import load_encoder
from cace.encoders.frames import map_sides
from cace.encoders.hub import CONFIGURATION
from cace.encoders.visual import VisualEncoder, visual_encoder
from cace.encoders.weights import fingerprint, load_into
from cace.extraction.convert import RELEASED_WEIGHTS
from cace.extraction.encode import Encoding, fold_encoders
from cace.inference.localize import EventLocalizer
from cace.inference.model_file import ModelFile, is_model_file, open_model_file
from cace.inference.timeline import Training
from cace.localizers.parts import checkpoints
from cace.localizers.parts.checkpoints import Checkpoint
from cace.system.device import choose_device, precision_on
from cace.system.errors import UserError
from cace.system.files import expect_file, sha256
from cace.system.torch_files import read_torch_file

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

# What checkpoints say about their training.
SAME_IN_ALL_SEEDS = (
    *("encoders", "frames", "categories", "silenced"),
    *("source", "trained_categories", "supervision"),
)


class Model(NamedTuple):
    """A trained model as it was read: localizers in eval mode, and their encoders."""

    path: Path
    files: Sequence[Path | zipfile.Path]  # the checkpoints
    read: list[Checkpoint]
    visual: VisualEncoder
    audio: AudioEncoder
    encoders: dict[str, Any]  # the card of each modality's
    frames: dict[str, Any]  # how clips were decoded and encoded

    @property
    def about(self) -> dict[str, Any]:
        """What its seeds have in common."""
        return self.read[0].about

    @property
    def method(self) -> str:
        """Title of the method, with what is ours in it, and whether it knew tags alone."""
        title, ours = self.read[0].localizer.title, self.read[0].localizer.reconstruction
        if self.about.get("supervision") == "weak":
            title += " with weak supervision"
        return f"{title}, a reconstruction: {ours}" if ours else title


class Encoders(NamedTuple):
    """Both encoders, and how clips were decoded for them."""

    visual: VisualEncoder
    audio: AudioEncoder
    cards: dict[str, Any]  # of each modality's
    frames: dict[str, Any]  # fps, short_side, crop, jpeg_quality, precision


def load(
    path: Path | str = Path("data/models/localizer"),
    *,
    encoder: Path | str | None = None,
    localizer: str | None = None,
    **settings: Any,
) -> EventLocalizer:
    """A trained model with the encoders that it needs.

    path: a file of `cace export`; or what `train` writes: a folder of `seed-<n>`, which are
        averaged, or one checkpoint; or an authors' checkpoint, which is used with VGG-19 and
        VGGish.
    encoder: the fine-tuned visual encoder; by default the `visual_encoder.pt` beside the model, or
        in a folder above it. A file of `cace export` contains its own.
    localizer, settings: method and settings of an authors' checkpoint, which does not contain them.
    Raises: UserError if a file is missing or damaged, or the encoders are not those of training.
    """
    model = read_model(Path(path), Path(encoder) if encoder else None, localizer, **settings)
    device = choose_device()
    names = f"{model.encoders['visual']['name']} and {model.encoders['audio']['name']}"
    identity = [
        *map(sha256, model.files),
        *map(fingerprint, (model.visual, model.audio)),
        *(json.dumps(some, sort_keys=True) for some in (model.frames, [localizer, settings])),
    ]
    count_of = f"{len(model.files)} localizer{'s' * (len(model.files) > 1)}"
    return EventLocalizer(
        [one.localizer.to(device) for one in model.read],
        encoding_of(model.visual, model.audio, model.frames, device),
        tuple(model.about.get("categories", AVE_CATEGORIES)),
        model.frames,
        device,
        f"{path}: {count_of} ({model.method}) on {names}",
        _training(model.about),
        model.about.get("silenced"),
        hashlib.sha256("".join(identity).encode()).hexdigest(),
    )


def encoding_of(
    visual: VisualEncoder, audio: AudioEncoder, frames: dict[str, Any], device: torch.device
) -> Encoding:
    """How a model's features were computed; the encoders are changed if they were folded."""
    if frames.get("fold"):
        fold_encoders(visual, audio, (frames["crop"], frames["crop"], 3))
    precision = precision_on(device, frames["precision"])
    return Encoding(visual, audio, ENCODED_FRAMES, precision, frames.get("grid")).to(device)


def read_model(
    path: Path, encoder: Path | None = None, localizer: str | None = None, **settings: Any
) -> Model:
    """The parts of a model; arguments and errors are those of `load`."""
    packed = open_model_file(path) if is_model_file(path) else None
    if packed and encoder:
        raise UserError(f"{path}: contains the encoder that it needs; name no other one")
    files: Sequence[Path | zipfile.Path] = packed.localizers if packed else _checkpoints(path)
    read = [checkpoints.read(file, localizer, **settings) for file in files]
    about = read[0].about
    if any(
        (type(other.localizer), other.localizer.sizes)
        != (type(read[0].localizer), read[0].localizer.sizes)
        for other in read
    ):
        raise UserError(f"{path}: its seeds are of different methods; name one of its checkpoints")
    if any(other.localizer.settings != read[0].localizer.settings for other in read):
        raise UserError(f"{path}: its seeds differ in their settings; run `dvc repro train`")
    for key in SAME_IN_ALL_SEEDS:
        if any(other.about.get(key) != about.get(key) for other in read):
            raise UserError(f"{path}: its seeds differ in their {key}; run `dvc repro train`")
    count = read[0].localizer.sizes.categories
    lacking = lacks(about, ["categories"]) if about else []
    if lacking or len(about.get("categories", AVE_CATEGORIES)) != count:
        raise UserError(
            f"{path}: expected a checkpoint that names its {count} categories, its encoders and "
            f"frames{', got none of ' if lacking else ''}{', '.join(lacking)}; run "
            f"`dvc repro train`"
        )
    found = encoders_of(about, path, encoder, packed)
    visual, audio = found.visual, found.audio
    needed = read[0].localizer.sizes[:2]
    if (got := (visual.channels, audio.channels)) != needed:
        raise UserError(f"{path}: expects features of {needed} channels, its encoders give {got}")
    # A localizer that was trained without vision saw one position, and reads any grid.
    of_clips = about and about["encoders"]["visual"]["weights"] != RELEASED_WEIGHTS
    if of_clips and "grid" in about and about.get("silenced") != "visual":
        _expect_grid(about["grid"], visual, found.frames, path)
    return Model(path, files, read, *found)


def encoders_of(
    about: dict[str, Any],
    path: Path,
    encoder: Path | None,
    packed: ModelFile | None = None,
) -> Encoders:
    """The encoders that a model was trained with.

    about: its `encoders` and `frames`; empty for an authors' checkpoint.
    path: of the model; the fine-tuned visual encoder is looked for in the folders above it.
    encoder: the file of the fine-tuned visual encoder, if it is somewhere else.
    packed: the entries of a file of `cace export`.
    Raises: UserError if a file is missing, or the encoders are not those of training.
    """
    is_released = not about or about["encoders"]["visual"]["weights"] == RELEASED_WEIGHTS
    cards = RELEASED_ENCODERS if is_released else about["encoders"]
    if is_released and encoder:
        raise UserError(
            f"{path}: trained on released features, so it uses their encoder; name no other one"
        )
    visual = _visual(cards["visual"], path, encoder, packed.visual_encoder if packed else None)
    audio = _audio(cards["audio"], path, packed)
    return Encoders(visual, audio, cards, RELEASED_FRAMES if is_released else about["frames"])


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


def lacks(about: dict[str, Any], names: list[str]) -> list[str]:
    """What is needed to encode a video as the clips of the training were, and is not there.

    names: keys that are needed too.
    """
    cards = about.get("encoders", {})
    visual, audio, frames = cards.get("visual", {}), cards.get("audio", {}), about.get("frames", {})
    needed = {
        "": (about, names),
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


def _visual(
    about: dict[str, Any], model: Path, given: Path | None, packed: zipfile.Path | None
) -> VisualEncoder:
    """The visual encoder that a localizer was trained with."""
    where = model
    if packed:
        encoder = visual_encoder(about["name"], "none")
        load_into(encoder, read_torch_file(packed), where=str(packed))
    elif not about["finetuned_epochs"] and given is None:
        encoder = visual_encoder(about["name"], about["weights"])
    else:
        above = list(model.parents)[:3]
        beside = [place / "visual_encoder.pt" for f in above for place in (f, f / "models")]
        where = given or next((file for file in beside if file.is_file()), beside[0])
        if not where.exists():
            raise UserError(
                f"{where}: not there, and {model} needs the visual encoder that it was trained "
                f"with; put it there, or name it with --encoder"
            )
        if is_model_file(where):
            raise UserError(
                f"{where}: expected the visual_encoder.pt of a training, got a file of `cace "
                f"export`; that one is a complete model, which needs no other"
            )
        encoder = load_encoder(where, about["name"], needed_by="the localizer").network
    _expect_same("visual", encoder, about, where)
    return encoder


def _audio(about: dict[str, Any], model: Path, packed: ModelFile | None) -> AudioEncoder:
    """The audio encoder that a localizer was trained with."""
    weights = packed.audio_encoder if packed else None
    name, named = about["name"], "none" if weights else about["weights"]
    with tempfile.TemporaryDirectory() as temporary:
        files = packed.audio_configuration if packed else []
        of_library = name.startswith(transformers_models.PREFIX)
        if packed and of_library and len(files) < len(CONFIGURATION):
            raise UserError(
                f"{model}: expected {' and '.join(CONFIGURATION)} of its audio encoder in it, got "
                f"{len(files)} of them; get it again"
            )
        for file in files:
            (Path(temporary) / file.name).write_bytes(file.read_bytes())
        try:
            encoder = audio_encoder(name, named, Path(temporary) if files else None)
        except UserError as error:
            raise UserError(f"{model}: {str(error).replace(temporary, 'in it')}") from error
    if weights:
        # Those of transformers have their configuration twice: in its files and in their weights.
        files_of = {k: b.clone() for k, b in encoder.named_buffers() if k == "body.settings"}
        load_into(encoder, read_torch_file(weights), where=str(weights))
        if any(not content.equal(encoder.get_buffer(key)) for key, content in files_of.items()):
            raise UserError(f"{model}: the files of its audio encoder were changed; get it again")
    _expect_same("audio", encoder, about, model)
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
    modality: str, encoder: torch.nn.Module, about: dict[str, Any], path: Path
) -> None:
    if about.get("sha256") not in (None, fingerprint(encoder)):
        raise UserError(
            f"{path}: expected the {modality} encoder that the localizer was trained with "
            f"({about['name']}, sha256 {about['sha256'][:12]}...), got one with other weights"
        )
