"""The frames that a visual encoder reads."""

import av
import numpy as np
import pytest
from PIL import Image

from cace.encoders.frames import frames_for
from cace.media.decode import decode_clip
from cace.media.store import Frames, read_frames, save_frames
from cace.settings.schema import DecodeParams
from cace.system.errors import UserError
from tests.videos import tone, write_video

VIT = "timm/test_vit"  # 160 pixels, 95 % of the short side, patches of 16


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        ("resnet50", Frames(232, 224, "bilinear")),
        ("vgg19", Frames(256, 224, "bilinear")),
        ("efficientnet_lite0", Frames(256, 224, "bilinear")),
        (VIT, Frames(168, 160, "bicubic")),
        ("timm/vit_large_patch14_clip_224.openai", Frames(224, 224, "bicubic")),
        # Patches of 14 do not fill its 384 pixels; the next has no classifier; the last has weights
        # of five dimensions.
        ("timm/vit_so400m_patch14_siglip_384", Frames(427, 384, "bicubic")),
        ("timm/qwen3_vit_88m_enc", Frames(768, 768, "bicubic")),
        ("timm/lambda_resnet26t", Frames(272, 256, "bicubic")),
    ],
)
def test_auto_is_what_the_encoder_was_trained_on(encoder, expected):
    assert frames_for(encoder, None, None) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [((None, 64), (67, 64)), ((170, None), (170, 160)), ((100, 96), (100, 96))],
)
def test_a_number_is_kept_where_the_network_takes_it(given, expected):
    assert frames_for(VIT, *given)[:2] == expected


@pytest.mark.parametrize(
    ("encoder", "given", "message"),
    [
        (VIT, (None, 100), "decode.crop: timm/test_vit does not read .* 100 .*; set 160, or auto"),
        (VIT, (116, 100), "set 160 and decode.short_side 168, or both to auto"),
        ("timm/beit_base_patch16_224", (None, 256), "read frames of 256 .*; set 224, or auto"),
        ("resnet50", (None, 32), "decode.crop: 32 pixels leave resnet50 a map of 1×1, .* set 224,"),
        (VIT, (150, None), r"decode.short_side: .*decode.crop \(160\), got 150; set 168, or auto"),
        ("vgg19", (None, None, 8), "extract.grid: expected at most 7, .* vgg19 .* 224 .*, got 8"),
        ("timm/pit_ti_224", (None, None), "encoders.visual: timm/pit_ti_224 gives one feature"),
        ("timm/coat_lite_tiny", (None, None), "encoders.visual: CoaT of timm gives no map of posi"),
        (
            "resnet50",
            (None, 2048),
            "short_side: auto is 2121 .* at most 2048; set decode.crop 1977",
        ),
        ("timm/vitt", (None, None), "timm has no network 'vitt'"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_fits(encoder, given, message):
    with pytest.raises(UserError, match=message):
        frames_for(encoder, *given)


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_lite0"])
def test_a_convolutional_network_takes_any_size_that_leaves_two_positions(name):
    assert frames_for(name, None, 33).crop == 33


def test_the_file_comes_back(tmp_path):
    save_frames(tmp_path / "frames.json", Frames(116, 112, "bicubic"))
    assert read_frames(tmp_path / "frames.json") == Frames(116, 112, "bicubic")


def test_a_file_of_a_source_without_frames_is_refused(tmp_path):
    save_frames(tmp_path / "frames.json", None)
    with pytest.raises(UserError, match="frames.json: damaged .*; run `dvc repro frames`"):
        read_frames(tmp_path / "frames.json")


SETTINGS = {
    "fps": 2,
    "short_side": "auto",
    "crop": "auto",
    "jpeg_quality": 90,
    "backend": "pyav",
    "min_seconds": 9.0,
    "deadline_seconds": 60.0,
    "max_bad_fraction": 0.1,
}


def test_auto_is_written_as_it_is_read():
    params = DecodeParams.model_validate(SETTINGS)
    assert params.short_side is params.crop is None
    assert params.model_dump(mode="json") == SETTINGS
    assert DecodeParams.model_validate(params.model_dump()) == params


# Pillow's filters widen where they scale down, as FFmpeg's do.
FILTERS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}


def test_frames_are_scaled_as_the_encoders_interpolation_says(tmp_path):
    path = write_video(tmp_path / "v.mp4", size=(128, 96), first=5, sound=tone())
    with av.open(str(path)) as file:
        first = Image.fromarray(next(file.decode(video=0)).to_ndarray(format="rgb24"))
    pillows = {
        name: np.asarray(first.resize((64, 48), filter_), int)[:, 8:56]
        for name, filter_ in FILTERS.items()
    }
    for name in FILTERS:
        size = {"seconds": 1, "fps": 1, "short_side": 48, "crop": 48, "min_seconds": 0.1}
        frame = decode_clip(path, **size, interpolation=name).frames[0].astype(int)
        away = {other: np.abs(frame - theirs).mean() for other, theirs in pillows.items()}
        assert min(away, key=away.get) == name
