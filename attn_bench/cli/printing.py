"""Printing for a terminal or for a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

# No line of a log is wrapped.
LOG_WIDTH = 10_000
# For a terminal that does not report its width.
USUAL_WIDTH = 80


def put(shown: RenderableType) -> None:
    """Print to standard output; lines in a pipe or a file are not wrapped or padded.

    A table is never narrower than its numbers; a narrower terminal wraps its lines.
    """
    from rich.console import Console, Group
    from rich.measure import Measurement
    from rich.table import Table

    console = Console(markup=False)
    if console.is_terminal:
        usual = Console(width=console.width or USUAL_WIDTH, markup=False)
        free = usual.options.update(width=LOG_WIDTH)
        for part in shown.renderables if isinstance(shown, Group) else [shown]:
            needs = Measurement.get(usual, free, part)
            fits = needs.minimum <= usual.width or not isinstance(part, Table)
            Console(width=usual.width if fits else needs.maximum, markup=False).print(part)
        return
    log = Console(width=LOG_WIDTH, markup=False)
    with log.capture() as captured:
        log.print(shown)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
