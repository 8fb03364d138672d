"""The released files: checked against one another, and converted into the feature store."""

import os
import shutil
import tracemalloc

import h5py
import numpy as np
import pytest

from cace.cli import main
from cace.conventions import SPLITS
from cace.data.annotations import AVE_CATEGORIES
from cace.data.manifest import list_files, publish_media
from cace.data.sources.released_labels import read_released, write_labels
from cace.extraction import convert as conversion
from cace.extraction.convert import convert_features
from cace.features.store import FeatureStore
from cace.system.errors import UserError
from cace.system.files import sha256
from stages import decode, download, extract, train
from tests.project import ROOT
from tests.releases import (
    NAMES,
    ROWS,
    SPLIT_OF,
    annotation_lines,
    one_hot_labels,
    write,
    write_release,
    write_without_event,
)
from tests.workspaces import make_workspace, work_of


@pytest.fixture
def release(tmp_path):
    """A folder with all files of tests/releases.py."""
    return write_release(tmp_path / "release")


@pytest.mark.parametrize("header", ["", "Category&VideoID&Quality&StartTime&EndTime\n"])
def test_a_row_is_the_same_line_with_or_without_a_header(release, header):
    text = (release / "Annotations.txt").read_text()
    (release / "Annotations.txt").write_text(header + text)
    annotations = read_released(release).annotations
    assert annotations.categories == NAMES
    assert annotations.rows[3] == ("-id03", 0, 0, 7, "test")
    assert [row.split for row in annotations.rows] == SPLIT_OF


def test_an_id_that_appears_twice_is_two_rows(release):
    rows = read_released(release).annotations.rows
    assert rows[1] == ("-id01", 0, 1, 5, "train")
    assert rows[9] == ("-id01", 1, 1, 5, "train")


def test_a_clip_without_any_event_is_background_and_no_difference(release):
    published = read_released(release)
    assert published.labels[2].tolist() == [3] * 10
    assert list(published.differences) == [5]


def test_of_a_row_with_two_events_the_labels_keep_both_and_all_files_are_quoted(release):
    published = read_released(release)
    assert published.labels[5].tolist() == [0] * 5 + [1] * 3 + [3] * 2
    assert published.differences[5] == (
        "row 5, -id05 (train): labels.h5 has Truck 0-5 and Bark 5-8; "
        "Annotations.txt has Truck 0-5; labels_closs.h5 has event 0-5; mil_labels.h5 has Truck"
    )


def test_names_of_ave_get_the_published_index(release):
    names = ("Flute", "Bark", "Truck")
    (release / "Annotations.txt").write_text("\n".join(annotation_lines(names)))
    index = [AVE_CATEGORIES.index(name) for name in names]
    write(release, "labels.h5", one_hot_labels(29, index))
    write(release, "mil_labels.h5", np.eye(29)[np.repeat(index, 8)])
    published = read_released(release)
    assert published.annotations.categories == AVE_CATEGORIES
    assert published.labels[0].tolist() == [8] * 4 + [28] * 6
    assert list(published.differences) == [5]


def test_files_that_only_serve_checks_may_be_missing(release):
    (release / "mil_labels.h5").unlink()
    (release / "labels_closs.h5").unlink()
    assert list(read_released(release).differences) == [5]


@pytest.mark.parametrize("name", ["mil_labels.h5", "labels_closs.h5"])
def test_files_that_only_serve_checks_are_compared_with_the_labels(release, name):
    with h5py.File(release / name, "r+") as file:
        file["avadataset"][17] = 1 - file["avadataset"][17]
    assert list(read_released(release).differences) == [5, 17]


def test_annotations_that_are_shifted_by_a_line_are_refused(release):
    lines = annotation_lines()
    (release / "Annotations.txt").write_text("\n".join([*lines[1:], lines[-1]]))
    with pytest.raises(UserError, match="do not belong together: they differ about 2[0-9] of 24"):
        read_released(release)


def spoil_labels(folder):
    one_hot = one_hot_labels()
    one_hot[7, 3], one_hot[8, 4, 0], one_hot[20], one_hot[21, 0, 0] = 0, 1, np.nan, 0.5
    write(folder, "labels.h5", one_hot)


