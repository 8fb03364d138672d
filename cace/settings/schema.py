"""The settings of a run: their sections, and the kind and range of each value."""

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_validator,
)

from cace.conventions import SEGMENTS
from cace.paths import WEIGHTS
from cace.settings.methods import (
    WIDTHS,
    AudioParams,
    AveClipParams,
    AvelParams,
    BeceParams,
    CaceNetParams,
    CmbsParams,
    CmranParams,
    CssParams,
    DamParams,
    GuidanceParams,
    MethodParams,
    PspParams,
    VisualParams,
    WeakForm,
)
from cace.settings.values import (
    Count,
    Epochs,
    FramesPerSecond,
    NotNegative,
    Positive,
    Section,
    Seed,
    Seeds,
    Share,
)

Source = Literal["mini", "ave", "folder", "released"]
Precision = Literal["float32", "bfloat16"]
Interpolation = Literal["bilinear", "bicubic", "lanczos"]
Supervision = Literal["full", "weak"]
# The encoders, with the name of their published weights. Those of a library have "pretrained".
VISUAL_ENCODERS = {"resnet50": "imagenet", "vgg19": "imagenet", "efficientnet_lite0": "imagenet"}
AUDIO_ENCODERS = {"cnn14": "audioset", "vggish": "youtube8m", "logmel": None}

# Sections of the profile that stay empty: with this source the stage has no settings.
NOTHING_TO_SET = {
    "ave": ("download",),
    "folder": ("download",),
    "released": ("download", "decode", "encoders", "finetune", "extract"),
}


