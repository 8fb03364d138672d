"""Checkpoints from anybody: read if they can be, else refused in a sentence, and never run."""

import argparse
import copy
import os
import pickle
import re
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from cace.encoders.checkpoint import load_encoder
from cace.encoders.weights import read_weights
from cace.localizers import load_checkpoint
from cace.localizers.cmbs import Cmbs
from cace.localizers.parts import checkpoints
from cace.localizers.parts.protocol import Sizes
from cace.system.errors import UserError
from cace.system.torch_files import read_torch_file
from tests import fill

NAN, LARGE = float("nan"), 10**9
ENCODERS = {
    "visual": {"name": "vgg19", "weights": "imagenet", "sha256": "0" * 64, "finetuned_epochs": 0},
    "audio": {"name": "vggish", "weights": "youtube8m", "sha256": "1" * 64},
}
FRAMES = {"fps": 4, "short_side": 116, "crop": 112, "jpeg_quality": 90, "precision": "float32"}
ABOUT = {
    "source": "folder",
    "categories": ["Bark", "Flute", "Truck"],
    "trained_categories": ["Bark", "Truck"],
    "encoders": ENCODERS,
    "frames": FRAMES,
    "silenced": None,
    "epoch": 3,
    "accuracy": 0.5,
}


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """Of a valid checkpoint."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("valid") / "a.pt"
    checkpoints.save(path, "cmbs", Cmbs(Sizes(6, 8, 3, 4), width=16), ABOUT)
    return torch.load(path, weights_only=True)


def changed(content, path, value):
    """The content with another value at a path such as `about.frames.fps`; ... removes it."""
    content = copy.deepcopy(content)
    *above, last = path.split("/")
    place = content
    for key in above:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return content


def refused(tmp_path, content):
    """The message about a file with this content; the memory it may use is limited."""
    torch.save(content, tmp_path / "a.pt")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 30), hard))
    try:
        with pytest.raises(UserError) as caught:
            checkpoints.read(tmp_path / "a.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'a.pt'}")
    assert message.isprintable() and len(message) < 1000
    return message


def test_a_valid_file_comes_back_with_all_that_it_contains(content, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    assert checkpoints.read(tmp_path / "a.pt").about == ABOUT


def test_of_many_wrong_values_the_first_are_named(content, tmp_path):
    torch.save(changed(content, "about/categories", [3] * 28), tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"(categories\.\d: .*\n.*){5}and 23 more$"):
        checkpoints.read(tmp_path / "a.pt")


def test_a_file_that_lacks_the_source_and_the_trained_categories_is_read(content, tmp_path):
    older = {k: v for k, v in ABOUT.items() if k not in ("source", "trained_categories")}
    torch.save({**content, "about": older}, tmp_path / "a.pt")
    assert checkpoints.read(tmp_path / "a.pt").about == older


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("about/frames/fps", LARGE, "about: frames.fps: expected less than or equal to 60, got 1"),
        ("about/frames/fps", 0, "about: frames.fps: expected greater than or equal to 1, got 0"),
        ("about/frames/fps", True, "about: frames.fps: expected a value other than on/off"),
        ("about/frames/fps", "4", "about: frames.fps: expected a valid integer, got '4'"),
        ("about/frames/crop", 117, r"about: frames.crop: expected at most short_side \(116\)"),
        ("about/frames/short_side", LARGE, "about: frames.short_side: expected less than"),
        ("about/frames/jpeg_quality", 9999, "about: frames.jpeg_quality: expected less than"),
        ("about/frames/precision", "float8", "about: frames.precision: expected 'float32' or"),
        ("about/frames", [1], "about: frames: expected a valid dictionary"),
        ("about/categories", ["a\x1b[2J", "b", "c"], "about: categories.0: expected text without"),
        ("about/categories", ["a\nb", "b", "c"], "about: categories.0: expected text without"),
        ("about/categories", ["a", "b", 3], "about: categories.2: expected a valid string, got 3"),
        ("about/categories", ["a", "b", ""], "about: categories.2: string should have at least 1"),
        ("about/categories", "abc", "about: categories: expected a valid list, got 'abc'"),
        ("about/categories", ["a", "b"], "names of its 3 categories, got 2"),
        ("about/categories", ["a", "b", "b"], "names of its 3 categories, got 2"),
        ("about/trained_categories", ["Cat"], "was trained on .'Cat'., which it does not know"),
        ("about/source", "moon", "about: source: expected 'mini', 'ave'"),
        ("about/silenced", "smell", "about: silenced: expected 'visual' or 'audio'"),
        ("about/encoders/visual/name", "vgg20", "about: encoders.visual.name: expected resnet50"),
        ("about/encoders/audio/weights", "a\0b", "about: encoders.audio.weights: expected text"),
        ("about/encoders/audio/sha256", "x", "about: encoders.audio.sha256: string should match"),
        ("about/encoders/visual/finetuned_epochs", -1, "finetuned_epochs: expected greater than"),
        ("about", [], "a damaged checkpoint"),
        ("sizes/visual_channels", LARGE, "sizes: visual_channels: expected less than or equal to"),
        ("sizes/categories", -3, "sizes: categories: expected greater than or equal to 1"),
        ("sizes/positions", 4.5, "sizes: positions: expected a valid integer"),
        ("sizes/visual_channels", 100_000, r"visual_input.0.weight \(16, 6\) instead of \(16, 10"),
        ("sizes", {"zzz": 1}, "sizes: zzz: no such key"),
        ("sizes/positions", ..., "a damaged checkpoint"),
        ("settings/width", LARGE, ": width: expected less than or equal to 8192"),
        ("settings/width", 8192, r"\(16, 6\) instead of \(8192, 6\)"),
        ("settings/width", 17, ": width: expected a multiple of 8"),
        ("settings/alpha", NAN, ": alpha: expected a finite number"),
        ("settings/alpha", [0.1], ": alpha: expected a valid number"),
        ("settings/alpha", "0.1", ": alpha: expected a valid number"),
        ("settings", [], "a damaged checkpoint"),
        ("localizer", "../../yolo", r"expected a localizer of cace_net, .*, got '../../yolo'"),
        ("localizer", "a\x1b[2J", "got 'a.x1b"),
        ("localizer", [], r"expected a localizer of cace_net, .*, got \[\]"),
        ("format", "cace-localizer-9", r"a localizer .cace-localizer-2., got .cace-loc"),
        ("weights", [1], "expected tensors by name, got list"),
        ("weights/class_head.bias", 1.0, "other type: .'class_head.bias'"),
        ("weights/class_head.bias", torch.zeros(3, dtype=torch.int64), "other type: .'class_head."),
        ("weights/class_head.bias", torch.zeros(3, dtype=torch.complex64), "other type: .'class_"),
        ("weights/class_head.bias", torch.zeros(3).to_sparse(), "other type: .'class_head.bias'"),
        ("weights/class_head.bias", torch.zeros(3, device="meta"), "other type: .'class_head.bi"),
        ("weights/class_head.bias", torch.zeros(1).expand(3), "other type: .'class_head.bias'"),
        ("weights/class_head.bias", torch.tensor([0, NAN, 0]), "no numbers: NaN or infinity in ."),
        ("weights/class_head.bias", torch.zeros(4), r"class_head.bias \(4,\) instead of \(3,\)"),
        ("weights/class_head.bias", ..., "missing: .'class_head.bias'"),
        ("weights/zzz\x1b", torch.zeros(1), "unknown: .'zzz.x1b'"),
    ],
)  # fmt: skip
def test_a_value_that_no_training_writes_is_refused(content, tmp_path, path, value, says):
    assert re.search(says, refused(tmp_path, changed(content, path, value)))


# --- files of others


def weights():
    """Of a checkpoint of AVEL's authors."""
    return {key: torch.full(shape, 0.5) for key, shape in fill.state_dict_shapes("avel").items()}


