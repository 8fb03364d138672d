"""Names in the checkpoints of CMRAN, CMBS and CACE-Net, whose codes descend from one another."""

from torch import Tensor

from cace.localizers.parts.protocol import Sizes

HEADS = {
    "relevance_head": "localize_module.classifier",
    "class_head": "localize_module.event_classifier",
}

RELATIONS = {
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
    "visual_interaction.attention": "AVInter.video_multihead",
    "visual_interaction.norm": "AVInter.norm1",
}

SPATIAL_CHANNEL = {
    "channel_attention.from_visual": "spatial_channel_att.affine_video_1",
    "channel_attention.from_audio": "spatial_channel_att.affine_audio_1",
    "channel_attention.bottleneck": "spatial_channel_att.affine_bottleneck",
    "channel_attention.expand": "spatial_channel_att.affine_v_c_att",
    "spatial_attention.from_visual": "spatial_channel_att.affine_video_2",
    "spatial_attention.from_audio": "spatial_channel_att.affine_audio_2",
    "spatial_attention.score": "spatial_channel_att.affine_v_s_att",
}

SUPPRESSION = {  # what CMBS and CACE-Net add to CMRAN
    "visual_lstm": "audio_visual_rnn_layer.visual_rnn",
    "audio_lstm": "audio_visual_rnn_layer.audio_rnn",
    "visual_gate": "video_gated.0",
    "audio_gate": "audio_gated.0",
    "visual_activation": "video_cas",
    "audio_activation": "audio_cas",
    "audio_interaction.attention": "VAInter.video_multihead",
    "audio_interaction.norm": "VAInter.norm1",
}

GUIDE = {  # of vision, beside the spatial-channel attention
    "within_grid.query": "spatial_channel_att.video_query",
    "within_grid.key": "spatial_channel_att.video_key",
    "within_grid.value": "spatial_channel_att.video_value",
    "calibration.squeeze": "spatial_channel_att.affine_video_ave",
    "calibration.position": "spatial_channel_att.affine_video_3",
    "calibration.score": "spatial_channel_att.ave_v_att",
}

UNUSED = (  # never read by the authors' code
    "a_fc.",
    "spatial_channel_att.ave_bottleneck.",
    *(f"{modality}_encoder.encoder_layer." for modality in ("video", "audio")),
    *(f"{modality}_decoder.decoder_layer." for modality in ("video", "audio")),
    *(f"{modality}_decoder.decoder.layers.0.self_attn." for modality in ("video", "audio")),
)


def sizes(weights: dict[str, Tensor]) -> Sizes:
    """Sizes that a checkpoint was trained for, whose sound enters unchanged: 128 channels."""
    return Sizes(
        visual_channels=weights["v_fc.weight"].shape[1],
        audio_channels=128,
        categories=len(weights[f"{HEADS['class_head']}.weight"]),
        positions=49,
    )


def suppression(visual_norm: str) -> dict[str, str]:
    """For each module of CMBS's and CACE-Net's localizers its name there.

    visual_norm: the name of the norm of the visual self-attention.
    """
    guide = {f"guidance.guide_visual.{k}": v for k, v in {**GUIDE, **SPATIAL_CHANNEL}.items()}
    network = {
        "visual_input.0": "v_fc",
        "guidance.visual_norm": f"spatial_channel_att.{visual_norm}",
        **guide,
        **RELATIONS,
        **SUPPRESSION,
    }
    return {**{f"network.{ours}": theirs for ours, theirs in network.items()}, **HEADS}
