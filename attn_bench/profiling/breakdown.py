"""Tables of recordings: time and allocations by operator and by module, per call of the step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attn_bench.format import plain, significant
from attn_bench.profiling.recorded import Recording, Spent, Stack

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Group
    from rich.table import Table

MIB = 2**20
# Time in no operator: Python, and the dispatch of operators.
PYTHON = "(Python)"
WHOLE = "(whole model)"
OUTSIDE = "(outside the model)"
# Rows in a terminal and on the page.
SHOWN = 15


@dataclass(frozen=True)
class OperatorRow:
    """An operator.

    Attributes:
        calls: per call of the step.
        time_ms: without operators that it calls; on a GPU that of its kernels.
        share: of the time of the step.
        cpu_ms: time on the CPU, the same unless the model runs on a GPU.
        allocated_mib: that it allocates itself.
    """

    operator: str
    calls: float
    time_ms: float
    share: float
    cpu_ms: float
    allocated_mib: float


@dataclass(frozen=True)
class ModuleRow:
    """A module of the model, with the modules in it.

    Attributes:
        module: its path in the model.
        of: its class.
        calls: per call of the step.
        forward_ms, backward_ms: with everything that it calls; on a GPU that of its kernels.
        own_ms: forward and backward, without the modules in it.
        share: of the time of the step, forward and backward.
        allocated_mib: that it allocates, with everything that it calls.
    """

    module: str
    of: str
    calls: float
    forward_ms: float
    backward_ms: float
    own_ms: float
    share: float
    allocated_mib: float


def operators(recording: Recording) -> list[OperatorRow]:
    """Return a row for each operator, and one for what is in none; the longest first."""
    groups: dict[str, list[Spent]] = defaultdict(list)
    for stack, spent in recording.spent.items():
        groups[stack[-1].name if stack[-1].kind == "operator" else PYTHON].append(spent)
    rows = [
        OperatorRow(
            name,
            0.0 if name == PYTHON else sum(each.calls for each in group) / recording.calls,
            sum(map(recording.ms, group)),
            _share(group, recording),
            sum(each.cpu_us for each in group) / 1000 / recording.calls,
            _mib(group, recording),
        )
        for name, group in groups.items()
    ]
    return sorted(rows, key=lambda row: (-row.time_ms, row.operator))


def modules(recording: Recording) -> list[ModuleRow]:
    """Return a row for each module, and one for what is outside of the model; the longest first."""
    total: dict[tuple[str, str], list[tuple[Stack, Spent]]] = defaultdict(list)
    own: dict[tuple[str, str], list[Spent]] = defaultdict(list)
    counted: dict[tuple[str, str], int] = defaultdict(int)
    for stack, spent in recording.spent.items():
        around = [(frame.name or WHOLE, frame.of) for frame in stack if frame.kind == "module"] or [(OUTSIDE, "")]
        for place in dict.fromkeys(around):
            total[place].append((stack, spent))
        own[around[-1]].append(spent)
        if stack[-1].kind == "module":
            counted[around[-1]] += spent.calls
    rows = [
        ModuleRow(
            *place,
            counted[place] / recording.calls,
            sum(recording.ms(spent) for stack, spent in found if stack[0].name != "backward"),
            sum(recording.ms(spent) for stack, spent in found if stack[0].name == "backward"),
            sum(map(recording.ms, own[place])),
            _share((spent for _, spent in found), recording),
            _mib((spent for _, spent in found), recording),
        )
        for place, found in total.items()
    ]
    return sorted(rows, key=lambda row: (-row.share, row.module))


def _share(group: Iterable[Spent], recording: Recording) -> float:
    whole = recording.total_ms
    return sum(map(recording.ms, group)) / whole if whole else 0.0


def _mib(group: Iterable[Spent], recording: Recording) -> float:
    return sum(each.allocated for each in group) / MIB / recording.calls


def frame(recordings: Sequence[Recording], by: Any) -> pd.DataFrame:
    """Return the rows of :func:`operators` or :func:`modules` of several recordings as one table."""
    import pandas as pd

    return pd.DataFrame({**_where(recording), **vars(row)} for recording in recordings for row in by(recording))


def plain_data(recordings: Sequence[Recording]) -> list[dict[str, Any]]:
    """Return recordings for other programs."""
    return [
        {
            **_where(recording),
            "calls": recording.calls,
            "latency_ms": recording.latency_ms,
            "profiled_ms": recording.total_ms,
            "operators": operators(recording),
            "modules": modules(recording) if recording.modules else [],
        }
        for recording in recordings
    ]


def _where(recording: Recording) -> dict[str, Any]:
    cell = recording.cell
    return {"model": cell.model, "task": cell.task, "resolution": cell.resolution, "step": recording.step}


def title(recording: Recording) -> str:
    """Return what was recorded, in words."""
    cell = recording.cell
    variant = f" [{cell.variant}]" if cell.variant else ""
    return f"{cell.model}{variant} on {cell.task} at {cell.resolution}, {recording.step.replace('_', ' ')}"


def headline(recording: Recording) -> str:
    """Say how long a step took, with the profiler and without."""
    what = "of kernels with it" if recording.on_device else "with it"
    return (
        f"{significant(recording.latency_ms)} ms without the profiler (median), {significant(recording.total_ms)} ms "
        f"{what} (mean of {recording.calls} calls); batches of {recording.cell.execution.samples}"
    )


def console(recordings: Sequence[Recording]) -> Group:
    """Return the tables for a terminal, with their longest rows."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = []
    for recording in recordings:
        parts += [Text(title(recording), "bold"), Text(headline(recording)), _operators(recording)]
        parts += [_modules(recording)] if recording.modules else [Text("a compiled model has no modules to tell apart")]
        parts.append(Text())
    return Group(*parts[:-1])


