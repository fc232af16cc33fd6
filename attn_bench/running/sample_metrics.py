"""Metrics of single test samples: their means, and how sure these are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from attn_bench.plugin import Problem, Task
from attn_bench.results.record import Interval
from attn_bench.running.train.step import Batch

CONFIDENCE = 0.95


class SampleMetrics:
    """Asks a task for the metrics of each sample (:meth:`attn_bench.plugin.Task.sample_metrics`)."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.batches: list[dict[str, Tensor]] = []

    def watch(self, problem: Problem, batches: Iterable[Batch], inputs: Callable[[], Tensor | None]) -> Iterator[Batch]:
        """Yield ``batches`` of predictions and targets, and keep their metrics.

        Args:
            problem: at their resolution.
            inputs: returns those of the batch that came last.

        Raises:
            ValueError: the task returns something else than a number for each sample.
        """
        for prediction, target in batches:
            found = self.task.sample_metrics(problem, inputs(), prediction, target)
            for name, values in found.items():
                if values.shape != (len(target),):
                    raise ValueError(
                        f"sample_metrics of {self.task.name} must return {name} of shape ({len(target)},), one number "
                        f"for each sample (returned: {tuple(values.shape)})"
                    )
            self.batches.append({name: values.detach().double().cpu() for name, values in found.items()})
            yield prediction, target

    def values(self) -> dict[str, Tensor]:
        """Return what the samples that have a metric have, by metric."""
        names = dict.fromkeys(name for batch in self.batches for name in batch)
        joined = {name: torch.cat([batch[name] for batch in self.batches if name in batch]) for name in names}
        return {name: known for name, values in joined.items() if len(known := values[~values.isnan()])}

    def means(self) -> dict[str, float]:
        """Return the mean of each metric that a sample has."""
        return {name: float(values.mean()) for name, values in self.values().items()}

    def intervals(self) -> dict[str, Interval]:
        """Return the interval of each mean of at least two samples."""
        about = self.task.metrics
        return {
            name: interval(values, of_hits=name in about and about[name].unit == "%")
            for name, values in self.values().items()
            if len(values) > 1
        }


def interval(values: Tensor, *, of_hits: bool = False) -> Interval:
    """Return the 95 % confidence interval of the mean of independent samples, (n,), n >= 2.

    By Student's t; of ``of_hits``, samples that are 0 or 100 per cent, by Wilson's score (scipy).
    """
    n, mean, error = len(values), float(values.mean()), float(values.std() / math.sqrt(len(values)))
    if of_hits and bool(((values == 0) | (values == 100)).all()):
        from scipy.stats import binomtest

        found = binomtest(int((values == 100).sum()), n).proportion_ci(CONFIDENCE, method="wilson")
        return Interval(100 * float(found.low), 100 * float(found.high), error, n)
    from scipy.special import stdtrit

    reach = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * error
    return Interval(mean - reach, mean + reach, error, n)
