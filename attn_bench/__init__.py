"""attn-bench: the cost and accuracy of efficient attention, on your problem and your machine.

:func:`run` runs a sweep and returns its table, :func:`measure` one without training; :func:`load` reads the table of a
results folder again, and :func:`load_model` a trained model of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attn_bench.files import settle_caches

if TYPE_CHECKING:
    from attn_bench.results.store import load
    from attn_bench.running.runner import measure, run
    from attn_bench.running.weights import load_model

__all__ = ["load", "load_model", "measure", "run"]

# Before any library looks for the user's home folder.
settle_caches()


def __dir__() -> list[str]:
    return sorted({*(name for name in globals() if name.startswith("__")), *__all__})


def __getattr__(name: str) -> Any:
    # Lazy, so that importing the plugin contract does not import the runner.
    if name in ("run", "measure"):
        from attn_bench.running import runner

        return getattr(runner, name)
    if name == "load_model":
        from attn_bench.running.weights import load_model

        return load_model
    if name == "load":
        from attn_bench.results.store import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
