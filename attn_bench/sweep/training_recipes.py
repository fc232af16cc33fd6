"""Recipes: published ways to train, as settings with a name (``recipes.yaml``)."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_bench.errors import unknown

# Settings that mean something only with another: where that is given, those of a recipe do not count.
_TOGETHER = (("epochs", "steps", "seconds"), ("schedule", "lr_warmup", "lr_start", "lr_end", "lr_step", "lr_factor"))


@dataclass(frozen=True)
class Recipe:
    """A way to train.

    Attributes:
        name: what users write.
        summary: one line.
        source: where it was published.
        settings: values of settings, by name.
        notes: what is published, what is not known, and what is different here.
    """

    name: str
    summary: str
    source: str
    settings: Mapping[str, Any]
    notes: str

    def beside(self, given: Collection[str]) -> dict[str, Any]:
        """Return its settings without those that ``given`` ones, by name, override or make meaningless."""
        budgets, (schedule, *parameters) = _TOGETHER
        dropped = set(given)
        if dropped.intersection(budgets):
            dropped.update(budgets)
        if schedule in dropped:
            dropped.update(parameters)
        return {name: value for name, value in self.settings.items() if name not in dropped}


@functools.cache
def recipes() -> Mapping[str, Recipe]:
    """Return every recipe by its name."""
    import yaml

    found = yaml.safe_load(Path(__file__).with_name("recipes.yaml").read_text(encoding="utf-8"))
    return {name: Recipe(name, **values) for name, values in found.items()}


def recipe(name: str) -> Recipe:
    """Return a recipe; raises UserError if there is none of this name."""
    if name not in recipes():
        raise unknown("recipe", name, recipes())
    return recipes()[name]
