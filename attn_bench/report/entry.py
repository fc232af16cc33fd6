"""An entry: the rows of one model at one resolution, aggregated over seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attn_bench.results.quantities import Quantity

DISTURBED = "‡"
ON_TEST = "§"


@dataclass(frozen=True)
class Stat:
    """A value over seeds.

    Attributes:
        mean: over seeds.
        low, high: smallest and largest; for latencies, the ends of the confidence intervals of the medians.
        deviation: sample standard deviation; None for one seed.
        n: seeds.
    """

    mean: float
    low: float
    high: float
    deviation: float | None
    n: int


@dataclass(frozen=True)
class Failure:
    """Why some seeds of an entry are not ok."""

    status: str
    reason: str | None
    seeds: tuple[int, ...]

    @property
    def where(self) -> str:
        """The seeds, for a sentence."""
        return f"seed{'' if len(self.seeds) == 1 else 's'} {', '.join(map(str, sorted(self.seeds)))}"


@dataclass(frozen=True)
class Entry:
    """One model trained at one resolution and evaluated at one, over seeds.

    Attributes:
        values: by column.
        disturbed: seeds whose latencies other processes or heat disturbed.
        gaps: quantities that seeds lack though they are ok, with the reason.
        changed: process-wide settings that the model changed, and in which stage.
        on_test: seeds whose weights were chosen by their test error.
        batches: numbers of samples in a batch.
    """

    model: str
    resolution: int
    eval_resolution: int
    seeds: int
    values: Mapping[str, Stat]
    failures: tuple[Failure, ...]
    cells: tuple[str, ...]
    disturbed: int = 0
    gaps: tuple[Failure, ...] = ()
    changed: tuple[str, ...] = ()
    on_test: int = 0
    batches: frozenset[float] = frozenset()

    @property
    def transfer(self) -> bool:
        """Whether it is evaluated at a resolution other than the one trained at."""
        return self.eval_resolution != self.resolution

    @property
    def where(self) -> str:
        """The resolution, and the one evaluated at if it differs."""
        return f"{self.resolution}" + (f", evaluated at {self.eval_resolution}" if self.transfer else "")

    @property
    def status(self) -> str:
        """``ok``, or the other statuses, with the number of seeds if only some failed."""
        failed: Counter[str] = Counter()
        for failure in self.failures:
            failed[failure.status] += len(failure.seeds)
        texts = (name if number == self.seeds else f"{name} {number}/{self.seeds}" for name, number in failed.items())
        return ", ".join(texts) or "ok"

    def mean(self, quantity: Quantity) -> float | None:
        """Return the mean of a quantity, or None where there is no value."""
        stat = self.values.get(quantity.column)
        return stat.mean if stat else None

    def sign(self, quantity: Quantity) -> str:
        """Return the mark of a latency that was disturbed, or of an error by which the weights were chosen."""
        if quantity.rule == "accuracy":
            return ON_TEST if self.on_test else ""
        return DISTURBED if self.disturbed and quantity.rule == "timed" else ""


def entry_of(key: tuple[str, int, int], rows: Sequence[Mapping[str, Any]], each: Sequence[Quantity]) -> Entry:
    """Return the entry of a model, the resolution trained at and the one evaluated at, from rows of the table."""
    model, resolution, evaluated = key
    values = {quantity.column: stat for quantity in each if (stat := _stat(rows, quantity))}
    failures: dict[tuple[str, str | None], list[int]] = {}
    gaps: dict[str, list[int]] = {}
    for row in rows:
        if row["status"] != "ok":
            failures.setdefault((str(row["status"]), _text(row.get("error"))), []).append(int(row["seed"]))
        elif (missing := _text(row.get("missing"))) is not None:
            gaps.setdefault(missing, []).append(int(row["seed"]))
    return Entry(
        model=model,
        resolution=resolution,
        eval_resolution=evaluated,
        seeds=len(rows),
        values=values,
        failures=tuple(Failure(status, reason, tuple(seeds)) for (status, reason), seeds in failures.items()),
        cells=tuple(str(row["cell"]) for row in rows if row["status"] == "ok"),
        disturbed=sum(number(row.get("disturbed")) == 1 for row in rows),
        gaps=tuple(Failure("missing", reason, tuple(seeds)) for reason, seeds in gaps.items()),
        changed=tuple(dict.fromkeys(text for row in rows for text in _changed(row.get("effective")))),
        on_test=sum(row.get("selected_on") == "test" for row in rows),
        batches=frozenset(size for row in rows if (size := number(row.get("batch_size"))) is not None),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _changed(effective: Any) -> list[str]:
    """Return the process-wide settings that a model changed, from the JSON of a row's settings in effect."""
    try:
        return [str(text) for text in json.loads(effective)["changed_by_model"]]
    except (TypeError, ValueError, KeyError):
        return []


def _stat(rows: Sequence[Mapping[str, Any]], quantity: Quantity) -> Stat | None:
    column = quantity.column
    known = [(value, row) for row in rows if (value := number(row.get(column))) is not None]
    values = [value for value, _ in known]
    if not values:
        return None
    bounds = list(values)
    # Trainings differ by more than the test error of one is uncertain, so with several seeds their range says more.
    if quantity.rule == "timed" or (quantity.rule == "accuracy" and len(values) == 1):
        ends = [quantity.end(end) for end in ("low", "high")]
        bounds += (bound for _, row in known for end in ends if (bound := number(row.get(end))))
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Stat(statistics.fmean(values), min(bounds), max(bounds), deviation, len(values))


def number(value: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
