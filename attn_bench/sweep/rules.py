"""Which combinations of a sweep are run: rules that name some by the values of their axes."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attn_bench.errors import UserError, unknown
from attn_bench.format import plain
from attn_bench.plugins.values import split
from attn_bench.sweep import notations
from attn_bench.sweep.cell import GROUPS, Cell

_ALSO = {"models": "model", "tasks": "task", "resolutions": "resolution", "seeds": "seed"}
_OF_CELLS = ("task", "model", "resolution", "seed")
SHOWN = 100
# Returns the default of an option of a cell's "model" or "task".
Default = Callable[[Cell, str, str], Any]


@dataclass
class Rule:
    """Values of some axes: a cell is meant that has one of them on every axis.

    Attributes:
        which: ``include`` or ``exclude``.
        met: whether it meant any cell so far.
    """

    which: str
    given: Mapping[str, Any]
    values: Mapping[str, Sequence[Any]] = field(init=False)
    met: bool = False

    def __post_init__(self) -> None:
        self.values = {_ALSO.get(name, name): _values(name, value) for name, value in self.given.items()}

    def means(self, cell: Cell, default: Default) -> bool:
        """Tell whether a cell is one of those that are meant."""
        if not all(any(_holds(cell, name, value, default) for value in of) for name, of in self.values.items()):
            return False
        self.met = True
        return True

    @property
    def unmet(self) -> str:
        """Say that it means no cell."""
        return f"{self.which} {plain(json.dumps(self.given, default=str), SHOWN)}: no cell of this sweep is like that"


def rules(
    which: str, given: Sequence[Mapping[str, Any]], settings: Collection[str], owners: Collection[str]
) -> list[Rule]:
    """Return rules as given under ``include`` or ``exclude``.

    Args:
        settings: names of the settings that are axes.
        owners: models and tasks that have options.

    Raises:
        UserError: a rule names no axis.
    """
    for name in (name for rule in given for name in rule):
        owner, dot, _ = name.rpartition(".")
        if dot and owner not in owners:
            raise unknown(f"model or task of this sweep in {which}", owner, owners)
        if not dot and _ALSO.get(name, name) not in (*_OF_CELLS, *settings):
            raise unknown(f"axis in {which}", name, (*_OF_CELLS, *settings))
    return [Rule(which, each) for each in given]


def kept(
    cells: Sequence[Cell], included: Sequence[Rule], excluded: Sequence[Rule], default: Callable[[Cell, str, str], Any]
) -> list[Cell]:
    """Return the cells that one of ``included`` means, all where there is none, without those that ``excluded`` mean.

    Raises:
        UserError: none is left.
    """
    found = []
    for cell in cells:
        # Each rule is asked, so that one that means nothing is known.
        wanted, unwanted = ([rule.means(cell, default) for rule in each] for each in (included, excluded))
        if (any(wanted) or not wanted) and not any(unwanted):
            found.append(cell)
    if not found:
        raise UserError("include and exclude leave no cell to run")
    return found


def _values(name: str, value: Any) -> list[Any]:
    if _ALSO.get(name, name) == "resolution":
        try:
            return list(notations.resolutions(value))
        except ValueError as error:
            raise UserError(f"resolution in a rule: {error}") from None
    if isinstance(value, list | tuple):
        return list(value)
    return list(split(value)) if isinstance(value, str) else [value]


def _holds(cell: Cell, name: str, value: Any, default: Default) -> bool:
    """Tell whether a cell has a value on an axis."""
    if name == "model":
        return value in (cell.model, cell.plugin)
    if name in _OF_CELLS:
        return _same(getattr(cell, name), value)
    owner, dot, option = name.rpartition(".")
    if not dot:
        return _same(_setting(cell, name), value)
    if owner in (cell.model, cell.plugin):
        return _same(cell.options[option] if option in cell.options else default(cell, "model", option), value)
    if owner == cell.task:
        return _same(cell.task_options[option] if option in cell.task_options else default(cell, "task", option), value)
    return False


def _setting(cell: Cell, name: str) -> Any:
    """Return the value of a setting of a cell; None if it has none of that name."""
    holders = (cell, *(getattr(cell, group) for group in GROUPS))
    return next((getattr(holder, name) for holder in reversed(holders) if hasattr(holder, name)), None)


def _same(held: Any, given: Any) -> bool:
    """Tell whether a value is the one that a rule gives, however it is written: 0.001, 1e-3, true, "true"."""
    if held == given or str(held) == str(given):
        return True
    try:
        return float(held) == float(given)
    except (TypeError, ValueError):
        return json.dumps(held) == str(given).lower() if isinstance(held, bool | None) else False
