"""A small model as the code of a plugin, and the installation of a plugin without pip."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

_MODEL = """
{top}
from dataclasses import dataclass

from attn_bench.plugin import Model


class Example(Model):
    name = {name!r}
    summary = "Two convolutions."
    kinds = frozenset({{"field"}})

    @dataclass(frozen=True)
    class Options:
        {option}

    def build(self, problem, options):
        from torch import nn

        {first}
        channels = {channels}
        return nn.Sequential(nn.Conv2d(problem.inputs, channels, 1), nn.GELU(), nn.Conv2d(channels, problem.outputs, 1))
"""


def model_code(
    name: str, *, top: str = "", option: str = "dim: int = 4", first: str = "pass", channels: str = "options.dim"
) -> str:
    """Return the code of a module whose class ``Example`` is a model for fields.

    Args:
        top: lines that the module starts with.
        option: the field of ``Options``.
        first: a statement that ``build`` starts with.
        channels: an expression, the hidden channels.
    """
    return _MODEL.format(name=name, top=top, option=option, first=first, channels=channels)


def install(folder: Path, name: str, module: str, code: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the model ``Example`` of a module, for this process and those it starts.

    Args:
        folder: where the package lies.
        name: of the model, and of the package.
        module: the module that the entry point names.
        code: of every module, by name.
    """
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[attn_bench.models]\n{name} = {module}:Example\n", encoding="utf-8")
    for each, text in code.items():
        (folder / f"{each}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(folder), os.environ["PYTHONPATH"])))
