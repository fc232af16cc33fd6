"""The commands that reproduce the cells of a results folder, derived from the cells themselves.

``run.json`` holds only the last request; a folder may have been filled by several commands, and defaults may have
changed since. Cells hold the actual value of every setting.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attn_bench.plugins.values import quoted
from attn_bench.sweep.cell import GROUPS
from attn_bench.sweep.fields import settings_of
from attn_bench.sweep.settings import Sweep
from attn_bench.sweep.training_recipes import recipes

OUT = "reproduced"
# Stands for the results folder with the weights; ids of cells do not depend on where it is.
KEPT = "FOLDER_WITH_WEIGHTS"
LINE = 88
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")
# Keys that all cells of one sweep share.
_SHARED = ("task", "task_options", "regime", *GROUPS)
# Settings with which 'measure' has no meaning.
_NOT_OF_MEASURE = ("seeds", "eval_resolutions", "regime", "measure")


@dataclass(frozen=True)
class Step:
    """One command, and the sweep file it reads if flags cannot express it: its name and its YAML."""

    command: str
    file: str | None = None
    yaml: str | None = None


def steps(cells: Iterable[Mapping[str, Any]]) -> list[Step]:
    """Return commands that together produce exactly ``cells`` (JSON, see :class:`attn_bench.sweep.cell.Cell`)."""
    cells = list(cells)
    found = [Step(command) for command in dict.fromkeys(_evaluating([cell for cell in cells if cell.get("weights")]))]
    for number, settings in enumerate(sweeps(cell for cell in cells if not cell.get("weights")), 1):
        command = _command(settings)
        if command is not None:
            found.append(Step(command))
        else:
            file = f"sweep-{number}.yaml"
            found.append(Step(f"attn-bench run {file} --out {OUT}", file, _yaml(settings, flow=False)))
    return found


def _evaluating(cells: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the commands that evaluate kept weights, which are in the folders that the table names."""
    for group in _grouped(
        cells, lambda cell: [cell[name] for name in ("task_options", "execution", "eval_resolutions")]
    ):
        cell, known = group[0], settings_of(Sweep)
        parts = ["attn-bench", "run", "--from", KEPT, "--models", ",".join(dict.fromkeys(c["model"] for c in group))]
        parts += ["--eval-resolutions", ",".join(map(str, cell["eval_resolutions"]))]
        for key, item in cell["task_options"].items():
            parts += ["--set", f"{cell['task']}.{key}={item if isinstance(item, str) else _yaml(item)}"]
        for name in ("batch_size", "precision", "device", "threads"):
            if (value := cell["execution"][name]) != known[name].default:
                parts += [known[name].flag, str(value)]
        yield _folded([*parts, "--out", OUT])


