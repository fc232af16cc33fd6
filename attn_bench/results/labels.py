"""The labels of models: the name, with whatever distinguishes their cells."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, TypeVar

from attn_bench.results.record import Record
from attn_bench.results.validation import as_json
from attn_bench.sweep.cell import Cell, in_words
from attn_bench.sweep.groups import SCHEDULES

T = TypeVar("T")
# A model's label, and the settings in which its cells differ; None means the default.
Kind = tuple[str, tuple[tuple[str, str | None], ...]]

# Distinguishes cells of one model without being a setting of the model.
_AXES = {
    "model", "resolution", "seed", "eval_resolutions", "measuring.measure", "sources", "broken", "keep_weights",
    "weights", "weights_in", "variant", "trials", "tuning.tune_resolution",
}  # fmt: skip
_FINETUNING = "finetuning."
_RECIPE = "training.recipe"
_VERSION = "_version"
DEFAULT = "default"
# Cells that differ in at least so many settings are an ablation, if each changes at most so many and no more than half.
_ABLATED, _CHANGED = 3, 2


class Asked(NamedTuple):
    """What a label says of a record.

    Attributes:
        started: when its cell was started.
        kind: of its cell (:attr:`attn_bench.sweep.cell.Cell.kind`).
        folder: results folder that its weights were read from.
        cell: one of that kind; its model, its resolutions, its seed and whether it is measured may be those of another.
    """

    model: str
    task: str
    started: str | None
    kind: str
    folder: str | None
    cell: Cell

    @classmethod
    def of(cls, record: Record, cell: Cell | None = None) -> Asked:
        """Return that of a record, or of another ``cell`` in its place."""
        cell, folder = cell or record.cell, record.weights.folder if record.weights else None
        return cls(cell.model, cell.task, record.started, cell.kind, folder, cell)


def labels(records: Sequence[Record]) -> list[str]:
    """Return a label per record (:func:`labels_of`)."""
    return labels_of([Asked.of(record) for record in records])


def labels_of(records: Sequence[Asked], *, tasks: bool = False) -> list[str]:
    """Return a label for each; cells of one model and task that differ in a setting get it appended: never mixed.

    Versions of a model are distinguished by the version of its package, ``mano (0.2.0)``, or, if equal, numbered
    in the order of their first runs: ``mano (version 2)``. Where many settings differ, one at a time, labels say only
    what differs from the cells that have the usual value of each, whose label has them all.

    Args:
        tasks: whether labels tell tasks apart as well, where there are several: ``mano [darcy]``.
    """
    several = tasks and len({record.task for record in records}) > 1
    settings = for_each_kind(records, _settings)
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, record in enumerate(records):
        groups[record.task, record.model].append(i)
    kinds: dict[int, tuple[str, Kind]] = {}
    words = {}
    for (task, model), own in groups.items():
        flats = list({id(settings[i]): settings[i] for i in own}.values())
        differing = [key for key in sorted(set().union(*flats)) if _differs(key, flats)]
        differing = [key for key in differing if not (_RECIPE in differing and _follows_recipe(key, flats))]
        own = sorted(own, key=lambda i: records[i].started or "")
        for key in differing:
            if key.endswith(_VERSION):
                words[task, model, key] = _versions(key, dict.fromkeys(settings[i].get(key) for i in own))
        usual = _usual(flats, [key for key in differing if not key.endswith(_VERSION)])
        for i in own:
            at_base = all(settings[i].get(key) == value for key, value in usual.items())
            shown = [
                key
                for key in differing
                if (key in settings[i] or not key.startswith(("training.", _FINETUNING)))
                and (at_base or key not in usual or settings[i].get(key) != usual[key])
            ]
            said = [("task", task)] if several else []
            kinds[i] = task, (model, (*said, *((key, settings[i].get(key)) for key in shown)))
    names: dict[tuple[str, Kind], str] = {}
    for task in {record.task for record in records}:
        named = _named(dict.fromkeys(kind for of, kind in kinds.values() if of == task), task, words)
        names |= {(task, kind): name for kind, name in named.items()}
    return [names[kinds[i]] for i in range(len(records))]


def kinds(records: Sequence[Asked]) -> list[int]:
    """Return a number for each, equal for cells that differ in no setting, whatever their label and seed."""
    found: dict[Hashable, int] = {}
    return [found.setdefault((record.kind, record.folder), len(found)) for record in records]


def for_each_kind(records: Sequence[Asked], made: Callable[[Asked], T]) -> list[T]:
    """Return what ``made`` returns for each; it is called once for those of a kind (:func:`kinds`)."""
    numbers = kinds(records)
    found = {number: made(record) for number, record in dict(zip(numbers, records)).items()}
    return [found[number] for number in numbers]


def _settings(record: Asked) -> dict[str, str]:
    """Return what tells the cells of a model apart, by dotted names."""
    # What was chosen by tuning is not what was asked for.
    chosen = {f"training.{name}" for name in record.cell.tuning.tune} if record.cell.tuning else set()
    # A setting that is not given is not mentioned as a difference; an option may be None on purpose.
    flat = {
        key: value
        for key, value in _flatten(as_json(record.cell)).items() - _of_schedule(record)
        if key not in _AXES | chosen and (value != str(None) or key.startswith(("options.", "task_options.")))
    }
    return flat | {"weights": _origin(record)}


def _origin(record: Asked) -> str:
    """Say where the weights of a trained model come from: its own seeds are not told apart, its folders are."""
    if record.cell.weights is None:
        return "trained here"
    return f"from {record.folder}" if record.folder else "kept"


def _versions(key: str, values: Collection[str | None]) -> dict[str | None, str]:
    """Return the text for each version of something that cells depend on, given in the order of their first runs."""
    packages = ["unknown" if value is None else value.rpartition("==")[2].partition("+")[0] for value in values]
    if len(set(packages)) < len(packages):
        packages = [f"version {number}" for number in range(1, len(values) + 1)]
    of = "" if key == f"model{_VERSION}" else f"{key.removesuffix(_VERSION)} "
    return {value: f"{of}{package}" for value, package in zip(values, packages)}


def _named(
    kinds: Iterable[Kind], task: str, words: Mapping[tuple[str, str, str], Mapping[str | None, str]]
) -> dict[Kind, str]:
    """Return a unique name for each kind of cell: its model, its version if needed, and differing settings."""
    short = {}
    for kind in kinds:
        model, shown = kind
        ends = Counter(key.rpartition(".")[2] for key, _ in shown)
        versions = [words[task, model, key][value] for key, value in shown if key.endswith(_VERSION)]
        options = [
            in_words(end if ends[end := key.rpartition(".")[2]] == 1 else key, DEFAULT if value is None else value)
            for key, value in shown
            if not key.endswith(_VERSION)
        ]
        name = f"{model} ({', '.join(versions)})" if versions else model
        short[kind] = f"{name} [{', '.join(options)}]" if options else name
    taken = Counter(short.values())
    return {
        kind: name if taken[name] == 1 else f"{name} #{sha256(repr(kind).encode()).hexdigest()[:8]}"
        for kind, name in short.items()
    }


def _differs(key: str, flats: Sequence[Mapping[str, str]]) -> bool:
    """Tell whether cells differ in a setting; settings of fine-tuning are compared only between fine-tuned cells."""
    compared = [flat for flat in flats if key in flat] if key.startswith(_FINETUNING) else flats
    return len({flat.get(key) for flat in compared}) > 1


def _usual(flats: Sequence[Mapping[str, str]], differing: Sequence[str]) -> dict[str, str | None]:
    """Return the value that most cells have of each setting, if they are an ablation, or nothing.

    In an ablation many settings differ, but from a base, which is there, one or two at a time.
    """
    if len(differing) < _ABLATED:
        return {}
    usual = {key: Counter(flat.get(key) for flat in flats).most_common(1)[0][0] for key in differing}
    changes = [sum(flat.get(key) != value for key, value in usual.items()) for flat in flats]
    return usual if min(changes) == 0 and max(changes) <= min(_CHANGED, len(differing) // 2) else {}


def _of_schedule(record: Asked) -> set[tuple[str, str]]:
    """Return the parameters that a learning-rate schedule has unless a user says otherwise, flattened."""
    training = record.cell.training
    return (
        {(f"training.{name}", str(value)) for name, value in SCHEDULES[training.schedule].items()}
        if training
        else set()
    )


def _follows_recipe(key: str, flats: Sequence[Mapping[str, str]]) -> bool:
    """Tell whether a setting is the same in all cells of a recipe, so that its name says enough."""
    pairs = {(flat.get(_RECIPE), flat.get(key)) for flat in flats}
    followers = key.startswith(("training.", "execution.")) and key != _RECIPE
    return followers and len(pairs) == len({flat.get(_RECIPE) for flat in flats})


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
