"""CUDA: the device works through its queue while the host goes on, and torch's allocator counts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import torch

from attn_bench.running.device.clocks import Clocks
from attn_bench.running.device.device import MIB, Device, Event
from attn_bench.running.device.meter import Meter, nvml_meter

# Libraries initialize in their first calls, which must not be captured.
_BEFORE_CAPTURE = 3


class AllocatorCounter:
    """The counters of torch's caching allocator for one GPU."""

    def __init__(self, cuda: Any, index: torch.device) -> None:
        self.cuda, self.index = cuda, index

    def allocated(self) -> int:
        return int(self.cuda.memory_allocated(self.index))

    def restart(self) -> None:
        self.cuda.reset_peak_memory_stats(self.index)

    def peak_allocated(self) -> int:
        return int(self.cuda.max_memory_allocated(self.index))

    def peak_reserved(self) -> int:
        return int(self.cuda.max_memory_reserved(self.index))


class Cuda(Device):
    """A GPU.

    Args:
        name: ``"cuda"`` or ``"cuda:<index>"``.
        cuda: ``torch.cuda``; for tests, what stands for it.
        nvml: the module ``pynvml``, likewise; imported where it is used.
    """

    asynchronous = True

    def __init__(self, name: str, cuda: Any = torch.cuda, nvml: Any = None) -> None:
        super().__init__(name)
        self.cuda, self.nvml, self.index = cuda, nvml, torch.device(name)
        self.counter = AllocatorCounter(cuda, self.index)

    @property
    def tensors(self) -> torch.device:
        return self.index

    def current(self) -> contextlib.AbstractContextManager[Any]:
        return self.cuda.device(self.index)

    def synchronize(self) -> None:
        self.cuda.synchronize(self.index)

    def event(self) -> Event:
        return self.cuda.Event(enable_timing=True)

    def cache_flush(self) -> Callable[[], object]:
        size = 2 * self.cuda.get_device_properties(self.index).L2_cache_size
        return torch.empty(max(size, 1), dtype=torch.int8, device=self.tensors).zero_

    def graph(self, step: Callable[[], object]) -> Callable[[], object]:
        with self.current():
            stream = self.cuda.Stream()
            stream.wait_stream(self.cuda.current_stream())
            with self.cuda.stream(stream):
                for _ in range(_BEFORE_CAPTURE):
                    step()
            self.cuda.current_stream().wait_stream(stream)
            graph = self.cuda.CUDAGraph()
            with self.cuda.graph(graph):
                step()
        return graph.replay

    def room_mib(self, own_mib: float, limit_mib: float | None, share: float) -> float:
        free, _ = self.cuda.mem_get_info(self.index)
        return (free + self.cuda.memory_reserved(self.index)) / MIB

    def process_mib(self) -> float | None:
        """Return what NVML attributes to this process; None in containers and under WSL, where it cannot tell."""
        try:
            with self._opened() as (nvml, handle):
                processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            used = [p.usedGpuMemory for p in processes if p.pid == os.getpid() and p.usedGpuMemory]
        except Exception:
            return None
        return used[0] / MIB if used else None

    def empty_cache(self) -> None:
        self.cuda.empty_cache()

    def clocks(self) -> Clocks:
        try:
            return Clocks(*self._handle())
        except Exception:  # no driver, no such library, or a GPU that only torch sees
            return Clocks(None, None)

    def meter(self) -> Meter | str:
        try:
            return nvml_meter(*self._handle())
        except Exception as error:  # as above, or a GPU without a counter
            return f"no energy counter: NVML has none of this GPU ({error})"

    @contextlib.contextmanager
    def same_generators(self) -> Iterator[None]:
        before = self.cuda.get_rng_state(self.index)
        try:
            with torch.random.fork_rng(devices=[]):
                yield
        finally:
            self.cuda.set_rng_state(before, self.index)

    def activities(self) -> Sequence[Any]:
        from torch.profiler import ProfilerActivity

        return [ProfilerActivity.CPU, ProfilerActivity.CUDA]

    def _handle(self) -> tuple[Any, Any]:
        """Return NVML and its handle of this GPU; it stays open until the process ends."""
        nvml = self.nvml or import_module("pynvml")
        nvml.nvmlInit()
        return nvml, nvml.nvmlDeviceGetHandleByUUID(f"GPU-{self.cuda.get_device_properties(self.index).uuid}")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        """Open NVML and close it again."""
        nvml, handle = self._handle()
        try:
            yield nvml, handle
        finally:
            nvml.nvmlShutdown()
