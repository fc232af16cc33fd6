"""What a shell proposes for the names of models, tasks and recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import typer

LISTED = ("models", "tasks", "recipes")
Complete = Callable[[str], list[str]]


def named(of: str) -> Iterable[str]:
    """Return the names of all models, tasks or recipes; none of anything else."""
    from attn_bench.plugins.registry import MODELS, TASKS
    from attn_bench.sweep.training_recipes import recipes

    if of == "recipes":
        return recipes()
    return MODELS.entries() if of == "models" else TASKS.entries() if of == "tasks" else ()


def among(names: Callable[[], Iterable[str]]) -> Complete:
    """Return what completes a name, or the last one of a list with commas."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in names() if name.startswith(last)]

    return complete


def name_listed(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the second word of ``attn-bench list models NAME``."""
    return [name for name in named(str(context.params.get("what"))) if name.startswith(incomplete)]
