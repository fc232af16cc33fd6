"""Checks that the tasks, metrics and models named in claims exist."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from attn_bench.analysis.claims.claim import Claim
from attn_bench.errors import UserError, unknown
from attn_bench.plugins.registry import MODELS, TASKS
from attn_bench.results.store import Store

# A name less similar to an existing one belongs to a plugin that is not installed.
_MISSPELT = 0.7


def check_names(claims: Iterable[Claim], folders: Sequence[Path]) -> None:
    """Refuse claims that could never be judged because a name in them is misspelled.

    A model or task that resembles no other in ``folders`` or among the installed ones may be a plugin that is not
    installed.

    Raises:
        UserError: the first misspelled name, with its claim and the existing names; or a folder contains no results.
    """
    metrics: dict[str, set[str]] = {}
    models = set(MODELS.entries())
    for folder in folders:
        store = Store.open(folder)
        for task, own in store.run_info().tasks.items():
            metrics.setdefault(task, set()).update(own)
        models |= {record.cell.plugin for record in store.records()}
    for claim in claims:
        _check_task(claim, metrics)
        for model in filter(None, (claim.model, claim.than)):
            _check_model(claim, model, models)


def _check_task(claim: Claim, metrics: Mapping[str, set[str]]) -> None:
    if claim.task is None:
        return
    installed = TASKS.entries()
    known = installed.keys() | metrics.keys()
    if claim.task not in known:
        return _refuse_if_close(f"task of claim {claim.id}", claim.task, known)
    there = set(metrics.get(claim.task, ()))
    if claim.task in installed:
        with contextlib.suppress(UserError):  # a broken plugin; the folders know the task well enough
            there |= set(TASKS.load(claim.task).metrics)
    if there and claim.metric not in there:
        raise unknown(f"metric of {claim.task} in claim {claim.id}", claim.metric, there)


def _check_model(claim: Claim, model: str, known: set[str]) -> None:
    plugin, _, preset = model.partition(":")
    if plugin not in known:
        return _refuse_if_close(f"model of claim {claim.id}", plugin, known)
    if preset and plugin in MODELS.entries():
        try:
            presets = MODELS.load(plugin).presets
        except UserError:
            return
        # Some plugins accept any name of another library as a preset, and have no list of these.
        if presets and preset not in presets:
            _refuse_if_close(f"preset of {plugin} in claim {claim.id}", preset, presets)


def _refuse_if_close(what: str, given: str, known: Iterable[str]) -> None:
    if difflib.get_close_matches(given, list(known), n=1, cutoff=_MISSPELT):
        raise unknown(what, given, known)