def _operators(recording: Recording) -> Table:
    rows = operators(recording)
    table = _table("operator", "calls", "ms", "%", "MiB")
    for row in rows[:SHOWN]:
        table.add_row(plain(row.operator, 60), calls(row.calls), *_costs(row.time_ms, row.share, row.allocated_mib))
    if rest := rows[SHOWN:]:
        sums = (sum(getattr(row, name) for row in rest) for name in ("time_ms", "share", "allocated_mib"))
        table.add_row(f"{len(rest)} more", "", *_costs(*sums))
    return table


def _modules(recording: Recording) -> Table:
    rows = modules(recording)
    table = _table("module", "class", "calls", "fwd ms", "bwd ms", "own ms", "%", "MiB")
    for row in rows[:SHOWN]:
        times = (number(value) for value in (row.forward_ms, row.backward_ms, row.own_ms))
        names = plain(row.module, 40), plain(row.of, 30) if row.of else ""
        table.add_row(*names, calls(row.calls), *times, *_costs(0, row.share, row.allocated_mib)[1:])
    if len(rows) > SHOWN:
        table.add_row(f"{len(rows) - SHOWN} more")
    return table


def _table(*heads: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for head in heads:
        left = head in ("operator", "module", "class")
        table.add_column(head, justify="left" if left else "right", no_wrap=not left)
    return table


def _costs(time_ms: float, share: float, allocated_mib: float) -> tuple[str, str, str]:
    return number(time_ms), f"{100 * share:.1f}", number(allocated_mib)


def number(value: float) -> str:
    """Return a number of a table; 0 is a dash."""
    return "-" if value == 0 else "<0.001" if value < 0.001 else significant(value)


def calls(value: float) -> str:
    """Return a number of calls; it is whole, unless the calls of a step differ."""
    return f"{value:.4g}" if value else "-"


def longest(recordings: Sequence[Recording]) -> Iterator[tuple[Recording, list[OperatorRow], list[ModuleRow]]]:
    """Yield each recording with the rows that a page shows."""
    for recording in recordings:
        yield recording, operators(recording)[:SHOWN], modules(recording)[:SHOWN] if recording.modules else []
