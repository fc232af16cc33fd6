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
from attn_bench.gate.verdicts import QUIET, Finding, explained, said_too_wide, timed_ratio
from attn_bench.results.quantities import Quantity, quantities
from attn_bench.results.record import Latency, Record

# A difference in the speed of the machine from this factor on is taken into account.
COUNTS = 1.02


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
        """How much slower the calibration workload was while measuring new; 1 if that is unknown or hardly any."""
        machine = statistics.median(map(_machine, self.compared))
        return machine if abs(math.log(machine)) > math.log(COUNTS) else 1.0


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
    found = paired.finding(metric, runs.seeds)
    verdict = paired.thresholds.judge(ratio, metric, paired.case.label)
    middle = Sides(
        statistics.median(statistics.median(run.base.samples_ms) for run in runs.compared),
        statistics.median(statistics.median(run.new.samples_ms) for run in runs.compared),
    )
    measured = ratio.value * math.sqrt(machine)
    # A disturbed measurement decides nothing, so it does not pass either.
    changed = verdict != "same" or bool(runs.disturbed and found.threshold is not None)
    unconfirmed = bool(paired.again) and not runs.again
    notes = [
        *_quiet(runs, changed=changed),
        said_too_wide(ratio, found.threshold, QUIET) if verdict == "unclear" and not runs.disturbed else "",
        f"measured again {len(paired.again)} times, but never undisturbed under the same conditions"
        if unconfirmed and changed
        else "",
        _slower(machine, ratio.value),
        explained(measured, middle.base, middle.new, len(runs.compared)),
    ]
    return replace(
        found,
        verdict="unclear" if changed and (runs.disturbed or unconfirmed) else verdict,
        base=middle.base,
        new=middle.new,
        ratio=ratio,
        measured=measured,
        note="; ".join(filter(None, notes)),
        base_disturbed="base" in runs.disturbed,
    )


def _quiet(runs: Runs, *, changed: bool) -> Iterator[str]:
    """Yield notes on disturbed runs: those compared, or those left out if that matters."""
    if runs.disturbed:
        sides = " and ".join(runs.disturbed)
        again = f", which decides nothing: {QUIET}" if changed else ""
        yield f"disturbed by other processes or heat in {sides}{again}"
    elif runs.left_out and changed:
        total = runs.left_out + len(runs.compared)
        yield f"{runs.left_out} of {total} runs left out: disturbed by other processes or heat"


def _slower(machine: float, judged: float) -> str:
    """Return a note that the machine was slower on one side, and how that is taken into account."""
    if machine == 1:
        return ""
    side, done = ("new", "subtracting") if machine > 1 else ("base", "adding")
    return (
        f"the calibration workload was {max(machine, 1 / machine):.2f}x slower while measuring {side}; "
        f"judged as {100 * (judged - 1):+.1f} %, after {done} half of that"
    )


def _machine(run: Sides[Latency]) -> float:
    """Return how much slower the calibration workload was while measuring new; 1 if it was not timed."""
    before, after = run.base.calibration_ms, run.new.calibration_ms
    return exp(math.log(after) - math.log(before)) if before and after else 1.0
