"""Printing for a terminal or for a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

# No line of a log is wrapped.
LOG_WIDTH = 10_000


def put(shown: RenderableType) -> None:
    """Print to standard output; in a pipe or a file no line is wrapped or padded."""
    from rich.console import Console

    console = Console()
    if console.is_terminal:
        console.print(shown)
        return
    log = Console(width=LOG_WIDTH)
    with log.capture() as captured:
        log.print(shown)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