def change_orders(**orders):
    def change(folder):
        for split, rows in orders.items():
            write(folder, f"{split}_order.h5", np.array(rows), key="order")

    return change


def change_shape(name, shape):
    return lambda folder: write(folder, name, np.zeros(shape))


def drop_a_line(folder):
    (folder / "Annotations.txt").write_text("\n".join(annotation_lines()[:-1]))


def break_a_line(folder):
    (folder / "Annotations.txt").write_text("Truck&a&good&0&11\n" * ROWS)


TRAIN, VAL, TEST = ([row for row in range(ROWS) if SPLIT_OF[row] == s] for s in SPLITS)


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (
            change_shape("visual_feature.h5", (24, 10, 6, 2, 2)),
            ["visual_feature.h5: expected [N, T, H, H, V] with N = 24, T = 10, got [24, 10, 6, 2,"],
        ),
        (
            change_shape("audio_feature.h5", (23, 10, 8)),
            ["audio_feature.h5: expected [N, T, A] with N = 24, T = 10, got [23, 10, 8]"],
        ),
        (
            change_shape("labels.h5", (24, 9, 4)),
            ["labels.h5: expected [N, T, C+1] with T = 10, got [24, 9, 4]"],
        ),
        (
            change_shape("labels.h5", (24, 10, 5)),
            [
                "labels.h5: expected 4 columns, as Annotations.txt has 3 categories",
                "mil_labels.h5: expected [N, C+1] with N = 24, C+1 = 5, got [24, 4]",
            ],
        ),
        (
            change_shape("labels_closs.h5", (24, 10, 1)),
            ["labels_closs.h5: expected [N, T] with N = 24, T = 10, got [24, 10, 1]"],
        ),
        (
            lambda folder: write(folder, "labels.h5", one_hot_labels(), key="order"),
            ["labels.h5: expected a data set avadataset, got order"],
        ),
        (
            lambda folder: (folder / "labels.h5").unlink(),
            ["labels.h5: not there; get it again, then"],
        ),
        (
            spoil_labels,
            [
                "4 problems in the released files",
                "labels.h5, row 7: expected one 1 and 0 elsewhere in each segment, not so in "
                "segments [3]",
                "labels.h5, row 8: expected one 1 and 0 elsewhere in each segment, not so in "
                "segments [4]",
                "labels.h5, row 20: ",
                "labels.h5, row 21: ",
            ],
        ),
        (
            change_orders(val=[*VAL, 0, 24], test=TEST[1:]),
            [
                "val_order.h5: row 0 is in train_order.h5 already",
                "val_order.h5: row 24 is not one of 0 to 23",
                "row 3 is in no order file",
            ],
        ),
        (
            change_orders(train=[*TRAIN, 1]),
            ["train_order.h5: row 1 is in train_order.h5 already"],
        ),
        (
            change_orders(train=[float(row) for row in TRAIN]),
            ["train_order.h5: expected row numbers [n], got float64 [12]"],
        ),
        (drop_a_line, ["Annotations.txt: expected 24 rows as in labels.h5, got 23"]),
        (break_a_line, ["Annotations.txt, line 1: expected whole seconds", "24 problems"]),
    ],
)
def test_a_fault_is_named_with_its_file_and_row(release, change, messages):
    change(release)
    with pytest.raises(UserError) as caught:
        read_released(release)
    for message in messages:
        assert message in str(caught.value)


def convert(folder):
    published = read_released(folder)
    files = {name: [folder / f"{name}_feature.h5"] for name in ("visual", "audio")}
    into = folder.parent / "features.h5"
    convert_features(files, published.annotations, published.labels, published.tags, into, {})
    return FeatureStore(into)


def test_the_store_holds_all_rows_as_float16_whatever_the_block(release, monkeypatch):
    monkeypatch.setattr(conversion, "BLOCK_BYTES", 7 * 10 * 2 * 2 * 6 * 8)  # 7 clips; the last 3
    store = convert(release)
    for name, found in (("visual", store.visual), ("audio", store.audio)):
        with h5py.File(release / f"{name}_feature.h5") as file:
            assert np.array_equal(found, file["avadataset"][:].astype(np.float16))
    assert store.labels[5].tolist() == [0] * 5 + [1] * 3 + [3] * 2
    assert store.splits.tolist() == SPLIT_OF
    assert store.categories == NAMES


