"""Save and load a trained localizer, ours or a published one.

Our checkpoint is a PyTorch file of plain values: `format`, `settings` (of the `Localizer`), `about`
(categories, encoders, epoch, ...), `contrast_on`, `weights`. A published one is a bare state dict,
float64, with every key prefixed `module.`. Loading never runs code from a file.
"""

import io
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor
from typing_extensions import Unpack

from cace.localizers.cace_net import Localizer
from cace.settings import Guidance
from cace.system.errors import UserError
from cace.system.files import expect_file, write_atomically

FORMAT = "cace-localizer-1"


class PublishedSettings(TypedDict, total=False):
    """What a published file does not hold and ours does; by default, the `Localizer`'s defaults."""

    guidance: Guidance
    beta: float
    psi: float
    bece_lambda: float


class Checkpoint(NamedTuple):
    """A trained localizer in eval mode, and what is known about it."""

    localizer: Localizer
    about: dict[str, Any]  # empty for a published file, which says nothing about itself


def save(path: Path, localizer: Localizer, about: dict[str, Any]) -> None:
    """Writes a checkpoint; the same weights give the same bytes.

    about: plain values: categories, encoders, epoch, and whatever a reader may want to know.
    """
    buffer = io.BytesIO()  # a file's bytes would depend on its name
    content = {
        "format": FORMAT,
        "settings": localizer.settings,
        "about": about,
        "contrast_on": localizer.contrast_on,
        "weights": {name: tensor.cpu() for name, tensor in localizer.state_dict().items()},
    }
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path | str, **published: Unpack[PublishedSettings]) -> Localizer:
    """The localizer of a checkpoint, in eval mode, in the file's own precision.

    published: guidance, beta, psi, bece_lambda of a published file; ours ignores them.
    Raises: UserError where the file is damaged, carries code, or is of another architecture.
    """
    return read(Path(path), **published).localizer


def read(path: Path, **published: Unpack[PublishedSettings]) -> Checkpoint:
    """As `load`, with what the file says about itself."""
    content = _plain_content(path)
    try:
        return _rebuild(path, content, published)
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError) as error:
        raise UserError(f"{path}: a damaged checkpoint, or not one of ours: {error!r}") from error


def _rebuild(path: Path, content: dict[str, Any], published: PublishedSettings) -> Checkpoint:
    if content.get("format") == FORMAT:
        localizer = Localizer(**content["settings"])
        weights, about = content["weights"], content["about"]
        contrast_on = content["contrast_on"]
    else:
        localizer, weights = _from_published(path, content, published)
        # The published evaluation has the contrast path on.
        about, contrast_on = {}, True
    localizer.to(next(iter(weights.values())).dtype)
    _fill(path, localizer, weights)
    localizer.contrast_on = contrast_on
    return Checkpoint(localizer.eval(), about)


def _plain_content(path: Path) -> dict[str, Any]:
    expect_file(path, made_by="train")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that it cannot take
        raise UserError(
            f"{path}: expected a checkpoint of plain tensors, undamaged and without code; {error}"
        ) from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: expected a checkpoint, got {type(content).__name__}")
    return content


def _fill(path: Path, localizer: Localizer, weights: dict[str, Tensor]) -> None:
    expected = localizer.state_dict()
    missing = sorted(set(expected) - set(weights))
    strange = sorted(set(weights) - set(expected))
    wrong = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if missing or strange or wrong:
        raise UserError(
            f"{path}: not a checkpoint of this architecture and guidance "
            f"({localizer.settings['guidance']}); missing: {missing}; unknown: {strange}; "
            f"other shape: {wrong}"
        )
    localizer.load_state_dict(weights)


def _from_published(
    path: Path, content: dict[str, Any], settings: PublishedSettings
) -> tuple[Localizer, dict[str, Tensor]]:
    tensors = {key.removeprefix("module."): value for key, value in content.items()}
    for needed in ("v_fc.weight", "localize_module.event_classifier.weight"):
        if not isinstance(tensors.get(needed), Tensor):
            raise UserError(
                f"{path}: neither our checkpoint nor a published one: expected the key "
                f"{needed!r}, got keys such as {sorted(map(str, content))[:5]}"
            )
    localizer = Localizer(
        visual_channels=tensors["v_fc.weight"].shape[1],
        audio_channels=128,
        categories=len(tensors["localize_module.event_classifier.weight"]),
        **settings,
    )
    names = published_names(localizer)
    unused = {key for key in tensors if _never_used(key, localizer.settings["guidance"])}
    strange = {
        key: value for key, value in tensors.items() if key not in {*names.values(), *unused}
    }
    weights = {ours: tensors[theirs] for ours, theirs in names.items() if theirs in tensors}
    return localizer, {**weights, **strange}


def published_names(localizer: Localizer) -> dict[str, str]:
    """For each weight of a localizer its key in the published checkpoints (without `module.`)."""
    guidance = localizer.settings["guidance"]
    modules = dict(_PUBLISHED)
    second = "" if guidance == "visual" else "2"
    for ours, theirs in (("query", "query"), ("key", "key"), ("value", "value")):
        modules[f"guidance.guide_audio.within_grid.{ours}"] = (
            f"spatial_channel_att.video_{theirs}{second}"
        )
    return {
        name: next(
            theirs + name.removeprefix(ours)
            for ours, theirs in modules.items()
            if name.startswith(ours + ".")
        )
        for name in localizer.state_dict()
    }


