"""Files that other software, or damage, leaves: read as a player reads them, or refused by name."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from cace.media.decode import decode_clip
from cace.media.video import decode_segments, probe
from tests.videos import draw_counter, read_counter, tone, write_video

SCALED = {"short_side": 96, "crop": 95}  # an odd margin: the crop is not symmetric


def decode(path, **options):
    return decode_clip(path, **{"seconds": 1, "fps": 2, "min_seconds": 0.5, **SCALED, **options})


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """One second of video and sound."""
    folder = tmp_path_factory.mktemp("second")
    return write_video(folder / "good.mp4", frames=25, sound=tone(1))


def with_matrix(a, b, c, d, source, target):
    """A copy whose picture track has another display matrix."""
    data = bytearray(source.read_bytes())
    tracks = [at for at in range(len(data)) if data.startswith(b"tkhd", at)]
    sizes = [struct.unpack_from(">I", data, at + 80)[0] for at in tracks]  # width; 0 for sound
    at = next(at for at, width in zip(tracks, sizes, strict=True) if width)
    numbers = (a, b, 0, c, d, 0, 0, 0, 1 << 14)
    struct.pack_into(">9i", data, at + 44, *(number << 16 for number in numbers))
    target.write_bytes(data)
    return target


TURNS = {
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "upside down": ((1, 0, 0, -1), np.flipud),
    "transposed": ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    "transposed the other way": ((0, -1, -1, 0), lambda image: np.rot90(image, 2).swapaxes(0, 1)),
    "a quarter to the right": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "a quarter to the left": ((0, -1, 1, 0), np.rot90),
    "half a turn": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
}


@pytest.mark.parametrize("backend", ["pyav", "decord"])
@pytest.mark.parametrize("turn", TURNS)
def test_a_display_matrix_turns_and_mirrors_the_picture(second, tmp_path, turn, backend):
    if backend == "decord":
        pytest.importorskip("decord", reason="no decord for this platform")
    matrix, expected = TURNS[turn]
    path = with_matrix(*matrix, second, tmp_path / "turned.mp4")
    plain = decode(second, backend=backend).frames
    assert read_counter(plain[1], 128, 96) == 12
    assert np.array_equal(decode(path, backend=backend).frames[1], expected(plain[1]))


@pytest.mark.parametrize("turn", TURNS)
def test_a_long_video_is_turned_like_a_clip(second, tmp_path, turn):
    path = with_matrix(*TURNS[turn][0], second, tmp_path / "turned.mp4")
    found = []
    decoded = decode_segments(path, fps=2, **SCALED, damaged=found.append, remark=found.append)
    assert np.array_equal(next(decoded).frames, decode(path).frames)
    _, _, width, height = probe(path, **SCALED).view
    assert (width < height) != bool(TURNS[turn][0][1])  # 128 x 96, unless it is transposed
    assert found == []


@pytest.mark.parametrize(("orientation", "quarters"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_a_picture_is_turned_even_beside_side_data_that_pyav_cannot_read(
    tmp_path, orientation, quarters
):
    # A JPEG with an Exif tag; the MV-HEVC of phones has other such data.
    picture, jpeg, tag = draw_counter(9, 128, 96), io.BytesIO(), Image.Exif()
    tag[0x0112] = orientation
    Image.fromarray(picture).save(jpeg, "JPEG", exif=tag)
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        video = container.add_stream("mjpeg", rate=1)
        video.width, video.height, video.pix_fmt = 128, 96, "yuvj420p"
        audio = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.full((1, 8000), 99, np.int16), "s16", "mono")
        sound.sample_rate = 8000
        packet = av.Packet(jpeg.getvalue())
        packet.stream, packet.time_base = video, Fraction(1)
        packet.pts = packet.dts = 0
        container.mux([*audio.encode(sound), packet])
    (frame, _) = decode(tmp_path / "a.mov").frames
    assert read_counter(np.rot90(frame, -quarters), 128, 96) == 9
