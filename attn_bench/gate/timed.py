"""Compares latencies: which runs count, the verdict, and notes for the reader."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from attn_bench.analysis.statistics import exp
from attn_bench.gate.conditions import unlike
from attn_bench.gate.gaps import Missing, latency_of
from attn_bench.gate.paired import Paired, Sides
from attn_bench.gate.verdicts import Finding, explained, judge, timed_ratio
from attn_bench.results.quantities import Quantity, quantities
from attn_bench.results.record import Latency, Record

# A difference in the speed of the machine from this factor on is mentioned.
MENTIONED = 1.02


@dataclass(frozen=True)
class Runs:
    """The runs of a step that are compared, in pairs.

    Attributes:
        seeds: of the pairs that both folders have.
        compared: the pairs in which neither run was disturbed, or all pairs if there are none.
        left_out: number of other pairs.
        again: whether the compared runs include one that was measured again.
    """

    seeds: tuple[int, ...]
    compared: tuple[Sides[Latency], ...]
    left_out: int
    again: bool

    @property
    def disturbed(self) -> list[str]:
        """The sides with a disturbed run among the compared ones."""
        sides = {"base": [run.base for run in self.compared], "new": [run.new for run in self.compared]}
        return [name for name, latencies in sides.items() if any(latency.unquiet for latency in latencies)]

    @property
    def machine(self) -> float:
        """How much slower the calibration workload was while measuring new."""
        return statistics.median(map(_machine, self.compared))


def timed(paired: Paired) -> Iterator[Finding]:
    """Yield findings on the latencies of a cell."""
    for quantity in quantities(None, "timed"):
        if (runs := _runs(paired, quantity)) is not None:
            yield _finding(paired, quantity.name, runs)


def _runs(paired: Paired, quantity: Quantity) -> Runs | None:
    read = latency_of(quantity)
    pairs = paired.numbers(quantity.name, read, lambda apart: apart.times)
    if not pairs:
        return None
    seeds = tuple(pairs)
    again = [Sides(pairs[seeds[0]].base, latency) for latency in _again(paired, seeds[0], read)]
    runs = (*pairs.values(), *again)
    quiet = tuple(run for run in runs if not (run.base.unquiet or run.new.unquiet))
    compared = quiet or runs
    return Runs(seeds, compared, len(runs) - len(compared), any(run in compared for run in again))


def _again(paired: Paired, seed: int, read: Callable[[Record], Latency | Missing]) -> Iterator[Latency]:
    """Yield the latencies of new that were measured again under the same conditions."""
    for record in paired.again:
        latency = read(record)
        if not isinstance(latency, Missing) and not unlike(paired.case.new[seed], record, (None, None)).memory:
            yield latency


def _finding(paired: Paired, metric: str, runs: Runs) -> Finding:
    machine = runs.machine
    ratio = timed_ratio([(run.base.samples_ms, run.new.samples_ms) for run in runs.compared], machine)
    verdict = judge(ratio, paired.thresholds.shown(metric, paired.case.label))
    middle = Sides(
        statistics.median(statistics.median(run.base.samples_ms) for run in runs.compared),
        statistics.median(statistics.median(run.new.samples_ms) for run in runs.compared),
    )
    changed = verdict != "same"
    unconfirmed = bool(paired.again) and not runs.again
    notes = [
        *_quiet(runs, changed=changed),
        f"measured again {len(paired.again)} times, but never undisturbed under the same conditions"
        if unconfirmed and changed
        else "",
        _slower(machine),
        explained(ratio.value * math.sqrt(machine), middle.base, middle.new, len(runs.compared)),
    ]
    return replace(
        paired.finding(metric, runs.seeds),
        verdict="unclear" if changed and (runs.disturbed or unconfirmed) else verdict,
        base=middle.base,
        new=middle.new,
        ratio=ratio,
        note="; ".join(filter(None, notes)),
    )


def _quiet(runs: Runs, *, changed: bool) -> Iterator[str]:
    """Yield notes on disturbed runs: those compared, or those left out if that matters."""
    if runs.disturbed:
        yield f"disturbed by other processes or heat in {' and '.join(runs.disturbed)}"
    elif runs.left_out and changed:
        total = runs.left_out + len(runs.compared)
        yield f"{runs.left_out} of {total} runs left out: disturbed by other processes or heat"


def _slower(machine: float) -> str:
    """Yield a note that the machine was slower on one side, and how that is taken into account."""
    if abs(math.log(machine)) <= math.log(MENTIONED):
        return ""
    side, done = ("new", "subtracted from") if machine > 1 else ("base", "added to")
    return (
        f"the calibration workload was {max(machine, 1 / machine):.2f}x slower while measuring {side}; "
        f"half of that is {done} the change"
    )


def _machine(run: Sides[Latency]) -> float:
    """Return how much slower the calibration workload was while measuring new; 1 if it was not timed."""
    before, after = run.base.calibration_ms, run.new.calibration_ms
    return exp(math.log(after) - math.log(before)) if before and after else 1.0
