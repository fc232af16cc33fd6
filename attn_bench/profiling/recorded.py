"""What torch's profiler records of the measured steps of a model, told by part, module and operator.

Modules are known by a range around each call of one. An operator of the backward pass belongs to the module in whose
call its node of the autograd graph was made, which sequence numbers say.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from attn_bench.sweep.cell import Cell

if TYPE_CHECKING:
    from torch import nn

    from attn_bench.running.measure.steps import Steps

CALLS = 5
# Calls before any is timed; those without the profiler are as many as those with it.
_WARMUP = 3
Kind = Literal["part", "module", "operator"]
_PARTS = ("forward", "backward", "optimizer")
_RANGE = "attn_bench."
# How the autograd engine announces a node of its graph.
_NODE = "autograd::engine::evaluate_function: "
# Operators that only allocate: what they allocate is for the operator that calls them.
_ALLOCATORS = ("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::resize_")


class Frame(NamedTuple):
    """A part of a step, a call of a module, or an operator.

    Attributes:
        name: of a module its path in the model, empty for the model itself.
        of: class of a module; empty for others.
    """

    kind: Kind
    name: str
    of: str = ""


Stack = tuple[Frame, ...]


@dataclass
class Spent:
    """What was spent in one place itself, without what it called; sums over all calls of the step.

    Attributes:
        calls: how often.
        cpu_us: time on the CPU, in microseconds.
        device_us: time of the kernels that it launched, in microseconds.
        allocated: bytes that it allocated.
    """

    calls: int = 0
    cpu_us: float = 0.0
    device_us: float = 0.0
    allocated: int = 0


@dataclass(frozen=True)
class Recording:
    """What was recorded of a step of a cell.

    Attributes:
        step: ``forward`` or ``train_step``.
        calls: of the step.
        latency_ms: median time of as many calls without the profiler.
        spent: by where.
        on_device: whether time is that of a GPU's kernels.
        modules: whether modules are known; those of a compiled model are not.
    """

    cell: Cell
    step: str
    calls: int
    latency_ms: float
    spent: Mapping[Stack, Spent] = field(default_factory=dict)
    on_device: bool = False
    modules: bool = True

    def ms(self, spent: Spent) -> float:
        """Return the time of a place, in milliseconds per call of the step."""
        return (spent.device_us if self.on_device else spent.cpu_us) / 1000 / self.calls

    @property
    def total_ms(self) -> float:
        """Time of a call of the step with the profiler, in milliseconds; on a GPU that of its kernels."""
        return sum(map(self.ms, self.spent.values()))


def recordings(cell: Cell, calls: int, traces: Callable[[str], Path]) -> Iterator[Recording]:
    """Yield what is recorded of each step of a cell.

    Args:
        traces: returns where the Chrome trace of a step is written.

    Raises:
        Unsupported, ValueError: the model does not serve the problem, or does its work where torch cannot see it.
    """
    from attn_bench.running.prepare import open_steps

    steps = open_steps(cell)
    for name in steps.names:
        yield record(steps, name, calls, traces(name))


def record(steps: Steps, name: str, calls: int, trace: Path) -> Recording:
    """Record ``calls`` calls of a step, after some that are not recorded, and write their Chrome trace."""
    from torch.profiler import profile

    from attn_bench.files import disk_errors, temporary_beside
    from attn_bench.running.processes import QUIET

    run = calls_of(steps, name)
    device, compiled = steps.device, steps.cell.execution.compile
    finish = device.synchronize
    for _ in range(_WARMUP):
        run()
    finish()
    latency = [_ms(run, finish) for _ in range(calls)]
    if steps.cell.execution.device == "cpu":
        os.environ.setdefault("KINETO_LOG_LEVEL", QUIET["KINETO_LOG_LEVEL"])  # it reports that there is no GPU
    with warnings.catch_warnings(), contextlib.nullcontext() if compiled else ranges(steps.module):
        warnings.simplefilter("ignore")
        run()
        with profile(activities=device.activities(), profile_memory=True) as profiler:
            for _ in range(calls):
                run()
            finish()
    with disk_errors(trace):
        trace.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(trace).with_suffix(".json")
        profiler.export_chrome_trace(str(temporary))
        temporary.replace(trace)
    spent = attributed(list(profiler.events() or ()), allocations(profiler))
    if not any(stack[-1].kind == "operator" for stack in spent):
        raise ValueError("the profiler sees no operator of this model, which works in its own threads")
    return Recording(steps.cell, name, calls, statistics.median(latency), spent, device.asynchronous, not compiled)


def calls_of(steps: Steps, name: str) -> Callable[[], object]:
    """Return a step with a range around each of its parts."""
    from torch.profiler import record_function

    step = steps.step(name)
    if name != "train_step":

        def forward() -> None:
            with record_function(f"{_RANGE}forward"):
                step()

        return forward
    train = steps.train_step
    assert train is not None

    def train_step() -> None:
        with record_function(f"{_RANGE}forward"):
            loss = train.forward(steps.inputs, steps.targets)
        with record_function(f"{_RANGE}backward"):
            train.backward(loss)
        with record_function(f"{_RANGE}optimizer"):
            train.update()

    return train_step


@contextlib.contextmanager
def ranges(module: nn.Module) -> Iterator[None]:
    """Put a range around each call of a module inside of ``module``, and of itself, in the block."""
    from torch.profiler import record_function

    opened: list[Any] = []

    def enter(path: str, of: str) -> Callable[..., None]:
        def before(*_: Any) -> None:
            opened.append(record_function(f"{_RANGE}{path}:{of}"))
            opened[-1].__enter__()

        return before

    def leave(*_: Any) -> None:
        opened.pop().__exit__(None, None, None)

    handles = []
    for path, each in module.named_modules():
        # The range of a module encloses its other hooks, which are part of what it does.
        handles.append(each.register_forward_pre_hook(enter(path, type(each).__name__), prepend=True))
        handles.append(each.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _ms(run: Callable[[], object], finish: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    run()
    finish()
    return (time.perf_counter_ns() - start) / 1e6


class Allocation(NamedTuple):
    """Bytes that were allocated: when, in microseconds as events have it, and by which thread."""

    at_us: float
    thread: int
    size: int


def allocations(profiler: Any) -> list[Allocation]:
    """Return the allocations of a recording, on every device; freeing is none."""
    results = profiler.profiler.kineto_results
    start = results.trace_start_ns()
    return [
        Allocation((event.start_ns() - start) / 1000, event.start_thread_id(), event.nbytes())
        for event in results.events()
        if event.name() == "[memory]" and event.nbytes() > 0
    ]


def attributed(events: Iterable[Any], allocated: Iterable[Allocation] = ()) -> dict[Stack, Spent]:
    """Return what was spent where, from events of the profiler (``torch.autograd.profiler_util.FunctionEvent``).

    What no part encloses is left out, except what another thread does meanwhile, as the backward pass on a GPU is.
    """
    own = sorted((each for each in events if each.device_type.name == "CPU"), key=_place)
    stacks: dict[int, Stack] = {}
    found: dict[Stack, Spent] = defaultdict(Spent)
    made = _Made()
    parts = [each for each in own if _frame(each.name).kind == "part"]
    waiting: dict[int, float] = defaultdict(float)
    for event in own:
        above = stacks.get(id(event.cpu_parent)) if event.cpu_parent is not None else None
        frame = _frame(event.name)
        if above is None and frame.kind != "part":
            part = next((each for each in parts if _holds(each, event)), None)
            if part is None:
                continue
            above = (_frame(part.name),)
            waiting[id(part)] += _us(event)
        if above and above[-1].kind == "part" and event.name.startswith(_NODE):
            above = (*above, *made.modules(event.sequence_nr))
        stack = stacks[id(event)] = (*(above or ()), frame)
        if stack[0].name == "forward":
            made.add(event.sequence_nr, stack)
    for event in own:
        if (stack := stacks.get(id(event), ())) != ():
            spent = found[stack]
            spent.calls += 1
            inner = sum(map(_us, event.cpu_children)) + waiting[id(event)]
            spent.cpu_us += max(_us(event) - inner, 0.0)
            spent.device_us += sum(kernel.duration for kernel in event.kernels)
    _allocate(found, own, stacks, allocated)
    return dict(found)


def _allocate(
    found: Mapping[Stack, Spent], own: Sequence[Any], stacks: Mapping[int, Stack], allocated: Iterable[Allocation]
) -> None:
    """Add allocations to the innermost event of their thread that they happened in."""
    threads: dict[int, list[Any]] = defaultdict(list)
    for event in own:  # in the order of their starts, outer ones first
        threads[event.thread].append(event)
    starts = {thread: [event.time_range.start for event in events] for thread, events in threads.items()}
    for at_us, thread, size in allocated:
        i = bisect.bisect_right(starts.get(thread, ()), at_us) - 1
        event = threads[thread][i] if i >= 0 else None
        while event is not None and (event.time_range.end < at_us or _only_allocates(event)):
            event = event.cpu_parent
        if event is not None and (stack := stacks.get(id(event))) is not None:
            found[stack].allocated += size


class _Made:
    """The modules in whose calls nodes of the autograd graph were made.

    A node has the number that the operator that made it began with; so do operators before it that made none.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.stacks: list[Stack] = []

    def add(self, number: int, stack: Stack) -> None:
        """Note where an operator that began with a number was called."""
        if number < 0 or (self.numbers and number < self.numbers[-1]):
            return
        self.numbers.append(number)
        self.stacks.append(stack)

    def modules(self, number: int) -> Stack:
        """Return the modules around the call that made a node; none for nodes of which that is unknown."""
        i = bisect.bisect_right(self.numbers, number) - 1
        known = number >= 0 and i >= 0
        return tuple(frame for frame in self.stacks[i] if frame.kind == "module") if known else ()


def _frame(name: str) -> Frame:
    if not name.startswith(_RANGE):
        return Frame("operator", name)
    what = name.removeprefix(_RANGE)
    path, colon, of = what.rpartition(":")
    return Frame("module", path, of) if colon else Frame("part", what)


def _only_allocates(event: Any) -> bool:
    above = event.cpu_parent
    return event.name in _ALLOCATORS and above is not None and _frame(above.name).kind == "operator"


def _place(event: Any) -> tuple[float, float]:
    return event.time_range.start, -event.time_range.end


def _us(event: Any) -> float:
    return event.time_range.end - event.time_range.start


def _holds(outer: Any, inner: Any) -> bool:
    return outer.time_range.start <= inner.time_range.start <= outer.time_range.end
