import hashlib
import json
import sys
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from cace.data.annotations import Annotations, Row, segment_labels
from cace.encoders.audio import AudioEncoder
from cace.encoders.card import card_of
from cace.encoders.visual import VisualEncoder
from cace.extraction import encode as extraction
from cace.extraction.encode import Decoded, Encoding, _read_ahead, encode, extract_features
from cace.extraction.provenance import EncoderCards
from cace.features.store import FeatureStore, create_store
from cace.media.store import ClipStore
from cace.system import device
from cace.system.errors import UserError
from tests.workspaces import make_workspace, work_of

ROWS = (
    Row("a", 0, 0, 4, "train"),
    Row("bad", 0, 0, 4, "train"),
    Row("b", 1, 2, 9, "val"),
    Row("a", 1, 0, 4, "test"),  # the same file again, as in AVE
)
DATA = Annotations(("Bark", "Flute"), ROWS)


class NumberedClips(ClipStore):
    """A fake of the decoded store: every frame and sound shows the clip, segment and frame."""

    fps, folder = 4, "clips"
    settings = {"crop": 8, "fps": 4}
    read = 0

    def __init__(self):
        pass

    def fingerprint(self):
        return "of-numbers"

    def usable(self, id_):
        return id_ != "bad"

    def frames(self, id_, which=None):
        self.read += 1
        numbers = np.arange(40, dtype=np.uint8) + 100 * (id_ == "b")
        return np.broadcast_to(numbers[:, None, None, None], (40, 8, 8, 3)).copy()

    def sound(self, id_):
        segments = np.arange(10, dtype=np.float32) + 10 * (id_ == "b")
        return np.repeat(segments[:, None], 32_000, axis=1)


class Level(nn.Module):
    """[n, S] -> [n, 2]: the sound's level, and its half."""

    def forward(self, sound):
        return torch.stack([sound.mean(dim=1), sound.mean(dim=1) / 2], dim=1)


def extract(path, clips=None, **changes):
    visual, audio = level_encoders()
    options = {"batch_size": 7, "precision": "float32", "device": torch.device("cpu")}
    extract_features(
        clips or NumberedClips(),
        DATA,
        visual,
        audio,
        path,
        provenance={"encoders": {}, "settings": {}},
        **(options | changes),
    )
    return FeatureStore(path)


def encoded(folder, clips=None, engine="local", **options):
    """The store that `encode` writes, with its provenance."""
    visual, audio = level_encoders()
    encode(
        clips or NumberedClips(),
        DATA,
        visual,
        audio,
        EncoderCards(card_of(visual, "grey", "none", 0), card_of(audio, "level", "none")),
        folder / "features.h5",
        batch_size=7,
        precision="float32",
        grid=None,
        device=torch.device("cpu"),
        engine=engine,
        **options,
    )
    return FeatureStore(folder / "features.h5")


def level_encoders():
    visual = VisualEncoder(nn.AvgPool2d(4), 3, (0.0,) * 3, (1 / 255,) * 3)  # grey levels, 2 x 2
    return visual, AudioEncoder(Level(), 2)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    return make_workspace(tmp_path, monkeypatch)


def test_a_segments_feature_is_the_mean_over_its_frames(tmp_path):
    store = extract(tmp_path / "f.h5")
    # Segment t shows the numbers 4t .. 4t + 3.
    expected = np.arange(10) * 4 + 1.5
    for row, offset in ((0, 0), (1, 100), (2, 0)):
        found = store.visual[row].astype(float)
        assert found.shape == (10, 2, 2, 3)
        assert np.abs(found - (expected + offset)[:, None, None, None]).max() < 0.06  # float16
    assert store.audio[1].tolist() == [[t, t / 2] for t in range(10, 20)]


def test_the_batch_size_does_not_show(tmp_path):
    one, two = (extract(tmp_path / f"{n}.h5", batch_size=n) for n in (3, 40))
    assert np.array_equal(one.visual, two.visual)


def test_a_pooled_grid_is_the_mean_over_the_positions_of_each_part():
    visual = VisualEncoder(nn.AvgPool2d(2), 3, (0.0,) * 3, (1 / 255,) * 3)  # of 8 pixels: 4 x 4
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(2, 8, 8, 3), dtype=np.uint8)
    clip = Decoded("a", frames, np.zeros((1, 32_000), np.float32))
    found = Encoding(visual, AudioEncoder(Level(), 2), 5, "float32", 2).encode(
        clip, torch.device("cpu")
    )
    expected = frames.astype(float).reshape(2, 2, 4, 2, 4, 3).mean(axis=(0, 2, 4))
    assert found.visual[0] == pytest.approx(expected, rel=1e-3)


