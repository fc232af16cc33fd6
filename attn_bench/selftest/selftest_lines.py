"""The lines of the self-test: each is a function of a :class:`Bench` and returns the number that it found.

A line raises :class:`Failed` or any other error if something is wrong, and :class:`Skip` if it does not apply.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attn_bench.nn.transformer import Block
from attn_bench.plugin import Unsupported
from attn_bench.running.device.device import MIB, Device
from attn_bench.running.device.select import device_of, is_out_of_memory
from attn_bench.running.measure.energy import measure_energy
from attn_bench.running.measure.latency import Sampling, measure_latency
from attn_bench.running.measure.memory import measure_memory
from attn_bench.running.measure.steps import Steps
from attn_bench.running.prepare import open_steps
from attn_bench.running.runner import run_sweep
from attn_bench.selftest.line_outcome import Failed, Sizes, Skip
from attn_bench.sweep.settings import Sweep

SAMPLING = Sampling(min_samples=6, min_seconds=0.2, max_seconds=1.0, warmup_seconds=0.5, target=0.03)
# The multipole attention under test, its slow reading, and exact attention, by what a user calls them.
MULTIPOLE, LITERAL = "mano", {"name": "mano", "options": {"backend": "reference"}}
FAST, EXACT = "fma", "full"


@dataclass(frozen=True)
class Bench:
    """The device under test, and where a line looks."""

    name: str
    sizes: Sizes

    @property
    def device(self) -> Device:
        """The device under test."""
        return device_of(self.name)

    def steps(self, model: Any, task: str, resolution: int, **settings: Any) -> Steps:
        """Return the steps of a model on random data of a task, one sample at a time."""
        given = {"task": task, "resolutions": [resolution], "batch_size": 1, "train": False, "device": self.name}
        (cell,) = Sweep.from_settings({"models": [model], **given, **settings}).cells()
        return open_steps(cell)

    def ms(self, step: Callable[[], object]) -> float:
        """Return the median latency of a step."""
        return measure_latency(step, self.name, SAMPLING).median_ms


def _off(found: Tensor, expected: Tensor) -> float:
    """Return the relative L2 distance of two tensors."""
    difference = found.detach().cpu().double() - expected.detach().cpu().double()
    return float(difference.norm() / expected.detach().cpu().double().norm())


def _below(name: str, value: float, limit: float) -> None:
    if not value <= limit:
        raise Failed(f"{name} is off by {value:.1e}; at most {limit:.0e} is allowed")


def _with_gradient(steps: Steps) -> tuple[Tensor, list[Tensor]]:
    """Return the output of a module and the gradients of its parameters by the sum of its squares."""
    module = steps.module.eval()
    module.zero_grad(set_to_none=True)
    output = module(steps.inputs)
    output.float().square().mean().backward()
    return output.detach(), [p.grad for p in module.parameters() if p.grad is not None]


def _against_reference(bench: Bench, model: Any, task: str, resolution: int) -> str:
    """Compare a module in float32 with itself in float64 on the CPU."""
    steps = bench.steps(model, task, resolution)
    output, gradients = _with_gradient(steps)
    steps.module.double().cpu()
    steps.inputs = steps.inputs.cpu().double() if steps.inputs.is_floating_point() else steps.inputs.cpu()
    exact, exact_gradients = _with_gradient(steps)
    found, expected = (output, *gradients), (exact, *exact_gradients)
    worst = max(_off(one, other) for one, other in zip(found, expected, strict=True))
    _below("an output or a gradient", worst, 1e-3)
    return f"off by {worst:.1e} (output and gradients, {resolution})"


def multipole_kernels(bench: Bench) -> str:
    """MANO's kernels, windows side by side and overlapping, against float64."""
    overlapping = {"name": MULTIPOLE, "options": {"window_size": 4, "stride": 2}}
    side = bench.sizes.grids[0]
    return "; ".join(_against_reference(bench, model, "darcy", side) for model in (MULTIPOLE, overlapping))


def fast_kernels(bench: Bench) -> str:
    """The kernels of Fast Multipole Attention against float64."""
    return _against_reference(bench, FAST, "text", bench.sizes.lengths[0])


