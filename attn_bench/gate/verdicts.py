"""From two sets of measurements of one metric to a verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from attn_bench.analysis.statistics import Ratio, compare_paired, compare_runs, exp

Verdict = Literal["same", "better", "worse", "unclear"]
Runs = Sequence[tuple[Sequence[float], Sequence[float]]]

CHANCE = 0.01
# Two processes of the same code differ, mostly by 1 to 2 %, but one in twenty by 10 to 20 %, for its whole life.
# Without a third process to decide, the interval has to cover that.
FEW_PROCESSES = {1: 1.2, 2: 1.1}
# Training runs that differ only in seed differ by 5 to 10 %, so with one seed only a far larger change counts.
ONE_SEED = 1.5
# Numbers that round to the same change need no explanation.
AGREE = 0.005
QUIET = "measure again on a quiet machine"
# Of floating-point numbers.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Finding:
    """The result of the comparison for one metric of one model at one resolution.

    Attributes:
        model, resolution: of the cell; ``tested`` is the resolution evaluated at.
        metric: a metric of the task, or e.g. ``latency_forward``, or ``status``.
        verdict: ``unclear`` if a change beyond the threshold may be due to chance, or could not be seen.
        base, new: medians or means; None for a status.
        ratio: new over base, if both are positive, as it is judged.
        measured: new over base before the speed of the machine is taken into account; None if it is not.
        threshold: how much worse it may get; None if that does not count.
        note: for the reader.
        higher: whether higher values are better.
        seeds: the seeds concerned; empty if seeds are not distinguished.
        base_disturbed: whether base may have been measured too high, so that new may be worse than it looks.
    """

    model: str
    resolution: int
    tested: int
    metric: str
    verdict: Verdict = "same"
    base: float | None = None
    new: float | None = None
    ratio: Ratio | None = None
    measured: float | None = None
    threshold: float | None = None
    note: str = ""
    higher: bool = False
    seeds: tuple[int, ...] = ()
    base_disturbed: bool = False

    @property
    def open(self) -> bool:
        """Whether this may be a regression: the result is inconclusive."""
        if self.verdict != "unclear" or self.threshold is None:
            return False
        if self.ratio is None or self.base_disturbed:
            return True
        ratio = 1 / self.ratio.value if self.higher else self.ratio.value
        return ratio > 1 / (1 + self.threshold)

    @property
    def fails(self) -> bool:
        """Whether this is a regression beyond its threshold."""
        if self.verdict != "worse" or self.threshold is None:
            return False
        return self.ratio is None or max(self.ratio.value, 1 / self.ratio.value) > 1 + self.threshold


def judge(ratio: Ratio, threshold: float, *, higher: bool = False) -> Verdict:
    """Return the verdict on new over base: a change counts if it exceeds the threshold and is not due to chance.

    A change within the threshold is only "same" if it was measured at least as exactly as the threshold.
    """
    ratio = ratio.inverse() if higher else ratio
    if 1 / (1 + threshold) <= ratio.value <= 1 + threshold:
        return "unclear" if too_wide(ratio, threshold) else "same"
    if ratio.p > CHANCE or ratio.low <= 1 <= ratio.high:
        return "unclear"
    return "worse" if ratio.value > 1 else "better"


def too_wide(ratio: Ratio, threshold: float) -> bool:
    """Tell whether a measurement is too inexact to tell a change beyond the threshold from none."""
    return ratio.noise > (1 + threshold) * (1 + ROUNDING)


def said_too_wide(ratio: Ratio, threshold: float | None, remedy: str) -> str:
    """Return that a measurement is too inexact for its limit, and what to do; empty if it is not, or has no limit."""
    if threshold is None or not too_wide(ratio, threshold):
        return ""
    known = 100 * (ratio.noise - 1)
    return f"known only to ±{known:.2g} %, which cannot decide a limit of {100 * threshold:g} %: {remedy}"


def few(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield a line on results within their limits that are of too few processes or seeds to be sure."""
    wide = {
        f"{found.metric} of {found.model} at {found.resolution}": found.ratio.high / found.ratio.value
        for found in findings
        if found.verdict == "same" and found.ratio is not None and found.threshold is not None
        if found.ratio.high / found.ratio.low > (1 + found.threshold) ** 2
    }
    if wide:
        more = f" and {len(wide) - 1} more" if len(wide) > 1 else ""
        yield (
            f"{next(iter(wide))}{more}: within the limit, but few processes or seeds can hide a change of up to "
            f"{100 * (max(wide.values()) - 1):.0f} %; 3 seeds on both sides are more certain"
        )


