"""Audio-visual contrast that fine-tunes the visual encoder.

Every clip is one picture vector and one sound vector, means over its segments. Those of the same
clip are a positive pair, those of different clips negatives.

Source: CACE-Net, section 3.4, Eq. 9.
Differs: both vectors go through a linear map without bias into one space, since their sizes
    differ, and are normalised there; the maps are fitted to the pretrained encoder first, as their
    random start would spoil it; each epoch uses one random frame of each segment; batch-norm
    statistics stay those of the pretrained network. The paper specifies none of this.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cace.conventions import SEGMENTS
from cace.encoders.audio import AudioEncoder
from cace.encoders.visual import VisualEncoder
from cace.finetuning.layers import train_last
from cace.finetuning.processes import Team
from cace.media.store import ClipStore
from cace.system.errors import UserError
from cace.system.resume import Stateful, read_state, restore_state, save_state
from cace.system.workers import progress

FRAMES_AT_ONCE = 40  # through the encoder, in training
# The same on a CPU: 40 frames of 224 pixels need 1.4 times the time of 10, and 7.3 GB, not 3.3.
CPU_PIXELS_AT_ONCE = 10 * 224 * 224


class Retrieval(NamedTuple):
    """Share of clips whose sound is among the 1 or 5 sounds nearest to their picture."""

    recall_at_1: float
    recall_at_5: float


class Epoch(NamedTuple):
    """One epoch of fine-tuning; epoch 0 is the pretrained encoder with the maps fitted to it."""

    epoch: int
    loss: float | None
    recall_at_1: float
    recall_at_5: float


def info_nce(
    visual: Float[Tensor, "B D"], audio: Float[Tensor, "B D"], tau: float, symmetric: bool
) -> Float[Tensor, ""]:
    """Contrast between the unit vectors of B clips; log B if nothing is learned.

    symmetric: mean of picture-to-sound (Eq. 9) and sound-to-picture; else only Eq. 9.
    """
    similarity = visual @ audio.mT / tau
    own = torch.arange(len(similarity), device=similarity.device)
    loss = F.cross_entropy(similarity, own)
    return (loss + F.cross_entropy(similarity.mT, own)) / 2 if symmetric else loss


def retrieval(visual: Float[Tensor, "N D"], audio: Float[Tensor, "N D"]) -> Retrieval:
    """Recall at 1 and 5 among N clips; another sound that is equally near counts as nearer."""
    similarity = visual @ audio.mT
    own = similarity.diagonal().unsqueeze(1)
    rank = (similarity >= own).sum(dim=1)
    return Retrieval(*((rank <= k).double().mean().item() for k in (1, 5)))


class SharedSpace(nn.Module):
    """Two linear maps without bias into the space where picture and sound are compared."""

    def __init__(self, visual_channels: int, audio_channels: int, dimensions: int) -> None:
        super().__init__()
        self.from_visual = nn.Linear(visual_channels, dimensions, bias=False)
        self.from_audio = nn.Linear(audio_channels, dimensions, bias=False)

    def forward(
        self, visual: Float[Tensor, "B V"], audio: Float[Tensor, "B A"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """Unit vectors of both."""
        return F.normalize(self.from_visual(visual), dim=-1), F.normalize(
            self.from_audio(audio), dim=-1
        )


def clip_sounds(
    encoder: AudioEncoder, clips: ClipStore, ids: Sequence[str], device: torch.device
) -> Float[Tensor, "n A"]:
    """Mean audio feature of each clip."""
    if not ids:
        return torch.zeros(0, encoder.channels, device=device)
    with torch.inference_mode():
        features = [
            encoder(torch.from_numpy(_read(clips, clips.sound, id_)).to(device)).mean(dim=0)
            for id_ in progress(ids, "finetune: sounds")
        ]
    return torch.stack(features).clone()


def clip_pictures(
    encoder: VisualEncoder,
    clips: ClipStore,
    ids: Sequence[str],
    second_parts: np.ndarray,
    device: torch.device,
    precision: str = "float32",
) -> Float[Tensor, "B V"]:
    """Mean visual feature of each clip over one frame per segment.

    second_parts: [B, T], which frame of each segment is used.
    precision: float32 or bfloat16, of the encoder's layers; its weights stay in float32.
    """
    if not ids:
        return torch.zeros(0, encoder.channels, device=device)
    places = second_parts + np.arange(SEGMENTS) * clips.fps
    frames = np.concatenate(
        [_read(clips, clips.frames, id_, where) for id_, where in zip(ids, places, strict=True)]
    )
    pixels = frames.shape[1] * frames.shape[2]
    most = FRAMES_AT_ONCE
    if device.type == "cpu":
        budget = CPU_PIXELS_AT_ONCE * (2 if precision == "bfloat16" else 1)  # of half the bytes
        most = max(1, budget // pixels)
    # Only one part's activations are in memory at a time: the backward pass computes them again.
    vectors = []
    for part in torch.from_numpy(frames).to(device).split(min(most, FRAMES_AT_ONCE)):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            maps = checkpoint(encoder, part, use_reentrant=False)
        vectors.append(maps.to(encoder.mean.dtype).mean(dim=(2, 3)))
    return torch.cat(vectors).unflatten(0, (len(ids), SEGMENTS)).mean(dim=1)


def _read(
    clips: ClipStore, part: Callable[..., np.ndarray], id_: str, *where: np.ndarray
) -> np.ndarray:
    """A part of a clip.

    Raises: UserError that names the clip, whatever the reason.
    """
    try:
        return part(id_, *where)
    except UserError:
        raise
    except Exception as error:  # of whatever library: a stored clip is damaged
        raise UserError(
            f"finetune: clip {id_} cannot be read from {clips.folder}: {type(error).__name__}: "
            f"{error}; run `dvc repro -f decode`"
        ) from error


def finetune(
    encoder: VisualEncoder,
    audio_encoder: AudioEncoder,
    clips: ClipStore,
    train: Sequence[str],
    val: Sequence[str],
    *,
    state: Path,
    epochs: int,
    maps_epochs: int,
    batch_size: int,
    learning_rate: float,
    maps_learning_rate: float,
    dimensions: int,
    tau: float,
    symmetric: bool,
    seed: int,
    layers: int | None = None,
    precision: str = "float32",
    device: torch.device,
    team: Team,
) -> list[Epoch]:
    """Trains the visual encoder in place on the clips of the train split.

    state: a file that is written after every epoch. If it exists, training resumes after its last
        epoch and gives the same numbers as without the interruption; the arguments must be the
        same.
    maps_epochs: epochs in which only the two maps are fitted, before the encoder is trained.
    layers: of the encoder, counted from its end, that are trained; None: all.
    precision: of `clip_pictures`.
    team: the processes that train together; all of them call this, and the first writes. Each
        encodes a part of every batch, and compares it with the complete batch.

    Returns: one entry an epoch; the first is the pretrained encoder.
    Raises: UserError if the loss is not finite, or the encoder has fewer layers.
    """
    train_last(encoder, layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        space = SharedSpace(encoder.channels, audio_encoder.channels, dimensions).to(device)
    trained = [weight for weight in encoder.parameters() if weight.requires_grad]
    for_all = torch.optim.Adam([*trained, *space.parameters()], lr=learning_rate)
    middle = np.full((batch_size, SEGMENTS), clips.fps // 2)

    @torch.no_grad()  # not in inference mode: ConViT keeps tensors that training needs
    def frozen_pictures(ids: Sequence[str], what: str) -> Tensor:
        """Of the middle frames."""
        parts = [
            clip_pictures(encoder, clips, some, middle[: len(some)], device, precision)
            for some in progress(
                batched(ids[team.own(len(ids))], batch_size), f"finetune: pictures, {what}"
            )
        ]
        nothing = torch.zeros(0, encoder.channels, device=device)
        return team.gather(torch.cat([nothing, *parts]), len(ids))

    def sounds_of(ids: Sequence[str]) -> Tensor:
        own = clip_sounds(audio_encoder, clips, ids[team.own(len(ids))], device)
        return team.gather(own, len(ids))

    def batches(rng: np.random.Generator) -> list[np.ndarray]:
        """Places of the train clips; a last batch of one clip would have no negatives."""
        order = rng.permutation(len(train))
        return [some for some in batched(order, batch_size) if len(some) > 1]

    def step(pictures: Tensor, sound: Tensor, size: int, optimizer: torch.optim.Optimizer) -> float:
        """pictures, sound: this process's part of a batch of `size` clips."""
        visual, audio = (team.gather(rows, size) for rows in space(pictures, sound))
        loss = info_nce(visual, audio, tau, symmetric)
        if not loss.isfinite():
            raise UserError(
                f"finetune: the contrast is {loss.item()}; lower finetune.learning_rate and "
                f"finetune.maps_learning_rate, or raise finetune.tau"
            )
        optimizer.zero_grad()
        loss.backward()
        team.add_gradients(p for group in optimizer.param_groups for p in group["params"])
        optimizer.step()
        return loss.item()

    parts: dict[str, Stateful] = {"encoder": encoder, "space": space, "optimizer": for_all}
    content = team.share(read_state(state) if team.leads and state.exists() else None)
    if content is not None:
        saved = restore_state(content, parts)
        curve = [Epoch(*epoch) for epoch in saved["curve"]]
        sounds, val_sounds = saved["sounds"].to(device), saved["val_sounds"].to(device)
    else:
        sounds, val_sounds = sounds_of(train), sounds_of(val)
        for_maps = torch.optim.Adam(space.parameters(), lr=maps_learning_rate)
        pictures = frozen_pictures(train, "train")
        rng = np.random.default_rng([seed, 0])
        for _ in range(maps_epochs):
            for batch in batches(rng):
                own = batch[team.own(len(batch))]
                step(pictures[own], sounds[own], len(batch), for_maps)
        curve = [Epoch(0, None, *_recall(space, frozen_pictures(val, "val"), val_sounds))]

    def save() -> None:
        if team.leads:
            sound = {"sounds": sounds, "val_sounds": val_sounds}
            save_state(state, parts, {**sound, "curve": [tuple(row) for row in curve]})

    if content is None:
        save()
    for epoch in range(len(curve), epochs + 1):
        rng, losses = np.random.default_rng([seed, epoch]), []
        for batch in progress(batches(rng), f"finetune: epoch {epoch}/{epochs}"):
            second_parts = rng.integers(clips.fps, size=(len(batch), SEGMENTS))
            part = team.own(len(batch))
            ids = [train[place] for place in batch[part]]
            pictures = clip_pictures(encoder, clips, ids, second_parts[part], device, precision)
            losses.append(step(pictures, sounds[batch[part]], len(batch), for_all))
        recalls = _recall(space, frozen_pictures(val, "val"), val_sounds)
        curve.append(Epoch(epoch, float(np.mean(losses)), *recalls))
        save()
    return curve


@torch.inference_mode()
def _recall(space: SharedSpace, pictures: Tensor, sounds: Tensor) -> Retrieval:
    visual, audio = space(pictures, sounds)
    return retrieval(visual, audio)


def batched(items: Any, size: int) -> list[Any]:
    """Slices of `size` items, the last one shorter."""
    return [items[i : i + size] for i in range(0, len(items), size)]
