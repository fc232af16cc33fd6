"""Gaps: numbers of two records that should be compared but cannot be, because one is missing or invalid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from attn_bench.gate.thresholds import Thresholds, named_by
from attn_bench.gate.verdicts import Finding
from attn_bench.results.quantities import Quantity, at, groups
from attn_bench.results.record import Latency, Record

SHOWN = 6


@dataclass(frozen=True)
class Missing:
    """Why a record has no number.

    Attributes:
        reason: can be followed by "in base" or "on both sides".
        asked: whether the number was requested of its cell.
        wrong: whether there is an invalid value instead.
        failed: whether the evaluation failed, which is a separate finding if it did not fail in base.
    """

    reason: str
    asked: bool = True
    wrong: bool = False
    failed: bool = False


@dataclass(frozen=True)
class Gap:
    """A metric of a cell that is not compared.

    Attributes:
        lost: whether new lacks a number that base has, or the number is invalid; reported even if not in ``--fail-on``.
    """

    model: str
    resolution: int
    metric: str
    reason: str
    lost: bool = True

    def counts(self, thresholds: Thresholds) -> bool:
        """Whether the comparison fails for it."""
        return self.watched(thresholds) and (self.lost or thresholds.named)

    def watched(self, thresholds: Thresholds) -> bool:
        """Whether the metric can fail."""
        return thresholds.of(self.metric, self.model) is not None


def latency_of(quantity: Quantity) -> Callable[[Record], Latency | Missing]:
    """Return a function that reads the measurement of a step, with its samples."""

    def read(record: Record) -> Latency | Missing:
        measured = record.latency.get(quantity.step or "")
        if measured is None or not measured.samples_ms:
            return _not_measured(record, quantity)
        if not all(sample > 0 for sample in measured.samples_ms):
            return Missing("some times are not positive numbers", wrong=True)
        return measured

    return read


def exact_of(quantity: Quantity) -> Callable[[Record], float | Missing]:
    """Return a function that reads parameters, FLOPs, or the peak memory of a step."""

    def read(record: Record) -> float | Missing:
        value = at(record, str(quantity.where))
        if value is None:
            return _not_measured(record, quantity)
        return float(value) if value >= 0 else Missing("not a number", wrong=True)

    return read


def metric_of(metric: str, tested: int) -> Callable[[Record], float | Missing]:
    """Return a function that reads a metric of the trained model at a resolution."""

    def read(record: Record) -> float | Missing:
        entry = record.evaluated_at(tested)
        if entry is None:
            return Missing("not evaluated", asked=record.cell.training is not None)
        if entry.status != "ok":
            return Missing(f"failed ({entry.status})", failed=True)
        if metric not in entry.metrics:
            return Missing("not evaluated")
        value = entry.metrics[metric]
        return Missing("not a finite number", wrong=True) if value is None else value

    return read


def _not_measured(record: Record, quantity: Quantity) -> Missing:
    if not record.cell.measuring.measure and quantity.own:
        return Missing("not measured (--no-measure)", asked=False)
    if quantity.step == "train_step":
        trainable = record.parameters != 0 and record.cell.regime != "linear-probe"
        if not trainable:
            return Missing("without a training step", asked=False)
    reason = record.errors.get(quantity.name)
    if quantity.group.optional and reason is None:
        return Missing("without it", asked=False)
    return Missing(f"not measured ({reason})" if reason else "not measured")


def said_of(gaps: Iterable[Gap]) -> Iterator[str]:
    """Yield lines on what is not compared, and why: one per reason."""
    by_cell: dict[tuple[str, int, str], list[str]] = {}
    for gap in gaps:
        by_cell.setdefault((gap.model, gap.resolution, gap.reason), []).append(gap.metric)
    by_reason: dict[tuple[str, str], list[str]] = {}
    for (model, resolution, reason), metrics in by_cell.items():
        by_reason.setdefault((", ".join(_grouped(metrics)), reason), []).append(f"{model} at {resolution}")
    for (said, reason), titles in by_reason.items():
        more = f" and {len(titles) - SHOWN} more" if len(titles) > SHOWN else ""
        yield f"{', '.join(titles[:SHOWN])}{more}: {said} not compared: {reason}"


def _grouped(metrics: Sequence[str]) -> list[str]:
    """Replace the members of a group by its name if all are present."""
    found = list(dict.fromkeys(metrics))
    for name, members in groups().items():
        if set(members) <= set(found):
            found = [name, *(metric for metric in found if metric not in members)]
    return found


def unnamed(
    thresholds: Thresholds, findings: Sequence[Finding], gaps: Sequence[Gap], paired: Iterable[str]
) -> Iterator[str]:
    """Yield lines on names in ``--fail-on`` that no cell has on both sides.

    Args:
        paired: labels of the cells that both sides have.
    """
    met = {(finding.metric, finding.model) for finding in findings} | {(gap.metric, gap.model) for gap in gaps}
    labels = set(paired)
    for model, given in ((None, thresholds.common or {}), *thresholds.by_model.items()):
        if model is not None and not any(named_by(model, label) for label in labels):
            yield f"{model}: named in --fail-on, but in only one folder"
            continue
        for name in given:
            members = (name, *groups().get(name, ()))
            if not any(metric in members and (model is None or named_by(model, label)) for metric, label in met):
                of = "" if model is None else f"{model}: "
                yield f"{of}{name} not compared: named in --fail-on, but no cell has it on both sides"
