"""DVC stage: work out the size of the frames that the visual encoder reads.

It is separate so that another encoder that reads the same frames does not decode again. It also
builds the encoders, so that missing weights, or some that do not fit, show here and not after
hours of work.
"""

import json

from cace.encoders.audio import audio_encoder
from cace.encoders.frames import frames_for
from cace.encoders.visual import visual_encoder
from cace.media.store import save_frames
from cace.paths import FRAMES
from cace.settings import load_params
from cace.system.errors import run


def main() -> None:
    """Writes the size, or that this source has no frames."""
    params = load_params()
    decode, encoders, extract = params.decode, params.encoders, params.extract
    frames = None
    if decode is not None and encoders is not None and extract is not None:
        frames = frames_for(encoders.visual, decode.short_side, decode.crop, extract.grid)
        visual_encoder(encoders.visual, encoders.visual_weights)
        audio_encoder(encoders.audio, encoders.audio_weights)
        print(f"frames: {json.dumps(frames._asdict())}")
    save_frames(FRAMES, frames)


if __name__ == "__main__":
    run(main)
