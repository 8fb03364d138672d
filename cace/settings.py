"""Settings: `params.yaml` (those of the paper) and `profiles/<source>.yaml` (those that scale).

No key may be in both files; together they make one frozen, checked `Params`. dvc.yaml tracks
sections of both. A section that no stage tracks is refused: changing it would re-run nothing.
"""

from collections.abc import Callable
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails

from cace.conventions import SEGMENTS
from cace.paths import WEIGHTS
from cace.system.errors import UserError, shown
from cace.system.files import read_text, read_yaml

Source = Literal["mini", "ave", "folder", "released"]
Guidance = Literal["none", "audio", "visual", "both"]
Precision = Literal["float32", "bfloat16"]
ContrastForm = Literal["paper", "supcon"]
Heads = Literal["event", "both"]
AvelFusion = Literal["concat", "dmrn"]
VisualEncoderName = Literal["resnet50", "vgg19", "efficientnet_lite0"]
AudioEncoderName = Literal["cnn14", "vggish", "logmel"]
NAMED_WEIGHTS = ("none", "imagenet", "audioset", "youtube8m")  # of encoders

# Sections of the profile that stay empty: with this source the stage has no settings.
NOTHING_TO_SET = {
    "ave": ("download",),
    "folder": ("download",),
    "released": ("download", "decode", "encoders", "finetune", "extract"),
}

# The upper bounds are far above what is useful: they stop a slip of the finger, and a checkpoint
# that would fill the memory.
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
NotNegative = Annotated[float, Field(ge=0, le=1e6)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Epochs = Annotated[int, Field(ge=0, le=100_000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
FramesPerSecond = Annotated[int, Field(ge=1, le=60)]


def _once_each(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("expected each seed once")
    return seeds


Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_once_each)]


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


class FramesParams(Section):
    """How frames are chosen and stored; a checkpoint contains the same four."""

    fps: FramesPerSecond
    short_side: Annotated[int, Field(ge=32, le=2048)]
    crop: Annotated[int, Field(ge=32)]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]

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


class DecodeParams(FramesParams):
    """How clips are decoded, and which are refused."""

    backend: Literal["pyav", "decord"]
    min_seconds: Annotated[float, Field(gt=0, le=SEGMENTS)]
    deadline_seconds: Positive
    max_bad_fraction: Share


class EncodersParams(Section):
    """Pretrained networks: `weights` is a name, a file in data/weights, or none."""

    visual: VisualEncoderName
    visual_weights: EncoderWeights
    audio: AudioEncoderName
    audio_weights: EncoderWeights


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
    lambda_: Annotated[float, Field(ge=0, le=1e6, alias="lambda")]
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


Width = Annotated[int, Field(ge=8, le=8192, multiple_of=8)]


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
    fusion: AvelFusion


class CmranParams(MethodParams):
    """CMRAN."""

    width: Width


class PspParams(MethodParams):
    """PSP."""

    width: Width
    threshold: Share
    pair_weight: NotNegative


class DamParams(MethodParams):
    """DAM."""

    width: Width


class AveClipParams(MethodParams):
    """AVE-CLIP."""

    width: Width
    smooth: bool


class CssParams(MethodParams):
    """CSS-Net."""

    width: Width
    psi: NotNegative
    contrast_weight: NotNegative


class AudioParams(MethodParams):
    """The row "Audio" of Table 5."""

    width: Width


class VisualParams(MethodParams):
    """The row "Visual" of Table 5."""

    width: Width


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


class AblationsParams(Section):
    """Epochs and seeds of a cell of the ablations; they replace those of section train."""

    epochs: Count
    seeds: Seeds


class BaselinesParams(Section):
    """How baselines/dvc.yaml trains; the rest is in baselines/settings/."""

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
    train: TrainParams
    evaluate: EvaluateParams
    ablations: AblationsParams
    baselines: BaselinesParams
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
        return {
            "source": self.data.source,
            "localizer": self.localizer.name,
            "settings": self.method,
            "train": train,
        }


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
    *("ablations", "baselines"),  # ablations/dvc.yaml and baselines/dvc.yaml track them
)

# Where the work is done changes no result, so no stage tracks it: a change re-runs nothing.
UNTRACKED_SECTIONS = ("compute",)


