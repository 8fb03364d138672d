"""The settings of the methods, by the names of their constructors' arguments."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cace.settings.values import NotNegative, Positive, Section, Share

Guidance = Literal["none", "audio", "visual", "both"]
ContrastForm = Literal["paper", "supcon"]
Heads = Literal["event", "both"]
AvelFusion = Literal["concat", "dmrn"]
WeakForm = Literal["common", "released"]


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


class MethodParams(Section):
    """Settings of one method, by the names of its constructor's arguments."""

    weak_forms: ClassVar[tuple[WeakForm, ...]] = ("common",)  # how it learns from tags alone


WIDTHS = 8  # a width is a multiple of it
Width = Annotated[int, Field(ge=WIDTHS, le=8192, multiple_of=WIDTHS)]


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

    weak_forms = ("common", "released")

    width: Width
    fusion: AvelFusion


class CmranParams(MethodParams):
    """CMRAN."""

    weak_forms = ("common", "released")

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

    weak_forms = ()

    width: Width


class VisualParams(MethodParams):
    """The row "Visual" of Table 5."""

    weak_forms = ()

    width: Width
