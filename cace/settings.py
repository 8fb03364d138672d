"""Settings: `params.yaml` (those of the paper) and `profiles/<source>.yaml` (those that scale).

No key may be in both files; together they make one frozen, checked `Params`. dvc.yaml tracks
sections of both. A section that no stage tracks is refused: changing it would re-run nothing.
"""

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from cace.paths import WEIGHTS
from cace.system.errors import UserError

Source = Literal["mini", "ave", "folder", "released"]
Guidance = Literal["none", "audio", "visual", "both"]
Precision = Literal["float32", "bfloat16"]
ContrastForm = Literal["paper", "supcon"]
Heads = Literal["event", "both"]
VisualEncoderName = Literal["resnet50", "vgg19", "efficientnet_lite0"]
AudioEncoderName = Literal["cnn14", "vggish", "logmel"]
NAMED_WEIGHTS = ("none", "imagenet", "audioset", "youtube8m")  # of encoders

# Sections of the profile that stay empty: with this source the stage has no settings.
NOTHING_TO_SET = {
    "ave": ("download",),
    "folder": ("download",),
    "released": ("download", "decode", "encoders", "finetune", "extract"),
}

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


def _once_each(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("expected each seed once")
    return seeds


Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_once_each)
]


class Section(BaseModel):
    """Settings that cannot be changed; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _a_number_is_no_switch(cls, value: Any, info: ValidationInfo) -> Any:
        if (
            isinstance(value, bool)
            and cls.model_fields[str(info.field_name)].annotation is not bool
        ):
            raise ValueError("expected a value other than on/off, yes/no or true/false")
        return value


class DataParams(Section):
    """Where the clips come from."""

    source: Source
    path: Path | None
    archive: Path | None

    @field_validator("archive")
    @classmethod
    def _an_archive_has_no_folder(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value and (info.data.get("source") != "ave" or info.data.get("path")):
            raise ValueError("expected an archive only with source ave and without a data.path")
        return value


class RenderParams(Section):
    """The rendered data set of source mini."""

    clips: Annotated[int, Field(ge=3)]
    seed: Annotated[int, Field(ge=0)]
    width: Annotated[int, Field(ge=32, multiple_of=2)]
    height: Annotated[int, Field(ge=32, multiple_of=2)]
    fps: Count


class DecodeParams(Section):
    """How clips are decoded, and which are refused."""

    fps: Annotated[int, Field(ge=1, le=60)]
    short_side: Count
    crop: Annotated[int, Field(ge=32)]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    backend: Literal["pyav", "decord"]
    min_seconds: Annotated[float, Field(gt=0, le=10)]
    deadline_seconds: Positive
    max_bad_fraction: Share

    @field_validator("crop")
    @classmethod
    def _fits_into_the_frame(cls, crop: int, info: ValidationInfo) -> int:
        if crop > (short_side := info.data.get("short_side", crop)):
            raise ValueError(f"expected at most short_side ({short_side})")
        return crop


def _is_tracked(weights: str) -> str:
    path = PurePosixPath(weights)
    if weights in NAMED_WEIGHTS or (path.is_relative_to(WEIGHTS) and ".." not in path.parts):
        return weights
    raise ValueError(
        f"expected {', '.join(NAMED_WEIGHTS)}, or a file as {WEIGHTS}/NAME: copy it there, so that "
        f"a change of its content re-runs what it shapes"
    )


EncoderWeights = Annotated[str, AfterValidator(_is_tracked)]


class EncodersParams(Section):
    """Pretrained networks: `weights` is a name, a file in data/weights, or none."""

    visual: VisualEncoderName
    visual_weights: EncoderWeights
    audio: AudioEncoderName
    audio_weights: EncoderWeights


class FinetuneParams(Section):
    """Audio-visual contrast for the visual encoder (section 3.4)."""

    tau: Positive
    epochs: Annotated[int, Field(ge=0)]
    maps_epochs: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=2)]
    learning_rate: Positive
    maps_learning_rate: Positive
    dimensions: Count
    symmetric: bool
    seed: Annotated[int, Field(ge=0)]


class ExtractParams(Section):
    """How features are computed."""

    batch_size: Count
    precision: Precision


class GuidanceParams(Section):
    """Co-guidance attention (section 3.2)."""

    mode: Guidance
    beta: NotNegative
    psi: NotNegative


class BeceParams(Section):
    """Background-event contrast enhancement (section 3.3)."""

    enabled: bool
    lambda_: Annotated[float, Field(ge=0, alias="lambda")]
    tau: Positive
    noise: NotNegative
    weight: NotNegative
    form: ContrastForm
    heads: Heads
    start: Share


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


class MethodParams(Section):
    """Settings of one method, by the names of its constructor's arguments."""


Width = Annotated[int, Field(ge=8, multiple_of=8)]


class CaceNetParams(MethodParams):
    """CACE-Net; more settings are in the sections guidance, bece and localizer."""

    width: Width


class CmbsParams(MethodParams):
    """CMBS."""

    width: Width
    alpha: NotNegative
    beta: NotNegative
    gamma: NotNegative


class AvelParams(MethodParams):
    """AVEL."""

    width: Width


class TrainParams(Section):
    """Optimizer and schedule of the localizer."""

    seeds: Seeds
    epochs: Count
    batch_size: Count
    learning_rate: Positive
    milestones: tuple[Count, ...]
    decay: Annotated[float, Field(gt=0, le=1)]
    max_grad_norm: Positive
    precision: Precision