def _never_used(key: str, guidance: Guidance) -> bool:
    """Whether published code keeps this weight without ever reading it."""
    if guidance in ("none", "visual") and key.startswith("spatial_channel_att."):
        # Visual guidance alone keeps the members of audio guidance.
        return guidance == "visual" and key.split(".")[1].startswith(("affine_", "ave_"))
    if guidance == "audio" and key.startswith(_AUDIO_HALF):
        return True
    return key.startswith(_UNUSED)


_UNUSED = (
    "a_fc.",
    "spatial_channel_att.v_norm2.",
    "spatial_channel_att.ave_bottleneck.",
    *(f"{modality}_encoder.encoder_layer." for modality in ("video", "audio")),
    *(f"{modality}_decoder.decoder_layer." for modality in ("video", "audio")),
    *(f"{modality}_decoder.decoder.layers.0.self_attn." for modality in ("video", "audio")),
)

_AUDIO_HALF = tuple(  # computed in published audio guidance, and multiplied by ψ = 0
    f"spatial_channel_att.{name}."
    for name in (
        *("video_query2", "video_key2", "video_value2", "v_query", "vaudio_key", "vaudio_value"),
        *("audio_query", "audio_key", "audio_value", "a_norm"),
    )
)

_VISUAL_GUIDE, _AUDIO_GUIDE = "guidance.guide_visual", "guidance.guide_audio"
_PUBLISHED = {  # our module: theirs
    "visual_input.0": "v_fc",
    "guidance.visual_norm": "spatial_channel_att.v_norm",
    f"{_VISUAL_GUIDE}.within_grid.query": "spatial_channel_att.video_query",
    f"{_VISUAL_GUIDE}.within_grid.key": "spatial_channel_att.video_key",
    f"{_VISUAL_GUIDE}.within_grid.value": "spatial_channel_att.video_value",
    f"{_VISUAL_GUIDE}.calibration.squeeze": "spatial_channel_att.affine_video_ave",
    f"{_VISUAL_GUIDE}.calibration.position": "spatial_channel_att.affine_video_3",
    f"{_VISUAL_GUIDE}.calibration.score": "spatial_channel_att.ave_v_att",
    f"{_VISUAL_GUIDE}.channel_attention.from_visual": "spatial_channel_att.affine_video_1",
    f"{_VISUAL_GUIDE}.channel_attention.from_audio": "spatial_channel_att.affine_audio_1",
    f"{_VISUAL_GUIDE}.channel_attention.bottleneck": "spatial_channel_att.affine_bottleneck",
    f"{_VISUAL_GUIDE}.channel_attention.expand": "spatial_channel_att.affine_v_c_att",
    f"{_VISUAL_GUIDE}.spatial_attention.from_visual": "spatial_channel_att.affine_video_2",
    f"{_VISUAL_GUIDE}.spatial_attention.from_audio": "spatial_channel_att.affine_audio_2",
    f"{_VISUAL_GUIDE}.spatial_attention.score": "spatial_channel_att.affine_v_s_att",
    f"{_AUDIO_GUIDE}.within_audio.query": "spatial_channel_att.audio_query",
    f"{_AUDIO_GUIDE}.within_audio.key": "spatial_channel_att.audio_key",
    f"{_AUDIO_GUIDE}.within_audio.value": "spatial_channel_att.audio_value",
    f"{_AUDIO_GUIDE}.audio_norm": "spatial_channel_att.a_norm",
    f"{_AUDIO_GUIDE}.query": "spatial_channel_att.v_query",
    f"{_AUDIO_GUIDE}.key": "spatial_channel_att.vaudio_key",
    f"{_AUDIO_GUIDE}.value": "spatial_channel_att.vaudio_value",
    "visual_lstm": "audio_visual_rnn_layer.visual_rnn",
    "audio_lstm": "audio_visual_rnn_layer.audio_rnn",
    "within_visual.project": "video_encoder.affine_matrix",
    "within_visual.layers": "video_encoder.encoder",
    "within_audio.project": "audio_encoder.affine_matrix",
    "within_audio.layers": "audio_encoder.encoder",
    **{
        f"{ours}_across.{part}": f"{theirs}_decoder.{key}"
        for ours, theirs in (("visual", "video"), ("audio", "audio"))
        for part, key in (
            ("project", "affine_matrix"),
            ("attention", "decoder.layers.0.multihead_attn"),
            ("attention_norm", "decoder.layers.0.norm1"),
            ("feed_forward.0", "decoder.layers.0.linear1"),
            ("feed_forward.3", "decoder.layers.0.linear2"),
            ("feed_forward_norm", "decoder.layers.0.norm2"),
        )
    },
    "visual_gate": "video_gated.0",
    "audio_gate": "audio_gated.0",
    "visual_activation": "video_cas",
    "audio_activation": "audio_cas",
    "visual_interaction.attention": "AVInter.video_multihead",
    "visual_interaction.norm": "AVInter.norm1",
    "audio_interaction.attention": "VAInter.video_multihead",
    "audio_interaction.norm": "VAInter.norm1",
    "enhance": "localize_module.encoder_q.0",
    "relevance_head": "localize_module.classifier",
    "class_head": "localize_module.event_classifier",
}
