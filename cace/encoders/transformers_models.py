"""An audio encoder of the library transformers: the mean of its features in each second.

AST, CLAP and models like wav2vec 2.0 are of this kind: they read sound and give hidden states.
"""

import contextlib
import importlib.util
import math
import pickle
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cace.conventions import SAMPLE_RATE, SEGMENTS
from cace.encoders.hub import CONFIGURATION, has_weights, hub_folder
from cace.encoders.weights import expect_no_linked_folder
from cace.paths import WEIGHTS
from cace.system.errors import UserError, reason

PREFIX = "hf/"  # of their names in the settings
AST = "audio-spectrogram-transformer"
AST_PREFIX = 2  # tokens before those of the patches: class and distillation
AST_HOP_SECONDS = 0.01  # from one frame of its spectrogram to the next
SLACK_SECONDS = 0.5  # an encoder that reads this much less than a clip still reads it at once


class Listener(nn.Module):
    """A network, with what turns sound into its input.

    files: the content of its configuration files.
    whole_clips: whether it reads a clip at once, so that each segment's feature depends on the
        sound of the others. If not, it reads each second alone.
    """

    settings: Tensor

    def __init__(self, network: nn.Module, extractor: Any, files: bytes) -> None:
        super().__init__()
        self.network, self.extractor = network, extractor
        self.config: Any = network.config
        self.whole_clips = self._longest_seconds() >= SEGMENTS - SLACK_SECONDS
        # A tensor, so that the hash of the encoder changes with its configuration.
        self.register_buffer("settings", torch.tensor(list(files), dtype=torch.uint8))

    def forward(self, sound: Float[Tensor, "n S"]) -> Float[Tensor, "n A"]:
        """sound: one second each; if it reads whole clips, the seconds of one clip in order."""
        waves = sound.reshape(1, -1) if self.whole_clips else sound
        seconds = waves.shape[1] / SAMPLE_RATE
        steps, step_seconds = self._steps(waves.cpu().numpy(), seconds)
        return torch.cat([per_segment(some, step_seconds, round(seconds)) for some in steps])

    def _steps(self, waves: np.ndarray, seconds: float) -> tuple[Float[Tensor, "b K A"], float]:
        """Features over time, and the seconds from one to the next."""
        rate = self.extractor.sampling_rate
        resampled = [soxr.resample(wave, SAMPLE_RATE, rate, "HQ") for wave in waves]
        inputs = self.extractor(resampled, sampling_rate=rate, return_tensors="pt")
        hidden = self.network(**inputs.to(self.settings.device)).last_hidden_state
        if self.config.model_type == AST:  # patches, all times of the lowest frequency first
            stride = self.config.time_stride
            times = (self.config.max_length - self.config.patch_size) // stride + 1
            patches = hidden[:, AST_PREFIX:].unflatten(1, (-1, times))
            return patches.mean(dim=1), stride * AST_HOP_SECONDS
        if hidden.ndim == 4:  # CLAP: [b, A, frequencies, K]
            hidden = hidden.mean(dim=2).mT
        longest = self._longest_seconds()  # shorter sound is filled up
        return hidden, (seconds if math.isinf(longest) else longest) / hidden.shape[1]

    def _longest_seconds(self) -> float:
        """Length of the sound that it reads at once; infinite if it reads any length."""
        if self.config.model_type == AST:
            return self.config.max_length * AST_HOP_SECONDS
        names = ("max_length_s", "chunk_length")  # of CLAP, and of Whisper
        given = [getattr(self.extractor, name, None) for name in names]
        return next((float(length) for length in given if length), math.inf)


class Loaded(NamedTuple):
    """A network, its number of output channels, and the licence of its weights, if it is known."""

    listener: Listener
    channels: int
    license: str | None


def per_segment(
    steps: Float[Tensor, "K A"], step_seconds: float, segments: int
) -> Float[Tensor, "T A"]:
    """The mean of the steps in each second, each weighted by its share of the second.

    Step k lasts from k to k + 1 times `step_seconds`. The feature of the last step fills the rest.
    """
    starts = torch.arange(len(steps), dtype=torch.float64) * step_seconds
    ends = starts + step_seconds
    ends[-1:].clamp_(min=segments)
    second = torch.arange(segments, dtype=torch.float64)[:, None]
    shares = (ends.clamp(max=second + 1) - starts.clamp(min=second)).clamp(min=0)
    # In float64, which autocast leaves alone: shares of 1/50 would lose digits in bfloat16.
    return (shares.to(steps.device) @ steps.double()).float()