def test_a_grid_larger_than_the_map_is_refused():
    visual, audio = level_encoders()
    clip = Decoded("a", np.zeros((4, 8, 8, 3), np.uint8), np.zeros((1, 32_000), np.float32))
    with pytest.raises(UserError, match=r"extract.grid: .*at most .* \(2×2\), got 3"):
        Encoding(visual, audio, 5, "float32", 3).encode(clip, torch.device("cpu"))


@pytest.mark.parametrize(("batch_size", "sizes"), [(50, [50, 30]), (80, [80])])
def test_the_batch_size_is_what_the_encoder_gets_on_a_cpu_too(batch_size, sizes):
    visual, audio = level_encoders()
    got = []
    visual.register_forward_pre_hook(lambda _, inputs: got.append(len(inputs[0])))
    clip = Decoded("a", np.zeros((80, 8, 8, 3), np.uint8), np.zeros((10, 32_000), np.float32))
    Encoding(visual, audio, batch_size, "float32").encode(clip, torch.device("cpu"))
    assert got == sizes


def test_clips_that_several_threads_read_come_in_order():
    ids = ["b", "a", "a", "b"] * 5
    read = list(_read_ahead(NumberedClips(), ids, readers=3))
    assert [clip.id for clip in read] == ids
    assert [clip.frames[0, 0, 0, 0] for clip in read] == [100, 0, 0, 100] * 5


def test_samples_of_unusable_clips_are_left_out_and_counted(workspace):
    store = encoded(workspace)
    assert store.ids == ["a", "b", "a"]
    assert store.splits.tolist() == ["train", "val", "test"]
    assert store.provenance["left_out"] == {"train": 1, "val": 0, "test": 0}
    assert np.array_equal(store.labels, segment_labels(DATA)[[0, 2, 3]])


def test_the_provenance_names_encoders_settings_and_clips(workspace):
    empty = hashlib.sha256().hexdigest()  # of encoders without weights
    visual = {"name": "grey", "weights": "none", "sha256": empty, "finetuned_epochs": 0}
    assert encoded(workspace).provenance == {
        "encoders": {
            "visual": visual,
            "audio": {"name": "level", "weights": "none", "sha256": empty},
        },
        "settings": {"crop": 8, "fps": 4, "precision": "float32", "grid": None, "fold": False},
        "clips_sha256": "of-numbers",
        "left_out": {"train": 1, "val": 0, "test": 0},
    }


def test_the_provenance_tells_folded_features_from_others(workspace):
    assert encoded(workspace, fold=True).provenance["settings"]["fold"] is True


