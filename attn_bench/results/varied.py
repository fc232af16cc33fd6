"""The axes of records: settings and options of which a folder holds several values, a column of the table each."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from attn_bench.errors import UserError
from attn_bench.plugins.options import options_of
from attn_bench.plugins.registry import MODELS, TASKS
from attn_bench.results.labels import Asked, for_each_kind, kinds
from attn_bench.results.validation import as_json
from attn_bench.sweep.cell import GROUPS


def varied(records: Sequence[Asked], elsewhere: Collection[str]) -> dict[str, list[Any]]:
    """Return the value in each record of each setting or option that differs between cells of one task or model.

    Settings are named as in a sweep file, options ``mano.window_size`` and ``darcy.n_train``. An option that was not
    set has its default, as far as the plugin is there to ask; other models have None.

    Args:
        elsewhere: settings that have a column in every table.
    """
    numbers = kinds(records)
    columns: dict[str, list[Any]] = {}
    for owner_of, values_of, default in (
        (lambda record: record.cell.plugin, lambda record: record.cell.options, default_of_model),
        (lambda record: record.cell.task, lambda record: record.cell.task_options, _default_of_task),
    ):
        owners: dict[str, list[int]] = {}
        for i, record in enumerate(records):
            owners.setdefault(owner_of(record), []).append(i)
        for owner, own in owners.items():
            for name in _differing({numbers[i]: values_of(records[i]) for i in own}.values()):
                column = columns.setdefault(f"{owner}.{name}", [None] * len(records))
                for i in own:
                    values = values_of(records[i])
                    column[i] = values[name] if name in values else default(owner, name)
    settings = for_each_kind(records, _settings)
    by_task: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        by_task.setdefault(record.task, []).append(i)
    different = [{numbers[i]: settings[i] for i in own} for own in by_task.values()]
    differing = dict.fromkeys(name for each in different for name in _differing(each.values()))
    found = {name: [of.get(name) for of in settings] for name in differing if name not in (*elsewhere, "measure")}
    return {name: _plain(values) for name, values in {**found, **columns}.items() if _known(values)}


def _settings(record: Asked) -> dict[str, Any]:
    groups = (getattr(record.cell, name) for name in GROUPS)
    return {name: value for group in groups if group is not None for name, value in as_json(group).items()}


def _differing(each: Collection[Mapping[str, Any]]) -> list[str]:
    """Return the keys that do not have one value in all of ``each``."""
    found = []
    for name in dict.fromkeys(name for values in each for name in values):
        texts = {json.dumps(values[name], default=str) if name in values else "" for values in each}
        if len(texts) > 1:
            found.append(name)
    return found


def _known(values: Sequence[Any]) -> bool:
    return any(value is not None for value in values)


def _plain(values: list[Any]) -> list[Any]:
    """Return values that a column of a file can hold: of one type, text where they are not."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or kinds <= {bool} or kinds <= {str}:
        return values
    return [value if value is None or isinstance(value, str) else json.dumps(value, default=str) for value in values]


@functools.cache
def default_of_model(plugin: str, option: str) -> Any:
    """Return the default of an option of a model; None if there is none, as far as the plugin is there to ask."""
    return _default(MODELS, plugin, option)


@functools.cache
def _default_of_task(task: str, option: str) -> Any:
    return _default(TASKS, task, option)


def _default(registry: Any, name: str, option: str) -> Any:
    try:
        known = options_of(registry.load(name))
    except UserError:  # it is not installed, or broken
        return None
    default = known[option].default if option in known else None
    return None if default is dataclasses.MISSING else default