def sweeps(cells: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return settings, as ``Sweep.from_settings`` takes them, whose cells together are exactly ``cells``."""
    result = []
    for group in _grouped(map(_asked, cells), lambda cell: {name: cell.get(name) for name in _SHARED}):
        tested = list(dict.fromkeys(r for cell in group for r in cell["eval_resolutions"]))
        if all(cell["eval_resolutions"] == [r for r in tested if r != cell["resolution"]] for cell in group):
            result += _products(group, tested)
        else:
            for alike in _grouped(group, lambda cell: cell["eval_resolutions"]):
                result += _products(alike, alike[0]["eval_resolutions"])
    return result


def _asked(cell: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a cell without the values that tuning chose."""
    chosen = (cell.get("tuning") or {}).get("tune", {})
    return {**cell, "training": {**cell["training"], **dict.fromkeys(chosen)}} if chosen else cell


def _grouped(cells: Iterable[Mapping[str, Any]], key: Any) -> list[list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        groups.setdefault(json.dumps(key(cell), sort_keys=True), []).append(cell)
    return list(groups.values())


def _products(cells: Sequence[Mapping[str, Any]], tested: list[int]) -> list[dict[str, Any]]:
    """Split cells that share their settings into products of models, resolutions and seeds."""
    rectangles: dict[tuple[tuple[int, ...], tuple[int, ...]], list[Mapping[str, Any]]] = {}
    for variant in _grouped(cells, lambda cell: [cell["model"], cell["plugin"], cell["options"]]):
        by_seeds: dict[tuple[int, ...], list[int]] = {}
        for resolution in sorted({cell["resolution"] for cell in variant}):
            seeds = tuple(sorted({cell["seed"] for cell in variant if cell["resolution"] == resolution}))
            by_seeds.setdefault(seeds, []).append(resolution)
        for seeds, resolutions in by_seeds.items():
            rectangles.setdefault((tuple(resolutions), seeds), []).append(variant[0])
    return [
        _settings(models, resolutions, seeds, tested)
        for (resolutions, seeds), variants in rectangles.items()
        for models in _without_twins(variants)
    ]


def _without_twins(variants: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Split variants so that no label is used twice in one sweep."""
    parts: list[list[Mapping[str, Any]]] = []
    for variant in variants:
        for part in parts:
            if all(variant["model"] != other["model"] for other in part):
                part.append(variant)
                break
        else:
            parts.append([variant])
    return parts


def _settings(
    variants: Sequence[Mapping[str, Any]], resolutions: Sequence[int], seeds: Sequence[int], tested: list[int]
) -> dict[str, Any]:
    cell = variants[0]
    settings: dict[str, Any] = {"task": cell["task"], "resolutions": list(resolutions)}
    if tested:
        settings["eval_resolutions"] = tested
    if list(seeds) != [0]:
        settings["seeds"] = len(seeds) if list(seeds) == list(range(len(seeds))) else list(seeds)
    if not cell["training"]:
        settings["train"] = False
    if cell["regime"] != "scratch":
        settings["regime"] = cell["regime"]
    usual = {name: setting.default for name, setting in settings_of(Sweep).items()}
    if recipe := (cell["training"] or {}).get("recipe"):
        usual |= recipes()[recipe].settings if recipe in recipes() else {}
    for group in GROUPS:
        values = cell.get(group) or {}
        given = {name: value for name, value in values.items() if name in usual and value is not None}
        settings |= {name: value for name, value in given.items() if value != usual[name]}
    options = {cell["task"]: cell["task_options"]} if cell["task_options"] else {}
    if _nameable(variants):
        settings["models"] = [variant["model"] for variant in variants]
        options |= {variant["model"]: variant["options"] for variant in variants if variant["options"]}
    else:
        settings["models"] = [
            {"name": variant["plugin"], "label": variant["model"], "options": variant["options"]}
            for variant in variants
        ]
    return settings | ({"options": options} if options else {})


def _nameable(variants: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether models can be given by name, with their options separate.

    Options of ``vit`` also apply to ``vit:patch4``, so two variants of one plugin cannot if either has options.
    """
    plugins = [variant["plugin"] for variant in variants]
    return all(
        _PLAIN.fullmatch(v["model"])
        and (v["model"] == v["plugin"] or v["model"].startswith(f"{v['plugin']}:"))
        and (plugins.count(v["plugin"]) == 1 or not any(w["options"] for w in variants if w["plugin"] == v["plugin"]))
        for v in variants
    )


def _command(settings: Mapping[str, Any]) -> str | None:
    """Return the command with flags, or None if it needs a sweep file."""
    measure = settings.get("train") is False
    if measure and any(name in _NOT_OF_MEASURE for name in settings):
        return None
    names = [settings["task"], *settings["models"]]
    if not all(isinstance(name, str) and _PLAIN.fullmatch(name) for name in names):
        return None
    if isinstance(settings.get("seeds"), list):
        return None
    parts = ["attn-bench", "measure" if measure else "run", "--models", ",".join(settings["models"])]
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        if name == "options":
            for owner, options in value.items():
                if None in options.values():
                    return None  # a text option would read it as the word
                for key, item in options.items():
                    parts += ["--set", f"{owner}.{key}={quoted(item) if isinstance(item, str) else _yaml(item)}"]
        elif name == "tune":
            for setting, values in value.items():
                parts += [flag, f"{setting}={','.join(map(_number, values))}"]
        elif isinstance(value, bool):
            parts += [] if name == "train" else [flag if value else f"--no-{flag[2:]}"]
        elif name != "models":
            parts += [flag, ",".join(map(_number, value)) if isinstance(value, list) else _number(value)]
    return _folded([*parts, "--out", OUT])


def _folded(parts: Sequence[str]) -> str:
    """Format a command in lines that fit a page, broken before flags."""
    lines = [""]
    for i, part in enumerate(parts):
        word = shlex.quote(part)
        paired = shlex.quote(parts[i + 1]) if part.startswith("--") and i + 1 < len(parts) else ""
        if part.startswith("--") and len(lines[-1]) + len(word) + len(paired) + 4 > LINE:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f"{' ' if lines[-1] else ''}{word}"
    return "\n".join(lines)


def _number(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _yaml(value: Any, *, flow: bool = True) -> str:
    import yaml

    text = yaml.safe_dump(value, default_flow_style=flow, sort_keys=False, width=10**9 if flow else 100)
    return text.removesuffix("...\n").rstrip("\n") if flow else text
