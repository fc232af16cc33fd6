"""attn-bench: what each efficient attention costs, and how accurate it is, on your problem and your machine.

:func:`run` runs a sweep and returns its table; :func:`load` reads the table of a results folder again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attn_bench.results import load
    from attn_bench.runner import run

__all__ = ["load", "run"]


def __getattr__(name: str) -> Any:
    # Late, so that importing the plugin contract does not import the runner.
    if name == "run":
        from attn_bench.runner import run

        return run
    if name == "load":
        from attn_bench.results import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
