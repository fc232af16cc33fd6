"""Commands that look after cells that run elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attn_bench.cli.as_json import Format, put_json
from attn_bench.cli.error_messages import logged_in
from attn_bench.format import count

if TYPE_CHECKING:
    from attn_bench.results.record import Record
    from attn_bench.results.store import Store
    from attn_bench.running.executors.slurm.follow import Followed
    from attn_bench.sweep.cell import Cell

Folder = Annotated[Path, typer.Argument(help="Results folder.")]
Folders = Annotated[Path, typer.Argument(help="Results folder, or a folder that contains them.")]
# Of jobs that are at work.
LINES = 20


def status(results: Folders, form: Format = "text") -> None:
    """Show how far a run is: cells with a record, cells that are run now, and the state of Slurm jobs.

    A cell whose Slurm job died gets its row, with the reason, and the table is rewritten.
    """
    from attn_bench.results.store import results_folders

    folders = results_folders([results])
    each = map(_followed, folders)
    if form == "json":
        found = [_plain_data(stores[0], followed) for stores, followed, _ in each]
        return put_json(found[0] if folders == [results] else found)
    for stores, followed, lost in each:
        for cell, record in lost:
            print(f"{cell.title}: {record.status} ({record.error})")
        for store, what in zip(stores, ("cell", "trial")):
            print(_counted(store, what))
        print("\n".join(_jobs(followed)))


def _followed(results: Path) -> tuple[list[Store], list[Followed], list[tuple[Cell, Record]]]:
    """Return the stores of cells and of trials, the jobs of both, and the rows of cells whose jobs died."""
    from attn_bench.running.executors.slurm.follow import follow

    with logged_in(results):
        store, *others = stores = _stores(results)
        followed = follow(store)
        if lost := [each for task in followed for each in task.written]:
            store.write_table()
        return stores, [*followed, *(task for other in others for task in follow(other))], lost


def _plain_data(store: Store, followed: Sequence[Followed]) -> dict[str, Any]:
    return {
        "folder": str(store.folder),
        "cells": _statuses(store),
        "running": sorted(_held(store)),
        "jobs": [
            {
                "job": task.job,
                "state": task.state.name if task.state else None,
                "node": task.state.node if task.state else None,
                "cells": [cell.id for cell in task.cells],
            }
            for task in followed
            if task.live
        ],
        "lost": [
            {"cell": cell.id, "status": r.status, "error": r.error} for task in followed for cell, r in task.written
        ],
    }


def _statuses(store: Store) -> dict[str, int]:
    return dict(sorted(Counter(short.brief.status for short in store.shorts()).items()))


def _held(store: Store) -> set[str]:
    """Return the ids of cells that are run now."""
    return {path.name.partition(".")[0] for path in (store.folder / "leases").glob("*")}


def _stores(results: Path) -> list[Store]:
    """Return the store of a results folder, and that of the trials of tuning if there are any."""
    from attn_bench.results.store import Store
    from attn_bench.running.tuning import TRIALS

    store, trials = Store.open(results), results / TRIALS
    return [store, *([Store(trials)] if trials.is_dir() else [])]


def _counted(store: Store, what: str) -> str:
    """Count the cells by status, and those that are run now."""
    counts, held = _statuses(store), _held(store)
    cells = sum(counts.values())
    statuses = ", ".join(f"{number} {status}" for status, number in counts.items())
    text = f"{store.folder}: {count(cells, what)} with a record{': ' * bool(cells)}{statuses}"
    return f"{text}; {len(held)} running" if held else text


def _jobs(followed: Sequence[Followed]) -> list[str]:
    """Say in lines what Slurm jobs do."""
    live = [task for task in followed if task.live]
    if not live:
        return ["no Slurm jobs are running or pending"]
    names = Counter(task.state.name.lower() if task.state else "unknown" for task in live)
    cells = sum(len(task.cells) for task in live)
    counted = ", ".join(f"{number} {name}" for name, number in sorted(names.items()))
    lines = [f"Slurm jobs: {counted}; {cells} cell{'s' * (cells != 1)} without a record"]
    working = [task for task in live if task.state is not None and task.state.name != "PENDING"]
    for task in working[:LINES]:
        assert task.state is not None
        title = task.cells[0].title + (f" and {len(task.cells) - 1} more" if len(task.cells) > 1 else "")
        lines.append(f"  {task.job}  {task.state.name.lower()}  {task.state.node}  {title}")
    if len(working) > LINES:
        lines.append(f"  and {len(working) - LINES} more")
    return lines


def cancel(results: Folder) -> None:
    """Cancel the Slurm jobs of a results folder; finished cells stay, and the others can be run again."""
    from attn_bench.running.executors.slurm import states
    from attn_bench.running.executors.slurm.follow import follow, live_names

    live: list[Followed] = []
    with logged_in(results):
        for store in _stores(results):
            followed = follow(store)
            live += [task for task in followed if task.live]
            states.cancel(live_names(store, followed))
    if not live:
        print(f"{results}: no Slurm jobs are running or pending; Ctrl-C ends a local run")
        return
    cells = sum(len(task.cells) for task in live)
    print(
        f"cancelled {len(live)} Slurm job{'s' * (len(live) != 1)}; {cells} cell{'s' * (cells != 1)} "
        "have no record: rerun the same command to run them"
    )