class DataParams(Section):
    """Where the clips come from."""

    source: Source
    path: Path | None
    archive: Path | None

    @field_validator("path", "archive", mode="before")
    @classmethod
    def _nothing_is_no_path(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("archive")
    @classmethod
    def _an_archive_has_no_folder(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value and (info.data.get("source") != "ave" or info.data.get("path")):
            raise ValueError("expected an archive only with source ave and without a data.path")
        return value


class RenderParams(Section):
    """The rendered data set of source mini."""

    clips: Annotated[int, Field(ge=3, le=100_000)]
    seed: Seed
    width: Annotated[int, Field(ge=32, le=4096, multiple_of=2)]
    height: Annotated[int, Field(ge=32, le=4096, multiple_of=2)]
    fps: FramesPerSecond


def _is_visual(name: str) -> str:
    if name in VISUAL_ENCODERS or re.fullmatch(r"timm/\w[\w.-]*", name):
        return name
    raise ValueError(f"expected {', '.join(VISUAL_ENCODERS)}, or timm/MODEL")


def _is_audio(name: str) -> str:
    if name in AUDIO_ENCODERS or re.fullmatch(r"hf/\w[\w.-]*(/\w[\w.-]*)?", name):
        return name
    if name.startswith("hf/") and _is_file_of_weights(name.removeprefix("hf/")):
        return name
    raise ValueError(
        f"expected {', '.join(AUDIO_ENCODERS)}, hf/OWNER/MODEL of the Hugging Face hub, or a "
        f"folder as hf/{WEIGHTS}/NAME"
    )


VisualEncoderName = Annotated[str, Field(max_length=200), AfterValidator(_is_visual)]
AudioEncoderName = Annotated[str, Field(max_length=200), AfterValidator(_is_audio)]


def _is_file_of_weights(path: str) -> bool:
    below = PurePosixPath(path).is_relative_to(WEIGHTS) and ".." not in PurePosixPath(path).parts
    return below and path.isprintable()  # as checkpoints, which contain it, expect


MOST_PIXELS = 2048  # of a frame's short side
ShortSide = Annotated[int, Field(ge=32, le=MOST_PIXELS)]
Crop = Annotated[int, Field(ge=32, le=MOST_PIXELS)]
JpegQuality = Annotated[int, Field(ge=1, le=100)]


def _fits_into_the_frame(crop: int | None, info: ValidationInfo) -> int | None:
    if crop and crop > (short_side := info.data.get("short_side") or crop):
        raise ValueError(f"expected at most short_side ({short_side})")
    return crop


class FramesParams(Section):
    """How frames were chosen and stored, as a checkpoint contains it."""

    fps: FramesPerSecond
    short_side: ShortSide
    crop: Annotated[Crop, AfterValidator(_fits_into_the_frame)]
    interpolation: Interpolation = "bilinear"
    jpeg_quality: JpegQuality


def _number_or(word: str) -> BeforeValidator:
    """A word in a file that is None here."""

    def read(value: object) -> object:
        if isinstance(value, str) and value != word and not value.strip(" +-").isdecimal():
            raise ValueError(f"expected a whole number, or {word}")
        return None if value == word else value

    return BeforeValidator(read)


# As the visual encoder was trained; and all there are.
FromAuto = _number_or("auto")
ToAuto = PlainSerializer(lambda value: "auto" if value is None else value, when_used="json")
FromAll = _number_or("all")
ToAll = PlainSerializer(lambda value: "all" if value is None else value, when_used="json")


class DecodeParams(Section):
    """How clips are decoded, and which are refused."""

    fps: FramesPerSecond
    short_side: Annotated[ShortSide | None, FromAuto, ToAuto]
    crop: Annotated[Crop | None, FromAuto, AfterValidator(_fits_into_the_frame), ToAuto]
    jpeg_quality: JpegQuality
    backend: Literal["pyav", "decord"]
    min_seconds: Annotated[float, Field(gt=0, le=SEGMENTS)]
    deadline_seconds: Positive
    max_bad_fraction: Share


class EncodersParams(Section):
    """Pretrained networks: `weights` is a name, a file in data/weights, or none."""

    visual: VisualEncoderName
    visual_weights: str
    audio: AudioEncoderName
    audio_weights: str

    @field_validator("visual_weights", "audio_weights")
    @classmethod
    def _are_known(cls, weights: str, info: ValidationInfo) -> str:
        encoder = info.data.get(str(info.field_name).removesuffix("_weights"), "")
        named = {**VISUAL_ENCODERS, **AUDIO_ENCODERS}.get(encoder, "pretrained")
        if weights in (named, "none"):
            return weights
        if named is None:
            raise ValueError(f"expected none, as {encoder} has no weights")
        names = f"{named} (of {encoder}), none"
        if encoder.startswith("hf/"):
            raise ValueError(f"expected {names}; a folder of weights is audio: hf/{WEIGHTS}/NAME")
        if not _is_file_of_weights(weights):
            raise ValueError(
                f"expected {names}, or a file as {WEIGHTS}/NAME: copy it there, so that a change "
                f"of its content re-runs what it shapes"
            )
        return weights


class FinetuneParams(Section):
    """Audio-visual contrast for the visual encoder (section 3.4)."""

    tau: Positive
    epochs: Epochs
    maps_epochs: Epochs
    batch_size: Annotated[int, Field(ge=2, le=100_000)]
    learning_rate: Positive
    maps_learning_rate: Positive
    dimensions: Count
    symmetric: bool
    seed: Seed
    layers: Annotated[Count | None, FromAll, ToAll] = None  # the last ones, which are trained
    precision: Precision = "float32"


class ExtractParams(Section):
    """How features are computed."""

    batch_size: Count
    precision: Literal["auto", Precision]  # auto: bfloat16 where the device computes in it
    grid: Annotated[int, Field(ge=2, le=64)] | None = None  # positions on a side; None: all
    fold: bool = False  # batch normalisation becomes part of the convolutions


class LocalizerParams(Section):
    """The method, and two weights inside CACE-Net."""

    name: str
    alpha: NotNegative
    gamma: NotNegative

    @field_validator("name")
    @classmethod
    def _is_a_method(cls, name: str) -> str:
        if name not in LOCALIZERS:
            raise ValueError(f"expected one of {', '.join(LOCALIZERS)}")
        return name


class WeakParams(Section):
    """Weak supervision: of a training clip, only its tag is read."""

    form: WeakForm
    mismatch: Share  # mismatched pairs for each clip of a batch
    top: Share  # of a clip that an event fills at least


class TrainParams(Section):
    """Optimizer and schedule of the localizer."""

    seeds: Seeds
    epochs: Count
    batch_size: Count
    learning_rate: Positive
    milestones: tuple[Count, ...]
    decay: Annotated[float, Field(gt=0, le=1)]
    max_grad_norm: Positive | None  # None: gradients are not clipped
    precision: Precision
    narrower: Annotated[int, Field(ge=1, le=8)] = 1  # divides the width of the localizer


class AblationsParams(Section):
    """Epochs and seeds of a cell of the ablations; they replace those of section train."""

    epochs: Count
    seeds: Seeds


class BaselinesParams(Section):
    """How baselines/dvc.yaml trains; the rest is in baselines/settings/."""

    seeds: Seeds
    few_clips: bool  # whether the lengths for small data sets apply


class MatchingParams(Section):
    """How matching/dvc.yaml trains; the rest is in matching/settings/."""

    seeds: Seeds
    few_clips: bool  # whether the lengths for small data sets apply


class EvaluateParams(Section):
    """How predictions are made, and errors counted."""

    threshold: Share
    boundary: Annotated[int, Field(ge=0, le=SEGMENTS)]


class ComputeParams(Section):
    """Where decode and extract run."""

    engine: Literal["local", "ray"]


class Params(Section):
    """All settings of a run; None for a stage that has no settings with this source."""

    data: DataParams
    download: RenderParams | None
    decode: DecodeParams | None
    encoders: EncodersParams | None
    finetune: FinetuneParams | None
    extract: ExtractParams | None
    guidance: GuidanceParams
    bece: BeceParams
    localizer: LocalizerParams
    cace_net: CaceNetParams
    cmbs: CmbsParams
    cmran: CmranParams
    psp: PspParams
    avel: AvelParams
    dam: DamParams
    ave_clip: AveClipParams
    css: CssParams
    audio: AudioParams
    visual: VisualParams
    weak: WeakParams
    supervision: Supervision
    train: TrainParams
    evaluate: EvaluateParams
    ablations: AblationsParams
    baselines: BaselinesParams
    matching: MatchingParams
    compute: ComputeParams

    @field_validator("supervision")
    @classmethod
    def _is_offered(cls, supervision: Supervision, info: ValidationInfo) -> Supervision:
        if supervision == "full" or not {"weak", "localizer"} <= info.data.keys():
            return supervision
        name, form = info.data["localizer"].name, info.data["weak"].form
        forms = method_params(name).weak_forms
        if not forms:
            raise ValueError(
                f"expected full for localizer {name}: it reads one modality, and weak supervision "
                f"teaches what background is by vision and sound that do not belong together"
            )
        if form not in forms:
            offered = " and ".join(
                method for method in LOCALIZERS if form in method_params(method).weak_forms
            )
            raise ValueError(
                f"expected weak.form common for localizer {name}: form {form} is offered for "
                f"{offered} (docs/weak.md)"
            )
        return supervision

    @property
    def learns_from_tags(self) -> WeakParams | None:
        """How training learns from the tags of clips alone; None with full supervision."""
        return self.weak if self.supervision == "weak" else None

    @property
    def method(self) -> dict[str, Any]:
        """Settings of the selected method, by the names of its constructor's arguments."""
        own: MethodParams = getattr(self, self.localizer.name)
        settings = own.model_dump()
        narrow = settings["width"] // self.train.narrower
        settings["width"] = max(WIDTHS, narrow // WIDTHS * WIDTHS)
        if self.localizer.name == "cace_net":
            settings |= self.guidance.model_dump(exclude={"mode"})
            settings |= {"guidance": self.guidance.mode}
            settings |= {f"bece_{k}": v for k, v in self.bece.model_dump(by_alias=True).items()}
            settings |= self.localizer.model_dump(exclude={"name"})
        if self.supervision == "weak":
            if self.localizer.name == "cace_net":
                settings["bece_enabled"] = False  # needs the labels of segments
            if self.weak.form != "common":
                settings["weak_form"] = self.weak.form
        return settings

    def of_training(self) -> dict[str, Any]:
        """All settings that a trained localizer depends on, as plain JSON."""
        train = self.train.model_dump(mode="json")
        weak = self.learns_from_tags
        return {
            "source": self.data.source,
            "localizer": self.localizer.name,
            "settings": self.method,
            "train": train,
            "weak": weak and weak.model_dump(mode="json"),
        }


def method_params(name: str) -> type[MethodParams]:
    """The settings of a method."""
    section: type[MethodParams] = Params.model_fields[name].annotation  # type: ignore[assignment]
    return section


# The methods: each has a section in params.yaml and a module in cace/localizers/.
LOCALIZERS = tuple(
    name
    for name, field in Params.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, MethodParams)
)
