"""The predictions as they are kept in git."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cace.evaluation import prediction_files
from cace.system.errors import UserError
from tests.comparisons import table

TABLE = """\
seed,id,row,actual,predicted,category
0,x,0,.*3;dog*5;.*2,dog*10,dog
0,x,1,cat*10,.*10,dog
0,y,0,.*10,.*10,cat
1,x,0,.*3;dog*5;.*2,.*10,cat
1,x,1,cat*10,cat*10,cat
1,y,0,.*10,.*10,cat
"""
NAMES = st.lists(
    st.text(st.characters(exclude_categories=("C", "Z")), min_size=1), min_size=2, unique=True
)


def test_the_table_is_as_documented():
    dog, cat, none = (np.full(10, k) for k in (0, 1, 2))
    half = np.array([2, 2, 2, 0, 0, 0, 0, 0, 2, 2])
    text = prediction_files.write(
        ["dog", "cat"],
        ["x", "x", "y"],
        np.stack([half, cat, none]),
        {0: np.stack([dog, none, none]), 1: np.stack([none, cat, none])},
        {0: np.array([0, 0, 1]), 1: np.array([1, 1, 1])},
    )
    assert text == TABLE


def test_a_table_is_read_by_name():
    saved = prediction_files.read(TABLE, "t.csv")
    assert (saved.categories, saved.ids, saved.rows) == (("cat", "dog"), ("x", "x", "y"), (0, 1, 0))
    assert saved.actual[0].tolist() == [2, 2, 2, 1, 1, 1, 1, 1, 2, 2]
    assert saved.labels[0][:, 0].tolist() == [1, 2, 2]
    assert saved.clip_category[1].tolist() == [0, 0, 0]


@given(NAMES, st.data())
def test_names_survive_whatever_is_in_them(names, data):
    labels = st.lists(st.integers(0, len(names)), min_size=10, max_size=10)
    actual, predicted = (np.array([data.draw(labels)]) for _ in range(2))
    category = np.array([data.draw(st.integers(0, len(names) - 1))])
    text = prediction_files.write(names, ["x"], actual, {3: predicted}, {3: category})
    saved = prediction_files.read(text, "t.csv")
    ours, read = (np.array([*n, None], object) for n in (names, saved.categories))
    assert read[saved.actual].tolist() == ours[actual].tolist()
    assert read[saved.labels[3]].tolist() == ours[predicted].tolist()
    assert read[saved.clip_category[3]].tolist() == ours[category].tolist()


def test_above_a_megabyte_only_the_header_is_for_git():
    large = TABLE + "0,z,0,.*10,.*10,cat\n" * 50_001
    assert prediction_files.for_git(TABLE) == TABLE
    assert prediction_files.read(prediction_files.for_git(large), "t.csv") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected columns seed,"),
        ("seed,id\n0,x\n", "expected columns seed,"),
        (TABLE + "0,z\n", "line 8: expected seed,"),
        (TABLE + "a,z,0,.*10,.*10,cat\n", "line 8: expected seed,"),
        (TABLE + "0,z,0,.*9,.*10,cat\n", "line 8: expected 10 segments"),
        (TABLE + "0,z,0,dog,.*10,cat\n", "line 8: expected 10 segments"),
        (TABLE + "0,y,0,.*10,.*10,cat\n", "line 8: clip 'y', row 0 is there twice for seed 0"),
        (TABLE + "0,z,0,.*10,.*10,cat\n", "the same clips and labels for every seed"),
        (TABLE.replace("1,y,0,.*10", "1,y,0,cat*10"), "the same clips and labels for every seed"),
    ],
)
def test_a_damaged_table_is_refused_by_line(text, expected):
    with pytest.raises(UserError, match=expected):
        prediction_files.read(text, "t.csv")


def test_every_seed_may_have_its_clips_in_another_order():
    header, *rows = table((0, 1), right=0.7).splitlines()
    shuffled = "\n".join([header, *rows[:24], *reversed(rows[24:])])
    expected, found = (
        prediction_files.read(text, "") for text in (table((0, 1), right=0.7), shuffled)
    )
    assert found.ids == expected.ids
    assert np.array_equal(found.labels[1], expected.labels[1])
    assert np.array_equal(found.clip_category[1], expected.clip_category[1])


BROKEN = {
    "a seed written twice": ("\n1,", "\n00,", "is there twice for seed 0"),
    "a seed of 5,000 digits": ("\n1,", "\n" + 5_000 * "1" + ",", "line 26: expected seed,"),
    "a clip without a name": (",clip 3,", ",,", "line 5: expected seed,"),
    "a field of 200,000 characters": (",clip 3,", f",{200_000 * 'x'},", "expected a table in CSV"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_is_refused_with_its_place(name):
    old, new, message = BROKEN[name]
    with pytest.raises(UserError, match=message):
        prediction_files.read(table((0, 1)).replace(old, new), "own.csv")