def test_the_tag_of_a_clip_is_its_category_also_where_its_labels_have_no_event(release):
    tags = read_released(release).tags
    assert tags.tolist() == [1 if row == 5 else row // 8 for row in range(ROWS)]
    (release / "mil_labels.h5").unlink()
    assert read_released(release).tags[2] == len(NAMES)


def test_half_of_the_clips_without_an_event_is_refused(release):
    write_without_event(release)
    (release / "audio_feature_noisy.h5").unlink()
    with pytest.raises(UserError, match="visual_feature_noisy.h5: expected its other half"):
        read_released(release)


def test_clips_without_an_event_of_another_form_are_refused(release):
    write_without_event(release)
    write(release, "audio_feature_noisy.h5", np.ones((5, 10, 9)))
    with pytest.raises(UserError, match=r"noisy.h5: expected \[M, T, A\] with T = 10, A = 8, got"):
        read_released(release)


@pytest.fixture
def project(release, monkeypatch):
    """What `download` and `decode` of source released leave, in the current folder."""
    folder = make_workspace(release.parent, monkeypatch)
    files = [{"file": path.name} for path in sorted(release.iterdir())]
    publish_media(release, list_files(release, files), folder / "media")
    write_labels(folder / "media", folder / "clips", folder / "decode.json")
    return folder


def converted(project):
    conversion.convert(project / "media", project / "clips", project / "features.h5")
    return FeatureStore(project / "features.h5").provenance


def test_the_provenance_of_released_features_has_the_hashes_of_their_files(project):
    provenance = converted(project)
    assert provenance["encoders"] == {
        modality: {
            "name": name,
            "weights": "published features",
            "sha256": sha256(project / f"media/{modality}_feature.h5"),
        }
        for modality, name in (("visual", "vgg19"), ("audio", "vggish"))
    }
    assert provenance["settings"] == {"fps": 16}
    assert provenance["left_out"] == {"train": 0, "val": 0, "test": 0}


def test_clips_without_an_event_become_a_split_of_their_own(release, monkeypatch):
    write_without_event(release)
    folder = make_workspace(release.parent, monkeypatch)
    files = [{"file": path.name} for path in sorted(release.iterdir())]
    publish_media(release, list_files(release, files), folder / "media")
    write_labels(folder / "media", folder / "clips", folder / "decode.json")
    converted(folder)
    store = FeatureStore(folder / "features.h5")
    assert store.splits.tolist() == [*SPLIT_OF, *["background"] * 5]
    assert (store.labels[ROWS:] == len(NAMES)).all()
    assert store.tags.tolist() == [*read_released(release).tags, *[len(NAMES)] * 5]
    for name, found in (("visual", store.visual), ("audio", store.audio)):
        with h5py.File(release / f"{name}_feature_noisy.h5") as file:
            assert np.array_equal(found[ROWS:], file["avadataset"][:].astype(np.float16))


def change_a_label(clips):
    labels = np.load(clips / "labels.npy")
    labels[0, 0] = 3 - labels[0, 0]
    np.save(clips / "labels.npy", labels)


def change_a_split(clips):
    path = clips / "annotations.json"
    path.write_text(path.read_text().replace('"split": "train"', '"split": "val"', 1))


@pytest.mark.parametrize("change", [change_a_label, change_a_split])
def test_half_done_work_on_other_labels_or_splits_is_not_used(project, monkeypatch, change):
    before = converted(project)
    shutil.rmtree(project / ".work")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "convert_features", killed)
        for count in (1, 1, 2):
            if count == 2:
                change(project / "clips")
            with pytest.raises(KeyboardInterrupt):
                converted(project)
            assert len(work_of(project, "extract")) == count
    after = converted(project)
    assert {key for key in before if before[key] != after[key]} == {"clips_sha256"}


def exchange_rows(folder):
    """A row of train for one of val, with the sizes and times that the files had."""
    files = [folder / f"{split}_order.h5" for split in ("train", "val")]
    times = [path.stat().st_mtime_ns for path in files]
    with h5py.File(files[0], "r+") as train, h5py.File(files[1], "r+") as val:
        train["order"][0], val["order"][0] = val["order"][0], train["order"][0]
    for path, time in zip(files, times, strict=True):
        os.utime(path, ns=(time, time))


