"""Which cells of two results folders are the same cell.

Cells are paired by model, options, task, resolution, budget and their other settings, but not by the versions of the
code, which are being compared. Remaining cells that differ only in how they were run (:func:`_unconditioned`) are
paired as well; :mod:`attn_bench.gate.conditions` says which of their numbers cannot be compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from attn_bench.results.labels import Asked, labels_of
from attn_bench.results.record import Record
from attn_bench.sweep.cell import Cell, flat
from attn_bench.sweep.groups import Execution, Measuring


@dataclass
class Case:
    """One cell over its seeds, in base and in new.

    Attributes:
        key: the same for a cell of base and the cell of new that it is compared with.
        cell: its settings, of any seed and version.
        label: of its model, and its task where there are several.
        twice: the sides that hold a seed of it more than once, of several versions of the code.
    """

    key: str
    cell: Cell
    label: str
    base: dict[int, Record] = field(default_factory=dict)
    new: dict[int, Record] = field(default_factory=dict)
    twice: set[str] = field(default_factory=set)

    @property
    def model(self) -> str:
        """The model's name; ``label`` adds the settings in which cells of the same name differ."""
        return self.cell.model

    @property
    def resolution(self) -> int:
        """Where it was trained and measured."""
        return self.cell.resolution

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.label} at {self.resolution}"

    def ok(self) -> list[int]:
        """Seeds that succeeded on both sides."""
        return [s for s in self.both() if self.base[s].status == self.new[s].status == "ok"]

    def failed(self) -> list[int]:
        """Seeds that succeeded on neither side, except :meth:`unserved` ones."""
        neither = [s for s in self.both() if "ok" not in (self.base[s].status, self.new[s].status)]
        return [s for s in neither if s not in self.unserved()]

    def unserved(self) -> list[int]:
        """Seeds that are unsupported on both sides, which does not count as a failure."""
        return [s for s in self.both() if self.base[s].status == self.new[s].status == "unsupported"]

    def tested(self, side: Literal["base", "new"]) -> set[int]:
        """Return the resolutions that a side was evaluated at, or should have been."""
        found = {self.resolution}
        for record in (self.base if side == "base" else self.new).values():
            found |= {entry.resolution for entry in record.evaluations}
            if record.cell.training is not None:
                found |= set(record.cell.eval_resolutions)
        return found

    def both(self) -> list[int]:
        """Seeds that both sides have."""
        return sorted(self.base.keys() & self.new.keys())


def pair(base: Sequence[Record], new: Sequence[Record]) -> list[Case]:
    """Return every cell of base and new, whether or not the other side has it, by resolution and label."""
    records = [*base, *new]
    cells = settings_of(records)
    own, others = cells[: len(base)], cells[len(base) :]
    partners = _partners({cell.id: cell for cell in own}, {cell.id: cell for cell in others})
    cells = [*own, *(partners.get(cell.id, cell) for cell in others)]
    named = labels_of([Asked.of(record, cell) for record, cell in zip(records, cells)], tasks=True)
    cases: dict[str, Case] = {}
    for i, (record, cell, label) in enumerate(zip(records, cells, named)):
        case = cases.setdefault(cell.id, Case(cell.id, cell, label))
        side, name = (case.base, "base") if i < len(base) else (case.new, "new")
        earlier = side.get(record.cell.seed)
        if earlier is not None and _versions(earlier.cell) != _versions(record.cell):
            case.twice.add(name)
        # If a cell was measured later than it was trained, the measuring record counts.
        if earlier is None or record.latency or not earlier.latency:
            side[record.cell.seed] = record
    return sorted(cases.values(), key=lambda case: (case.resolution, case.label))


def missing(cases: Sequence[Case]) -> Iterator[str]:
    """Yield lines on the cells of base that are missing in new, and on ambiguous ones."""
    for case in cases:
        for side in sorted(case.twice) if case.base else ():
            yield f"{case.title}: {side} has it from several versions of the code; use one folder per version"
        if not case.new:
            yield f"{case.title}: not in new{_otherwise(case, cases)}"
        elif case.base and (seeds := sorted(case.base.keys() - case.new.keys())):
            yield f"{case.title}: {said(seeds)} not in new"


def added(cases: Sequence[Case]) -> Iterator[str]:
    """Yield lines on the cells of new that are not in base."""
    for case in cases:
        if not case.base:
            yield f"{case.title}: not in base, so there is nothing to compare it with"
        elif case.new and (seeds := sorted(case.new.keys() - case.base.keys())):
            yield f"{case.title}: {said(seeds)} not in base"
        elif case.new and (tested := sorted(case.tested("new") - case.tested("base"))):
            yield f"{case.title}: evaluated at {', '.join(map(str, tested))} in new only"


def said(seeds: Sequence[int]) -> str:
    """Return ``seed 1`` or ``seeds 0, 1``."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _versions(cell: Cell) -> tuple[str, str, int | None]:
    return cell.model_version, cell.task_version, cell.training_version


def settings_of(records: Sequence[Record]) -> list[Cell]:
    """Return each cell without its seed, the versions of the code, and whether it was measured; those alike once."""
    found: dict[Hashable, Cell] = {}
    cells = []
    for cell in (record.cell for record in records):
        key = (cell.model, cell.resolution, cell.eval_resolutions, cell.kind)
        if key not in found:
            measuring = replace(cell.measuring, measure=True)
            found[key] = replace(cell.without_versions(), seed=0, measuring=measuring)
        cells.append(found[key])
    return cells


def _partners(base: Mapping[str, Cell], new: Mapping[str, Cell]) -> dict[str, Cell]:
    """Return the cell of base for each cell of new that differs from it only in its conditions, by id."""
    left: tuple[dict[str, list[str]], dict[str, list[str]]] = defaultdict(list), defaultdict(list)
    for side, own, other in ((left[0], base, new), (left[1], new, base)):
        for id in own.keys() - other.keys():
            side[_unconditioned(own[id]).id].append(id)
    return {left[1][id][0]: base[ids[0]] for id, ids in left[0].items() if len(ids) == len(left[1].get(id, ())) == 1}


def _unconditioned(cell: Cell) -> Cell:
    return replace(cell, execution=Execution(), measuring=Measuring(), eval_resolutions=())


def _otherwise(case: Case, cases: Sequence[Case]) -> str:
    """Return the settings with which new has the model of ``case``, if it does."""
    for other in cases:
        same = all(getattr(other.cell, name) == getattr(case.cell, name) for name in ("task", "model", "resolution"))
        if other.new and not other.base and same:
            return f"; there with other {', '.join(_differing(case.cell, other.cell))}"
    return ""


def _differing(one: Cell, other: Cell) -> list[str]:
    """Return the names of the settings in which two cells differ."""
    values = flat(one.to_json()), flat(other.to_json())
    return sorted(name for name in values[0].keys() | values[1].keys() if values[0].get(name) != values[1].get(name))


def identity(record: Record) -> dict[str, Any]:
    """Return the identity of the data of a record, without the description in words."""
    return {name: value for name, value in record.data.items() if name != "read"}
