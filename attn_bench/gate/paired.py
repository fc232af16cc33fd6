"""A cell of base with the cell of new that it is compared with: their numbers, seed by seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from attn_bench.analysis.pairing import Case, said
from attn_bench.gate.conditions import Unlike
from attn_bench.gate.gaps import Gap, Missing
from attn_bench.gate.thresholds import Thresholds
from attn_bench.gate.verdicts import Finding
from attn_bench.results.record import Evaluation, Record

T = TypeVar("T")


class Sides(NamedTuple, Generic[T]):
    """A value of base and the corresponding one of new."""

    base: T
    new: T


@dataclass(frozen=True)
class Paired:
    """A cell of both sides, with everything needed to judge it.

    Attributes:
        unlike: what cannot be compared, by seed that succeeded on both sides.
        again: further records of new.
        gaps: collects what should be compared but cannot be.
    """

    case: Case
    thresholds: Thresholds
    unlike: Mapping[int, Unlike]
    again: Sequence[Record] = ()
    gaps: list[Gap] = field(default_factory=list)

    def records(self, seed: int) -> Sides[Record]:
        """Return the records of a seed."""
        return Sides(self.case.base[seed], self.case.new[seed])

    def finding(self, metric: str, seeds: Sequence[int]) -> Finding:
        """Return a finding about ``metric`` of this cell with its threshold and the verdict that nothing changed."""
        case = self.case
        threshold = self.thresholds.of(metric, case.label)
        return Finding(case.label, case.resolution, case.resolution, metric, threshold=threshold, seeds=tuple(seeds))

    def gap(self, metric: str, reason: str, *, lost: bool = True) -> None:
        """Record that ``metric`` of this cell is not compared."""
        self.gaps.append(Gap(self.case.label, self.case.resolution, metric, reason, lost))

    def numbers(
        self,
        metric: str,
        read: Callable[[Record], T | Missing],
        reason: Callable[[Unlike], str] = lambda unlike: "",
    ) -> dict[int, Sides[T]]:
        """Return the numbers of seeds for which both sides have one; record a gap for every other seed.

        Args:
            read: returns a number of a record, or why it has none.
            reason: returns why numbers of two records cannot be compared, or an empty string.
        """
        known: dict[int, Sides[T]] = {}
        unknown: dict[tuple[str, bool], list[int]] = {}
        for seed, unlike in self.unlike.items():
            before, after = map(read, self.records(seed))
            why = reason(unlike)
            if not isinstance(before, Missing) and not isinstance(after, Missing) and not why:
                known[seed] = Sides(before, after)
            elif (gap := _gap(before, after, why))[0]:
                unknown.setdefault(gap, []).append(seed)
        for (text, lost), seeds in unknown.items():
            of = "" if len(seeds) == len(self.unlike) else f" ({said(seeds)})"
            self.gap(metric, f"{text}{of}", lost=lost)
        return known


def _gap(before: object, after: object, reason: str) -> tuple[str, bool]:
    """Return why two numbers are not compared, and whether one was lost.

    The reason is empty if the number was requested of neither cell, or if its failure is already a finding.
    """
    old, new = (side if isinstance(side, Missing) else None for side in (before, after))
    if old and new:
        if not (old.asked or new.asked):
            return "", False
        lost = old.wrong or new.wrong or (old.failed and new.failed)
        if old.reason == new.reason:
            return f"{old.reason} on both sides", lost
        return f"{old.reason} in base, {new.reason} in new", lost
    if old:
        return f"{old.reason} in base", old.wrong
    if new:
        return "" if new.failed else f"{new.reason} in new", True
    return reason, True


def became(before: Record | Evaluation, after: Record | Evaluation) -> str:
    """Return the statuses of both sides, with the reason if new is not ok."""
    return f"{before.status} -> {after.status}{': ' if after.error else ''}{after.error or ''}"
