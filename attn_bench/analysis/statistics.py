"""Ratio of two sets of measurements, its confidence interval, and whether it may be due to chance.

Timing samples are strongly correlated: a core that is slow now is still slow a millisecond later. Treated as
independent, they look far more certain than they are. So samples are first reduced to medians of consecutive blocks,
and these blocks are resampled and ranked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLOCKS = 10
DRAWS = 1000
CONFIDENCE = 0.99
# Larger ratios are clipped to this, or they would overflow a float.
LARGEST_LOG = 600.0


@dataclass(frozen=True)
class Ratio:
    """New over base.

    Attributes:
        value: the estimate.
        low, high: its confidence interval, of 99 % unless the function that returns it says otherwise.
        p: two-sided p-value of the hypothesis that both have the same distribution.
        agree: whether every pair of runs shows a change in the same direction.
        noise: the factor by which a typical run may be off on each side: its own interval, or how far half of the runs
            are from their median. One odd run widens the interval, but not this.
    """

    value: float
    low: float
    high: float
    p: float
    agree: bool
    noise: float = 1.0

    def inverse(self) -> Ratio:
        """Base over new."""
        return Ratio(1 / self.value, 1 / self.high, 1 / self.low, self.p, self.agree, self.noise)


def block_medians(samples: Sequence[float], blocks: int = BLOCKS) -> np.ndarray:
    """Return the medians of consecutive blocks of nearly equal length, (min(blocks, samples),)."""
    values = np.asarray(samples, float)
    if len(values) <= blocks:
        return values
    return np.array([np.median(block) for block in np.array_split(values, min(blocks, len(values)))])


def compare_runs(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Ratio:
    """Compare runs taken separately: pairs of a series of samples of base and one of new, in the order taken.

    The estimate is the geometric mean over pairs of the ratio of medians; its interval comes from a block bootstrap of
    every run. The p-value is that of the Mann-Whitney rank test on the blocks of all runs, each divided by the median
    of its pair, so that differences between pairs do not count.

    Raises:
        ValueError: no pair, or one without samples.
    """
    from scipy import stats

    if not pairs or any(not len(base) or not len(new) for base, new in pairs):
        raise ValueError("every pair needs samples of base and of new")
    generator = np.random.default_rng(0)
    logs = [_median_log(new) - _median_log(base) for base, new in pairs]
    blocks = [(np.log(block_medians(base)), np.log(block_medians(new))) for base, new in pairs]
    each = np.array([_draws(new, generator) - _draws(base, generator) for base, new in blocks])
    centred = [(base - middle, new - middle) for base, new in blocks for middle in [np.median([*base, *new])]]
    ranked = [np.concatenate([pair[side] for pair in centred]) for side in (0, 1)]
    p = float(stats.mannwhitneyu(*ranked).pvalue) if np.ptp(np.concatenate(ranked)) else 1.0
    return _ratio(float(np.mean(logs)), each.mean(axis=0), p, logs, each)


def compare_paired(runs: Sequence[Sequence[float]]) -> Ratio:
    """Compare by log ratios, each taken within a short time or with one seed.

    Runs are independent of each other (pairs of processes, seeds); the log ratios within a run are not. The estimate is
    the median over runs of their medians, which is robust to one odd process. The interval comes from resampling runs,
    and blocks within each; the p-value from Wilcoxon's signed-rank test on the blocks.

    Raises:
        ValueError: no run, or an empty one.
    """
    from scipy import stats

    if not runs or any(not len(run) for run in runs):
        raise ValueError("every run needs at least one log ratio")
    generator = np.random.default_rng(0)
    logs = [float(np.median(run)) for run in runs]
    blocks = [block_medians(run) for run in runs]
    each = np.array([_draws(run, generator) for run in blocks])
    chosen = generator.integers(len(runs), size=(len(runs), DRAWS))
    drawn = np.median(each[chosen, np.arange(DRAWS)], axis=0)
    together = np.concatenate(blocks)
    p = float(stats.wilcoxon(together).pvalue) if np.any(together) else 1.0
    return _ratio(float(np.median(logs)), drawn, p, logs, each)


def _ratio(value: float, drawn: np.ndarray, p: float, logs: Sequence[float], each: np.ndarray) -> Ratio:
    """Return the ratio of an estimate with its draws, from the logs of runs and the draws of each, (runs, DRAWS)."""
    ends = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.quantile(drawn, ends)
    agree = all(log > 0 for log in logs) or all(log < 0 for log in logs)
    within = float(np.median(np.ptp(np.quantile(each, ends, axis=1), axis=0))) / 2 / math.sqrt(len(logs))
    noise = max(within, float(np.median(np.abs(np.asarray(logs) - np.median(logs)))))
    return Ratio(exp(value), exp(min(low, value)), exp(max(high, value)), p, agree, exp(noise))


def exp(log: float) -> float:
    """Return the ratio for a logarithm, positive and finite."""
    return math.exp(max(-LARGEST_LOG, min(log, LARGEST_LOG)))


def _median_log(samples: Sequence[float]) -> float:
    return float(np.log(np.median(np.asarray(samples, float))))


def _draws(blocks: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the medians of draws with replacement, (DRAWS,)."""
    if len(blocks) == 1:
        return np.full(DRAWS, blocks[0])
    return np.median(generator.choice(blocks, (DRAWS, len(blocks))), axis=1)
