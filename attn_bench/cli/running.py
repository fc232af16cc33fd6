"""Commands that run sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from attn_bench.analysis.scaling import FEWEST_POINTS
from attn_bench.cli.error_messages import logged_in
from attn_bench.cli.flags import takes
from attn_bench.cli.reporting import conclude
from attn_bench.sweep.fields import settings_of
from attn_bench.sweep.groups import BUDGETS, Running
from attn_bench.sweep.settings import Sweep

_SWEEP = settings_of(Sweep)
_RUNNING = settings_of(Running)
# Settings of a model that is built and called, but not trained.
CALLING = [
    setting
    for setting in _SWEEP.values()
    if setting.group == "execution" or setting.name in ("models", "task", "resolutions", "set")
]
Plots = Annotated[bool, typer.Option("--plots/--no-plots", help="Write the report when done.")]


@takes([setting for setting in (*_SWEEP.values(), *_RUNNING.values()) if setting.name not in ("train", "options")])
def run(
    sweep_file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Sweep file (YAML); the options below override it.")
    ] = None,
    given: Mapping[str, Any] = {},
    plots: Plots = True,
) -> None:
    """Train, evaluate and measure models on a task, and write a table and plots.

    Cells already in the results folder are not rerun. The exit status is 1 if no cell succeeded.
    """
    from attn_bench.sweep.settings import read_sweep_file

    settings = read_sweep_file(sweep_file) if sweep_file else {}
    if any(unit in given for unit in BUDGETS):
        settings = {name: value for name, value in settings.items() if name not in BUDGETS}
    named = settings.get("set") or []
    sets = [*(named if isinstance(named, list) else [named]), *given.get("set", [])]
    _sweep({**settings, **given, "set": sets}, plots)


@takes(
    [
        *CALLING,
        *(setting for setting in _SWEEP.values() if setting.group == "measuring" and setting.name != "measure"),
        *(setting for setting in _RUNNING.values() if setting.name not in ("weights_from", "keep_weights")),
    ]
)
def measure(given: Mapping[str, Any] = {}, plots: Plots = True) -> None:
    """Measure latency, memory and FLOPs on random inputs, without training or data, and fit how they scale.

    Without --task, the shapes are those of darcy. Measurements already in the results folder are not repeated.
    The exit status is 1 if no cell succeeded.
    """
    table = _sweep({"task": "darcy", **given, "train": False}, plots)
    if (sizes := table.loc[table["latency_forward_ms"].notna(), "resolution"].nunique()) < FEWEST_POINTS:
        print(f"No exponents were fitted: {FEWEST_POINTS} resolutions are needed, only {sizes} could be measured")


def _sweep(settings: Mapping[str, Any], plots: bool) -> Any:
    from attn_bench.cli.progress import Screen
    from attn_bench.running.runner import default_folder, run_sweep, separated

    sweep, running = separated(settings)
    folder = Path(running.out) if running.out else default_folder(sweep)
    with logged_in(folder):
        with Screen(folder) as screen:
            table = run_sweep(sweep, folder, running, screen.watcher())
        conclude(folder, table, report=plots)
    if not (table["status"] == "ok").any():
        raise typer.Exit(1)
    return table
