"""Joins sweeps of single tasks into sweeps of several: what all share, and settings of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attn_bench.sweep.fields import settings_of
from attn_bench.sweep.settings import Sweep

# Settings of training that mean the same whatever others are.
ALONE = {"learning_rate", "weight_decay", "clip_norm", "epochs", "steps", "seconds"}


class Several(list[Any]):
    """Several values of a setting or an option; any other list is one value."""


def of_several_tasks(by_task: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Join sweeps of different tasks, the first of each, the second of each, and so on."""
    found = []
    for place in range(max(map(len, by_task.values()), default=0)):
        each = {task: of[place] for task, of in by_task.items() if place < len(of)}
        found.append(_with_tasks(each) if len(each) > 1 else next(iter(each.values())))
    return found


def _with_tasks(each: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the settings of several tasks: those that all share, and below ``tasks`` those of each.

    Most settings of training mean something together, so that they are shared all or not at all.
    """
    known = settings_of(Sweep)
    rules = [
        {"task": Several([task]), **rule}
        for task, of in each.items()
        for rule in of.get("include", [{}])
        if any("include" in one for one in each.values())
    ]
    options, own = _shared_options(each), dict[str, dict[str, Any]]()
    for task, of in each.items():
        rest = {owner: given for owner, given in of.get("options", {}).items() if owner not in options}
        own[task] = {name: value for name, value in of.items() if name not in ("task", "options", "include")}
        own[task] |= {"options": rest} if rest else {}
    first, *others = own.values()
    shared = [name for name, value in first.items() if all(name in of and of[name] == value for of in others)]
    groups = ("training", "finetuning", "tuning")
    together = {
        name for of in own.values() for name in of if known[name].group in groups or name in ("train", "regime")
    }
    together -= ALONE
    if not together <= {*shared}:
        shared = [name for name in shared if name not in together]
    tasks = {task: {name: value for name, value in of.items() if name not in shared} for task, of in own.items()}
    found = {"tasks": tasks} if any(tasks.values()) else {"task": [*each]}
    found |= {name: first[name] for name in shared} | ({"options": options} if options else {})
    return found | ({"include": rules} if rules else {})


def _shared_options(each: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the options that mean the same for every task: of tasks, and of models where all have the same."""
    given: dict[str, list[Any]] = {}
    for of in each.values():
        for owner, options in of.get("options", {}).items():
            given.setdefault(owner, []).append(options)
    alike = (owner for owner, of in given.items() if owner in each or of == of[:1] * len(each))
    return {owner: given[owner][0] for owner in alike}
