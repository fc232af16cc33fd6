"""Peak memory of a step.

CUDA: the peak counter of the caching allocator. CPU: there is no such counter, so the allocations and frees that the
profiler recorded are replayed in order; the sum is the same in every run, unlike the resident size of the process.

Neither includes memory that libraries take without torch's allocators (FFT and oneDNN work space on the CPU, the CUDA
context). The resident peak of the process and NVML's figure include it and are recorded as well.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from attn_bench.results.record import Memory
from attn_bench.running.device.device import MIB, Device, MemoryCounter
from attn_bench.running.device.select import device_of

if TYPE_CHECKING:
    import torch


def measure_memory(step: Callable[[], Any], device: str, *, warmup: int = 2) -> Memory:
    """Measure the peak memory of ``step`` after ``warmup`` calls.

    Memory that the step frees and allocates again (gradients) counts for the step, not for the baseline.

    Raises:
        ValueError: a device that cannot be measured.
    """
    at = device_of(device)
    for _ in range(warmup):
        step()
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        return _replayed(step, at) if at.counter is None else _counted(step, at, at.counter)
    finally:
        if enabled:
            gc.enable()


def _replayed(step: Callable[[], Any], at: Device) -> Memory:
    held = _Held("cpu")
    peak = replay(host_allocations(step))
    baseline = held.kept()
    return Memory(peak / MIB, (peak + baseline) / MIB, baseline / MIB, process_mib=at.process_mib())


def _counted(step: Callable[[], Any], at: Device, counter: MemoryCounter) -> Memory:
    at.synchronize()
    held = _Held(at.tensors.type)
    before = counter.allocated()
    counter.restart()
    step()
    at.synchronize()
    total, reserved = counter.peak_allocated(), counter.peak_reserved()
    baseline = before - held.gone()
    return Memory(
        (total - baseline) / MIB,
        total / MIB,
        baseline / MIB,
        reserved_mib=reserved / MIB,
        process_mib=at.process_mib(),
    )


def host_allocations(step: Callable[[], Any]) -> list[int]:
    """Run ``step`` and return its allocations on the CPU in order: bytes, negative where freed.

    Only blocks that the step allocated are tracked. For others the profiler may report an outdated size, of an earlier
    block at the same address.
    """
    found = [
        (event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size)
        for event in _allocations(_events(step))
        if event.extra_fields.device.type == "cpu"
    ]
    own: dict[int, int] = {}
    sizes = []
    for _, address, size in sorted(found, key=lambda event: event[0]):
        if size > 0:
            own[address] = size
            sizes.append(size)
        elif address in own:
            sizes.append(-own.pop(address))
    return sizes


def is_seen(step: Callable[[], Any]) -> bool:
    """Tell whether the profiler sees an operator of ``step``; it sees none in threads that ``step`` started."""
    return bool(_events(step))


def _events(step: Callable[[], Any]) -> list[Any]:
    from torch.profiler import ProfilerActivity, profile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            step()
    return list(profiler.profiler.kineto_results.experimental_event_tree())


def _allocations(events: Iterable[Any]) -> Iterator[Any]:
    from torch._C._profiler import _EventType

    for event in events:
        if event.tag == _EventType.Allocation:
            yield event
        yield from _allocations(event.children)


def replay(allocations: Iterable[int]) -> int:
    """Return the peak, in bytes, of a sequence of allocations (positive) and frees (negative)."""
    live = peak = 0
    for size in allocations:
        live += size
        peak = max(peak, live)
    return peak


class _Held:
    """The storages that Python objects hold on a kind of device; weak references, so they can be freed."""

    def __init__(self, kind: str) -> None:
        from torch.multiprocessing.reductions import StorageWeakRef

        sizes = {storage._cdata: (StorageWeakRef(storage), storage.nbytes()) for storage in _storages(kind)}
        self.storages = list(sizes.values())

    def kept(self) -> int:
        """Bytes still allocated."""
        return sum(size for reference, size in self.storages if not reference.expired())

    def gone(self) -> int:
        """Bytes freed since."""
        return sum(size for reference, size in self.storages if reference.expired())


def _storages(kind: str) -> Iterator[torch.UntypedStorage]:
    import torch

    for thing in gc.get_objects():
        # type() and not isinstance(): proxies react to the latter by importing or warning.
        if not issubclass(type(thing), torch.Tensor) or thing.device.type != kind or thing.layout != torch.strided:
            continue
        try:
            storages = [thing.untyped_storage()]
            if thing.is_leaf and thing.grad is not None and thing.grad.layout == torch.strided:
                storages.append(thing.grad.untyped_storage())
        except (RuntimeError, NotImplementedError):  # tensors without storage, such as functorch's
            continue
        # Fake tensors of torch.compile name a device but have no memory there.
        yield from (storage for storage in storages if storage.device.type == kind)
