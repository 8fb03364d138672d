import inspect
import shutil
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from cace.localizers import localizer_class
from cace.settings import (
    LOCALIZERS,
    PARAMS_SECTIONS,
    PROFILE_SECTIONS,
    FramesParams,
    check_section,
    load_params,
)
from cace.system.errors import UserError

ROOT = Path(__file__).parent.parent
FILES = ["params.yaml", *(f"profiles/{path.name}" for path in (ROOT / "profiles").iterdir())]


@pytest.fixture
def settings(tmp_path):
    """A copy of the project's settings, changed as `dvc exp run -S` changes them."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")

    def change(*overrides, file="params.yaml"):
        apply_overrides(str(tmp_path / file), list(overrides))
        return tmp_path

    return change


@pytest.mark.parametrize("source", ["mini", "ave", "folder", "released"])
def test_every_profile_is_valid(settings, source):
    assert load_params(settings(f"data.source={source}")).data.source == source


def test_a_number_that_yaml_reads_as_text_is_a_number(settings):
    assert load_params(settings("bece.tau=0.00001")).bece.tau == 1e-5


def test_the_default_is_the_papers_lambda():
    assert load_params(ROOT).bece.lambda_ == 0.6


def test_weights_of_ones_own_are_in_the_folder_whose_content_dvc_tracks(settings):
    changed = settings("encoders.visual_weights=data/weights/x.pth", file="profiles/mini.yaml")
    assert load_params(changed).encoders.visual_weights == "data/weights/x.pth"


def test_settings_cannot_change_after_loading():
    with pytest.raises(ValueError, match="frozen"):
        load_params(ROOT).bece.tau = 1.0


@pytest.mark.parametrize(
    ("override", "file", "message"),
    [
        ("bece.lambda=o.6", "params.yaml", r"params.yaml, bece.lambda: expected a .*number.*'o.6'"),
        ("bece.lambda=-1", "params.yaml", "params.yaml, bece.lambda: .*greater than.*got -1"),
        ("bece.lambda=true", "params.yaml", "params.yaml, bece.lambda: .*got True"),
        ("+bece.lamda=0.4", "params.yaml", "params.yaml, bece.lamda: no such key"),
        ("+train.epochs=3", "params.yaml", "train.epochs: is in params.yaml and in profiles"),
        ("+decode.fps=3", "params.yaml", "params.yaml, decode: no stage tracks this section"),
        ("train.seeds=[0,0]", "params.yaml", "params.yaml, train.seeds: expected each seed once"),
        ("train.seeds=[]", "params.yaml", "params.yaml, train.seeds: "),
        (
            "data.source=vae",
            "params.yaml",
            "data.source: expected one of ave, folder, mini, released",
        ),
        (
            "localizer.name=yolo",
            "params.yaml",
            "params.yaml, localizer.name: expected one of cace_net, .*, got 'yolo'",
        ),
        ("+avel.beta=1", "params.yaml", "params.yaml, avel.beta: no such key"),
        ("avel.width=12", "params.yaml", "params.yaml, avel.width: .*multiple of 8, got 12"),
        ("data.archive=a.zip", "params.yaml", "data.archive: expected .* source ave .*got 'a.zip'"),
        ("decode.crop=128", "profiles/mini.yaml", r"decode.crop: .*short_side \(116\), got 128"),
        (
            "decode.crop=Auto",
            "profiles/mini.yaml",
            "crop: expected a whole number, or auto, got 'A",
        ),
        ("finetune.layers=All", "profiles/mini.yaml", "layers: expected a whole number, or all,"),
        ("decode.fps=none", "profiles/mini.yaml", "profiles/mini.yaml, decode.fps: .*got 'none'"),
        ("+train.beta=1", "profiles/mini.yaml", "profiles/mini.yaml, train.beta: no such key"),
        ("~train.epochs", "profiles/mini.yaml", "profiles/mini.yaml, train.epochs: field required"),
        ("+bece.tau=1", "profiles/mini.yaml", "profiles/mini.yaml, bece: no stage tracks this"),
        (
            "encoders.visual_weights='data/weights/v\u00a0w'",
            "profiles/mini.yaml",
            "encoders.visual_weights: expected imagenet .* or a file as data/weights/NAME: ",
        ),
        (
            "encoders.visual_weights=/home/me/x.pth",
            "profiles/mini.yaml",
            "encoders.visual_weights: expected imagenet .* or a file as data/weights/NAME: "
            "copy it there.*got '/home/me/x.pth'",
        ),
        (
            "encoders.audio_weights=data/weights/../x.pth",
            "profiles/mini.yaml",
            "encoders.audio_weights: expected none",
        ),
        ("encoders.visual=vgg20", "profiles/mini.yaml", "expected resnet50, .*MODEL, got 'vgg20'"),
        ("encoders.visual=timm/../x", "profiles/mini.yaml", "encoders.visual: expected resnet50"),
        ("encoders.visual=timm/resnet18", "profiles/mini.yaml", "expected pretrained .of timm/res"),
        (
            "encoders.audio=hf//home/me/x",
            "profiles/mini.yaml",
            "encoders.audio: expected cnn14, .*",
        ),
        ("encoders.audio=hf/../x", "profiles/mini.yaml", "hf/OWNER/MODEL .* hf/data/weights/NAME"),
        ("download=null", "profiles/mini.yaml", "mini.yaml, download.clips: field required"),
        ("decode=null", "profiles/mini.yaml", "profiles/mini.yaml, decode.fps: field required"),
        ("~decode", "profiles/mini.yaml", "profiles/mini.yaml, decode: field required"),
        ("decode.fps=1000000000", "profiles/mini.yaml", "decode.fps: .*less than .* 60, got 1000"),
        ("decode.jpeg_quality=9999", "profiles/mini.yaml", "decode.jpeg_quality: .*less .* 100"),
        ("decode.short_side=1000000", "profiles/mini.yaml", "decode.short_side: .*less .* 2048"),
        ("train.epochs=1000000000", "profiles/mini.yaml", "train.epochs: .*less than"),
        ("train.precision=float16", "profiles/mini.yaml", "train.precision: .*'float32' or"),
        ("train.seeds=[18446744073709551616]", "params.yaml", "train.seeds.0: .*less than"),
        ("cace_net.width=1000000", "params.yaml", "cace_net.width: .*less than"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(settings, override, file, message):
    with pytest.raises(UserError, match=message):
        load_params(settings(override, file=file))


FRAMES = {
    "fps": 4,
    "short_side": 116,
    "crop": 112,
    "interpolation": "bilinear",
    "jpeg_quality": 90,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 10**9}, "fps: .*less than or equal to 60, got 1000000000"),
        ({"crop": 224}, r"crop: expected at most short_side \(116\), got 224"),
        ({"jpeg_quality": 0}, "jpeg_quality: .*greater than or equal to 1, got 0"),
        ({"fps": True}, "fps: expected a value other than on/off"),
        ({"other": 1}, "other: no such key, got 1"),
        ({"short_side": 16**5000}, "short_side: .*got a number of thousands of digits"),
    ],
)
def test_settings_of_a_checkpoint_pass_the_same_checks(change, message):
    assert check_section(FramesParams, FRAMES, "best.pt").model_dump() == FRAMES
    with pytest.raises(UserError, match=f"best.pt: {message}"):
        check_section(FramesParams, FRAMES | change, "best.pt")


@pytest.mark.parametrize("written", ["2024", "1e3", "no", "12:30", "2024-01-01", "0777", "0x1F"])
def test_a_name_that_yaml_reads_as_something_else_is_taken_as_it_is_written(settings, written):
    folder = settings("data.source=folder")
    file = folder / "params.yaml"
    file.write_text(file.read_text().replace("  path:", f"  path: {written}"))
    assert load_params(folder).data.path == Path(written)


@pytest.mark.parametrize("override", ["2024", "no", "12:30", "2024-01-01", "'My Clips (2024)'"])
def test_a_folder_may_have_any_name_on_the_command_line_of_dvc(settings, override):
    assert load_params(settings(f"data.path={override}")).data.path == Path(override.strip("'"))


def test_an_empty_path_is_none(settings):
    assert load_params(settings("data.path=''")).data.path is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"data: \xe9", "params.yaml: expected UTF-8 text, got other bytes"),
        (b"data: " + b"[" * 5000, "params.yaml: nested too deeply"),
        (b"data: " + b"9" * 5000, "params.yaml: a value that cannot be read: .*digits"),
        (b"data: 0x" + b"f" * 5000, "params.yaml, data: .*got a number of thousands of digits"),
        (b"data: 2024-13-45", "params.yaml: a value that cannot be read: month"),
        (b"data: !!bool x", "params.yaml: a value that cannot be read"),
        (b"data: !!timestamp x", "params.yaml: a value that cannot be read"),
        (b"data: &a [*a]", "params.yaml: not YAML: found unconstructable recursive"),
        (b'data: {source: "' + b"a" * 5000 + b'"}', "data.source: expected one of .*got 'aaa"),
        (b"data: {source: 0x" + b"f" * 5000 + b"}", "data.source: expected one of"),
        (b"data: {source: [mini]}", r"data.source: expected one of .*got \['mini'\]"),
        (b"? 1\n: 2\n", "params.yaml, 1: no stage tracks this"),
        (b"- data", "params.yaml: expected sections with keys, got"),
    ],
)
def test_params_that_cannot_be_read_are_one_short_message(settings, content, message):
    folder = settings()
    (folder / "params.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_params(folder)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("twice", "message"),
    [
        ("data:\n  source: mini\n  source: ave\n", "line 3: 'source' is in line 2 already"),
        ("data: {source: mini, source: ave}\n", "line 1: 'source' is in line 1 already"),
        ("data:\n  source: mini\nbece:\ndata:\n", "line 4: 'data' is in line 1 already"),
    ],
)
def test_a_setting_that_is_there_twice_is_refused(settings, twice, message):
    folder = settings()
    (folder / "params.yaml").write_text(twice)
    with pytest.raises(UserError, match=message):
        load_params(folder)


def test_where_there_is_nothing_to_set_a_section_is_none(settings):
    params = load_params(settings("data.source=released"))
    assert params.decode is params.encoders is params.finetune is params.extract is None
    assert params.train.epochs == 200


def test_where_there_is_nothing_to_set_a_setting_is_refused(settings):
    settings("data.source=released")
    with pytest.raises(UserError, match=r"released.yaml, decode: expected no settings .*'fps': 4"):
        load_params(settings("+decode.fps=4", file="profiles/released.yaml"))


@pytest.mark.parametrize("file", FILES)
def test_an_override_changes_nothing_but_its_line(tmp_path, file):
    copy = Path(shutil.copy(ROOT / file, tmp_path))
    key = "bece.lambda=0.6" if file == "params.yaml" else "train.decay=0.5"
    apply_overrides(str(copy), [key])
    assert copy.read_text() == (ROOT / file).read_text()


def test_the_settings_of_a_method_are_the_arguments_of_its_constructor(settings):
    for name in LOCALIZERS:
        params = load_params(settings(f"localizer.name={name}"))
        arguments = inspect.signature(localizer_class(name)).parameters
        assert set(params.method) == set(arguments) - {"sizes", "weak_form"}, name


def test_the_defaults_of_a_method_are_those_of_params_yaml(settings):
    settings("train.narrower=1", file="profiles/mini.yaml")
    for name in LOCALIZERS:
        params = load_params(settings(f"localizer.name={name}"))
        arguments = inspect.signature(localizer_class(name)).parameters
        assert params.method == {key: arguments[key].default for key in params.method}, name


@pytest.mark.parametrize(
    ("narrower", "width", "expected"), [(1, 512, 512), (2, 512, 256), (3, 512, 168), (8, 8, 8)]
)
def test_a_small_data_set_can_have_a_narrower_localizer(settings, narrower, width, expected):
    settings(f"train.narrower={narrower}", file="profiles/mini.yaml")
    params = load_params(settings(f"cace_net.width={width}"))
    assert params.method["width"] == params.of_training()["settings"]["width"] == expected


def test_only_mini_has_a_narrower_localizer(settings):
    for source, expected in (("mini", 256), ("ave", 512), ("folder", 512), ("released", 512)):
        assert load_params(settings(f"data.source={source}")).method["width"] == expected


def test_a_setting_of_cace_net_has_the_name_of_its_section(settings):
    method = load_params(settings("bece.lambda=0.3", "guidance.mode=audio")).method
    assert (method["bece_lambda"], method["guidance"], method["alpha"]) == (0.3, "audio", 0.1)


def test_the_stages_track_exactly_the_known_sections():
    profile, ours = set(), set()
    for folder in ("", "ablations", "baselines", "matching"):
        file = ROOT / folder / "dvc.yaml"
        for stage in yaml.safe_load(file.read_text())["stages"].values():
            for entry in stage["params"]:
                if isinstance(entry, dict):
                    profile.update(entry.get("profiles/${data.source}.yaml", ()))
                else:
                    ours.add(entry.split(".")[0])
    ours.remove("${localizer")
    assert (ours | set(LOCALIZERS), profile) == (set(PARAMS_SECTIONS), set(PROFILE_SECTIONS))