def test_work_of_another_arithmetic_is_not_continued(workspace, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    done = []
    with monkeypatch.context() as patch:
        patch.setattr("cace.extraction.encode.publish", killed)
        with pytest.raises(KeyboardInterrupt):
            encoded(workspace)
    encode_one = Encoding.encode
    monkeypatch.setattr(
        Encoding,
        "encode",
        lambda self, clip, on: done.append(clip.id) or encode_one(self, clip, on),
    )
    encoded(workspace, fold=True)
    assert {"a", "b"} < set(done)


@pytest.mark.parametrize(("has", "resolved"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_only_where_the_device_computes_in_it(monkeypatch, has, resolved):
    monkeypatch.setattr(device, "has_bfloat16", lambda _: has)
    assert device.precision_on(torch.device("cpu"), "auto") == resolved


def test_an_imitated_bfloat16_is_said_to_be_slow(monkeypatch, capsys):
    monkeypatch.setattr(device, "has_bfloat16", lambda _: False)
    assert device.precision_on(torch.device("cpu"), "bfloat16") == "bfloat16"
    assert "many times slower than float32. With extract.prec" in capsys.readouterr().out


def test_half_done_work_is_found_again_whatever_the_engine_and_not_for_other_clips(
    workspace, monkeypatch
):
    def killed(*_, **__):
        raise KeyboardInterrupt

    class OtherClips(NumberedClips):
        def fingerprint(self):
            return "of-others"

    monkeypatch.setattr(extraction, "extract_features", killed)
    for clips, engine, count in (
        (NumberedClips(), "local", 1),
        (NumberedClips(), "ray", 1),
        (OtherClips(), "local", 2),
    ):
        with pytest.raises(KeyboardInterrupt):
            encoded(workspace, clips, engine)
        assert len(work_of(workspace, "extract")) == count


def test_a_finished_store_is_published_again_and_never_opened_for_writing(workspace):
    finished = encoded(workspace).path
    before = finished.read_bytes()
    finished.chmod(0o444)  # by DVC, whose cache shares the file
    changed = finished.stat().st_mtime_ns
    finished.unlink()
    clips = NumberedClips()
    again = encoded(workspace, clips).path
    assert (clips.read, again.read_bytes()) == (0, before)
    assert (again.stat().st_mtime_ns, again.stat().st_mode & 0o777) == (changed, 0o444)


def test_a_killed_run_resumes_and_gives_the_same_bytes(tmp_path):
    whole = extract(tmp_path / "whole.h5").path.read_bytes()

    class Killed(NumberedClips):
        def frames(self, id_, which=None):
            if id_ == "b":
                raise KeyboardInterrupt
            return super().frames(id_, which)

    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path / "part.h5", Killed())
    # What the journal does not name is done again; what it names is not.
    (tmp_path / "part.done").write_text("a\n")
    with h5py.File(tmp_path / "part.h5", "r+") as file:
        for place in (0, 2):
            with h5py.File(tmp_path / "whole.h5") as source:
                file["visual"][place] = source["visual"][place]
                file["audio"][place] = source["audio"][place]
    clips = NumberedClips()
    assert extract(tmp_path / "part.h5", clips).path.read_bytes() == whole
    assert clips.read == 1


def test_a_journal_without_its_store_counts_for_nothing(tmp_path):
    whole = extract(tmp_path / "f.h5").path.read_bytes()
    (tmp_path / "f.h5").unlink()
    assert extract(tmp_path / "f.h5").path.read_bytes() == whole


def test_a_feature_that_float16_cannot_hold_stops_the_run(tmp_path):
    class Loud(NumberedClips):
        def sound(self, id_):
            return np.full((10, 32_000), 1e6, np.float32)

    with pytest.raises(UserError, match=r"\n  a: a feature of 1e.06 does not fit into float16"):
        extract(tmp_path / "f.h5", Loud())


def test_a_clip_that_fails_does_not_stop_the_others_and_is_tried_again(tmp_path):
    whole = extract(tmp_path / "whole.h5").path.read_bytes()

    class Damaged(NumberedClips):
        def frames(self, id_, which=None):
            if id_ == "a":
                raise ZeroDivisionError("odd")
            return super().frames(id_, which)

    with pytest.raises(
        UserError, match=r"1 of 2 clips could not(.|\n)*  a: ZeroDivisionError: odd"
    ):
        extract(tmp_path / "f.h5", Damaged())
    clips = NumberedClips()
    assert extract(tmp_path / "f.h5", clips).path.read_bytes() == whole
    assert clips.read == 1


def test_a_store_that_the_disk_cannot_hold_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(UserError, match=r"the features need 0.0 GB, and 0.0 GB are free"):
        extract(tmp_path / "f.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="disk space is taken ahead on Linux only")
def test_a_store_has_its_place_on_the_disk_before_the_first_clip_is_encoded(tmp_path):
    create_store(
        tmp_path / "f.h5",
        ids=["a"],
        splits=["train"],
        labels=np.zeros((1, 10), int),
        tags=np.zeros(1, int),
        categories=DATA.categories,
        visual_shape=(10, 7, 7, 512),
        audio_shape=(10, 128),
        provenance={},
    )
    found = (tmp_path / "f.h5").stat()
    assert found.st_blocks * 512 >= found.st_size > 2 * 10 * (7 * 7 * 512 + 128)


def damage(path, change):
    with h5py.File(path, "r+") as file:
        change(file)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: (f.pop("audio"), f.pop("tags")),
            "lacks audio, tags, which an older version of cace may not have written; run ",
        ),
        (lambda f: f.move("labels", "visual2"), "lacks labels, "),
        (
            lambda f: (f.pop("audio"), f.create_dataset("audio", (3, 9, 2), "f2")),
            r"audio: expected \[3, 10, ...\] as the labels, got \(3, 9, 2\)",
        ),
        (lambda f: (f.pop("id"), f.create_dataset("id", data=["a"])), "id: expected 3, got 1"),
        (
            lambda f: (f.pop("labels"), f.create_dataset("labels", (3, 7), "i8")),
            "labels: expected 10 segments of each clip, got 7; run `dvc repro extract`",
        ),
    ],
)
def test_a_store_of_another_shape_is_refused(tmp_path, change, message):
    path = extract(tmp_path / "f.h5").path
    with pytest.raises(UserError, match=message):
        FeatureStore(damage(path, change))


def test_a_missing_store_names_the_stage_that_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"f.h5: not there; run `dvc repro extract`"):
        FeatureStore(tmp_path / "f.h5")


def test_a_file_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "f.h5").write_text(json.dumps({}))
    with pytest.raises(UserError, match="f.h5: not an HDF5 file"):
        FeatureStore(tmp_path / "f.h5")
