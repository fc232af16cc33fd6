"""Every branch of the harness that a GPU takes, on a GPU that is not there."""

from __future__ import annotations

import functools
import inspect
import re
from pathlib import Path

import pytest
import torch
from fake_gpu import CONTEXT, FakeCuda, FakeGpu
from torch import nn

import attn_bench
from attn_bench.gate.ab import worker
from attn_bench.results.store import Store
from attn_bench.running import batch_size, prepare
from attn_bench.running.device import select
from attn_bench.running.device.device import MIB
from attn_bench.running.device.host import Host
from attn_bench.running.device.select import device_of, generators, is_out_of_memory, set_generators
from attn_bench.running.measure import steps
from attn_bench.running.measure.energy import measure_energy
from attn_bench.running.measure.latency import EventSampler, Sampling, measure_latency
from attn_bench.running.measure.memory import measure_memory
from attn_bench.running.measure.parts import measure_parts
from attn_bench.running.measure.torch_state import Keeper
from attn_bench.running.room import Room
from attn_bench.running.run_cell import Files, run_cell
from attn_bench.sweep import settings as sweep_settings
from attn_bench.sweep.settings import Sweep

BRIEF = Sampling(min_samples=6, min_seconds=0, max_seconds=0.05, warmup_seconds=0.05)


@pytest.fixture
def on(monkeypatch):
    """Return what makes a fake GPU the device ``cuda``, whose clock is that of whatever is measured."""

    def use(**properties):
        gpu = FakeGpu(**properties)
        monkeypatch.setitem(select.SIDES, "cuda", gpu.device)
        clock = {"clock": gpu.clock}
        for measure, more in (
            (measure_latency, {"sampling": BRIEF, "thread_clock": gpu.clock}),
            (measure_parts, {"sampling": BRIEF, "thread_clock": gpu.clock}),
            (measure_energy, {"seconds": 0.1}),
        ):
            monkeypatch.setattr(steps, measure.__name__, functools.partial(measure, **clock, **more))
        return gpu

    return use


def cell_of(monkeypatch, model, **settings):
    monkeypatch.setattr(sweep_settings, "resolve_device", lambda *args, **kwargs: "cuda")
    given = {"resolutions": [8], "batch_size": 4, "task": "toy-task", "device": "cuda", "threads": 1, "train": False}
    (cell,) = Sweep.from_settings({"models": [model], **given, **settings}).cells()
    assert cell.execution.device == "cuda"
    return cell


def operators(gpu, step):
    """Return how many operators a step gives to the device, once an optimizer has its state."""
    step()
    before = gpu.busy_ms
    with gpu:
        step()
    return round((gpu.busy_ms - before) / gpu.op_ms)


def test_the_fake_takes_what_torch_cuda_takes():
    for name, function in vars(FakeCuda).items():
        if name.startswith("_"):
            continue
        theirs = inspect.signature(getattr(torch.cuda, name)).parameters
        mine = [parameter for parameter in inspect.signature(function).parameters if parameter != "self"]
        assert set(mine) <= theirs.keys(), name


def test_a_cell_on_a_gpu_has_the_times_of_the_device(on, monkeypatch, tmp_path):
    gpu = on(readings=((1980, 0x4),), tick_ms=10.0)
    cell = cell_of(monkeypatch, "habit:plain", cuda_graph=True)
    with gpu:
        record, _ = run_cell(cell, Files.of(cell, Store(tmp_path)))
    assert (record.status, record.error, record.errors) == ("ok", None, {})
    opened = prepare.open_steps(cell)
    forward = operators(gpu, opened.step("forward")) * gpu.op_ms
    train = operators(gpu, opened.step("train_step")) * gpu.op_ms
    # The host is ten times as fast: the device is never idle within a sample.
    assert record.latency["forward"].median_ms == pytest.approx(forward, rel=0.01)
    assert record.latency["train_step"].median_ms == pytest.approx(train, rel=0.01)
    parts = [record.latency[name].median_ms for name in steps.PARTS]
    assert sum(parts) == pytest.approx(train, rel=0.01)
    assert min(parts) > 0
    for latency in record.latency.values():
        assert (latency.sm_clock_mhz, latency.clock_limits, latency.disturbed) == (1980, ("power cap",), False)
        assert latency.calibration_ms is None
    # 100 W, give or take a jump of the counter at either end.
    assert record.energy_source == "nvml"
    assert record.energy["train_step"].joules == pytest.approx(0.1 * train, rel=0.25)
    memory = record.memory["forward"]
    assert memory.total_mib >= memory.peak_mib > 0
    assert memory.process_mib == pytest.approx(memory.reserved_mib + CONTEXT / MIB, abs=1)


