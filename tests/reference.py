"""What the published localizer and its losses compute, written out plainly in float64.

The oracle that the real localizer is compared with: no modules, no fused layers, no options, only
matrix products and softmaxes, with the published parameter names (without `module.`). Always in
eval mode. Axes: B clips, T segments, P grid cells; arrays named so are time-first, (T,B,...),
from the LSTMs on.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

Params = dict[str, Tensor]
Guide = Literal["Co-Guide", "Audio-Guide", "Visual-Guide", "None", "CMBS"]
HEADS = 4


class Reference(NamedTuple):
    is_event_scores: Float[Tensor, "T B 1"]  # logit
    event_scores: Float[Tensor, "B 28"]  # logits
    audio_visual_gate: Float[Tensor, "T B 1"]  # in (0, 1)
    av_score: Float[Tensor, "B 28"]  # logits
    q: Float[Tensor, "B T 256"]  # rows of length 1, not negative
    k: Float[Tensor, "B T 256"]
    spatial: Float[Tensor, "B T P"] | None  # sums to 1 over the grid; only with an audio guide


def forward(
    params: Params,
    visual: Float[Tensor, "B T H W V"],
    audio: Float[Tensor, "B T 128"],
    *,
    guide: Guide,
    switch: bool,
    noise: Float[Tensor, "T B 256"],
    alpha: float = 0.1,
    beta: float = 0.4,
    gamma: float = 0.3,
    psi: float = 0.3,
    lambda_: float = 0.6,
) -> Reference:
    """switch: whether the event head sees the contrast-enhanced feature."""
    cells = linear(params, "v_fc", visual.flatten(2, 3)).relu()  # (B,T,P,512)
    v, a, spatial = guided(sub(params, "spatial_channel_att"), cells, audio, guide, beta, psi)
    rnn = sub(params, "audio_visual_rnn_layer")
    a = bidirectional(sub(rnn, "audio_rnn"), a.transpose(0, 1))  # time-first from here on
    v = bidirectional(sub(rnn, "visual_rnn"), v.transpose(0, 1))

    ve = encoder(sub(params, "video_encoder"), v)
    aq = decoder(sub(params, "audio_decoder"), a, ve)
    ae = encoder(sub(params, "audio_encoder"), a)
    vq = decoder(sub(params, "video_decoder"), v, ae)

    audio_gate = linear(params, "audio_gated.0", ae).sigmoid()
    video_gate = linear(params, "video_gated.0", ve).sigmoid()
    vq = vq + alpha * audio_gate * vq  # crossed: each modality is gated by the other
    aq = aq + alpha * video_gate * aq

    v_score = top4_mean(linear(params, "video_cas", vq))
    a_score = top4_mean(linear(params, "audio_cas", aq))
    av_score = (v_score + a_score) / 2

    vq = interaction(sub(params, "AVInter"), vq, aq)
    aq = interaction(sub(params, "VAInter"), aq, vq)  # with the vq just updated

    head = sub(params, "localize_module")
    fused = (vq + aq) / 2
    if guide == "CMBS":
        head |= {"encoder_q.0.weight": torch.zeros(256, 256), "encoder_q.0.bias": torch.zeros(256)}
        head = {key: value.to(fused.dtype) for key, value in head.items()}
    q_raw = linear(head, "encoder_q.0", fused).relu()
    k_raw = linear(head, "encoder_q.0", fused + 0.1 * noise).relu()
    enhanced = fused + lambda_ * q_raw if switch else fused
    event_scores = linear(head, "event_classifier", fused.amax(dim=0)) + gamma * av_score
    return Reference(
        is_event_scores=linear(head, "classifier", enhanced),
        event_scores=event_scores,
        audio_visual_gate=audio_gate * video_gate,
        av_score=av_score,
        q=unit(q_raw).transpose(0, 1),
        k=unit(k_raw).transpose(0, 1),
        spatial=spatial,
    )


def guided(p: Params, cells: Tensor, audio: Tensor, guide: Guide, beta: float, psi: float):
    """(B,T,P,512), (B,T,128) -> (B,T,512), (B,T,128) and the spatial weights (B,T,P) or None."""
    if guide == "None":
        return cells.mean(dim=2), audio, None
    if guide == "CMBS":  # one self-attention, whose norm has another name
        attended = normed(p, "norm", cells + attention(p, "video_{}", cells, cells))
        v, spatial = guided_visual(p, cells, attended, audio, beta)
        return v, audio, spatial
    attended = normed(p, "v_norm", cells + attention(p, "video_{}", cells, cells))
    if guide == "Visual-Guide":
        return cells.mean(dim=2), guided_audio(p, attended, audio, psi), None
    # Separate parameters, but the same norm.
    attended2 = normed(p, "v_norm", cells + attention(p, "video_{}2", cells, cells))
    v, spatial = guided_visual(p, cells, attended, audio, beta)
    psi = psi if guide == "Co-Guide" else 0.0
    return v, guided_audio(p, attended2, audio, psi), spatial


def guided_visual(p: Params, cells: Tensor, attended: Tensor, audio: Tensor, beta: float):
    audio = audio[:, :, None]  # beside the cells, (B,T,1,128)

    average = linear(p, "affine_video_ave", attended.mean(dim=2, keepdim=True)).relu()
    similar = linear(p, "affine_video_3", attended).relu() * average
    weights = linear(p, "ave_v_att", similar).tanh().softmax(dim=2)
    calibration = (weights * attended).sum(dim=2)

    by_audio = linear(p, "affine_audio_1", audio).relu()
    squeezed = (by_audio * linear(p, "affine_video_1", attended).relu()).mean(dim=2, keepdim=True)
    bottleneck = linear(p, "affine_bottleneck", squeezed).relu()
    channel = linear(p, "affine_v_c_att", bottleneck).sigmoid()
    cells = cells * (1 + channel)

    by_audio = linear(p, "affine_audio_2", audio).relu()
    relation = linear(p, "affine_video_2", cells).relu() * by_audio
    spatial = linear(p, "affine_v_s_att", relation).tanh().softmax(dim=2)
    v = (spatial * cells).sum(dim=2)
    return v + beta * calibration.sigmoid() * v, spatial.squeeze(-1)


def guided_audio(p: Params, attended: Tensor, audio: Tensor, psi: float) -> Tensor:
    context = normed(p, "a_norm", audio + attention(p, "audio_{}", audio, audio))
    query = linear(p, "v_query", attended.mean(dim=2))
    key, value = linear(p, "vaudio_key", context), linear(p, "vaudio_value", context)
    return audio + psi * attend(query, key, value).sigmoid() * audio


def encoder(p: Params, x: Tensor) -> Tensor:
    x = linear(p, "affine_matrix", x)
    for layer in (sub(p, "encoder.layers.0"), sub(p, "encoder.layers.1")):
        x = transformer_layer(layer, x, x, "self_attn")
    return x


def decoder(p: Params, query: Tensor, memory: Tensor) -> Tensor:
    query = linear(p, "affine_matrix", query)
    memory = torch.cat([memory, query])
    return transformer_layer(sub(p, "decoder.layers.0"), query, memory, "multihead_attn")


def transformer_layer(p: Params, x: Tensor, memory: Tensor, name: str) -> Tensor:
    x = normed(p, "norm1", x + multihead(sub(p, name), x, memory))
    return normed(p, "norm2", x + linear(p, "linear2", linear(p, "linear1", x).relu()))


def interaction(p: Params, first: Tensor, second: Tensor, heads: int = HEADS) -> Tensor:
    product = first * second
    memory = torch.cat([second, first])
    attended = multihead(sub(p, "video_multihead"), product, memory, heads)
    return normed(p, "norm1", product + attended)


def multihead(p: Params, x: Tensor, memory: Tensor, heads: int = HEADS) -> Tensor:
    """(T,B,D) asks (S,B,D)."""
    wq, wk, wv = p["in_proj_weight"].chunk(3)
    bq, bk, bv = p["in_proj_bias"].chunk(3)
    query, key, value = x @ wq.T + bq, memory @ wk.T + bk, memory @ wv.T + bv
    query, key, value = (y.unflatten(-1, (heads, -1)) for y in (query, key, value))
    scores = torch.einsum("tbhd,sbhd->bhts", query, key) / query.shape[-1] ** 0.5
    mixed = torch.einsum("bhts,sbhd->tbhd", scores.softmax(dim=-1), value)
    return linear(p, "out_proj", mixed.flatten(2))


def bidirectional(p: Params, x: Tensor) -> Tensor:
    forwards = lstm(x, *(p[f"{name}_l0"] for name in LSTM))
    backwards = lstm(x.flip(0), *(p[f"{name}_l0_reverse"] for name in LSTM))
    return torch.cat([forwards, backwards.flip(0)], dim=-1)


LSTM = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def lstm(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """(T,B,V) -> (T,B,D), from a state of zeros."""
    hidden = cell = x.new_zeros(x.shape[1], w_hh.shape[1])
    states = []
    for now in x:
        gates = now @ w_ih.T + b_ih + hidden @ w_hh.T + b_hh
        admit, forget, candidate, expose = gates.chunk(4, dim=-1)
        cell = forget.sigmoid() * cell + admit.sigmoid() * candidate.tanh()
        hidden = expose.sigmoid() * cell.tanh()
        states.append(hidden)
    return torch.stack(states)


def sub(p: Params, name: str) -> Params:
    return {key[len(name) + 1 :]: p[key] for key in p if key.startswith(f"{name}.")}


def linear(p: Params, name: str, x: Tensor) -> Tensor:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def normed(p: Params, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    variance = (centred**2).mean(dim=-1, keepdim=True)
    return centred / (variance + 1e-5).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]


def attention(p: Params, names: str, x: Tensor, memory: Tensor) -> Tensor:
    query = linear(p, names.format("query"), x)
    key, value = (linear(p, names.format(name), memory) for name in ("key", "value"))
    return attend(query, key, value)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query @ key.mT).softmax(dim=-1) @ value  # not scaled


def top4_mean(scores: Float[Tensor, "T B C"]) -> Float[Tensor, "B C"]:
    return scores.sort(dim=0, descending=True).values[:4].mean(dim=0)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def losses(
    out: Reference, labels_one_hot: Float[Tensor, "B T 29"], temperature: float = 0.01
) -> dict[str, Tensor]:
    """The five terms, not weighted. A clip without an event counts as category 0."""
    events = labels_one_hot[:, :, :28]
    is_event = events.amax(dim=-1)
    category = events.argmax(dim=-1).amax(dim=1)
    return {
        "is_event": bce_with_logits(out.is_event_scores, is_event),
        "event_class": cross_entropy(out.event_scores, category),
        "gate": bce_with_logits(out.audio_visual_gate, is_event),  # a probability, as a logit
        "cas": cross_entropy(out.av_score, category),
        "contrastive": contrast_per_anchor(out.q, out.k, is_event, temperature).mean(),
    }


def contrast_per_anchor(
    q: Float[Tensor, "B T D"],
    k: Float[Tensor, "B T D"],
    is_event: Float[Tensor, "B T"],
    temperature: float,
) -> Float[Tensor, "B 2T"]:
    """Anchors are the rows of q, then those of k. In float32 exp(1 / 0.01) overflows."""
    rows = torch.cat([q, k], dim=1)
    event = torch.cat([is_event, is_event], dim=1).bool()
    itself = torch.eye(rows.shape[1], dtype=torch.bool)
    own_copy = itself.roll(q.shape[1], dims=1)
    both_event = event[:, :, None] & event[:, None, :]
    positive = torch.where(event[:, :, None], both_event & ~itself, own_copy)

    similar = (rows @ rows.mT / temperature).exp()
    of_positives = (similar * positive).sum(dim=-1)
    of_all = (similar * ~itself).sum(dim=-1)
    count = positive.sum(dim=-1, dtype=rows.dtype)  # the log of an integer would be float32
    return of_all.log() - of_positives.log() + count.log()


def bce_with_logits(logits: Float[Tensor, "T B 1"], target: Float[Tensor, "B T"]) -> Tensor:
    logits = logits.squeeze(-1).T
    return (softplus(logits) - logits * target).mean()


def cross_entropy(logits: Float[Tensor, "B C"], category: Tensor) -> Tensor:
    return (logits.logsumexp(dim=1) - logits.gather(1, category[:, None]).squeeze(1)).mean()
