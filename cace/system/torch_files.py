"""PyTorch files from anywhere: read as tensors and plain values, without running code from them."""

import io
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cace.system.errors import UserError, shown

Weights = dict[str, Tensor]

# Where other programs put the weights among an epoch, an optimizer and so on; the first that is
# there is read.
USUAL_KEYS = ("state_dict", "model_state_dict", "model", "net", "weights")
ZIP_START = b"PK\3\4"  # of a zip archive
DEEPEST = 3  # levels of dictionaries around the weights
WRAPPERS = ("module.", "_orig_mod.")  # that DataParallel and torch.compile put before every name


def read_torch_file(path: Path | zipfile.Path) -> Any:
    """The content of a file that `torch.save` wrote: tensors, and plain values around them.

    path: of a file, or of one in an archive.

    NumPy's numbers become numbers, its arrays None.
    Raises: UserError if the file cannot be read, is damaged, or contains other objects.
    """
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path}: expected a file, got {'a folder' if path.is_dir() else 'none'}")
    if isinstance(path, Path) and not path.stat().st_size:
        raise UserError(f"{path}: an empty file; get it again")
    try:
        file = path if isinstance(path, Path) else io.BytesIO(path.read_bytes())
        _expect_undamaged(file, str(path))
        if isinstance(file, io.BytesIO):
            file.seek(0)
        with torch.serialization.safe_globals(list(_NUMPY)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other versions of pickle
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UserError:
        raise
    except Exception as error:  # torch raises many kinds for a file that it cannot read
        if "TorchScript" in str(error):
            why = "is a TorchScript program, which would run code"
        elif found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            why = f"contains {found[1]}, whose loading would run code"
        else:
            detail = str(error).rpartition("WeightsUnpickler error:")[2].strip()
            what = shown(detail.partition("\n")[0] or type(error).__name__, 100)[1:-1]
            raise UserError(_damaged(path, what)) from error
        raise UserError(
            f"{path}: {why}; save its weights alone, where it was made: "
            f"torch.save(model.state_dict(), {path.name!r})"
        ) from error


def _damaged(path: Path | zipfile.Path | str, why: str) -> str:
    return f"{path}: not a PyTorch file, or a damaged one ({why}); get it again"


def _expect_undamaged(file: Path | io.BytesIO, where: str) -> None:
    """What torch does not check.

    A compressed file is refused, as a small one may fill the memory; torch.save compresses nothing.
    """
    if not zipfile.is_zipfile(file):
        with file.open("rb") if isinstance(file, Path) else nullcontext(file) as stream:
            stream.seek(0)
            if stream.read(len(ZIP_START)) == ZIP_START:
                raise UserError(_damaged(where, "its end is missing"))
        return  # of the format before PyTorch 1.6
    with zipfile.ZipFile(file) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise UserError(
                f"{where}: expected a file as torch.save writes it, got a compressed one "
                f"(programs in TorchScript are such files; they would run code)"
            )
        if changed := archive.testzip():
            raise UserError(_damaged(where, f"{changed} is not as it was written"))


def weights_in(content: object, where: str) -> Weights:
    """The tensors by name in the content of a file, also below other keys.

    where: names the file in messages.
    Raises: UserError if there are none, or several sets of them.
    """
    found = dict(_state_dicts(content))
    for depth in range(DEEPEST + 1):
        here = {keys: tensors for keys, tensors in found.items() if len(keys) == depth}
        usual = [keys for key in USUAL_KEYS for keys in here if keys and keys[-1] == key]
        if usual or len(here) == 1:
            return _without_wrappers(here[usual[0] if usual else next(iter(here))])
        if here:
            names = ", ".join(shown(".".join(map(str, keys))) for keys in [*here][:5])
            raise UserError(
                f"{where}: contains several sets of weights ({names}); save one of them alone, "
                f"with torch.save"
            )
    raise UserError(f"{where}: expected tensors by name, got {_kind(content)}")


def _state_dicts(content: object, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, Weights]]:
    """The tensors of each dictionary that has some, by the keys that lead to it."""
    if not isinstance(content, dict) or len(keys) > DEEPEST:
        return
    usual = [key for key in USUAL_KEYS if isinstance(content.get(key), dict)]
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if tensors and not usual:
        yield keys, tensors
    for key in usual[:1] or content:
        yield from _state_dicts(content[key], (*keys, key))


def _without_wrappers(weights: Weights) -> Weights:
    for wrapper in WRAPPERS:
        if all(key.startswith(wrapper) for key in weights):
            weights = {key.removeprefix(wrapper): tensor for key, tensor in weights.items()}
    return weights


def _kind(content: object) -> str:
    if not isinstance(content, dict):
        return type(content).__name__
    return f"a dictionary with {shown(list(content)[:5])}" if content else "an empty dictionary"


def misfit(expected: Weights, given: Any) -> str:
    """Why weights cannot be loaded into a network; empty if they can.

    expected: the state dict of the network, which may be on the device "meta".
    """
    if not isinstance(given, dict):
        return f"expected tensors by name, got {type(given).__name__}"
    missing = [key for key in expected if key not in given]
    strange = [key for key in given if key not in expected]
    both = {key: (expected[key], given[key]) for key in expected if key in given}
    kinds = [key for key, (ours, theirs) in both.items() if not _same_kind(ours, theirs)]
    shapes = [
        f"{key} {tuple(theirs.shape)} instead of {tuple(ours.shape)}"
        for key, (ours, theirs) in both.items()
        if key not in kinds and theirs.shape != ours.shape
    ]
    lists = {"missing": missing, "unknown": strange, "other shape": shapes, "other type": kinds}
    if any(lists.values()):
        return "; ".join(f"{name}: {_first(some)}" for name, some in lists.items() if some)
    bad = [
        key
        for key, (ours, theirs) in both.items()
        if theirs.is_floating_point() and not theirs.to(ours.dtype).isfinite().all()
    ]
    return f"it gives no numbers: NaN or infinity in {_first(bad)}" if bad else ""


def _same_kind(ours: Tensor, theirs: object) -> bool:
    """Whether theirs is a usual tensor of numbers as ours are, as large as its data in the file."""
    return (
        isinstance(theirs, Tensor)
        and theirs.layout == torch.strided
        and theirs.device.type == "cpu"
        and not theirs.is_quantized
        and (
            theirs.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
            if ours.is_floating_point()
            else theirs.dtype == ours.dtype
        )
        and theirs.untyped_storage().nbytes() >= theirs.numel() * theirs.element_size()
    )


def _first(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"[{', '.join(map(shown, names[:most]))}]{more}"


# NumPy's own functions would trust the file: a forged type makes them read any memory.


class _Type:
    """Stands for numpy.dtype."""

    def __init__(self, name: object = "", *_: object) -> None:
        self.name, self.order = str(name), "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1])


class _Array:
    """Stands for numpy.ndarray; keeps nothing."""

    def __setstate__(self, _: object) -> None:
        pass


def _number(kind: _Type, data: bytes | str = b"") -> Any:
    """Stands for numpy.core.multiarray.scalar; None for what is no number."""
    if not re.fullmatch(r"[biufc]\d{1,2}", kind.name):
        return None
    data = data.encode("latin-1") if isinstance(data, str) else data
    order = ">" if kind.order == ">" else "<"
    return np.frombuffer(data, np.dtype(f"{order}{kind.name}"), count=1)[0].item()


def _array(*_: object) -> _Array:
    """Stands for numpy.core.multiarray._reconstruct."""
    return _Array()


_NUMPY: list[tuple[Callable[..., Any], str]] = [
    (_Type, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    *((_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]
