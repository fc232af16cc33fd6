"""A GPU that is not there: what ``torch.cuda`` and ``pynvml`` document, on simulated clocks and in simulated memory.

The host gives work to a queue and goes on; every operator takes ``op_ms`` of the device and ``launch_ms`` of the host.
An event has a time once the device has reached it, which a synchronization waits for. Tensors that operators make take
memory in blocks of 512 bytes, which the caching allocator keeps when they are freed; when all is taken, the next one is
a ``torch.OutOfMemoryError``. Tensors are really on the CPU.
"""

from __future__ import annotations

import contextlib
import os
from types import SimpleNamespace

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attn_bench.running.device.cuda import Cuda

BLOCK = 512
CONTEXT = 300 * 2**20  # what a process takes besides tensors


class FakeGpu(TorchDispatchMode):
    """The device; the block in which it is entered is the program that uses it.

    Attributes:
        host_ms, free_ms: the host's time, and that at which the device has done all it was given.
        calls: synchronizations so far.
    """

    def __init__(self, *, memory=2**30, op_ms=0.1, launch_ms=0.01, watts=100.0, tick_ms=100.0, readings=((1980, 0x0),)):
        super().__init__()
        self.tick_ms = tick_ms
        self.total, self.op_ms, self.launch_ms, self.watts = memory, op_ms, launch_ms, watts
        self.host_ms = self.free_ms = self.busy_ms = 0.0
        self.synchronized, self.flushed, self.at_work = 0, 0, 0
        self.live, self.reserved, self.peaks = {}, 0, [0, 0]
        self.capturing = None
        self.generator = torch.Generator()
        self.cuda, self.nvml = FakeCuda(self), FakeNvml(self, readings)

    def device(self, name="cuda"):
        """Return the CUDA side on this device."""
        return OnHost(name, self.cuda, self.nvml)

    def clock(self):
        """The host's clock in nanoseconds."""
        return round(self.host_ms * 1e6)

    def launch(self, ms, launch_ms=None):
        if self.capturing is not None:
            self.capturing.work.append(ms)
            return
        self.host_ms += self.launch_ms if launch_ms is None else launch_ms
        self.free_ms = max(self.free_ms, self.host_ms) + ms
        self.busy_ms += ms

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.launch(self.op_ms)
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if _dense(x)}
        for x in tree_leaves(out):
            if _dense(x) and x.untyped_storage()._cdata not in given | self.live.keys():
                self.allocate(x.untyped_storage())
        return out

    def allocate(self, storage):
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        taken = self.allocated() + size
        if taken > self.total:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes.")
        self.live[storage._cdata] = (StorageWeakRef(storage), size)
        self.reserved = max(self.reserved, taken)
        self.peaks = [max(self.peaks[0], taken), max(self.peaks[1], self.reserved)]

    def allocated(self):
        self.live = {key: (ref, size) for key, (ref, size) in self.live.items() if not ref.expired()}
        return sum(size for _, size in self.live.values())


def _dense(x):
    return isinstance(x, torch.Tensor) and x.layout == torch.strided


class OnHost(Cuda):
    """The CUDA side, with tensors on the CPU."""

    @property
    def tensors(self):
        return torch.device("cpu")


class FakeCuda:
    """``torch.cuda`` as far as the CUDA side uses it."""

    def __init__(self, gpu):
        self.gpu = gpu

    def Event(self, enable_timing=False):
        return Event(self.gpu, enable_timing)

    def Stream(self):
        return SimpleNamespace(wait_stream=lambda stream: None)

    def current_stream(self):
        return self.Stream()

    def stream(self, stream):
        return contextlib.nullcontext()

    def device(self, device):
        return contextlib.nullcontext()

    def synchronize(self, device=None):
        if self.gpu.capturing is not None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        self.gpu.synchronized += 1
        self.gpu.host_ms = max(self.gpu.host_ms, self.gpu.free_ms)

    def memory_allocated(self, device=None):
        return self.gpu.allocated()

    def reset_peak_memory_stats(self, device=None):
        self.gpu.peaks = [self.gpu.allocated(), self.gpu.reserved]

    def max_memory_allocated(self, device=None):
        return self.gpu.peaks[0]

    def max_memory_reserved(self, device=None):
        return self.gpu.peaks[1]

    def memory_reserved(self, device=None):
        return self.gpu.reserved

    def mem_get_info(self, device=None):
        return self.gpu.total - self.gpu.reserved, self.gpu.total

    def empty_cache(self):
        self.gpu.reserved = self.gpu.allocated()

    def get_device_properties(self, device=None):
        return SimpleNamespace(L2_cache_size=50 * 2**20, uuid="fake")

    def CUDAGraph(self):
        return Graph(self.gpu)

    @contextlib.contextmanager
    def graph(self, cuda_graph):
        self.gpu.capturing = cuda_graph
        try:
            yield
        finally:
            self.gpu.capturing = None

    def get_rng_state(self, device="cuda"):
        return self.gpu.generator.get_state()

    def set_rng_state(self, new_state, device="cuda"):
        self.gpu.generator.set_state(new_state)


class Event:
    """Reached when the device is done with what came before it."""

    def __init__(self, gpu, enable_timing):
        self.gpu, self.timing, self.at = gpu, enable_timing, None

    def record(self):
        self.at = max(self.gpu.free_ms, self.gpu.host_ms)

    def elapsed_time(self, end_event):
        if not (self.timing and end_event.timing):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if self.at is None or end_event.at is None:
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        if max(self.at, end_event.at) > self.gpu.host_ms:
            raise RuntimeError("CUDA error: device not ready")
        return end_event.at - self.at


class Graph:
    """Work that is launched at once."""

    def __init__(self, gpu):
        self.gpu, self.work = gpu, []

    def replay(self):
        self.gpu.host_ms += self.gpu.launch_ms
        for ms in self.work:
            self.gpu.launch(ms, 0.0)


class FakeNvml:
    """``pynvml``: its energy counter, in mJ, moves every ``tick_ms``; clocks and reasons come one after the other."""

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    def __init__(self, gpu, readings):
        self.gpu, self.readings, self.asked, self.opened = gpu, readings, 0, 0

    def nvmlInit(self):
        self.opened += 1

    def nvmlShutdown(self):
        self.opened -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if not self.opened or uuid != "GPU-fake":
            raise self.NVMLError
        return uuid

    def nvmlDeviceGetClockInfo(self, handle, kind):
        self.gpu.at_work += self.gpu.free_ms > self.gpu.host_ms
        self.now = self.readings[min(self.asked, len(self.readings) - 1)]
        self.asked += 1
        return self.now[0]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return self.now[1]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return round(self.gpu.watts * self.gpu.tick_ms * (self.gpu.host_ms // self.gpu.tick_ms))

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        used = self.gpu.reserved + CONTEXT
        return [SimpleNamespace(pid=1, usedGpuMemory=5), SimpleNamespace(pid=os.getpid(), usedGpuMemory=used)]
