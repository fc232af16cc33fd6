"""Rows of the results table from records."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

# A model's label, and the settings in which its cells differ; None where one is left to its default.
Kind = tuple[str, tuple[tuple[str, str | None], ...]]

# What tells cells of one model apart without being a setting of it.
_AXES = {"model", "resolution", "seed", "eval_resolutions", "measure"}
_FINETUNING = "finetuning."
_VERSION = "_version"
DEFAULT = "default"


def rows(
    records: Sequence[Mapping[str, Any]], environments: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """Return one row per record and resolution evaluated at, with the same columns in every row.

    Latency, memory and cost stand in the row of the resolution trained at; other rows carry the metrics alone.
    """
    table = []
    for record, label in zip(records, labels(records)):
        environment = environments.get(record.get("environment") or "", {})
        evaluations = {entry["resolution"]: entry for entry in record["evaluations"]}
        for resolution in (record["cell"]["resolution"], *record["cell"]["eval_resolutions"]):
            entry = evaluations.get(resolution, {})
            own = resolution == record["cell"]["resolution"]
            table.append(_row(record, label, resolution, entry, environment, metrics, own))
    return table


def _row(
    record: Mapping[str, Any],
    label: str,
    resolution: int,
    evaluation: Mapping[str, Any],
    environment: Mapping[str, Any],
    metrics: Sequence[str],
    own: bool,
) -> dict[str, Any]:
    cell = record["cell"]
    training = record["training"] or {}
    failed_before = record["status"] != "ok" and not evaluation
    status = record["status"] if own or failed_before else evaluation.get("status", record["status"])
    error = record["error"] if own or failed_before else evaluation.get("error")
    row: dict[str, Any] = {
        "cell": record["id"],
        "model": label,
        "task": cell["task"],
        "resolution": cell["resolution"],
        "eval_resolution": resolution,
        "seed": cell["seed"],
        "status": status,
        "error": error,
        "missing": missing(record.get("errors", {})) if own else None,
    }
    row |= {name: evaluation.get("metrics", {}).get(name) for name in metrics}
    for name in ("forward", "train_step"):
        latency = record["latency"].get(name) if own else None
        for column, key in (
            ("", "median_ms"),
            ("_low", "low_ms"),
            ("_high", "high_ms"),
            ("_p10", "p10_ms"),
            ("_p90", "p90_ms"),
        ):
            row[f"latency_{name}{column}_ms"] = latency.get(key) if latency else None
    latencies = list(record["latency"].values()) if own else []
    forward = row["latency_forward_ms"]
    row["throughput_forward_per_s"] = 1000 * cell["batch_size"] / forward if forward else None
    row["latency_forward_batch1_ms"] = record["latency"].get("forward_batch1", {}).get("median_ms") if own else None
    row["latency_forward_graph_ms"] = record["latency"].get("forward_graph", {}).get("median_ms") if own else None
    row["compile_seconds"] = _sum(latency.get("compile_seconds") for latency in latencies)
    row["disturbed"] = any(disturbed(latency) for latency in latencies) if latencies else None
    row["sm_clock_mhz"] = next((clock for one in latencies if (clock := one.get("sm_clock_mhz"))), None)
    for name, column in (("forward", "forward"), ("train_step", "train")):
        memory = record["memory"].get(name) if own else None
        row[f"peak_memory_{column}_mib"] = memory.get("peak_mib") if memory else None
        row[f"peak_memory_{column}_total_mib"] = memory.get("total_mib") if memory else None
        row[f"process_memory_{column}_mib"] = memory.get("process_mib") if memory else None
    row |= {
        "tokens": record.get("tokens"),
        "complexity": record.get("complexity"),
        "parameters": record["parameters"],
        "flops": (record["flops"] or {}).get("total") if own else None,
        "flops_uncounted": " ".join((record["flops"] or {}).get("unknown", ())) if own else None,
        "batch_size": cell["batch_size"],
        "device": cell["device"],
        "device_name": environment.get("device_name"),
        "dtype": cell["precision"],
        "compile": cell["compile"],
        "protocol": cell.get("protocol", "scratch"),
        "train_steps": training.get("steps"),
        "train_epochs": training.get("epochs"),
        "train_seconds": training.get("seconds"),
        "train_loss": training.get("loss"),
        "effective": json.dumps(record["effective"], sort_keys=True) if record["effective"] else None,
        "options": json.dumps(cell["options"], sort_keys=True) if cell["options"] else None,
        "cell_seconds": record["seconds"],
        "started": record["started"],
        "environment": record.get("environment"),
    }
    return row


def missing(errors: Mapping[str, str]) -> str | None:
    """Return which quantities are missing and why, those with one reason together; None if none is."""
    quantities: dict[str, list[str]] = defaultdict(list)
    for quantity, reason in errors.items():
        quantities[reason].append(quantity)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in quantities.items()) or None


def disturbed(latency: Mapping[str, Any]) -> bool:
    """Tell whether other processes took the cores, or heat slowed the GPU down."""
    return bool(latency.get("disturbed") or latency.get("throttled"))


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def labels(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a label per record; records of one model that differ in a setting get it appended: never mixed.

    Two versions of a model are told apart by the beginning of what they are made of: ``mano (18b923ee)``.
    """
    by_model: dict[str, list[dict[str, str]]] = defaultdict(list)
    settings = []
    for record in records:
        # Records leave these out where they are off.
        cell = {"protocol": "scratch", **record["cell"]}
        if cell.get("finetuning"):
            cell["finetuning"] = {"cutmix": 0.0, **cell["finetuning"]}
        flat = _flatten({key: value for key, value in cell.items() if key not in _AXES})
        settings.append(flat)
        by_model[record["cell"]["model"]].append(flat)
    differing = {
        model: [key for key in sorted(set().union(*flats)) if _differs(key, flats)] for model, flats in by_model.items()
    }
    kinds = []
    for record, flat in zip(records, settings):
        model = record["cell"]["model"]
        shown = [key for key in differing[model] if key in flat or not key.startswith(_FINETUNING)]
        kinds.append((model, tuple((key, flat.get(key)) for key in shown)))
    names = _named(dict.fromkeys(kinds))
    return [names[kind] for kind in kinds]


def _named(kinds: Iterable[Kind]) -> dict[Kind, str]:
    """Name each kind of cell: its model, what tells its versions apart, and settings; no two names are the same."""
    short = {}
    for kind in kinds:
        model, shown = kind
        ends = Counter(key.rpartition(".")[2] for key, _ in shown)
        versions = [_version(key, value or DEFAULT) for key, value in shown if key.endswith(_VERSION)]
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


def _version(key: str, value: str) -> str:
    """Return the digest of a version, which tells two of them apart, or the version itself if it has none."""
    digest = value.rpartition("+")[2]
    return digest if key == f"model{_VERSION}" else f"{key.removesuffix(_VERSION)} {digest}"


def _differs(key: str, flats: Sequence[Mapping[str, str]]) -> bool:
    """Tell whether records differ in a setting; those of fine-tuning are compared where it was done."""
    compared = [flat for flat in flats if key in flat] if key.startswith(_FINETUNING) else flats
    return len({flat.get(key) for flat in compared}) > 1


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
