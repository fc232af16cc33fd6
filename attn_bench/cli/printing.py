"""Printing for a terminal or for a log."""

from __future__ import annotations

from functools import partial
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

    plain = partial(Console, markup=False)  # square brackets are text
    console = plain()
    if console.is_terminal:
        usual = plain(width=console.width or USUAL_WIDTH)
        free = usual.options.update(width=LOG_WIDTH)
        for part in shown.renderables if isinstance(shown, Group) else [shown]:
            needs = Measurement.get(usual, free, part)
            fits = needs.minimum <= usual.width or not isinstance(part, Table)
            plain(width=usual.width if fits else needs.maximum).print(part)
        return
    log = plain(width=LOG_WIDTH)
    with log.capture() as captured:
        log.print(shown)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
