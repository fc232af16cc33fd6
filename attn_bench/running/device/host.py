"""The CPU: calls are finished when they return."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from attn_bench.running.device.clocks import Clocks
from attn_bench.running.device.device import MIB, Device, Event
from attn_bench.running.device.meter import Meter, rapl
from attn_bench.running.memory_room import host_room_mib

if TYPE_CHECKING:
    import torch


class HostEvent:
    """A reading of the host's clock."""

    def record(self) -> None:
        self.at = time.perf_counter_ns()

    def elapsed_time(self, end_event: HostEvent) -> float:
        return (end_event.at - self.at) / 1e6


class Host(Device):
    """The processor and the memory of the host."""

    asynchronous = False

    @property
    def tensors(self) -> torch.device:
        import torch

        return torch.device("cpu")

    def current(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def synchronize(self) -> None:
        pass

    def event(self) -> Event:
        return HostEvent()

    def cache_flush(self) -> Callable[[], object]:
        return lambda: None

    def graph(self, step: Callable[[], object]) -> Callable[[], object]:
        raise ValueError("the CPU has no graphs of kernels; use a GPU")

    def room_mib(self, own_mib: float, limit_mib: float | None, share: float) -> float:
        return host_room_mib(own_mib, limit_mib, share)

    def process_mib(self) -> float | None:
        try:
            import resource
        except ImportError:  # Windows
            return None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / MIB if sys.platform == "darwin" else peak / 1024

    def empty_cache(self) -> None:
        pass

    def clocks(self) -> Clocks:
        return Clocks(None, None)

    def meter(self) -> Meter | str:
        return rapl()

    def same_generators(self) -> contextlib.AbstractContextManager[Any]:
        import torch

        return torch.random.fork_rng(devices=[])

    def activities(self) -> Sequence[Any]:
        from torch.profiler import ProfilerActivity

        return [ProfilerActivity.CPU]
