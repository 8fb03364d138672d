import pandas as pd
import pytest
from pandas._libs.parsers import STR_NA_VALUES

from cace.conventions import SPLITS
from cace.data.annotations import (
    AVE_CATEGORIES,
    Annotations,
    Row,
    load_annotations,
    near_twins,
    read_annotations,
    save_annotations,
    segment_labels,
    unlearned,
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


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("content", ["", HEADER, "\n \n"])
def test_a_split_without_rows_is_refused(tmp_path, split, content):
    with pytest.raises(UserError, match=f"{split}Set.txt: expected rows, got none"):
        read_annotations(write(tmp_path, **{split: content}))


ACCENTED, IN_TWO_PARTS = "Türklingel", "Tu\u0308rklingel"  # NFC, NFD


@pytest.mark.parametrize(
    "row",
    [
        "Bark & aaa & good & 2 & 9",
        " Bark&aaa &good&2&9\r",
        "Bark\t&\taaa&good&2&9",
        "Bark&aaa\u00a0&good&2&9",
    ],
)
def test_spaces_around_fields_do_not_count(tmp_path, row):
    expected = read_annotations(write(tmp_path))
    rows = HEADER + f"{row}\n" + TRAIN.split("\n")[1] + "\n" + VAL + TEST
    assert read_annotations(write(tmp_path, rows)) == expected


def test_both_ways_to_write_an_accent_are_one_name(tmp_path):
    def named(name):
        return f"{name}&{name}&good&2&9\nBark&bbb&good&0&10\n"

    annotations = read_annotations(
        write(tmp_path, named(IN_TWO_PARTS) + VAL + TEST, train=named(ACCENTED))
    )
    assert annotations.categories[0] == annotations.rows[0].id == ACCENTED


@pytest.mark.parametrize("name", ["background", "Background", " BACKGROUND ", "bacKground"])
def test_the_name_of_the_background_is_refused_as_a_category(tmp_path, name):
    (tmp_path / "Annotations.txt").write_text(f"Bark&a&good&0&3\n{name}&b&good&0&0\n")
    with pytest.raises(UserError, match="line 2: .*label of segments.* and start = end"):
        read_annotations(tmp_path)


@pytest.mark.parametrize("name", ["NA", "nan", "None", "NULL", "n/a"])
def test_a_category_that_tables_read_as_empty_is_refused(tmp_path, name):
    (tmp_path / "Annotations.txt").write_text(f"{name}&a&good&0&3\n")
    with pytest.raises(UserError, match="line 1: expected a category that tables do not read as"):
        read_annotations(tmp_path)


def test_every_category_that_is_accepted_comes_back_from_a_table(tmp_path):
    names = [
        f"{kind}{name}" for name in ("Background noise", "NA2", "1", "a,b", '"') for kind in " x"
    ]
    rows = "".join(f"{n}&{k}{i}&good&0&3\n" for i, n in enumerate(names) for k in "abc")
    (tmp_path / "Annotations.txt").write_text(rows)
    categories = read_annotations(tmp_path).categories
    pd.DataFrame({"category": categories}).to_csv(tmp_path / "table.csv", index=False)
    assert tuple(pd.read_csv(tmp_path / "table.csv")["category"].astype(str)) == categories


def test_the_words_that_pandas_reads_as_empty_are_all_refused(tmp_path):
    for word in STR_NA_VALUES - {""}:
        (tmp_path / "Annotations.txt").write_text(f"{word}&a&good&0&3\n")
        with pytest.raises(UserError, match="line 1: "):
            read_annotations(tmp_path)


@pytest.mark.parametrize("seconds", ["9" * 5000, "1e1", "-1", "3.0", "0x3", ""])
def test_seconds_that_are_none_are_refused_in_one_short_message(tmp_path, seconds):
    (tmp_path / "Annotations.txt").write_text(f"Bark&a&good&0&{seconds}\n")
    with pytest.raises(UserError, match="line 1: expected whole seconds") as caught:
        read_annotations(tmp_path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["Annotations.txt", "valSet.txt"])
def test_a_line_in_another_encoding_is_named_and_the_others_are_read(tmp_path, name):
    with (write(tmp_path) / name).open("ab") as file:
        file.write(b"T\xfcrklingel&ddd&good&0&0\nBark&ccc&good\n")
    with pytest.raises(UserError) as caught:
        read_annotations(tmp_path)
    line = 6 if name == "Annotations.txt" else 2
    assert f"{name}, line {line}: expected UTF-8 text, got b'T\\xfcrklingel" in str(caught.value)
    assert f"{name}, line {line + 1}: expected Category&VideoID" in str(caught.value)
    assert "2 problems" in str(caught.value)


def test_a_file_of_another_encoding_is_named(tmp_path):
    (write(tmp_path) / "Annotations.txt").write_text(HEADER + TRAIN, encoding="utf-16")
    with pytest.raises(UserError, match="Annotations.txt: expected UTF-8 text, got UTF-16"):
        read_annotations(tmp_path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_in_each_way(tmp_path, end):
    expected = read_annotations(write(tmp_path))
    for path in tmp_path.glob("*.txt"):
        path.write_bytes(path.read_bytes().replace(b"\n", end.encode()))
    assert read_annotations(tmp_path) == expected


def test_near_twins_are_found_and_other_names_are_not():
    names = [
        "Bark",
        "bark",
        "Bark!",
        "Barks",
        "Baby cry, infant cry",
        "Baby cry infant cry",
        "犬",
        "猫",
    ]
    assert near_twins(names) == [
        ("Bark", "bark"),
        ("Bark", "Bark!"),
        ("Baby cry, infant cry", "Baby cry infant cry"),
    ]
    assert near_twins(AVE_CATEGORIES) == []


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


@pytest.mark.parametrize("name", ["trainSet.txt", "TrainSet.txt", "testset.TXT"])
def test_no_splits_are_made_where_the_users_files_cannot_be_read(tmp_path, name):
    rows = "".join(f"Bark&{i}&good&0&5\n" for i in range(5))
    (tmp_path / "Annotations.txt").write_text(rows)
    (tmp_path / name).symlink_to("gone")
    with pytest.raises(UserError, match=f"{name}: (not there|expected it to be named)"):
        read_annotations(tmp_path)


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


def test_every_category_is_in_train_of_splits_that_were_made(tmp_path):
    # Each file has a second category, which no other file has.
    rows = "".join(f"Bark&{k}&good&0&3\nOf {k}&{k}&good&0&3\n" for k in range(4))
    rows += "".join(f"Cat&cat{k}&good&0&3\n" for k in range(4))
    (tmp_path / "Annotations.txt").write_text(rows)
    assert unlearned(read_annotations(tmp_path)) == []


def test_too_few_clips_to_make_splits_from_are_refused(tmp_path):
    with pytest.raises(UserError, match="expected a category with at least 3 clips"):
        without_splits(tmp_path, (2, 1))


@pytest.mark.parametrize(
    "id_", ["a/b", "..", "a\\b", "", "a\tb", "c:x", "a\u2028b", "a" * 201, "valSet.txt"]
)
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
