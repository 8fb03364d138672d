"""What every method must survive: features, clips and labels of unusual form."""

from typing import NamedTuple

import pytest
import torch

from cace.evaluation.predict import predict
from cace.features.batches import Batch, Split
from cace.features.store import FeatureStore
from cace.localizers import load_checkpoint, localizer_class
from cace.localizers.parts import checkpoints
from cace.localizers.parts.protocol import Sizes
from cace.settings import LOCALIZERS
from tests.stores import write_feature_store
from tests.trained import CPU, untrained

WIDTH = {"width": 16}
RECONSTRUCTED = ("dam", "ave_clip", "css", "audio", "visual")


class Form(NamedTuple):
    clips: int = 3
    segments: int = 10
    grid: tuple[int, int] = (2, 3)
    channels: tuple[int, int] = (24, 12)
    categories: int = 3
    events: bool = True
    silenced: str | None = None


FORMS = {
    "usual": Form(),
    "another_grid_and_width": Form(grid=(4, 4), channels=(40, 7)),
    "seven_segments": Form(segments=7),
    "a_clip_alone": Form(clips=1),
    "silenced_vision": Form(grid=(1, 1), silenced="visual"),
    "silenced_sound": Form(silenced="audio"),
    "no_event": Form(events=False),
    "one_category": Form(categories=1),
}


def made(name, form):
    """A localizer in float64, and a batch of that form."""
    torch.manual_seed(0)
    height, width = form.grid
    localizer = checkpoints.build(
        name, Sizes(*form.channels, form.categories, height * width), **WIDTH
    )
    localizer.start_epoch(1.0)
    visual = torch.rand(form.clips, form.segments, height, width, form.channels[0]).double()
    audio = torch.rand(form.clips, form.segments, form.channels[1]).double()
    if form.silenced:
        (visual if form.silenced == "visual" else audio).zero_()
    labels = torch.full((form.clips, form.segments), form.categories)
    if form.events:
        for clip in range(form.clips):
            labels[clip, clip : clip + 4] = clip % form.categories
    return localizer.double(), Batch(
        visual, audio, labels, form.clips, form.clips if form.events else 0
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LOCALIZERS)
def test_outputs_losses_and_gradients_are_of_the_right_shape_and_finite(name, form):
    localizer, batch = made(name, FORMS[form])
    out = localizer(batch.visual, batch.audio)
    clips, segments, height, width, _ = batch.visual.shape
    categories = localizer.sizes.categories
    assert out.relevance.shape == (clips, segments)
    assert out.class_logits.shape in {(clips, 1, categories), (clips, segments, categories)}
    if out.attention is not None:
        assert out.attention.shape == (clips, segments, height, width)
        torch.testing.assert_close(
            out.attention.sum(dim=(2, 3)), torch.ones(clips, segments).double()
        )
    terms = localizer.losses(out, batch)
    loss = torch.stack([*terms.values()]).sum()
    assert all(term.isfinite() for term in terms.values())
    loss.backward()
    gradients = {name: p.grad for name, p in localizer.named_parameters()}
    if form == "usual":
        assert [key for key, grad in gradients.items() if grad is None] == []
    assert all(grad.isfinite().all() for grad in gradients.values() if grad is not None)


@pytest.mark.parametrize("name", LOCALIZERS)
def test_a_clip_is_predicted_the_same_alone_and_among_others(name):
    localizer, batch = made(name, Form())
    localizer.eval()
    with torch.no_grad():
        together = localizer(batch.visual, batch.audio)
        alone = localizer(batch.visual[1:2], batch.audio[1:2])
    torch.testing.assert_close(alone.relevance, together.relevance[1:2])
    torch.testing.assert_close(alone.class_logits, together.class_logits[1:2])


@pytest.mark.parametrize("name", LOCALIZERS)
def test_a_saved_localizer_predicts_the_same(name, store, tmp_path):
    localizer = untrained(store, name=name, settings=WIDTH).eval()
    checkpoints.save(tmp_path / "a.pt", name, localizer, {})
    test = Split(store, "test", CPU)
    ours, loaded = (
        predict(each, test, 0.5) for each in (localizer, load_checkpoint(tmp_path / "a.pt"))
    )
    assert (ours.labels == loaded.labels).all()
    assert (ours.relevance == loaded.relevance).all()


@pytest.mark.parametrize("name", LOCALIZERS)
def test_it_is_built_for_the_grid_and_width_of_the_store(name, tmp_path):
    other = FeatureStore(write_feature_store(tmp_path / "other.h5", grid=(3, 4), channels=(20, 6)))
    localizer = untrained(other, name=name, settings=WIDTH)
    assert localizer.sizes == Sizes(20, 6, 3, 12)
    assert predict(localizer, Split(other, "test", CPU), 0.5).labels.shape == (6, 10)


@pytest.mark.parametrize("name", LOCALIZERS)
def test_a_method_without_released_code_says_what_was_chosen(name):
    assert bool(localizer_class(name).reconstruction) == (name in RECONSTRUCTED)


@pytest.mark.parametrize(("name", "unread"), [("audio", "visual"), ("visual", "audio")])
def test_a_method_of_one_modality_does_not_read_the_other(name, unread):
    localizer, batch = made(name, Form())
    other = batch._replace(**{unread: torch.rand_like(getattr(batch, unread))})
    found, expected = (localizer(one.visual, one.audio).relevance for one in (other, batch))
    assert torch.equal(found, expected)
    assert localizer.modalities == (name,)
