"""How users write lists, ranges of resolutions and options, on the command line, in YAML and in Python."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import Any

from attn_bench.plugins.values import Text
from attn_bench.sweep.fields import Setting, misnamed


def listed(value: Any) -> Any:
    """Return ``"mano,fno"`` or a single model as a list."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    return [value] if isinstance(value, Mapping) else value


def resolutions(value: Any) -> Any:
    """Return ``16``, ``"16,32"``, ``"16..512"`` (doubling from the first to the last) or a list of these as a list.

    Raises:
        ValueError: a range whose end is not reached by doubling.
    """
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    found: list[Any] = []
    for part in parts:
        text = part.strip() if isinstance(part, str) else part
        if text == "":
            continue
        found += _doubled(text) if isinstance(text, str) else [text]
    return found


def _doubled(text: str) -> list[int]:
    first, dots, last = text.partition("..")
    try:
        value, end = int(first), int(last) if dots else int(first)
    except ValueError:
        raise ValueError(f"{text!r} is not a valid int; write e.g. 16,32 or 16..256") from None
    found = [value]
    while 0 < found[-1] < end:
        found.append(2 * found[-1])
    # A first resolution that is too small is rejected where every resolution is checked.
    if found[-1] != end and value > 0:
        raise ValueError(f"{end} is not reached by doubling {value}; list the resolutions explicitly")
    return found


def paths(value: Any) -> Any:
    """Return one path, or a list of them, as a list of text; commas are part of a path."""
    each = value if isinstance(value, list | tuple) else [value]
    return [os.fspath(path) if isinstance(path, os.PathLike) else path for path in each]


def seeds(value: Any) -> Any:
    """Return ``"4,1"`` as a list; a number stays a number."""
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str) and "," in value
        else value
    )


def options(value: Any) -> dict[str, dict[str, Any]]:
    """Return ``{"mano": {"dim": 64}}`` with names of type str; raises ValueError unless it is a mapping of mappings."""
    for values in (value or {}, *(value.values() if isinstance(value, Mapping) else ())):
        if not isinstance(values, Mapping | None):
            raise ValueError(f"{values!r} is not a mapping; write e.g. 'options: {{mano: {{dim: 64}}}}'")
    return {str(owner): {str(name): each for name, each in (of or {}).items()} for owner, of in (value or {}).items()}


def parameters(value: Any) -> Any:
    """Return ``"partition=gpu,nodelist=n1,n2"`` as a mapping: a part without an equals sign belongs to the one before.

    Raises:
        ValueError: the first has none, or a name is given twice.
    """
    if not isinstance(value, str):
        return value
    found: dict[str, Any] = {}
    for part in value.split(","):
        name, equals, given = part.partition("=")
        if equals:
            _add(found, name.strip(), given)
        elif not found:
            raise ValueError(f"{part!r} is not NAME=VALUE; write e.g. partition=gpu,time=60")
        else:
            found[next(reversed(found))] += f",{part}"
    return found


def assignments(value: Any) -> dict[str, dict[str, Any]]:
    """Return options by owner from ``"mano.dim=64"``, ``{"mano.dim": 64}`` or a list of these.

    The value after the equals sign is text, which the option parses.

    Raises:
        ValueError: any other form, or an option that is given twice.
    """
    found: dict[str, dict[str, Any]] = {}
    for item in value if isinstance(value, list | tuple) else [value]:
        pairs = item.items() if isinstance(item, Mapping) else [(str(item), None)]
        for text, given in pairs:
            # The owner ends at the first '.NAME='; its label, like the value, may contain dots and equals signs.
            pattern = r"\s*(.+?)\.([^\W\d][\w-]*)\s*=(.*)" if given is None else r"\s*(.+)\.([^\W\d][\w-]*)\s*()"
            matched = re.fullmatch(pattern, str(text), re.DOTALL)
            if not matched:
                raise ValueError(f"{str(text)!r} is not NAME.OPTION=VALUE; write e.g. mano.dim=64")
            owner, name, typed = matched.groups()
            option, read = f"{owner}.{name}", Text(typed) if given is None else given
            _add(found.setdefault(owner, {}), name, read, f"{option} is given twice; write e.g. {option}=8,16 for both")
    return found


