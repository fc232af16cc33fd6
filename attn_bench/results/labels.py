"""The labels of models: the name, with whatever distinguishes their cells."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from attn_bench.results.record import Record
from attn_bench.results.validation import as_json
from attn_bench.sweep.groups import SCHEDULES

# A model's label, and the settings in which its cells differ; None means the default.
Kind = tuple[str, tuple[tuple[str, str | None], ...]]

# Distinguishes cells of one model without being a setting of the model.
_AXES = {
    "model", "resolution", "seed", "eval_resolutions", "measuring.measure", "sources", "broken", "keep_weights",
    "weights", "weights_in",
}  # fmt: skip
_FINETUNING = "finetuning."
_VERSION = "_version"
DEFAULT = "default"


def labels(records: Sequence[Record]) -> list[str]:
    """Return a label per record; settings in which cells of one model differ are appended, so they are never mixed.

    Versions of a model are distinguished by the version of its package, ``mano (0.2.0)``, or, if equal, numbered
    in the order of their first runs: ``mano (version 2)``.
    """
    by_model: dict[str, list[dict[str, str]]] = defaultdict(list)
    settings = []
    for record in records:
        # A setting that is not given is not mentioned as a difference; an option may be None on purpose.
        flat = {
            key: value
            for key, value in _flatten(as_json(record.cell)).items() - _of_schedule(record)
            if key not in _AXES and (value != str(None) or key.startswith(("options.", "task_options.")))
        }
        flat["weights"] = _origin(record)
        settings.append(flat)
        by_model[record.cell.model].append(flat)
    differing = {
        model: [key for key in sorted(set().union(*flats)) if _differs(key, flats)] for model, flats in by_model.items()
    }
    kinds = []
    words = {}
    of_model: dict[str, list[int]] = defaultdict(list)
    for i in sorted(range(len(records)), key=lambda i: records[i].started or ""):
        of_model[records[i].cell.model].append(i)
    for model, keys in differing.items():
        own = of_model[model]
        for key in keys:
            if key.endswith(_VERSION):
                words[model, key] = _versions(key, dict.fromkeys(settings[i].get(key) for i in own))
    for record, flat in zip(records, settings):
        model = record.cell.model
        shown = [key for key in differing[model] if key in flat or not key.startswith(("training.", _FINETUNING))]
        kinds.append((model, tuple((key, flat.get(key)) for key in shown)))
    names = _named(dict.fromkeys(kinds), words)
    return [names[kind] for kind in kinds]


def _origin(record: Record) -> str:
    """Say where the weights of a trained model come from: its own seeds are not told apart, its folders are."""
    if record.cell.weights is None:
        return "trained here"
    return f"from {record.weights.folder}" if record.weights and record.weights.folder else "kept"


def _versions(key: str, values: Collection[str | None]) -> dict[str | None, str]:
    """Return the text for each version of something that cells depend on, given in the order of their first runs."""
    packages = ["unknown" if value is None else value.rpartition("==")[2].partition("+")[0] for value in values]
    if len(set(packages)) < len(packages):
        packages = [f"version {number}" for number in range(1, len(values) + 1)]
    of = "" if key == f"model{_VERSION}" else f"{key.removesuffix(_VERSION)} "
    return {value: f"{of}{package}" for value, package in zip(values, packages)}


def _named(kinds: Iterable[Kind], words: Mapping[tuple[str, str], Mapping[str | None, str]]) -> dict[Kind, str]:
    """Return a unique name for each kind of cell: its model, its version if needed, and differing settings."""
    short = {}
    for kind in kinds:
        model, shown = kind
        ends = Counter(key.rpartition(".")[2] for key, _ in shown)
        versions = [words[model, key][value] for key, value in shown if key.endswith(_VERSION)]
        options = [
            f"{end if ends[end := key.rpartition('.')[2]] == 1 else key}={DEFAULT if value is None else value}"
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


def _of_schedule(record: Record) -> set[tuple[str, str]]:
    """Return the parameters that a learning-rate schedule has unless a user says otherwise, flattened."""
    training = record.cell.training
    return (
        {(f"training.{name}", str(value)) for name, value in SCHEDULES[training.schedule].items()}
        if training
        else set()
    )


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