def timed_ratio(runs: Runs, machine: float = 1.0) -> Ratio:
    """Return the ratio of latencies of processes of new to those of base, measured separately.

    Args:
        runs: per pair of processes, the samples of base and of new.
        machine: how much slower a fixed workload was while measuring new. Half of that is subtracted, and the interval
            extends from subtracting nothing to subtracting all of it.
    """
    ratio = compare_runs(runs)
    if len(runs) > 2:
        noise = ratio.noise
        ratio = compare_paired([[_log_median(new) - _log_median(base)] for base, new in runs])
        # Ranks of so few runs cannot be significant, but agreement of all pairs can.
        ratio = replace(ratio, p=0.0 if ratio.agree else 1.0, noise=noise)
    speed = math.exp(abs(math.log(machine)) / 2)
    wide, by = FEW_PROCESSES.get(len(runs), 1.0) * speed, math.sqrt(machine)
    return Ratio(
        ratio.value / by, ratio.low / by / wide, ratio.high / by * wide, ratio.p, ratio.agree, ratio.noise * speed
    )


def seeds_ratio(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """Return the ratio of a metric of trained models, from pairs of base and new with the same seed, all positive.

    The interval is Student's 95 % interval, as seeds are few; for one seed it is :data:`ONE_SEED`.
    """
    from scipy import stats

    logs = [math.log(new) - math.log(base) for base, new in pairs]
    middle = statistics.fmean(logs)
    agree = all(log > 0 for log in logs) or all(log < 0 for log in logs)
    if len(logs) == 1:
        return Ratio(exp(middle), exp(middle) / ONE_SEED, exp(middle) * ONE_SEED, 0.0, agree)
    if max(logs) == min(logs):
        return Ratio(exp(middle), exp(middle), exp(middle), 0.0 if middle else 1.0, agree)
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    # The interval decides; the p-value would be redundant.
    return Ratio(exp(middle), exp(middle - half), exp(middle + half), 0.0, agree, exp(half))


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive numbers; the ratio of new's to base's is :func:`seeds_ratio`."""
    return exp(statistics.fmean(map(math.log, values)))


def explained(ratio: float, base: float, new: float, pairs: int) -> str:
    """Return why a change differs from that of the two medians shown; empty if it does not."""
    if abs(math.log(new) - math.log(base) - math.log(ratio)) < AGREE:
        return ""
    by = 100 * (exp(math.log(new) - math.log(base)) - 1)
    return (
        f"the change is computed within {pairs} pairs of runs; "
        f"the medians of all runs, shown here, differ by {by:+.1f} %"
    )


def exact_verdict(base: float, new: float, negligible: float = 0.0) -> tuple[Verdict, Ratio | None]:
    """Return the verdict on numbers that do not vary between runs; lower is better.

    Args:
        negligible: the share up to which a difference does not count.
    """
    if abs(new - base) <= negligible * base:
        return "same", Ratio(1.0, 1.0, 1.0, 1.0, True)
    value = min(max(new / base, exp(-math.inf)), exp(math.inf)) if base > 0 and new > 0 else None
    ratio = None if value is None else Ratio(value, value, value, 0.0, True)
    return ("worse" if new > base else "better"), ratio


def _log_median(samples: Sequence[float]) -> float:
    return math.log(statistics.median(samples))