def tasks(value: Any) -> dict[str, dict[str, Any]]:
    """Return ``{"darcy": {"epochs": 5}, "digits": None}`` with a mapping for each task; names alone have none.

    Raises:
        ValueError: something else.
    """
    named = value if isinstance(value, Mapping) else dict.fromkeys(listed(value) or ())
    for name, own in named.items():
        if not isinstance(own, Mapping | None):
            raise ValueError(f"{own!r} is not a mapping; write e.g. 'tasks: {{{name}: {{epochs: 5}}}}'")
    return {str(name): {str(key): each for key, each in (own or {}).items()} for name, own in named.items()}


def rules(value: Any) -> list[dict[str, Any]]:
    """Return ``"model=fno,vit task=digits"``, ``{"model": ["fno", "vit"], "task": "digits"}`` or a list of these.

    Raises:
        ValueError: something else, a rule without a condition, or one with two on the same setting.
    """
    found = []
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, str):
            pairs = [part.partition("=") for part in item.split()]
            if not all(name and sign for name, sign, _ in pairs):
                raise ValueError(f"{str(item)!r} is not a rule; write e.g. 'model=fno resolution=64'")
            conditions: dict[str, Any] = {}
            for name, _, given in pairs:
                _add(
                    conditions, name, given, f"{name} is given twice; write e.g. {name}={conditions.get(name)},{given}"
                )
            item = conditions
        if not isinstance(item, Mapping) or not item:
            raise ValueError(f"{item!r} is not a rule; write e.g. {{model: fno, resolution: 64}}")
        found.append({str(name): each for name, each in item.items()})
    return found


def grid(value: Any, known: Mapping[str, Setting], untried: Collection[str]) -> dict[str, list[Any]]:
    """Return values to try by setting from ``"learning_rate=1e-3,3e-3"``, mappings to lists, or a list of these.

    Args:
        known: the settings, of which numbers can be tried.
        untried: names of those that cannot be.

    Raises:
        ValueError: something else, a setting that is given twice or cannot be tried, or one with fewer than two
            values, the same value twice, or one that it cannot have.
    """
    found: dict[str, list[Any]] = {}
    possible = {name: each for name, each in known.items() if each.type_name == "float" and name not in untried}
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, Mapping):
            pairs: list[tuple[Any, Any]] = list(item.items())
        else:
            name, equals, typed = str(item).partition("=")
            pairs = [(name, typed)] if equals else []
        for name, values in pairs:
            tried = values.split(",") if isinstance(values, str) else values
            several = list(tried) if isinstance(tried, list | tuple) else [tried]
            setting = str(name).strip().replace("-", "_")
            if setting not in possible:
                raise ValueError(misnamed(setting, possible.values(), "setting to tune"))
            _add(found, setting, several, f"{setting} is given twice; give all its values at once, e.g. {setting}=1,2")
        if not pairs:
            raise ValueError(f"{str(item)!r} is not SETTING=VALUE,VALUE; write e.g. learning_rate=1e-3,3e-3")
    for name, tried in found.items():
        if len(tried) < 2:
            raise ValueError(f"{name} has one value; there is nothing to choose")
        try:
            found[name] = [possible[name].converted(v.strip() if isinstance(v, str) else v) for v in tried]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        for i, number in enumerate(found[name]):
            if number in found[name][:i]:
                raise ValueError(f"{name} has the value {number} twice")
    return found


def by_model(value: Any) -> Any:
    """Return recipes by model from ``"fno=fno-2020,mano=mano-paper"``; a mapping stays one.

    Raises:
        ValueError: text of another form, or a model that is given twice.
    """
    if not isinstance(value, str):
        return value
    found: dict[str, Any] = {}
    for part in listed(value):
        model, equals, recipe = part.partition("=")
        if not equals:
            raise ValueError(f"{part!r} is not MODEL=RECIPE; write e.g. fno=fno-2020")
        _add(found, model.strip(), recipe.strip())
    return found


def _add(found: dict[str, Any], name: str, value: Any, wrong: str = "") -> None:
    """Add a value to those found; raises ValueError where there is one of that name, which would be lost."""
    if name in found:
        raise ValueError(wrong or f"{name} is given twice")
    found[name] = value
