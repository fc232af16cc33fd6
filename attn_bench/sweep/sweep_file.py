"""The sweep file, and what flags override of it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attn_bench.errors import UserError
from attn_bench.files import read_yaml
from attn_bench.sweep import notations
from attn_bench.sweep.groups import BUDGETS
from attn_bench.sweep.rules import Rule
from attn_bench.sweep.variants import chosen_of, names_of


def overridden(file: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a sweep file with those of ``given`` in their place, also where they are a task's own.

    What is given under ``set`` is added, and ``models`` chooses among those of the file by their labels. What the file
    excludes of models, tasks or resolutions that are not chosen is left out.

    Raises:
        UserError: ``models`` or ``tasks`` that are not as they should be.
    """
    found = _without(file, given) | {name: value for name, value in given.items() if name != "set"}
    of_file = notations.listed(file.get("models"))
    if "models" in given and isinstance(of_file, list | tuple):
        found["models"] = chosen_of(notations.listed(given["models"]), of_file)
    sets = given.get("set") or []
    if sets or file.get("set"):
        found["set"] = _both(file.get("set"), sets)
    if "tasks" in found and "tasks" not in given:
        try:
            tasks = notations.tasks(found["tasks"])
        except ValueError as error:
            raise UserError(f"setting tasks: {error}") from None
        found["tasks"] = {
            name: {**_without(own, given), **({"set": _both(own.get("set"), sets)} if sets else {})}
            for name, own in tasks.items()
        }
    if "exclude" in file and "exclude" not in given:
        with contextlib.suppress(ValueError, UserError):  # what is wrong is said where they are read
            found["exclude"] = _of_chosen(file["exclude"], found, given)
    return found


def _of_chosen(rules: Any, found: Mapping[str, Any], given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rules of a file that are not about models, tasks or resolutions that flags leave out."""
    chosen: dict[str, set[str]] = {}
    if "models" in given:
        chosen["model"] = {name for model in notations.listed(found["models"]) for name in names_of(model)}
    if "task" in given:
        chosen["task"] = {str(name) for name in notations.listed(given["task"])}
    if "resolutions" in given:
        chosen["resolution"] = {str(each) for each in notations.resolutions(given["resolutions"])}
    return [
        rule
        for rule in notations.rules(rules)
        if all(chosen[name] & set(map(str, of)) for name, of in Rule("exclude", rule).values.items() if name in chosen)
    ]


def _without(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    dropped = {name for name in given if name != "set"} | (set(BUDGETS) if given.keys() & set(BUDGETS) else set())
    return {name: value for name, value in settings.items() if name not in dropped}


def _both(of_file: Any, flags: list[Any]) -> list[Any]:
    """Return the assignments of a file without those that flags override, and those of the flags."""
    own = _listed(of_file)
    with contextlib.suppress(ValueError):  # what is wrong is said where they are read
        given, there = notations.assignments(flags), notations.assignments(own)
        own = [
            {f"{owner}.{name}": value}
            for owner, options in there.items()
            for name, value in options.items()
            if name not in given.get(owner, {})
        ]
    return [*own, *flags]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def read_sweep_file(path: Path) -> dict[str, Any]:
    """Read a YAML sweep file into settings; raises UserError."""
    try:
        settings = read_yaml(path)
    except OSError as error:
        raise UserError(f"cannot read the sweep file {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid YAML ({error})") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path} contains no settings; a sweep file is a mapping such as 'models: [mano, fno]'")
    return settings
