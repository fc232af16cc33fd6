"""What is said of a record without reading it: what a resumed run asks, and its rows of the table.

An index keeps both (:mod:`.index`), so that a folder of thousands of records can be looked at without parsing them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json import JSONEncoder, loads
from typing import Any

from attn_bench.results.labels import Asked
from attn_bench.results.record import Count, Id, Record
from attn_bench.results.status import Status
from attn_bench.results.validation import from_text, plain
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.variants import BROKEN

# A row of the table as far as its record says: the columns that are of the record alone, and last each metric with the
# ends of its interval, by name.
Line = Sequence[Any]
_dumps = JSONEncoder(separators=(",", ":"), default=dict).encode
# Escapes other than that of a quotation mark, and anything but ASCII: text that may not be what a record can hold.
_UNUSUAL = re.compile(r'\\[^"]|[^ -~]')
_VALUES = {type(None), bool, int, float, str}


@dataclass(frozen=True)
class Brief:
    """A record in brief.

    Attributes:
        kind: of its cell (:attr:`attn_bench.sweep.cell.Cell.kind`).
        folder: results folder that its weights were read from.
        broken: whether the plugin of its model could not be used.
        measure: whether its cell was to be measured.
        evaluated: the resolutions that it has an evaluation at.
        reference, trained, disturbed, lacks_measuring, ...: those of the record.
    """

    id: Id
    status: Status
    model: str
    task: str
    resolution: int
    seed: int
    kind: str
    folder: str | None
    started: str | None
    environment: Id | None
    reference: bool | None
    broken: bool
    measure: bool
    measured_version: int | None
    evaluated: tuple[Count, ...]
    trained: bool
    disturbed: bool
    lacks_measuring: bool
    imported: Mapping[str, str]

    @classmethod
    def of(cls, record: Record) -> Brief:
        """Return a record in brief."""
        cell = record.cell
        return cls(
            id=record.id, status=record.status, model=cell.model, task=cell.task, resolution=cell.resolution,
            seed=cell.seed, kind=cell.kind, folder=record.weights.folder if record.weights else None,
            started=record.started, environment=record.environment, reference=record.reference,
            broken=cell.model_version == BROKEN, measure=cell.measuring.measure,
            measured_version=record.measured_version,
            evaluated=tuple(each.resolution for each in record.evaluations), trained=record.trained,
            disturbed=record.disturbed, lacks_measuring=record.lacks_measuring, imported=record.imported,
        )  # fmt: skip

    @property
    def same_model(self) -> tuple[str, int, int, str]:
        """What :attr:`attn_bench.sweep.cell.Cell.same_model` is of its cell."""
        return self.model, self.resolution, self.seed, self.kind


class Short:
    """A record in brief, and its rows of the table.

    Attributes:
        brief: the record.
        cell: its own or another of the same kind.
    """

    __slots__ = ("_cell", "_lines", "brief")

    def __init__(self, brief: Brief, lines: str | Sequence[Line], cell: Cell | None = None) -> None:
        self.brief = brief
        self._lines = lines
        self._cell = cell

    @property
    def lines(self) -> Sequence[Line]:
        """Its rows of the table (:func:`attn_bench.results.table.lines_of`)."""
        if isinstance(self._lines, str):
            self._lines = _loads(self._lines)
        return self._lines

    @property
    def cell(self) -> Cell:
        """Its cell or another of that kind."""
        return self._cell or _of_kind(self.brief.kind)

    @property
    def asked(self) -> Asked:
        """What its label is made from."""
        brief = self.brief
        return Asked(brief.model, brief.task, brief.started, brief.kind, brief.folder, self.cell)

    def to_texts(self) -> tuple[str, str]:
        """Return it as JSON, which :meth:`from_texts` reads: the record, and its rows."""
        return _dumps(vars(self.brief)), _dumps(self.lines)

    @classmethod
    def from_texts(cls, brief: str, lines: str) -> Short:
        """Return what was written; raises ValueError if no record can have been.

        Rows are not read before they are asked for, so :meth:`check` has to be called where they are.
        """
        for text in (brief, lines):
            if _UNUSUAL.search(text) and (values := _loads(text)) != plain(values):
                raise ValueError("contains what no record does")
        found = cls(from_text(Brief, brief), lines)
        _of_kind(found.brief.kind)
        return found

    def check(self, columns: int) -> None:
        """Raise ValueError unless its rows are such as a record has, with this many columns."""
        if not isinstance(self.lines, list):
            raise ValueError("not a list of rows")
        for line in self.lines:
            if not isinstance(line, list) or len(line) != columns + 1 or not _VALUES.issuperset(map(type, line[:-1])):
                raise ValueError("not a row of values")
            metrics = line[-1]
            if not isinstance(metrics, dict) or not all(map(_is_metric, metrics.values())):
                raise ValueError("not metrics")


def _loads(text: str) -> Any:
    try:
        return loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _is_metric(values: Any) -> bool:
    return isinstance(values, list) and len(values) == 3 and all(each is None or type(each) is float for each in values)


@functools.lru_cache(maxsize=1 << 16)
def _of_kind(kind: str) -> Cell:
    return from_text(Cell, kind)
