"""The device to compute on."""

import ctypes
import os
import sys
from pathlib import Path
from typing import Literal

import torch

from cace.system.workers import workers

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def choose_device() -> torch.device:
    """This process's GPU, else the CPU with one thread per core.

    Processes that train together on this machine share its cores.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, workers() // processes))
    keep_freed_memory()
    return torch.device("cpu")


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16; others imitate it, many times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    return any(flag in text.split() for flag in ("avx512_bf16", "amx_bf16"))


def precision_on(
    device: torch.device, wanted: Literal["auto", "float32", "bfloat16"]
) -> Literal["float32", "bfloat16"]:
    """The precision that a setting means on this device; auto: bfloat16 if it has that."""
    if wanted == "bfloat16" and not has_bfloat16(device):
        print(
            "This processor only imitates bfloat16, which is many times slower than float32. With "
            "extract.precision: auto, features are computed in what the processor has",
            flush=True,
        )
    if wanted == "auto":
        return "bfloat16" if has_bfloat16(device) else "float32"
    return wanted


def keep_freed_memory() -> None:
    """Makes the C library reuse large blocks instead of returning them to the system.

    A network allocates and frees its activations all the time. Getting new memory pages for them
    took as long as the arithmetic (EfficientNet-Lite0, 224 px: 40 ms instead of 21 ms).
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        ctypes.CDLL(None).mallopt(M_MMAP_MAX, 0)
        ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