def build(name: str, weights: str, folder: Path | None = None) -> Loaded:
    """A network of transformers.

    name: OWNER/MODEL of the hub, or a folder below data/weights.
    weights: pretrained, or none for random numbers.
    folder: where its files are; None: where `folder_of` finds them.
    Raises: UserError if it is neither here nor available for download, or is no audio encoder, or a
        package is missing.
    """
    folder = folder or folder_of(name, weights)
    setting = f"encoders.audio: {PREFIX}"
    try:
        with _quiet(_transformers()):
            listener = _loaded(folder, weights)
            listener.eval()
            with torch.inference_mode():
                of_silence = listener(torch.zeros(SEGMENTS, SAMPLE_RATE))
        if not of_silence.isfinite().all():
            raise UserError("its features are not numbers; get its weights again")
    except ImportError as error:
        raise UserError(
            f"{setting}{name}: needs a package that is not installed ({reason(error)}); run "
            f"`pip install -e '.[encoders]'`, or install that package"
        ) from error
    except UserError as error:
        raise UserError(f"{setting}{name}: {error}") from error
    except Exception as error:  # of whatever kind: of a model that is not for sound
        raise UserError(
            f"{setting}{name}: not an audio encoder that transformers can load ({reason(error)}); "
            f"get its files again, or choose an AST, a CLAP, or a model like wav2vec 2.0"
        ) from error
    license_ = _license(folder) if weights == "pretrained" else None
    return Loaded(listener, of_silence.shape[1], license_)


def folder_of(name: str, weights: str, download: bool = True) -> Path:
    """The folder with a model's configuration, and with its weights unless `weights` is none.

    name, weights: as of `build`.
    Raises: UserError if it is not here and `download` is false or fails, or it lacks something, or
        transformers is not installed.
    """
    setting = f"encoders.audio: {PREFIX}"
    if not importlib.util.find_spec("transformers"):
        raise UserError(
            f"{setting}{name}: needs transformers, which is not installed; run "
            f"`pip install -e '.[encoders]'`"
        )
    folder = Path(name)
    if not folder.is_relative_to(WEIGHTS):
        return hub_folder(name, setting, download)
    expect_no_linked_folder(folder)
    lacks = [file for file in CONFIGURATION if not (folder / file).is_file()]
    if weights == "pretrained" and not has_weights(folder):
        lacks.append("model.safetensors")
    if lacks:
        raise UserError(
            f"{setting}{name}: has no {' and no '.join(lacks)}; put there what `save_pretrained` "
            f"of the model and of its feature extractor write"
        )
    return folder


def _loaded(folder: Path, weights: str) -> Listener:
    transformers = _transformers()
    from safetensors import SafetensorError

    where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, **where)
    if not hasattr(extractor, "sampling_rate"):
        raise ValueError("it reads no sound")
    if weights == "none":
        config = transformers.AutoConfig.from_pretrained(folder, **where)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = transformers.AutoModel.from_config(config)
    else:
        try:
            model, loading = transformers.AutoModel.from_pretrained(
                folder,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # else it refers to a report that it prints
                **where,
            )
        except SafetensorError as error:
            raise UserError(f"its weights are damaged ({error}); get them again") from error
        except pickle.UnpicklingError as error:
            raise UserError(
                "its weights are damaged, or contain code, which is not run; get them as "
                "model.safetensors"
            ) from error
        missing = sorted(loading["missing_keys"])
        shapes = sorted(key for key, *_ in loading["mismatched_keys"])
        lists = {"missing": missing, "of another shape": shapes}
        if wrong := [f"{what}: {keys[:3]}" for what, keys in lists.items() if keys]:
            raise UserError(f"its weights do not fit the network; {'; '.join(wrong)}")
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    files = b"".join((folder / name).read_bytes() for name in CONFIGURATION)
    return Listener(getattr(model, "audio_model", model), extractor, files)  # CLAP reads text too


def _transformers() -> types.ModuleType:
    import transformers

    return transformers


@contextlib.contextmanager
def _quiet(transformers: types.ModuleType) -> Iterator[None]:
    """Without progress bars and reports of loading: errors are raised anyway."""
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _license(folder: Path) -> str | None:
    """As the model's page declares it; None if it does not, or not in words."""
    from huggingface_hub import metadata_load

    readme = folder / "README.md"
    try:
        found = (metadata_load(readme) or {}).get("license") if readme.is_file() else None
    except Exception:  # of whatever kind: anybody writes these pages
        return None
    text = ", ".join(map(str, found)) if isinstance(found, list) else found
    return text if isinstance(text, str) and 0 < len(text) <= 1000 and text.isprintable() else None
