"""Trainings along the way, and what of them a report says in numbers: errors after equal time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from attn_bench.format import significant
from attn_bench.report.summary import Summary
from attn_bench.results.record import Series
from attn_bench.results.store import Store

# Shares of the time of the fastest training at which errors are compared.
SHARES = (0.25, 0.5, 1.0)
ALONE = "alone"


@dataclass(frozen=True)
class Curve:
    """One training along the way.

    Attributes:
        loss: of training.
        error: the task's first metric on ``part``.
        selected: the step after which the evaluated weights were kept; None for the last.
        under: what else ran on the machine meanwhile (``trained_under``), ``alone`` if nothing did.
    """

    model: str
    resolution: int
    seed: int
    loss: Series
    error: Series
    part: str | None
    selected: int | None
    under: str = ALONE


@dataclass(frozen=True)
class EqualTime:
    """Errors of the models at one resolution after equal times of training.

    Attributes:
        seconds: the times.
        errors: by model, one for each time, mean over seeds; None where nothing was evaluated before.
        ends: by model, when training ended, and the last error.
        higher: whether higher values are better.
        under: under which conditions they trained.
    """

    resolution: int
    seconds: tuple[float, ...]
    errors: Mapping[str, tuple[float | None, ...]]
    ends: Mapping[str, tuple[float, float | None]]
    higher: bool
    under: tuple[str, ...] = ()

    def is_best(self, model: str, i: int) -> bool:
        """Tell whether a model has the best error, as it is shown, after the time ``i``."""
        known = {name: value for name, errors in self.errors.items() if (value := errors[i]) is not None}
        if model not in known or len(known) < 2:
            return False
        return significant(known[model]) == significant((max if self.higher else min)(known.values()))


def read_curves(store: Store, summary: Summary) -> list[Curve]:
    """Return the training curves of the cells that a summary is of, in the order of its models."""
    table = summary.table.drop_duplicates("cell")
    labels = dict(zip(table["cell"].astype(str), table["model"].astype(str)))
    order = {model: i for i, model in enumerate((*summary.models, *summary.references))}
    found = [
        Curve(
            labels[record.id],
            record.cell.resolution,
            record.cell.seed,
            kept.loss,
            kept.error,
            kept.part,
            record.training.selected_step,
            record.trained_under or ALONE,
        )
        for record in store.records()
        if record.id in labels and record.training is not None and (kept := record.training.curve) is not None
    ]
    return sorted(found, key=lambda curve: (curve.resolution, order[curve.model], curve.seed))


def equal_times(curves: Iterable[Curve], *, higher: bool) -> list[EqualTime]:
    """Return errors after equal times of training, for each resolution at which two models or more were evaluated."""
    by_resolution: dict[int, dict[str, list[Curve]]] = {}
    for curve in curves:
        if any(value is not None for value in curve.error.values):
            by_resolution.setdefault(curve.resolution, {}).setdefault(curve.model, []).append(curve)
    return [_equal_time(resolution, of, higher) for resolution, of in by_resolution.items() if len(of) > 1]


def _equal_time(resolution: int, of: Mapping[str, list[Curve]], higher: bool) -> EqualTime:
    shortest = min(curve.error.seconds[-1] for curves in of.values() for curve in curves)
    times = tuple(share * shortest for share in SHARES)
    return EqualTime(
        resolution,
        times,
        errors={
            model: tuple(_mean([error_at(curve.error, time) for curve in curves]) for time in times)
            for model, curves in of.items()
        },
        ends={
            model: (
                sum(curve.error.seconds[-1] for curve in curves) / len(curves),
                _mean([curve.error.values[-1] for curve in curves]),
            )
            for model, curves in of.items()
        },
        higher=higher,
        under=tuple(curve.under for curves in of.values() for curve in curves),
    )


def beside_others(under: Iterable[str]) -> str:
    """Return a sentence on seconds of trainings under some conditions; empty if each had the machine to itself."""
    found = sorted(set(under))
    if found in ([], [ALONE]):
        return ""
    if len(found) == 1:
        return f"All trained {found[0]}: their seconds compare with each other, but alone they would take less time."
    return f"They trained under different conditions ({', '.join(found)}), so their seconds do not compare."


def error_at(error: Series, seconds: float) -> float | None:
    """Return the last value that was found up to a time, None if there is none."""
    before = [value for when, value in zip(error.seconds, error.values) if when <= seconds]
    return before[-1] if before else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
