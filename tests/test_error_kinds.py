"""What is wrong about a wrong segment."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cace.evaluation.error_kinds import KINDS, error_kinds, error_shares

B = 3  # background
LABELS = arrays(np.int64, (4, 10), elements=st.integers(0, B))


@pytest.mark.parametrize(
    ("labels", "predicted", "boundary", "expected"),
    [
        ("..aaa.....", "..abb.....", 1, "...ww....."),
        ("..aaa.....", ".aaaa.....", 1, ".b........"),
        ("..aaa.....", "...aa.....", 1, "..b......."),
        ("..aaa.....", "aaaaa.....", 1, "ib........"),
        ("..aaa.....", "aaaaa.....", 2, "bb........"),
        ("..aaa.....", ".aaaa.....", 0, ".i........"),
        ("..aaa.....", "..........", 1, "..mmm....."),
        ("..aaa.....", "..aaab....", 1, ".....i...."),
        ("..aaa.....", "..bbbb....", 1, "..wwwi...."),
        ("aaaaaaaaaa", "...aaaa...", 1, "mmb....bmm"),
    ],
)
def test_each_wrong_segment_is_of_the_first_kind_that_fits(labels, predicted, boundary, expected):
    of = dict(zip("ab.", (0, 1, B), strict=True))
    rows = (np.array([[of[sign] for sign in text]]) for text in (predicted, labels))
    found = error_kinds(*rows, B, boundary)
    signs = dict(zip(KINDS, "wbmi", strict=True))
    shown = ["."] * 10
    for kind, wrong in found.items():
        for place in np.flatnonzero(wrong):
            shown[place] = signs[kind]
    assert "".join(shown) == expected


@given(LABELS, LABELS, st.integers(0, 10))
def test_every_wrong_segment_is_of_exactly_one_kind(predicted, labels, boundary):
    counted = sum(
        wrong.astype(int) for wrong in error_kinds(predicted, labels, B, boundary).values()
    )
    np.testing.assert_array_equal(counted, predicted != labels)


@given(LABELS, LABELS, st.integers(0, 3))
def test_shares_add_up_to_the_error_rate(predicted, labels, boundary):
    shares = error_shares(predicted, labels, B, boundary)
    assert sum(shares.values()) == pytest.approx((predicted != labels).mean())
