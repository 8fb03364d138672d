"""Settings: `params.yaml` (those of the paper) and `profiles/<source>.yaml` (those that scale).

No key may be in both files; together they make one frozen, checked `Params`. dvc.yaml tracks
sections of both. A section that no stage tracks is refused: changing it would re-run nothing.
"""

from cace.settings.checks import check_method, check_section, check_some
from cace.settings.methods import AvelFusion, ContrastForm, Guidance, Heads, WeakForm
from cace.settings.read import PARAMS_SECTIONS, PROFILE_SECTIONS, changed, load_params
from cace.settings.schema import (
    LOCALIZERS,
    AudioEncoderName,
    FramesParams,
    Interpolation,
    Params,
    Precision,
    Source,
    Supervision,
    TrainParams,
    VisualEncoderName,
    WeakParams,
    method_params,
)
from cace.settings.values import Count, Epochs, Positive, Section, Seed, Share

__all__ = [
    "LOCALIZERS",
    "PARAMS_SECTIONS",
    "PROFILE_SECTIONS",
    "AudioEncoderName",
    "AvelFusion",
    "ContrastForm",
    "Count",
    "Epochs",
    "FramesParams",
    "Guidance",
    "Heads",
    "Interpolation",
    "Params",
    "Positive",
    "Precision",
    "Section",
    "Seed",
    "Share",
    "Source",
    "Supervision",
    "TrainParams",
    "VisualEncoderName",
    "WeakForm",
    "WeakParams",
    "changed",
    "check_method",
    "check_section",
    "check_some",
    "load_params",
    "method_params",
]