def memory_counter(bench: Bench) -> str:
    """The peak of a step that makes two tensors of known size."""
    size = bench.sizes.copied_mib * MIB // 8

    def step() -> None:
        kept = torch.ones(size, dtype=torch.uint8, device=bench.device.tensors)
        kept + kept

    found = measure_memory(step, bench.name).peak_mib
    expected = 2 * size / MIB
    _below("peak memory", abs(found - expected) / expected, 0.02)
    return f"{found:.2f} MiB of {expected:.2f}"


def multipole_speed(bench: Bench) -> str:
    """MANO against the literal reading of its equations: same output, less time."""
    found = []
    for side in bench.sizes.grids:
        ours, literal = (bench.steps(model, "darcy", side) for model in (MULTIPOLE, LITERAL))
        _below(f"MANO at {side}", _off(ours.step("forward")(), literal.step("forward")()), 1e-3)  # type: ignore[arg-type]
        faster = bench.ms(literal.step("forward")) / bench.ms(ours.step("forward"))
        found.append(f"{faster:.1f} x at {side}")
    if faster < 1:
        raise Failed(f"slower than the literal reading: {', '.join(found)}")
    return ", ".join(found)


def fast_speed(bench: Bench) -> str:
    """Fast Multipole Attention against scaled_dot_product_attention, forward."""
    found, precision = [], "bf16" if bench.device.asynchronous else "float32"
    for length in bench.sizes.lengths:
        steps = (bench.steps(model, "text", length, precision=precision) for model in (FAST, EXACT))
        ours, exact = (bench.ms(each.step("forward")) for each in steps)
        found.append(f"{exact / ours:.1f} x at {length}")
    return ", ".join(found)


def _package(bench: Bench, model: str) -> str:
    try:
        steps = bench.steps(model, "text", bench.sizes.lengths[0])
    except Unsupported as error:
        raise Skip(str(error)) from None
    output = steps.step("forward")()
    if not torch.isfinite(output).all():  # type: ignore[arg-type]
        raise Failed("its output is not finite")
    return f"{bench.ms(steps.step('forward')):.2f} ms at {bench.sizes.lengths[0]}"


def natten(bench: Bench) -> str:
    """Neighborhood attention of the package natten."""
    return _package(bench, "natten")


def fla(bench: Bench) -> str:
    """Linear attention of the package flash-linear-attention."""
    return _package(bench, "fla")


def copy_bandwidth(bench: Bench) -> str:
    """How fast memory is copied, and the share of that at which a layer of MANO moves its input and output."""
    source = torch.ones(bench.sizes.copied_mib * MIB // 4, device=bench.device.tensors)
    target = torch.empty_like(source)
    rate = 2 * source.nbytes / bench.ms(lambda: target.copy_(source))
    steps = bench.steps(MULTIPOLE, "darcy", bench.sizes.grids[-1])
    mixer = next(module.mixer for module in steps.module.modules() if isinstance(module, Block))
    given: list[Tensor] = []
    with mixer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0])):
        steps.step("forward")()
    (x,) = given
    with torch.inference_mode():
        moving = 2 * x.nbytes / bench.ms(lambda: mixer(x))  # the output has the shape of the input
    return f"{rate / 1e6:.0f} GB/s; the forward pass of MANO's attention at {moving / rate:.1%} of it"


def other_instrument(bench: Bench) -> str:
    """Our latency against triton.testing.do_bench."""
    if not bench.device.asynchronous:
        raise Skip("triton.testing.do_bench needs a GPU")
    from triton.testing import do_bench

    a = torch.randn(4096, 4096, device=bench.device.tensors)
    ours, theirs = [], []
    for _ in range(5):
        ours.append(measure_latency(lambda: a @ a, bench.name, Sampling(max_seconds=0.5, flush_l2=True)).median_ms)
        theirs.append(do_bench(lambda: a @ a, return_mode="median"))
    ratio = statistics.median(ours) / statistics.median(theirs)
    _below("the ratio of both", abs(ratio - 1), 0.05)
    return f"ratio {ratio:.3f}"


