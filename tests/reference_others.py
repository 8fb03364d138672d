"""What CMRAN, PSP and DMRN compute as released, written out plainly in float64.

Like `tests/reference.py`, whose pieces it uses: only products and softmaxes, with the published
parameter names, always in eval mode. CMRAN is time-first, (T,B,...), from its encoders on; PSP and
DMRN are batch-first.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from tests.reference import (
    Params,
    bce_with_logits,
    bidirectional,
    cross_entropy,
    decoder,
    encoder,
    interaction,
    linear,
    sub,
)

Outputs = dict[str, Tensor]


def cmran(
    p: Params, visual: Float[Tensor, "B T H W V"], audio: Float[Tensor, "B T A"], heads: int = 4
) -> Outputs:
    """`is_event_scores` (B,T) and `event_scores` (B,28), logits; 29 of the weak model."""
    cells = linear(p, "v_fc", visual.flatten(2, 3)).relu()
    v = spatial_channel(sub(p, "spatial_channel_att"), cells, audio).transpose(0, 1)
    a = audio.transpose(0, 1)
    aq = decoder(sub(p, "audio_decoder"), a, encoder(sub(p, "video_encoder"), v))
    vq = decoder(sub(p, "video_decoder"), v, encoder(sub(p, "audio_encoder"), a))
    fused = interaction(sub(p, "AVInter"), vq, aq, heads)
    head = sub(p, "localize_module")
    return {
        "is_event_scores": linear(head, "classifier", fused).squeeze(-1).T,
        "event_scores": linear(head, "event_classifier", fused.amax(dim=0)),
    }


def spatial_channel(p: Params, cells: Tensor, audio: Tensor) -> Tensor:
    audio = audio[:, :, None]
    by_audio = linear(p, "affine_audio_1", audio).relu()
    squeezed = (by_audio * linear(p, "affine_video_1", cells).relu()).mean(dim=2, keepdim=True)
    channel = linear(p, "affine_v_c_att", linear(p, "affine_bottleneck", squeezed).relu()).sigmoid()
    cells = cells * (1 + channel)
    relation = linear(p, "affine_video_2", cells).relu() * linear(p, "affine_audio_2", audio).relu()
    spatial = linear(p, "affine_v_s_att", relation).tanh().softmax(dim=2)
    return (spatial * cells).sum(dim=2)


def cmran_losses(out: Outputs, labels: Float[Tensor, "B T 29"]) -> Outputs:
    events = labels[:, :, :28]
    category = events.argmax(dim=-1).amax(dim=1)
    return {
        "relevance": bce_with_logits(out["is_event_scores"].T.unsqueeze(-1), events.amax(dim=-1)),
        "category": cross_entropy(out["event_scores"], category),
    }


def cmran_weak(
    p: Params, visual: Float[Tensor, "B T H W V"], audio: Float[Tensor, "B T A"]
) -> Outputs:
    """As `cmran`, of the weakly supervised model, and `video_scores` (B,29)."""
    out = cmran(p, visual, audio, heads=2)
    shown = out["is_event_scores"].sigmoid()[..., None] * out["event_scores"][:, None]
    return out | {"video_scores": shown.amax(dim=1).softmax(dim=-1)}


def soft_margin(p: Tensor, tags: Float[Tensor, "B L"]) -> Tensor:
    """The multi-label soft margin, a mean over labels and clips."""
    return (tags * softplus(-p) + (1 - tags) * softplus(p)).mean()


def audio_guided(p: Params, cells: Tensor, audio: Tensor) -> Tensor:
    """The attention of AVEL and PSP: the audio term shifts positions."""
    content = linear(p, "affine_video", cells).relu() @ p["affine_v.weight"].T  # (B,T,P,h)
    shift = linear(p, "affine_audio", audio).relu() @ p["affine_g.weight"].T  # (B,T,h), h = P
    weights = ((content + shift[..., None]).tanh() @ p["affine_h.weight"].T).softmax(dim=2)
    return (weights * cells).sum(dim=2)


def both_lstms(p: Params, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    seen = bidirectional(sub(p, "lstm_video"), visual.transpose(0, 1)).transpose(0, 1)
    heard = bidirectional(sub(p, "lstm_audio"), audio.transpose(0, 1)).transpose(0, 1)
    return seen, heard


def avel_dmrn(
    p: Params, visual: Float[Tensor, "B T H W V"], audio: Float[Tensor, "B T A"]
) -> Outputs:
    """`scores` (B,T,29) before the softmax."""
    v, a = both_lstms(p, audio_guided(p, visual.flatten(2, 3), audio), audio)

    def residual(name: str, x: Tensor) -> Tensor:
        return linear(p, f"{name}.2", linear(p, f"{name}.0", x).tanh())

    shared = (residual("U_v", v) + residual("U_a", a)) / 2
    return {"scores": linear(p, "L2", ((a + shared).tanh() + (v + shared).tanh()) / 2)}


def avel_dmrn_losses(out: Outputs, labels: Float[Tensor, "B T 29"]) -> Outputs:
    """Of the softmax, as if it were logits."""
    probabilities = out["scores"].softmax(dim=-1)
    return {"segments": (softplus(probabilities) - labels * probabilities).mean()}


def psp(p: Params, visual: Float[Tensor, "B T H W V"], audio: Float[Tensor, "B T A"]) -> Outputs:
    """`scores` (B,T,29) and `similarity` (B,T), for τ = 0.099."""
    sound = matrices(p, "fa", audio)
    picture = matrices(p, "fv", audio_guided(sub(p, "attention"), visual.flatten(2, 3), sound))
    v, a = both_lstms(sub(p, "lstm_a_v"), picture, sound)
    v1, v2, a1, a2 = (
        (x @ p[f"psp.{name}.weight"].T).relu()
        for x, name in ((v, "v_L1"), (v, "v_L2"), (a, "a_L1"), (a, "a_L2"))
    )
    beta = (v2 @ a1.mT / 16).relu()
    seen = (v + cut(beta) @ a2) @ p["psp.v_fc.weight"].T
    heard = (a + cut(beta.mT) @ v1) @ p["psp.a_fc.weight"].T
    seen, heard = (norm(sub(p, "psp.layer_norm"), x.relu()) for x in (seen, heard))
    hidden = ((seen + heard) / 2 @ p["L1.weight"].T).relu()
    lengths = seen.norm(dim=-1) * heard.norm(dim=-1)
    return {
        "scores": hidden @ p["L2.weight"].T,
        "similarity": (seen * heard).sum(dim=-1) / lengths,
    }


def matrices(p: Params, name: str, x: Tensor) -> Tensor:
    return x @ p[f"{name}.0.weight"].T @ p[f"{name}.1.weight"].T


def cut(similar: Tensor, threshold: float = 0.099) -> Tensor:
    share = similar / (similar.sum(dim=-1, keepdim=True) + 1e-8)
    kept = torch.where(share > threshold, share, torch.zeros_like(share))
    return kept / (kept.sum(dim=-1, keepdim=True) + 1e-8)


def norm(p: Params, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return (
        centred / ((centred**2).mean(dim=-1, keepdim=True) + 1e-6).sqrt() * p["weight"] + p["bias"]
    )


def psp_losses(out: Outputs, labels: Float[Tensor, "B T 29"]) -> Outputs:
    scores, event = out["scores"].flatten(0, 1), 1 - labels[..., 28]
    positive = out["similarity"].relu()
    share = positive / (positive.sum(dim=1, keepdim=True) + 1e-8)
    target = event / event.sum(dim=1, keepdim=True)
    return {
        "segments": cross_entropy(scores, labels.flatten(0, 1).argmax(dim=-1)),
        "pairs": 100 * ((share - target) ** 2).mean(),
    }


def adam_steps(p: Params, loss_of, rate: float, clip: float | None, steps: int = 5) -> Params:
    """Plain Adam without weight decay, on what gets a gradient; the norm is clipped before."""
    first: Params = {}
    second: Params = {}
    for step in range(1, steps + 1):
        p = {key: value.detach().requires_grad_() for key, value in p.items()}
        found = torch.autograd.grad(loss_of(p), list(p.values()), allow_unused=True)
        gradients = {k: g for k, g in zip(p, found, strict=True) if g is not None}
        if clip is not None:
            total = torch.stack([g.norm() for g in gradients.values()]).norm()
            gradients = {
                k: g * min(1.0, clip / (total.item() + 1e-6)) for k, g in gradients.items()
            }
        for key, g in gradients.items():
            first[key] = 0.9 * first.get(key, 0) + 0.1 * g
            second[key] = 0.999 * second.get(key, 0) + 0.001 * g**2
            unbiased = second[key] / (1 - 0.999**step)
            move = first[key] / (1 - 0.9**step) / (unbiased.sqrt() + 1e-8)
            p[key] = p[key].detach() - rate * move
    return {key: value.detach() for key, value in p.items()}