def saved_by_others():
    plain = weights()
    state = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": np.float64(0.1)}]}
    wrapped = {f"module.{key}": tensor for key, tensor in plain.items()}
    compiled = {f"_orig_mod.{key}": tensor for key, tensor in plain.items()}
    return {
        "as it is": plain,
        "a NumPy number beside the weights": {**plain, "best": np.float64(0.78)},
        "one level deeper": {"epoch": 9, "state_dict": plain, "optimizer": state},
        "under a name of their own": {"epoch": np.int64(9), "my_net": wrapped, "optim": state},
        "two levels deeper": {"args": {"lr": 0.1}, "run": {"model_state_dict": compiled}},
        "beside an average": {"ema": plain, "model": wrapped, "temperature": torch.ones(1)},
        "with arrays": {"state_dict": plain, "confusion": np.eye(3), "best": np.bool_(True)},
    }


@pytest.mark.parametrize("kind", saved_by_others())
def test_the_weights_of_others_are_found_where_they_are(tmp_path, kind):
    torch.save(saved_by_others()[kind], tmp_path / "a.pt")
    assert (load_checkpoint(tmp_path / "a.pt", localizer="avel").scores.bias == 0.5).all()
    assert set(weights()) <= set(read_weights(tmp_path / "a.pt"))


