"""The commands that reproduce the cells of a results folder, derived from the cells themselves.

``run.json`` holds only the last request; a folder may have been filled by several commands, and defaults may have
changed since. Cells hold the actual value of every setting.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attn_bench.plugins.values import quoted
from attn_bench.report.products import PLAIN, grouped, sweeps
from attn_bench.report.several_tasks import Several
from attn_bench.sweep.fields import settings_of
from attn_bench.sweep.settings import Sweep

OUT = "reproduced"
# Stands for the results folder with the weights; ids of cells do not depend on where it is.
KEPT = "FOLDER_WITH_WEIGHTS"
LINE = 88
# A command of more lines is a sweep file.
LINES = 10
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
        if command is not None and command.count("\n") < LINES:
            found.append(Step(command))
        else:
            file = f"sweep-{number}.yaml"
            first = {name: settings[name] for name in ("models", "task") if name in settings}
            last = {name: settings[name] for name in ("tasks", "include") if name in settings}
            rest = {name: value for name, value in settings.items() if name not in first | last}
            found.append(Step(f"attn-bench run {file} --out {OUT}", file, _yaml(first | rest | last, flow=False)))
    return found


def _evaluating(cells: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the commands that evaluate kept weights, which are in the folders that the table names."""
    for group in grouped(
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


def _command(settings: Mapping[str, Any]) -> str | None:
    """Return the command with flags, or None if it needs a sweep file."""
    measure = settings.get("train") is False
    if measure and any(name in _NOT_OF_MEASURE for name in settings):
        return None
    if "tasks" in settings:
        return None
    names = [*_listed(settings["task"]), *settings["models"]]
    if not all(isinstance(name, str) and PLAIN.fullmatch(name) for name in names):
        return None
    if isinstance(settings.get("seeds"), list):
        return None
    parts = ["attn-bench", "measure" if measure else "run", "--models", ",".join(settings["models"])]
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        if name == "options":
            for owner, options in value.items():
                for key, item in options.items():
                    if any(each is None for each in (item, *_listed(item))):
                        return None  # a text option would read it as the word
                    parts += ["--set", f"{owner}.{key}={_typed(item)}"]
        elif name == "include":
            for rule in value:
                words = [f"{key}={','.join(map(_number, of))}" for key, of in rule.items()]
                if any(mark in word for word in words for mark in " \"'[](){}"):
                    return None
                parts += [flag, " ".join(words)]
        elif name == "tune":
            for setting, values in value.items():
                parts += [flag, f"{setting}={','.join(map(_number, values))}"]
        elif all(isinstance(each, bool) for each in _listed(value)):
            parts += [flag if each else f"--no-{flag[2:]}" for each in _listed(value) if name != "train"]
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


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _typed(item: Any) -> str:
    """Return a value of an option, or several, as they are typed."""
    if isinstance(item, Several):
        return ",".join(map(_typed, item))
    return quoted(item) if isinstance(item, str) else _yaml(item)


def _number(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _yaml(value: Any, *, flow: bool = True) -> str:
    import yaml

    plain, width = _without_several(value), 10**9 if flow else 100
    text = yaml.safe_dump(plain, default_flow_style=True if flow else None, sort_keys=False, width=width)
    return text.removesuffix("...\n").rstrip("\n") if flow else text


def _without_several(value: Any) -> Any:
    """Return plain lists and mappings, which are all that YAML knows."""
    if isinstance(value, Mapping):
        return {name: _without_several(each) for name, each in value.items()}
    return list(map(_without_several, value)) if isinstance(value, list) else value
