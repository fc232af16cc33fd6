"""Writes a static site over results folders: an index with a leaderboard, each run's page, and the table of all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_bench.errors import UserError
from attn_bench.files import TEMPORARY, atomic_write, disk_errors, read_json, write_json
from attn_bench.publish.board import Board, board, says
from attn_bench.publish.gathered import Gathered, Run, gather
from attn_bench.report import by_task, html, write_report
from attn_bench.report.write import PAGE

TEMPLATES = Path(__file__).parent / "templates"
# Lists what a site consists of, so that the next one removes what it no longer has, and nothing else.
FILES = "site.json"
RUNS = "runs"
LARGEST_BYTES = 64 << 20
_OF_A_RUN = re.compile(rf"{RUNS}/[A-Za-z0-9_-]+/[A-Za-z0-9_-]+\.[a-z]+")


@dataclass(frozen=True)
class Published:
    """A site that was written.

    Attributes:
        page: its index.
        runs, rows: how many it has: results folders, and rows of the table.
        repeated: rows left out, as another folder has one of the same cell and machine.
    """

    page: Path
    runs: int
    rows: int
    repeated: int


def publish(folders: Sequence[Path], out: Path) -> Published:
    """Write a site over results folders.

    It is built beside ``out`` and moved there file by file, the index last, so that ``out`` never has half a page or a
    link to one that is not there. Files there that no earlier site consists of stay, for example those of git.

    Raises:
        UserError: a folder has no results, or ``out`` holds something else.
        DiskError: the site cannot be written.
    """
    _check(out)
    found = gather(folders)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".building-", suffix=TEMPORARY) as folder:
            built = Path(folder)
            for run in found.runs:
                summaries = by_task(run.table, run.tasks)
                write_report(run.store, *summaries, out=built / RUNS / run.name, home=f"../../{PAGE}")
            with atomic_write(built / "table.csv") as file:
                found.table.to_csv(file, index=False)
            with atomic_write(built / "table.parquet") as file:
                found.table.to_parquet(file, index=False)
            with atomic_write(built / ".nojekyll"):
                pass
            with atomic_write(built / PAGE) as file:
                file.write(index_page(found, board(found)).encode())
            _move(built, out)
    return Published(out / PAGE, len(found.runs), len(found.table), found.repeated)


def _check(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder")
    if (out / "run.json").exists():
        raise UserError(f"--out {out}: is a results folder; name another one")
    if (out / PAGE).exists() and not (out / FILES).exists():
        raise UserError(f"--out {out}: has an {PAGE} that attn-bench publish did not write; name another folder")


def _move(built: Path, out: Path) -> None:
    """Move the files of a site to where it is published, and remove those that only an earlier one had."""
    files = sorted(path.relative_to(built).as_posix() for path in built.rglob("*") if path.is_file())
    before = _listed(out)
    # Listed before they are there, so that no file is left behind if this is interrupted.
    write_json(out / FILES, {"files": sorted({*files, *before})})
    for name in sorted(files, key=lambda name: name == PAGE):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(built / name, out / name)
    for name in before - {*files}:
        with contextlib.suppress(FileNotFoundError):
            (out / name).unlink()
        with contextlib.suppress(OSError):  # it still has other files
            (out / name).parent.rmdir()
    write_json(out / FILES, {"files": files})


def _listed(out: Path) -> set[str]:
    """Return the files of runs that an earlier site lists; the list is not trusted with any other."""
    try:
        names = read_json(out / FILES, LARGEST_BYTES)["files"]
        return {name for name in names if isinstance(name, str) and _OF_A_RUN.fullmatch(name)}
    except (OSError, ValueError, TypeError, KeyError):
        return set()


def index_page(found: Gathered, board: Board) -> str:
    """Return the index: filters, the leaderboard, and the runs; one file that makes no requests."""
    from markupsafe import Markup

    css = (html.TEMPLATES / "page.css").read_text(encoding="utf-8")
    css += (TEMPLATES / "index.css").read_text(encoding="utf-8")
    script = (TEMPLATES / "index.js").read_text(encoding="utf-8")
    return (
        html.templates(TEMPLATES)
        .get_template("index.html.j2")
        .render(
            css=Markup(css),
            script=Markup(script),
            policy=html.policy(css, script),
            says=says(found, board.places),
            runs=[_run(run) for run in found.runs],
            board=board,
            tasks=list(board.metrics),
            machines=found.machines,
            definitions=[(metric.label, metric.group.definition) for metric in board.metrics.values()],
            data=Markup(in_script(_payload(board, [run.name for run in found.runs]))),
        )
    )


def _run(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "page": f"{RUNS}/{run.name}/{PAGE}",
        "tasks": list(run.tasks),
        "machines": run.machines,
        "statuses": sorted(run.statuses.items(), key=lambda each: (each[0] != "ok", each[0])),
        "started": " to ".join(dict.fromkeys(run.started)) if run.started else "",
    }


def _payload(board: Board, runs: Sequence[str]) -> dict[str, Any]:
    """Return the leaderboard for the script: repeated texts are listed once, and rows hold their numbers."""
    lists: dict[str, dict[str, int]] = {name: {} for name in ("tasks", "settings", "models", "options", "machines")}
    lists |= {"statuses": {}, "runs": {run: i for i, run in enumerate(runs)}}

    def number(name: str, value: str) -> int:
        # As text of the template is shown.
        return lists[name].setdefault(html.visible(value), len(lists[name]))

    rows = [
        [
            number("tasks", place.key.task), number("settings", place.key.setting), number("models", place.name),
            number("options", place.options), place.key.resolution, number("machines", place.key.machine),
            number("runs", place.key.run), number("statuses", place.status), place.seeds, place.rank,
            *(part for value in place.values for part in (value or (None, None))),
        ]
        for place in board.places
    ]  # fmt: skip
    metrics = {
        html.visible(task): [metric.with_unit(metric.label), metric.group.better]
        for task, metric in board.metrics.items()
    }
    return {**{name: [*texts] for name, texts in lists.items()}, "metrics": metrics, "rows": rows}


def in_script(values: Any) -> str:
    """Return JSON that ends no element of HTML, whatever it holds."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
