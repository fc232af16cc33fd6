"""One cell at a time, so that nothing disturbs what is measured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from attn_bench.running.attempt import Attempt, trains, whole
from attn_bench.running.client import ForkServer
from attn_bench.running.machine_share import ALONE, Machine
from attn_bench.running.work import Frontier, Work
from attn_bench.sweep.cell import Cell

BESIDE_OTHERS = "beside another run"


def run(work: Work) -> None:
    """Run every cell of some work that has no record yet.

    Another runner may work on the same folder: a cell that it holds is left to it, and waited for at the end. While one
    is on this machine, cells are only trained; what is timed waits for the end, and for a moment when none trains.
    """
    due = [cell for cell in work.cells if work.due(cell) is not None]
    if not due:
        return
    machine = Machine(work.store.folder)
    frontier = Frontier.of(work)

    @contextlib.contextmanager
    def conditions(part: Cell) -> Iterator[str]:
        with machine.measuring() if part.measuring.measure else machine.training():
            yield ALONE if part.measuring.measure or not machine.shared() else BESIDE_OTHERS

    later = []
    with machine.present(), ForkServer(work.store.folder, work.modules) as server:
        attempt = Attempt(work, server, frontier)
        for cell in due:
            shared = machine.shared()
            free = attempt.run(cell, conditions, wait=False, choose=trains if shared else whole)
            if shared or not free:
                later.append(cell)
        for cell in later:
            attempt.run(cell, conditions, wait=True)
