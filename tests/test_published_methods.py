"""CMRAN, PSP and DMRN against the published numbers, and against a plain oracle of each.

The oracles of CMRAN and PSP are held to the published numbers too (tests/data/README.md).
"""

import json

import numpy as np
import pytest
import torch

from cace.evaluation.accuracy import segment_predictions
from cace.features.batches import Batch
from cace.localizers import load_checkpoint, localizer_class
from cace.localizers.parts import checkpoints
from tests import fill, reference_others
from tests.test_cace_net import close, labels

# The method, and the settings of its constructor.
METHODS = {"cmran": ("cmran", {}), "psp": ("psp", {}), "avel_dmrn": ("avel", {"fusion": "dmrn"})}
# Learning rate and clip that each was published with.
TRAINING = {"cmran": (5e-4, 0.1), "psp": (1e-3, None), "avel_dmrn": (1e-3, None)}
GOLDEN = ("cmran", "psp")


def weights_of(case):
    return {key: fill.fill_param(key, shape) for key, shape in fill.state_dict_shapes(case).items()}


def filled(case):
    name, settings = METHODS[case]
    return checkpoints.from_authors("filled", weights_of(case), name, **settings)


def keys(case, localizer):
    known = localizer_class(METHODS[case][0]).authors_format(weights_of(case), {})
    return checkpoints.authors_keys(localizer, known)


def oracle(case, weights, grid=7):
    out = getattr(reference_others, case)(weights, *fill.inputs(grid=grid))
    return out, getattr(reference_others, f"{case}_losses")(out, fill.labels())


def own_outputs(case, out):
    if case == "cmran":
        return {"is_event_scores": out.relevance, "event_scores": out.class_logits.squeeze(1)}
    return {key: out.extra[key] for key in ("scores", "similarity") if key in out.extra}


def terms_of(localizer, grid=7):
    visual, audio = fill.inputs(grid=grid)
    batch = Batch(visual, audio, labels(), clips=3, clips_with_event=3)
    return localizer.losses(localizer(visual, audio), batch)


def golden(case):
    arrays = np.load(fill.DATA / f"{case}.npz")
    numbers = json.loads((fill.DATA / f"{case}.json").read_text())
    return {key: torch.from_numpy(arrays[key]) for key in arrays}, numbers


def published(case):
    """The published outputs and losses by the names used here."""
    arrays, numbers = golden(case)
    losses = numbers["losses"]
    if case == "cmran":
        outputs = {"is_event_scores": arrays["is_event_scores"].squeeze(-1).T}
        outputs["event_scores"] = arrays["event_scores"]
        return outputs, {"relevance": losses["is_event"], "category": losses["event_class"]}
    outputs = {"scores": arrays["out"], "similarity": arrays["cross_att"]}
    return outputs, {"segments": losses["cls"], "pairs": 100 * losses["avps"]}


@pytest.mark.parametrize("case", GOLDEN)
def test_the_oracle_gives_the_published_outputs_and_losses(case):
    out, losses = oracle(case, weights_of(case))
    outputs, expected = published(case)
    for name, value in outputs.items():
        close(out[name], value)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        expected, abs=1e-10
    )


@pytest.mark.parametrize("case", METHODS)
def test_outputs_and_losses_agree_with_the_oracle(case):
    localizer = filled(case)
    expected, losses = oracle(case, weights_of(case))
    found = own_outputs(case, localizer(*fill.inputs()))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        close(found[name], value)
    for name, term in terms_of(localizer).items():
        close(term, losses[name])


@pytest.mark.parametrize("case", GOLDEN)
def test_gradient_norms_are_the_published_ones(case):
    localizer = filled(case)
    sum(terms_of(localizer).values()).backward()
    names = keys(case, localizer)
    found = {names[name]: p.grad.norm().item() for name, p in localizer.named_parameters()}
    expected = {k: v for k, v in golden(case)[1]["grad_norm_all"].items() if v is not None}
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-13)


@pytest.mark.parametrize("case", METHODS)
def test_five_steps_of_adam_agree_with_the_oracle(case):
    rate, clip = TRAINING[case]
    grid = 3 if case == "cmran" else 7  # quicker; the others' weights are for one grid
    localizer = filled(case)
    optimizer = torch.optim.Adam(localizer.parameters(), lr=rate)
    for _ in range(5):
        optimizer.zero_grad()
        sum(terms_of(localizer, grid).values()).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(localizer.parameters(), clip)
        optimizer.step()
    expected = reference_others.adam_steps(
        weights_of(case), lambda p: sum(oracle(case, p, grid)[1].values()), rate, clip
    )
    with torch.no_grad():
        out = own_outputs(case, localizer(*fill.inputs(grid=grid)))
    for name, value in oracle(case, expected, grid)[0].items():
        close(out[name], value, atol=1e-9)


@pytest.mark.parametrize("case", GOLDEN)
def test_the_released_rule_decides_the_same_labels(case):
    with torch.no_grad():
        out = filled(case)(*fill.inputs())
    category = out.class_logits.argmax(dim=-1).expand_as(out.relevance).numpy()
    found = segment_predictions(out.relevance.sigmoid().numpy(), category, 0.5, background=28)
    assert np.array_equal(found, golden(case)[0]["pred"].numpy())


@pytest.mark.parametrize(("case", "read"), [("cmran", 9_509_150), ("avel_dmrn", 1_571_150)])
def test_the_published_number_of_trained_parameters(case, read):
    assert sum(p.numel() for p in filled(case).parameters()) == read


@pytest.mark.parametrize("case", METHODS)
def test_a_checkpoint_with_a_foreign_key_is_refused(case):
    name, settings = METHODS[case]
    strange = weights_of(case) | {"temporal.weight": torch.zeros(1)}
    with pytest.raises(checkpoints.UserError, match=r"unknown: \['temporal.weight'\]"):
        checkpoints.from_authors("a.pt", strange, name, **settings)


@pytest.mark.parametrize("case", METHODS)
def test_a_plain_file_with_the_authors_keys_loads_in_its_precision(case, tmp_path):
    name, settings = METHODS[case]
    weights = {f"module.{key}": value for key, value in weights_of(case).items()}
    torch.save(weights, tmp_path / "authors.pt")
    localizer = load_checkpoint(tmp_path / "authors.pt", localizer=name, **settings)
    assert {p.dtype for p in localizer.parameters()} == {torch.float64}
    assert not localizer.training
    close(localizer(*fill.inputs()).relevance, filled(case)(*fill.inputs()).relevance, atol=0)


def test_a_pickled_module_is_refused_without_running_it(tmp_path):
    torch.save(filled("psp"), tmp_path / "module.pt")
    with pytest.raises(checkpoints.UserError, match="whose loading would run code"):
        load_checkpoint(tmp_path / "module.pt", localizer="psp")