def test_numbers_of_numpy_are_read_as_numbers(tmp_path):
    numbers = {"a": np.float32(0.5), "b": np.int64(-3), "c": np.bool_(True), "d": np.arange(3.0)[1]}
    swapped = np.array([7], ">i4")[0]
    for as_zip in (True, False):
        torch.save({**numbers, "e": swapped}, tmp_path / "a", _use_new_zipfile_serialization=as_zip)
        found = read_torch_file(tmp_path / "a")
        assert found == {"a": 0.5, "b": -3, "c": True, "d": 1.0, "e": 7}
        assert {type(value) for value in found.values()} == {float, int, bool}


def test_several_sets_of_weights_are_named(tmp_path):
    torch.save({"teacher": weights(), "student": weights()}, tmp_path / "a.pt")
    with pytest.raises(
        UserError, match=r"contains several sets of weights \('teacher', 'student'\); save one of"
    ):
        load_checkpoint(tmp_path / "a.pt")


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


OTHERS = {
    "an empty file": (lambda path: path.write_bytes(b""), "an empty file; get it again"),
    "a folder": (lambda path: path.mkdir(), "expected a file, got a folder"),
    "a pipe": (lambda path: os.mkfifo(path), "expected a file, got none"),
    "a web page": (
        lambda path: path.write_bytes(b"<html>"),
        "not a PyTorch file, or a damaged one",
    ),
    "a zip file": (lambda path: zipped(path, {"a.txt": b"a"}), "not a PyTorch file, or a damaged"),
    "a compressed file": (
        lambda path: zipped(path, {"a": b"0" * 9}, zipfile.ZIP_DEFLATED),
        "expected a file as torch.save writes it, got a compressed one",
    ),
    "options of a script": (
        lambda path: torch.save({"args": argparse.Namespace(a=1), "state_dict": {}}, path),
        r"contains argparse.Namespace, whose loading would run code; save its weights alone, where "
        r"it was made: torch.save\(model.state_dict\(\), 'a.pt'\)",
    ),
    "a pickle": (
        lambda path: path.write_bytes(pickle.dumps({"a": np.float64})),
        "not a PyTorch file, or a damaged one|contains numpy.float64",
    ),
    "text": (lambda path: torch.save("weights", path), "expected tensors by name, got str"),
    "no weights": (lambda path: torch.save({"epoch": 3}, path), "got a dictionary with .'epoch'.$"),
    "an empty dictionary": (lambda path: torch.save({}, path), "got an empty dictionary"),
}


def zipped(path, files, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in files.items():
            file.writestr(name, data)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_without_weights_is_refused_in_one_sentence_wherever_one_is_read(tmp_path, kind):
    make, says = OTHERS[kind]
    make(tmp_path / "a.pt")
    readers = [load_checkpoint]
    if kind not in ("text", "no weights", "an empty dictionary"):
        readers.append(lambda path: load_encoder(path, "vgg19"))
        readers += [read_weights] * (tmp_path / "a.pt").is_file()
    for read in readers:
        with pytest.raises(UserError, match=says) as caught:
            read(tmp_path / "a.pt")
        assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_of_a_file_runs_wherever_it_is_read(tmp_path, zipped):
    content = {"format": "cace-localizer-2", "weights": RunsCode(tmp_path / "ran")}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    for read in (load_checkpoint, read_weights, lambda path: load_encoder(path, "vgg19")):
        with pytest.raises(UserError, match="contains io.open, whose loading would run code"):
            read(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


class Forged:
    """A number of a NumPy type whose state claims that its bytes are a pointer."""

    def __reduce__(self):
        return np._core.multiarray.scalar, (ForgedType(), b"A" * 8)


class ForgedType:
    def __reduce__(self):
        state = (3, "|", None, None, None, 8, 1, 0x3D)
        return np.dtype, ("V8", False, True), state


def test_a_forged_number_reads_no_foreign_memory(tmp_path):
    torch.save({"best": Forged(), "state_dict": weights()}, tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt", localizer="avel")
