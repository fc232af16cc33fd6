"""Trains several cells at a time, each on its own share of the machine, and then measures them one after another."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

from attn_bench.running.attempt import Attempt, trains
from attn_bench.running.client import ForkServer, Share
from attn_bench.running.executors import sequential
from attn_bench.running.machine_share import Machine
from attn_bench.running.work import Frontier, Work
from attn_bench.sweep.cell import Cell


def executor(shares: Sequence[Share]) -> Callable[[Work], None]:
    """Return the executor that trains on these shares of the machine."""

    def run(work: Work) -> None:
        work = replace(work, listen=_one_at_a_time(work))
        tried = _train(work, shares)
        if crowded := _crowded(work, tried):
            retry = replace(work.running, retry="failed")
            sequential.run(Work.of(crowded, work.store, retry, modules=work.modules, listen=work.listen))
        # What other runners held meanwhile is trained here as well, and waited for.
        sequential.run(work)

    return run


def _one_at_a_time(work: Work) -> Callable[[Cell, dict[str, Any]], None]:
    lock = threading.Lock()

    def listen(cell: Cell, event: dict[str, Any]) -> None:
        with lock:
            work.listen(cell, event)

    return listen


def _crowded(work: Work, tried: Sequence[Cell]) -> list[Cell]:
    """Return the cells that had too little memory beside others, and those that were skipped because of that."""
    if work.running.memory_limit is not None:  # which each has, whatever runs beside it
        return []
    records = [(cell, work.store.short(cell.id)) for cell in tried]
    failed = [(cell, record.brief.status) for cell, record in records if record is not None]
    if not any(status == "oom" for _, status in failed):
        return []
    return [cell for cell, status in failed if status in ("oom", "skipped")]


def _train(work: Work, shares: Sequence[Share]) -> list[Cell]:
    """Train what is due of the cells, and return those; a cell that another runner holds is left out."""
    cells, stop = queue.SimpleQueue[Cell](), threading.Event()
    machine = Machine(work.store.folder, stop)
    due = [cell for cell in work.cells if (part := work.due(cell)) is not None and trains(part) is not None]
    for cell in due:
        cells.put(cell)
    workers = min(len(shares), len(due))
    if workers < 2:
        return []
    frontier = Frontier.of(work)

    @contextlib.contextmanager
    def conditions(part: Cell) -> Iterator[str]:
        with machine.training():
            yield f"{workers} side by side"

    def worker(share: Share) -> None:
        with ForkServer(work.store.folder, work.modules, share, stop) as server:
            attempt = Attempt(work, server, frontier)
            with contextlib.suppress(queue.Empty):
                while not stop.is_set():
                    attempt.run(cells.get_nowait(), conditions, wait=False, choose=trains)

    with machine.present(), ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(worker, share) for share in shares[:workers]]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # After Ctrl-C, or where the disk is full, nobody waits for what still trains.
            stop.set()
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, KeyboardInterrupt)):
        raise error
    return due
