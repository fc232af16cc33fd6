"""Returns the side that serves a device, and answers questions about all sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from attn_bench.running.device.device import Device
from attn_bench.running.device.host import Host

if TYPE_CHECKING:
    from torch import Tensor

# Libraries whose own allocations fail say so in a RuntimeError: torch's allocator on the CPU, the CUDA runtime, and
# cuBLAS, cuDNN, cuSOLVER and cuFFT for their work space.
_NO_MEMORY = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
)


def _cuda(name: str) -> Device:
    from attn_bench.running.device.cuda import Cuda

    return Cuda(name)


SIDES: dict[str, Callable[[str], Device]] = {"cpu": Host, "cuda": _cuda}


def device_of(name: str) -> Device:
    """Return the device ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``; raises ValueError for any other."""
    side = SIDES.get(name.partition(":")[0])
    if side is None:
        raise ValueError(f"device {name!r} cannot be timed; use 'cpu' or 'cuda'")
    return side(name)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a device, the host or a library ran out of memory."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    try:
        text = str(error)
    except Exception:
        return False
    return isinstance(error, RuntimeError) and any(part in text for part in _NO_MEMORY)


def generators() -> dict[str, Tensor]:
    """Return the state of torch's generators: of the host, and of the current GPU if this process uses one."""
    import torch

    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_generators(states: Mapping[str, Tensor]) -> None:
    """Set what :func:`generators` returned."""
    import torch

    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
