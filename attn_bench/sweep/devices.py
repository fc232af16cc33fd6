"""Which device is used, and with how many threads."""

from __future__ import annotations

import glob
import os
from typing import Literal

from attn_bench.errors import UserError

# Device files of drivers: NVIDIA's, on its embedded boards, under Windows, and AMD's, which torch calls CUDA as well.
_DRIVERS = ("/dev/nvidia*", "/dev/nvhost*", "/dev/dxg", "/dev/kfd")


def resolve_device(device: str, *, here: bool = True) -> Literal["cpu", "cuda"]:
    """Return the device to use; ``auto`` means CUDA if torch can use it. Raises UserError if CUDA is unavailable.

    Args:
        here: whether cells run on this machine; ``cuda`` is not looked for on another.
    """
    if device == "cpu":
        return "cpu"
    if device == "cuda" and not here:
        return "cuda"
    if cuda_available():
        return "cuda"
    if device == "cuda":
        raise UserError(
            "--device cuda: no CUDA device found; use --device cpu, or install a driver and a CUDA build of torch"
        )
    return "cpu"


def cuda_available() -> bool:
    """Tell whether torch can use CUDA, without creating a CUDA context in this process."""
    # Without a driver there is no need to import torch, which takes seconds.
    if not any(glob.glob(pattern) for pattern in _DRIVERS):
        return False
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    return torch.cuda.is_available()


# More threads than this only wait for one another, and the machine may be unable to start them.
THREADS_PER_CPU = 4
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def check_threads(threads: int | None) -> None:
    """Raise UserError for a number of threads that this machine cannot serve, given or in the environment.

    At most four times the CPUs; None leaves the choice to torch, which obeys ``OMP_NUM_THREADS``.
    """
    cpus = os.cpu_count() or 1
    allowed = f"must be 1 to {THREADS_PER_CPU * cpus} on this machine ({cpus} CPU{'s' if cpus > 1 else ''})"
    if threads is not None and not 1 <= threads <= THREADS_PER_CPU * cpus:
        raise UserError(f"setting threads: {allowed} (given: {threads})")
    for name in _THREAD_VARIABLES:
        # OpenMP also accepts a list with one number per level of nested parallelism.
        first = os.environ.get(name, "").partition(",")[0].strip()
        if first.isdecimal() and (len(first) > 9 or int(first) > THREADS_PER_CPU * cpus):
            raise UserError(f"environment variable {name}: {allowed} (given: {first[:20]})")