def test_no_stage_takes_half_done_work_for_other_splits(release, tmp_path, monkeypatch):
    workspace = tmp_path / "workspace"
    shutil.copytree(ROOT / "profiles", workspace / "profiles")
    params = (ROOT / "params.yaml").read_text().replace("source: mini", "source: released")
    (workspace / "params.yaml").write_text(params.replace("  path:", f"  path: {release}"))
    make_workspace(workspace, monkeypatch)

    def killed(*_, **__):
        raise KeyboardInterrupt

    for count in (1, 2):
        for stage in (download, decode, extract):
            stage.main()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(train, "train_all", killed)
            train.main()
        assert len(work_of(workspace, "train")) == count
        exchange_rows(release)


def test_finished_features_are_published_again_and_not_converted_again(project, monkeypatch):
    converted(project)
    out = project / "features.h5"
    before = out.read_bytes()
    out.unlink()  # by DVC, which was killed before it had recorded it
    monkeypatch.setattr(conversion, "convert_features", None)
    converted(project)
    assert out.read_bytes() == before


def test_memory_holds_a_few_blocks_however_large_the_file(release, monkeypatch):
    monkeypatch.setattr(conversion, "BLOCK_BYTES", 1 << 20)
    write(release, "visual_feature.h5", np.ones((ROWS, 10, 7, 7, 128)))  # 12 MB
    tracemalloc.start()
    convert(release)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_rows_that_hold_no_features_are_named_all_at_once(release):
    with h5py.File(release / "visual_feature.h5", "r+") as file:
        file["avadataset"][3, 9, 1, 1, 5] = np.nan
        file["avadataset"][11] = 0
        file["avadataset"][23, 0, 0, 0, 0] = 70_000
    with h5py.File(release / "audio_feature.h5", "r+") as file:
        file["avadataset"][0, 0, 0] = np.inf
        file["avadataset"][1] = 0  # silence
    with pytest.raises(UserError) as caught:
        convert(release)
    text = str(caught.value)
    assert "extract: 4 rows cannot be used" in text
    assert "visual_feature.h5, row 3: expected numbers up to 65504, got nan" in text
    assert "visual_feature.h5, row 11: expected features, got only zeros" in text
    assert "visual_feature.h5, row 23: expected numbers up to 65504, got 70000" in text
    assert "audio_feature.h5, row 0: expected numbers up to 65504, got inf" in text


def test_check_accepts_a_release_and_changes_nothing_in_it(release, capsys):
    before = sorted((path, path.stat().st_mtime_ns) for path in release.iterdir())
    main(["check", str(release), "--source", "released"])
    printed = capsys.readouterr().out
    assert "no problems" in printed
    assert "row 5, -id05 (train): labels.h5 has Truck 0-5 and Bark 5-8" in printed
    assert sorted((path, path.stat().st_mtime_ns) for path in release.iterdir()) == before


def test_check_reports_rows_and_features_of_a_release_in_one_go(release):
    for split in ("val", "test"):
        write(release, f"{split}_order.h5", np.array([0, 99]), key="order")
    visual = np.ones((ROWS, 10, 2, 2, 6))
    visual[3] = 0
    write(release, "visual_feature.h5", visual)
    audio = np.ones((ROWS, 10, 8))
    audio[7, 2, 1] = np.nan
    write(release, "audio_feature.h5", audio)
    with pytest.raises(SystemExit) as caught:
        main(["check", str(release), "--source", "released"])
    for problem in (
        "row 0 is in train_order.h5 already",
        "row 99 is not one of 0 to 23",
        "visual_feature.h5, row 3: expected features, got only zeros",
        "audio_feature.h5, row 7: expected numbers up to 65504, got nan",
    ):
        assert problem in str(caught.value)


def test_check_names_the_released_files_that_will_be_downloaded(release, capsys):
    (release / "labels.h5").unlink()
    main(["check", str(release), "--source", "released"])
    assert "labels.h5: not here; the pipeline downloads it" in capsys.readouterr().out