def small_run(bench: Bench) -> str:
    """A run of the usual models, trained for a few steps."""
    with tempfile.TemporaryDirectory(prefix="attn-bench-") as folder:
        settings = {"models": [MULTIPOLE, EXACT], "task": "digits", "steps": bench.sizes.steps, "measure": False}
        table = run_sweep(Sweep.from_settings({**settings, "device": bench.name}), Path(folder))
    for row in table.to_dict("records"):
        if row["status"] != "ok":
            raise Failed(f"{row['model']}: {row['error'] or row['status']}")
    return f"{len(table)} cells trained"


def bf16(bench: Bench) -> str:
    """A forward pass in bf16 against float32."""
    side = bench.sizes.grids[0]
    full, half = (bench.steps(MULTIPOLE, "darcy", side, precision=precision) for precision in ("float32", "bf16"))
    off = _off(half.step("forward")(), full.step("forward")())  # type: ignore[arg-type]
    _below("bf16", off, 0.1)
    faster = bench.ms(full.step("train_step")) / bench.ms(half.step("train_step"))
    return f"off by {off:.1e}; a training step {faster:.2f} x as fast"


def compiled(bench: Bench) -> str:
    """A forward pass under torch.compile against the same without."""
    length = bench.sizes.lengths[0]
    plain, fast = (
        bench.steps({"name": EXACT, "options": {"depth": 1}}, "text", length, compile=value) for value in (False, True)
    )
    off = _off(fast.step("forward")(), plain.step("forward")())  # type: ignore[arg-type]
    _below("torch.compile", off, 1e-3)
    return f"off by {off:.1e}; {bench.ms(plain.step('forward')) / bench.ms(fast.step('forward')):.2f} x as fast"


def graphs(bench: Bench) -> str:
    """A forward pass replayed as a graph."""
    if not bench.device.asynchronous:
        raise Skip("the CPU has no graphs of kernels")
    steps = bench.steps(EXACT, "text", bench.sizes.lengths[0])
    launched, replayed = bench.ms(steps.step("forward")), steps.graph_latency().median_ms
    if replayed > 1.1 * launched:
        raise Failed(f"{replayed:.3f} ms replayed and {launched:.3f} ms launched")
    return f"{launched / replayed:.2f} x as fast as launched"


def out_of_memory(bench: Bench) -> str:
    """Tensors twice as large each time, until memory is full; then all is free again."""
    place, size, last = bench.device.tensors, bench.sizes.copied_mib, 0
    # A processor promises memory that it does not have, so that filling it would end the process: ask for too much.
    size = size if bench.device.asynchronous else 1 << 36
    try:
        while True:
            torch.empty(size * MIB, dtype=torch.uint8, device=place)
            size, last = 2 * size, size
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    bench.device.empty_cache()
    torch.ones(MIB, device=place).sum().item()
    return f"{size / 1024:.0f} GiB is too much, {last / 1024:.0f} GiB fits" if last else "recognized"


def energy(bench: Bench) -> str:
    """Joules of a step, and the power that it means."""
    meter = bench.device.meter()
    if isinstance(meter, str):
        raise Skip(meter)
    a = torch.randn(2048, 2048, device=bench.device.tensors)
    found = measure_energy(lambda: a @ a, meter, bench.device.synchronize)
    watts = found.joules * found.calls / found.seconds
    if not 1 < watts < 3000:
        raise Failed(f"{watts:.0f} W is not the power of a device")
    return f"{found.joules:.3g} J, {watts:.0f} W"


LINES: Mapping[str, Callable[[Bench], str]] = {
    "MANO's kernels against the reference": multipole_kernels,
    "FMA's kernels against the reference": fast_kernels,
    "memory counter": memory_counter,
    "MANO against the literal reading": multipole_speed,
    "FMA against exact attention": fast_speed,
    "natten": natten,
    "flash-linear-attention": fla,
    "share of copy bandwidth": copy_bandwidth,
    "latency against do_bench": other_instrument,
    "small run": small_run,
    "bf16": bf16,
    "torch.compile": compiled,
    "graphs": graphs,
    "out of memory": out_of_memory,
    "energy": energy,
}
