"""Which cells of two results folders are the same cell.

Cells are paired by what they are: model, options, task, resolution, budget and the rest of a cell, but not by the
versions of the code, which are what is compared. What is left over then and differs only in how it was run
(:data:`CONDITIONS`) is paired, too: :mod:`attn_bench.gate.conditions` says what of it does not compare.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from attn_bench.results.labels import labels

Record = Mapping[str, Any]
_VERSIONS = ("model_version", "task_version", "training_version")
# Settings that do not make another model of a cell, but other times, or other trainings.
CONDITIONS = ("device", "precision", "batch_size", "compile", "threads", "cuda_graph", "eval_resolutions")


@dataclass
class Case:
    """One cell over its seeds, in base and in new.

    Attributes:
        twice: the sides that hold a seed of it more than once, of several versions of the code.
    """

    key: str
    label: str
    base: dict[int, Record] = field(default_factory=dict)
    new: dict[int, Record] = field(default_factory=dict)
    twice: set[str] = field(default_factory=set)

    @property
    def model(self) -> str:
        """The model's name; ``label`` adds the settings in which cells of one name differ."""
        return self._cell["model"]

    @property
    def resolution(self) -> int:
        """Where it was trained and measured."""
        return self._cell["resolution"]

    @property
    def _cell(self) -> Mapping[str, Any]:
        return next(iter((self.base or self.new).values()))["cell"]

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.label} at {self.resolution}"

    def ok(self) -> list[int]:
        """Seeds that ended well on both sides."""
        return [s for s in self.both() if self.base[s]["status"] == self.new[s]["status"] == "ok"]

    def failed(self) -> list[int]:
        """Seeds that ended well on neither side, except :meth:`unserved` ones."""
        neither = [s for s in self.both() if "ok" not in (self.base[s]["status"], self.new[s]["status"])]
        return [s for s in neither if s not in self.unserved()]

    def unserved(self) -> list[int]:
        """Seeds that are unsupported on both sides: what a model does not serve is no failure."""
        return [s for s in self.both() if self.base[s]["status"] == self.new[s]["status"] == "unsupported"]

    def tested(self, side: Literal["base", "new"]) -> set[int]:
        """Return the resolutions that a side was tested at, or ought to have been."""
        found = {self.resolution}
        for record in (self.base if side == "base" else self.new).values():
            found |= {entry["resolution"] for entry in record["evaluations"]}
            if record["cell"].get("training") is not None:
                found |= set(record["cell"].get("eval_resolutions") or ())
        return found

    def both(self) -> list[int]:
        """Seeds that both sides have."""
        return sorted(self.base.keys() & self.new.keys())


def pair(base: Sequence[Record], new: Sequence[Record]) -> list[Case]:
    """Return every cell of base and new, whether or not the other side has it, by resolution and label."""
    keys = [_key(record) for record in base], [_key(record) for record in new]
    partners = _partners(set(keys[0]), set(keys[1]))
    records = [*base, *new]
    keyed = [*keys[0], *(partners.get(key, key) for key in keys[1])]
    seeded = [{**record, "cell": json.loads(key) | {"seed": _seed(record)}} for record, key in zip(records, keyed)]
    cases: dict[str, Case] = {}
    for i, (record, key, label) in enumerate(zip(records, keyed, labels(seeded))):
        case = cases.setdefault(key, Case(key, label))
        side, name = (case.base, "base") if i < len(base) else (case.new, "new")
        earlier = side.get(_seed(record))
        if earlier is not None and _versions(earlier) != _versions(record):
            case.twice.add(name)
        # Of a cell that was measured later than it was trained, what was measured counts.
        if earlier is None or record["latency"] or not earlier["latency"]:
            side[_seed(record)] = record
    return sorted(cases.values(), key=lambda case: (case.resolution, case.label))


def missing(cases: Sequence[Case]) -> Iterator[str]:
    """Say which cells of base are not in new, and of which it cannot be told which is meant."""
    for case in cases:
        for side in sorted(case.twice) if case.base else ():
            yield f"{case.title}: {side} holds it of several versions of the code; give each version its own folder"
        if not case.new:
            yield f"{case.title}: not in new{_otherwise(case, cases)}"
        elif case.base and (seeds := sorted(case.base.keys() - case.new.keys())):
            yield f"{case.title}: {said(seeds)} not in new"


def added(cases: Sequence[Case]) -> Iterator[str]:
    """Say which cells of new are not in base."""
    for case in cases:
        if not case.base:
            yield f"{case.title}: not in base, so there is nothing to compare it with"
        elif case.new and (seeds := sorted(case.new.keys() - case.base.keys())):
            yield f"{case.title}: {said(seeds)} not in base"
        elif case.new and (tested := sorted(case.tested("new") - case.tested("base"))):
            yield f"{case.title}: tested at {', '.join(map(str, tested))} in new only"


def said(seeds: Sequence[int]) -> str:
    """Return ``seed 1`` or ``seeds 0, 1``."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _seed(record: Record) -> int:
    return record["cell"]["seed"]


def _versions(record: Record) -> list[Any]:
    return [record["cell"].get(name) for name in _VERSIONS]


def _key(record: Record) -> str:
    # Measured or not, it is the same cell.
    left_out = dict.fromkeys(("seed", "measure", *_VERSIONS))
    return json.dumps({k: v for k, v in record["cell"].items() if k not in left_out}, sort_keys=True)


def _partners(base: set[str], new: set[str]) -> dict[str, str]:
    """Return which cells of new stand for which of base, of those that differ in their conditions alone."""
    left: tuple[dict[str, list[str]], dict[str, list[str]]] = defaultdict(list), defaultdict(list)
    for side, keys in zip(left, (base - new, new - base)):
        for key in keys:
            side[_unconditioned(key)].append(key)
    return {left[1][key][0]: keys[0] for key, keys in left[0].items() if len(keys) == len(left[1].get(key, ())) == 1}


def _unconditioned(key: str) -> str:
    cell = {name: value for name, value in json.loads(key).items() if name not in CONDITIONS}
    if isinstance(cell.get("training"), dict):
        cell["training"].pop("batch_size", None)
    return json.dumps(cell, sort_keys=True)


def _otherwise(case: Case, cases: Sequence[Case]) -> str:
    """Name the settings with which new has the model of ``case``, if it does."""
    own = json.loads(case.key)
    for other in cases:
        if other.new and not other.base and (other.model, other.resolution) == (case.model, case.resolution):
            theirs = json.loads(other.key)
            differing = [k for k in sorted(own.keys() | theirs.keys()) if own.get(k) != theirs.get(k)]
            return f"; there with other {', '.join(differing)}"
    return ""


def identity(record: Record) -> dict[str, Any]:
    """Return what the data of a record are, without how that was said in words."""
    return {name: value for name, value in (record["data"] or {}).items() if name != "read"}