def test_a_graph_has_no_launches_and_a_slow_host_has(on, monkeypatch):
    """Where the host takes longer than the device, a step takes the host's time, and a graph the device's."""
    gpu = on(op_ms=0.1, launch_ms=0.5)
    opened = prepare.open_steps(cell_of(monkeypatch, "habit:plain"))
    count = operators(gpu, opened.step("forward"))
    with gpu:
        launched, graph = opened.latency("forward"), opened.graph_latency()
    # The first of a sample is launched before the first event is reached.
    assert launched.median_ms == pytest.approx(0.5 * count, rel=0.2)
    assert graph.median_ms <= 0.1 * count + 0.5
    device = opened.device
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        with device.cuda.graph(device.cuda.CUDAGraph()):
            device.synchronize()


def test_events_are_read_after_one_synchronization_and_the_clock_while_the_device_works(on):
    gpu = on(op_ms=2.0)
    x = torch.ones(4)
    sampler = EventSampler(lambda: x + 1, gpu.device(), gpu.device().clocks(), flush_l2=False)
    with gpu:
        # The first event is reached at once, and the first operator after its launch.
        assert sampler(5, 3) == pytest.approx([2.0 + 0.01 / 3, *[2.0] * 4])
        assert (gpu.synchronized, gpu.nvml.asked, gpu.at_work) == (1, 1, 1)
        start, end = gpu.cuda.Event(enable_timing=True), gpu.cuda.Event(enable_timing=True)
        start.record()
        x + 1
        end.record()
        with pytest.raises(RuntimeError, match="not ready"):
            start.elapsed_time(end)


def test_the_cache_is_overwritten_before_each_sample_and_not_timed(on):
    gpu = on(op_ms=2.0)
    x, before = torch.ones(4), gpu.busy_ms
    with gpu:
        flush = EventSampler(lambda: x + 1, gpu.device(), gpu.device().clocks(), flush_l2=True)
        begun = gpu.busy_ms
        assert flush(5, 1) == pytest.approx([2.0] * 5)
    assert gpu.busy_ms - begun == pytest.approx(5 * 2 * 2.0)
    assert begun > before
    sampling = Sampling(min_samples=6, min_seconds=0, flush_l2=True)
    with gpu:
        latency = measure_latency(lambda: x + 1, "cuda", sampling, clock=gpu.clock, thread_clock=gpu.clock)
    assert (latency.l2_flushed, latency.calls_per_sample, latency.median_ms) == (True, 1, pytest.approx(2.0))


def test_peak_counters_are_those_of_the_step(on):
    gpu = on()
    layer = nn.Linear(256, 1024)
    with gpu:
        x, kept = torch.randn(512, 256), torch.zeros(3 * MIB, dtype=torch.uint8)
        big = torch.zeros(64 * MIB, dtype=torch.uint8)
        del big
        memory = measure_memory(lambda: layer(x), "cuda")
    assert memory.peak_mib == pytest.approx(512 * 1024 * 4 / MIB)
    assert memory.baseline_mib == pytest.approx((x.nbytes + kept.nbytes) / MIB)
    assert memory.total_mib == pytest.approx(memory.peak_mib + memory.baseline_mib)
    # The allocator keeps what was freed before.
    assert memory.reserved_mib >= 64


def test_gradients_that_a_step_replaces_count_for_the_step(on):
    gpu = on()
    layer, x = nn.Linear(1024, 1024, bias=False), torch.randn(2, 1024)

    def step():
        layer.zero_grad(set_to_none=True)
        layer(x).sum().backward()

    with gpu:
        memory = measure_memory(step, "cuda")
    assert memory.peak_mib == pytest.approx(layer.weight.nbytes / MIB, rel=0.05)
    assert memory.baseline_mib == pytest.approx(0, abs=0.05)


def test_a_full_memory_is_the_status_of_the_cell(on, monkeypatch, tmp_path):
    gpu = on(memory=4096)
    cell = cell_of(monkeypatch, "habit:plain", batch_size=64)
    with gpu:
        record, _ = run_cell(cell, Files.of(cell, Store(tmp_path)))
    assert record.status == "oom"
    assert "Tried to allocate" in record.error


