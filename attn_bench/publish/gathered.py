"""What results folders hold together: their runs, and one table of all their cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attn_bench.errors import UserError
from attn_bench.plugin import Metric
from attn_bench.report.pictures import file_name
from attn_bench.results.store import Store, loaded

if TYPE_CHECKING:
    import pandas as pd

# A machine of which the records do not say the name.
UNKNOWN = "unknown machine"


@dataclass(frozen=True)
class Run:
    """A results folder.

    Attributes:
        name: of its folder in the site, unique there.
        store: the folder.
        table: of its cells.
        tasks: its tasks, each with its metrics.
        machines: names of the devices that it ran on.
        statuses: number of cells by status.
        started: days on which its first and its last cell were started, or None.
    """

    name: str
    store: Store
    table: pd.DataFrame
    tasks: Mapping[str, Mapping[str, Metric]]
    machines: tuple[str, ...]
    statuses: Mapping[str, int]
    started: tuple[str, str] | None


@dataclass(frozen=True)
class Gathered:
    """Several results folders.

    Attributes:
        runs: in the order given.
        table: the tables of all of them, one below the other, with the name of the run before the other columns. Of a
            cell that several folders have from one machine, one that is ok is kept, then the newest.
        repeated: number of rows that were left out, as another one is of the same cell and machine.
    """

    runs: tuple[Run, ...]
    table: pd.DataFrame
    repeated: int

    @property
    def tasks(self) -> dict[str, Mapping[str, Metric]]:
        """The tasks with their metrics, as in the run that has the most of them."""
        found: dict[str, Mapping[str, Metric]] = {}
        for run in self.runs:
            for task, metrics in run.tasks.items():
                if len(metrics) > len(found.get(task, {})):
                    found[task] = metrics
        return found

    @property
    def machines(self) -> list[str]:
        """The machines of all runs, by name."""
        return sorted({machine for run in self.runs for machine in run.machines})


def gather(folders: Sequence[Path]) -> Gathered:
    """Read results folders.

    Raises:
        UserError: one of them has no results, or is named twice.
    """
    import pandas as pd

    runs: list[Run] = []
    for folder in folders:
        if any(folder.resolve() == run.store.folder.resolve() for run in runs):
            raise UserError(f"{folder}: is named twice")
        runs.append(_read(folder, {run.name for run in runs}))
    whole = pd.concat([pd.concat([_names(run), run.table], axis=1) for run in runs], ignore_index=True)
    cells = whole[["cell", "device_name", "eval_resolution"]]
    merit = cells.assign(ok=whole["status"] == "ok", started=whole["started"].fillna("").astype(str))
    best_first = merit.sort_values(["ok", "started"], ascending=False, kind="stable")
    repeated = best_first.duplicated(list(cells.columns))
    table = whole.drop(index=repeated.index[repeated]).reset_index(drop=True)
    return Gathered(tuple(runs), table, int(repeated.sum()))


def _names(run: Run) -> pd.Series[str]:
    import pandas as pd

    return pd.Series(run.name, index=run.table.index, name="run")


def _read(folder: Path, taken: set[str]) -> Run:
    store = Store.open(folder).as_it_is()
    table = loaded(store)
    name = base = file_name(folder.resolve().name).strip("-") or "run"
    number = 2
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    machines = table["device_name"].dropna().astype(str).unique().tolist()
    # A cell that was ended from outside does not say where it ran.
    table = table.assign(device_name=table["device_name"].fillna(machines[0] if len(machines) == 1 else UNKNOWN))
    days = sorted(table["started"].dropna().astype(str).str[:10])
    return Run(
        name, store, table, store.run_info().tasks, tuple(table["device_name"].astype(str).unique()),
        Counter(table.drop_duplicates("cell")["status"].astype(str)), (days[0], days[-1]) if days else None,
    )  # fmt: skip
