import pytest

from cace.conventions import SPLITS
from cace.data.annotations import (
    AVE_CATEGORIES,
    Annotations,
    Row,
    load_annotations,
    read_annotations,
    save_annotations,
    segment_labels,
)
from cace.system.errors import UserError

HEADER = "Category&VideoID&Quality&StartTime&EndTime\n"
TRAIN = "Bark&aaa&good&2&9\nBark&bbb&good&0&10\n"
VAL, TEST = "Church bell&ccc&good&0&0\n", "Church bell&aaa&good&2&9\n"


def write(folder, rows=None, train=TRAIN, val=VAL, test=TEST):
    (folder / "Annotations.txt").write_text(HEADER + TRAIN + VAL + TEST if rows is None else rows)
    for split, text in (("train", train), ("val", val), ("test", test)):
        (folder / f"{split}Set.txt").write_text(text)
    return folder


def test_categories_are_numbered_by_first_appearance(tmp_path):
    assert read_annotations(write(tmp_path)).categories == ("Bark", "Church bell")


def test_ave_categories_keep_the_published_order(tmp_path):
    rows = read_annotations(write(tmp_path), AVE_CATEGORIES).rows
    assert [row.category for row in rows] == [2, 2, 0, 0]
    assert len(AVE_CATEGORIES) == 28


def test_a_header_line_makes_no_difference(tmp_path):
    with_header = read_annotations(write(tmp_path))
    assert read_annotations(write(tmp_path, TRAIN + VAL + TEST)) == with_header


def test_an_id_may_stand_twice_with_two_categories_in_two_splits(tmp_path):
    annotations = read_annotations(write(tmp_path))
    assert [row.split for row in annotations.rows] == ["train", "train", "val", "test"]
    assert annotations.ids == ("aaa", "bbb", "ccc")


def test_segments_outside_the_event_are_background():
    annotations = Annotations(("a", "b"), (Row("x", 1, 2, 4, "train"), Row("y", 0, 0, 0, "val")))
    expected = [[2, 2, 1, 1, 2, 2, 2, 2, 2, 2], [2] * 10]
    assert segment_labels(annotations).tolist() == expected


def test_what_was_read_comes_back(tmp_path):
    annotations = read_annotations(write(tmp_path))
    save_annotations(tmp_path / "annotations.json", annotations)
    assert load_annotations(tmp_path / "annotations.json") == annotations


def test_all_problems_are_reported_at_once_with_their_lines(tmp_path):
    rows = HEADER + "Bark&../x&good&0&3\nBark&bbb&good&3&11\nBark&bbb\nBark&ddd&good&0&2\n"
    with pytest.raises(UserError) as caught:
        read_annotations(write(tmp_path, rows, train="Bark&ddd&good&0&2\n", val="", test=TEST))
    text = str(caught.value)
    for line in (
        "Annotations.txt, line 2: expected a printable category and a plain file name as id",
        "Annotations.txt, line 3: expected whole seconds 0 <= start <= end <= 10",
        "Annotations.txt, line 4: expected Category&VideoID&Quality&StartTime&EndTime",
        "testSet.txt, line 1: aaa (Church bell) is not in Annotations.txt",
    ):
        assert line in text


def test_a_row_in_two_splits_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"valSet.txt, line 1: bbb \(Bark\) is in trainSet.txt"):
        read_annotations(write(tmp_path, val="Bark&bbb&good&0&10\n" + VAL))


def test_a_row_in_no_split_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"line 4: ccc \(Church bell\) is in no split file"):
        read_annotations(write(tmp_path, val=""))


def test_an_unknown_category_is_refused_where_the_source_knows_its_own(tmp_path):
    rows = (TRAIN + VAL + TEST).replace("Bark", "Quack")
    folder = write(tmp_path, rows, train=TRAIN.replace("Bark", "Quack"))
    with pytest.raises(UserError, match="line 1: category 'Quack' is not one of the 28"):
        read_annotations(folder, AVE_CATEGORIES)


def test_some_split_files_without_the_others_are_refused(tmp_path):
    (write(tmp_path) / "valSet.txt").unlink()
    with pytest.raises(UserError, match="valSet.txt: not there"):
        read_annotations(tmp_path)


def without_splits(folder, sizes):
    """Annotations of categories a, b, ... with so many clips each."""
    rows = [
        f"{chr(97 + category)}&{category}_{k:03}&good&0&{1 + k % 10}\n"
        for category, size in enumerate(sizes)
        for k in range(size)
    ]
    (folder / "Annotations.txt").write_text("".join(rows))
    return read_annotations(folder).rows


def test_missing_splits_are_made_in_each_category(tmp_path):
    rows = without_splits(tmp_path, (40, 10, 3, 2))
    counts = [
        [sum(row.category == c and row.split == split for row in rows) for split in SPLITS]
        for c in range(4)
    ]
    assert counts == [[32, 4, 4], [8, 1, 1], [1, 1, 1], [2, 0, 0]]


def test_a_clip_added_later_moves_few_others(tmp_path):
    before = {row.id: row.split for row in without_splits(tmp_path, (40,))}
    after = {row.id: row.split for row in without_splits(tmp_path, (41,))}
    assert sum(after[id_] != split for id_, split in before.items()) <= 2


def test_a_file_with_two_rows_is_in_only_one_split(tmp_path):
    rows = "".join(f"Bark&{k}&good&0&3\nCat&{k}&good&0&3\n" for k in range(20))
    (tmp_path / "Annotations.txt").write_text(rows)
    splits = {}
    for row in read_annotations(tmp_path).rows:
        splits.setdefault(row.id, set()).add(row.split)
    assert all(len(of_file) == 1 for of_file in splits.values())


def test_too_few_clips_to_make_splits_from_are_refused(tmp_path):
    with pytest.raises(UserError, match="expected a category with at least 3 clips"):
        without_splits(tmp_path, (2, 1))


@pytest.mark.parametrize("id_", ["a/b", "..", "a\\b", "", "a\tb", "c:x", "a\u2028b", "a" * 201])
def test_an_id_that_is_no_plain_file_name_is_refused(tmp_path, id_):
    rows = f"Bark&{id_}&good&0&3\n"
    with pytest.raises(
        UserError, match="line 1: expected a printable category and a plain file name"
    ):
        read_annotations(write(tmp_path, rows, train=rows, val="", test=""))


@pytest.mark.parametrize(
    "category", ["", "Bark\u2028Bark", "Bark\x0bBark", "\x1b[2JBark", "Bark\0"]
)
def test_a_category_that_would_break_lines_or_terminals_is_refused(tmp_path, category):
    rows = f"Bark&a&good&0&3\n{category}&b&good&0&3\n"
    with pytest.raises(UserError, match="line 2: expected a printable category") as caught:
        read_annotations(write(tmp_path, rows, train=rows, val="", test=""))
    assert all(line.isprintable() for line in str(caught.value).split("\n"))