class AblationsParams(Section):
    """Epochs and seeds of a cell of the ablations; they replace those of section train."""

    epochs: Count
    seeds: Seeds


class EvaluateParams(Section):
    """How predictions are made."""

    threshold: Share


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
    avel: AvelParams
    train: TrainParams
    evaluate: EvaluateParams
    ablations: AblationsParams
    compute: ComputeParams

    @property
    def method(self) -> dict[str, Any]:
        """Settings of the selected method, by the names of its constructor's arguments."""
        own: MethodParams = getattr(self, self.localizer.name)
        settings = own.model_dump()
        if self.localizer.name == "cace_net":
            settings |= self.guidance.model_dump(exclude={"mode"})
            settings |= {"guidance": self.guidance.mode}
            settings |= {f"bece_{k}": v for k, v in self.bece.model_dump(by_alias=True).items()}
            settings |= self.localizer.model_dump(exclude={"name"})
        return settings

    def of_training(self) -> dict[str, Any]:
        """All settings that a trained localizer depends on, as plain JSON."""
        train = self.train.model_dump(mode="json")
        return {"localizer": self.localizer.name, "settings": self.method, "train": train}


# The methods: each has a section in params.yaml and a module in cace/localizers/.
LOCALIZERS = tuple(
    name
    for name, field in Params.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, MethodParams)
)

# The sections of each file that a stage in dvc.yaml tracks.
PARAMS_SECTIONS = (
    *("data", "finetune", "guidance", "bece", "localizer", "train", "evaluate"),
    *LOCALIZERS,
)
PROFILE_SECTIONS = (
    *("download", "decode", "encoders", "finetune", "extract", "train"),
    "ablations",  # ablations/dvc.yaml tracks it
)

# Where the work is done changes no result, so no stage tracks it: a change re-runs nothing.
UNTRACKED_SECTIONS = ("compute",)


def load_params(root: Path = Path()) -> Params:
    """Reads and checks `params.yaml` and the profile of its source, both under `root`.

    Raises: UserError naming the file and key, what was expected, and what came.
    """
    params = _read(root / "params.yaml", PARAMS_SECTIONS)
    source = (params.get("data") or {}).get("source")
    profile_file = f"profiles/{source}.yaml"
    if not (root / profile_file).is_file():
        known = sorted(path.stem for path in (root / "profiles").glob("*.yaml"))
        raise UserError(
            f"params.yaml, data.source: expected one of {', '.join(known)}, got {source!r} "
            f"({profile_file} is not there)"
        )
    profile = _read(root / profile_file, (*PROFILE_SECTIONS, *UNTRACKED_SECTIONS))

    merged: dict[str, Any] = {}
    for section in dict.fromkeys((*params, *profile)):
        ours, theirs = params.get(section) or {}, profile.get(section) or {}
        if twice := sorted(set(ours) & set(theirs)):
            raise UserError(
                f"{section}.{twice[0]}: is in params.yaml and in {profile_file}; keep one"
            )
        if section not in NOTHING_TO_SET.get(str(source), ()):
            merged[section] = {**theirs, **ours}
        elif theirs:
            raise UserError(
                f"{profile_file}, {section}: expected no settings ({{}}), as source {source} has "
                f"none here, got {theirs}"
            )
        else:
            merged[section] = None
    try:
        return Params.model_validate(merged)
    except ValidationError as error:
        raise UserError(_explain(error, params, profile_file)) from None


def changed(params: Params, changes: dict[str, dict[str, Any]], where: str) -> Params:
    """The settings with some of their values replaced, checked again.

    Raises: UserError that names `where` and the key.
    """
    merged = params.model_dump(by_alias=True)
    for section, values in changes.items():
        merged[section] = {**merged.get(section, {}), **values}
    try:
        return Params.model_validate(merged)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        raise UserError(f"{where}: {name}: {problem['msg']}, got {problem['input']!r}") from None


def _read(path: Path, sections: tuple[str, ...]) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: not there; run this in the project's top folder")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected sections with keys, got {content!r}")
    for section, keys in content.items():
        if section not in sections:
            raise UserError(
                f"{path}, {section}: no stage tracks this section in this file; expected one of "
                f"{', '.join(sections)}"
            )
        if not isinstance(keys, dict | None):
            raise UserError(f"{path}, {section}: expected keys with values, got {keys!r}")
    return content


def _explain(error: ValidationError, params: dict[str, Any], profile_file: str) -> str:
    lines = []
    for problem in error.errors():
        section, *keys = problem["loc"]
        in_params = section in PARAMS_SECTIONS and (
            section not in PROFILE_SECTIONS
            or (bool(keys) and keys[0] in (params.get(section) or {}))
        )
        file = "params.yaml" if in_params else profile_file
        if (
            problem["type"] == "missing"
            and section in PARAMS_SECTIONS
            and section in PROFILE_SECTIONS
        ):
            file = f"params.yaml or {profile_file}"
        name = ".".join(str(part) for part in problem["loc"])
        text = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        got = "" if problem["type"] == "missing" else f", got {problem['input']!r}"
        if problem["type"] == "extra_forbidden":
            text = "no such key"
        lines.append(f"{file}, {name}: {text[0].lower()}{text[1:]}{got}")
    return "\n  ".join(lines)