def load_params(root: Path = Path(), source: Source | None = None) -> Params:
    """Reads and checks `params.yaml` and the profile of its source, both under `root`.

    source: to use instead of data.source.
    Raises: UserError naming the file and key, what was expected, and what came.
    """
    params = _read(root / "params.yaml", PARAMS_SECTIONS)
    if source:
        params["data"] = {"source": source, "path": None, "archive": None}
    chosen = (params.get("data") or {}).get("source")
    known = sorted(path.stem for path in (root / "profiles").glob("*.yaml"))
    if chosen not in known:
        raise UserError(
            f"params.yaml, data.source: expected one of {', '.join(known)}, got {shown(chosen)} "
            f"(profiles/ has no file of this name)"
        )
    profile_file = f"profiles/{chosen}.yaml"
    profile = _read(root / profile_file, (*PROFILE_SECTIONS, *UNTRACKED_SECTIONS))

    merged: dict[str, Any] = {}
    for section in dict.fromkeys((*params, *profile)):
        ours, theirs = params.get(section) or {}, profile.get(section) or {}
        if twice := sorted(set(ours) & set(theirs), key=str):
            raise UserError(
                f"{section}.{twice[0]}: is in params.yaml and in {profile_file}; keep one"
            )
        if section not in NOTHING_TO_SET.get(str(chosen), ()):
            merged[section] = {**theirs, **ours}
        elif theirs:
            raise UserError(
                f"{profile_file}, {section}: expected no settings ({{}}), as source {chosen} has "
                f"none here, got {shown(theirs)}"
            )
        else:
            merged[section] = None

    def file_of(problem: ErrorDetails) -> str:
        section, *keys = problem["loc"]
        in_both = section in PARAMS_SECTIONS and section in PROFILE_SECTIONS
        if in_both and problem["type"] == "missing":
            return f"params.yaml or {profile_file}, "
        ours = bool(keys) and keys[0] in (params.get(str(section)) or {})
        in_params = ours if in_both else section in PARAMS_SECTIONS
        return f"{'params.yaml' if in_params else profile_file}, "

    return _checked(Params, merged, file_of)


def changed(params: Params, changes: dict[str, dict[str, Any]], where: str) -> Params:
    """The settings with some of their values replaced, checked again.

    Raises: UserError that names `where` and each wrong key.
    """
    merged = params.model_dump(by_alias=True)
    for section, values in changes.items():
        merged[section] = {**merged.get(section, {}), **values}
    return check_section(Params, merged, where)


S = TypeVar("S", bound=Section)


def check_section(section: type[S], values: object, where: str) -> S:
    """Settings from elsewhere, such as a checkpoint, checked as those of the files are.

    Raises: UserError that names `where` and each wrong key.
    """
    return _checked(section, values, lambda _: f"{where}: ")


def check_some(section: type[Section], values: object, where: str) -> None:
    """Checks some of a section's settings; others may be missing, and no value is converted.

    Raises: UserError as `check_section`.
    """
    try:
        section.model_validate(values, strict=True)
    except ValidationError as error:
        wrong = [problem for problem in error.errors() if problem["type"] != "missing"]
        if wrong:
            lines = [f"{where}: {_explain(problem)}" for problem in wrong]
            raise UserError("\n  ".join(lines)) from None


def check_method(name: str, settings: dict[str, Any], where: str) -> None:
    """Checks arguments of a method's constructor, by the names that `Params.method` gives them.

    Raises: UserError as `check_section`.
    """
    sections: dict[type[Section], dict[str, Any]] = {}
    own: type[MethodParams] = Params.model_fields[name].annotation  # type: ignore[assignment]
    for key, value in settings.items():
        section: type[Section] = own
        field = key
        if name == "cace_net" and key not in own.model_fields:
            if key.startswith("bece_"):
                section, field = BeceParams, key.removeprefix("bece_")
            elif key in LocalizerParams.model_fields:
                section = LocalizerParams
            else:
                section, field = GuidanceParams, "mode" if key == "guidance" else key
        sections.setdefault(section, {})[field] = value
    for section, values in sections.items():
        check_some(section, values, where)


def _checked(section: type[S], values: object, place: Callable[[ErrorDetails], str]) -> S:
    try:
        return section.model_validate(values)
    except ValidationError as error:
        lines = [f"{place(problem)}{_explain(problem)}" for problem in error.errors()]
        raise UserError("\n  ".join(lines)) from None


def _explain(problem: ErrorDetails) -> str:
    name = ".".join(_key(part) for part in problem["loc"])
    text = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    got = "" if problem["type"] == "missing" else f", got {shown(problem['input'])}"
    if problem["type"] == "extra_forbidden":
        text = "no such key"
    return f"{name}: {text[0].lower()}{text[1:]}{got}"


def _read(path: Path, sections: tuple[str, ...]) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: not there; run this in the project's top folder")
    text = read_text(path)
    content, as_written = read_yaml(text, path), read_yaml(text, path, as_written=True)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected sections with keys, got {shown(content)}")
    for section, keys in content.items():
        if section not in sections:
            raise UserError(
                f"{path}, {_key(section)}: no stage tracks this section in this file; expected "
                f"one of {', '.join(sections)}"
            )
        if not isinstance(keys, dict | None):
            raise UserError(f"{path}, {section}: expected keys with values, got {shown(keys)}")
        for key in _names(section) & set(keys := keys or {}):
            if isinstance(keys[key], int | float | date):
                keys[key] = as_written[section].get(key, keys[key])
    return content


def _key(name: object) -> str:
    """A key in a message, unquoted; keys of users may contain anything."""
    return shown(name).strip("'")


def _names(section: str) -> set[str]:
    """The keys of a section whose value is a path or a name.

    YAML reads the folder 2024 as a number, 12:30 as 750 and no as False; they are text here.
    """
    annotation = Params.model_fields[section].annotation
    model = next(kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type))
    fields = model.model_fields.items() if issubclass(model, Section) else ()
    return {name for name, field in fields if field.annotation in (str, Path | None)}