def test_the_batch_size_is_what_fits_the_memory_of_the_gpu(on, monkeypatch):
    found = []
    for memory in (2**18, 2**20):
        gpu = on(memory=memory)
        cell = cell_of(monkeypatch, "habit:plain", batch_size="auto")
        keeper = Keeper(0)
        with gpu:
            found.append(batch_size.find_batch_size(cell, prepare.pose(cell, keeper), keeper, Room()))
            assert gpu.reserved <= gpu.total
    assert [round(each["batch_size_found_for_mib"], 2) for each in found] == [0, 1]
    assert 1 < found[0]["batch_size"] < found[1]["batch_size"]


def test_two_revisions_are_compared_after_the_device_is_done(on, monkeypatch):
    gpu = on(op_ms=3.0)
    now = iter(range(10**9))
    monkeypatch.setattr(worker.time, "perf_counter_ns", lambda: next(now) and gpu.clock())
    opened = prepare.open_steps(cell_of(monkeypatch, "habit:plain"))
    count = operators(gpu, opened.step("forward"))
    with gpu:
        answer = worker._answer(opened, {"step": "forward", "calls": 3, "lead": 0})
    assert answer["ms"] == pytest.approx(3.0 * count, abs=0.02)


def test_generators_of_the_gpu_are_kept(on, monkeypatch):
    gpu = on()
    device = device_of("cuda:0")
    before = gpu.generator.get_state()
    torch_before = torch.get_rng_state()
    with device.same_generators():
        torch.rand(3, generator=gpu.generator)
        torch.rand(3)
    assert torch.equal(gpu.generator.get_state(), before)
    assert torch.equal(torch.get_rng_state(), torch_before)
    for name, value in (("is_available", True), ("is_initialized", True)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "get_rng_state", gpu.cuda.get_rng_state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", gpu.cuda.set_rng_state)
    states = generators()
    drawn = torch.rand(3, generator=gpu.generator)
    set_generators(states)
    assert torch.equal(torch.rand(3, generator=gpu.generator), drawn)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 4 bytes"), True),
        (RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("a text about CUDA error: out of memory"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


def test_the_cpu_needs_no_events_and_says_what_it_does_not_have():
    host = device_of("cpu")
    assert isinstance(host, Host)
    assert (host.asynchronous, host.counter, str(host.tensors)) == (False, None, "cpu")
    assert host.clocks().sm_mhz() is None
    start, end = host.event(), host.event()
    with host.current():
        start.record()
        host.cache_flush()()
        host.synchronize()
        end.record()
    assert start.elapsed_time(end) >= 0
    assert host.room_mib(10, 20, 0.5) <= 20
    with pytest.raises(ValueError, match="use a GPU"):
        host.graph(lambda: None)
    with pytest.raises(ValueError, match="'mps' cannot be timed; use 'cpu' or 'cuda'"):
        device_of("mps")


def test_a_gpu_that_nvml_does_not_know_is_measured_without_it(on):
    gpu = on()
    gpu.cuda.get_device_properties = lambda device=None: type("Properties", (), {"uuid": "other"})
    device = device_of("cuda")
    assert (device.process_mib(), device.clocks().sm_mhz()) == (None, None)
    assert str(device.meter()).startswith("no energy counter: NVML has none of this GPU")


# Where torch is asked for a GPU outside the interface, and why.
ELSEWHERE = {
    "running/device/select.py": "generators of all devices",
    "running/device/cuda.py": "the side itself",
    "running/executors/shares.py": "how many GPUs there are, before any cell has one",
    "running/measure/machine.py": "describes the machine",
    "sweep/devices.py": "whether there is a GPU, without a context on it",
    "profiling/ncu.py": "starts and stops NVIDIA's profiler",
}


def test_nothing_else_asks_torch_for_a_gpu():
    root = Path(attn_bench.__file__).parent
    asks = re.compile(r"torch\.cuda\.(?!OutOfMemory)|\bdevice\.startswith\(\"cuda")
    texts = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in root.rglob("*.py")}
    # Tasks, which stand below a run, are told a device by an option of theirs.
    texts = {name: text for name, text in texts.items() if not name.startswith("tasks/")}
    assert {name for name, text in texts.items() if asks.search(text)} <= ELSEWHERE.keys()
