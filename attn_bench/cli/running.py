"""Commands that run sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from attn_bench.cli.arguments import integers, merged
from attn_bench.cli.reporting import show, write

Retry = Literal["none", "failed", "all"]


def run(
    sweep_file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Sweep file (YAML); the options below override it.")
    ] = None,
    models: Annotated[str | None, typer.Option(help="Models, e.g. mano,swinv2,fno or vit:patch4 (a preset).")] = None,
    task: Annotated[str | None, typer.Option(help="Task, e.g. darcy.")] = None,
    resolutions: Annotated[
        str | None, typer.Option(help="Grid sizes to train at, e.g. 16,32 or 16..256 (doubling).")
    ] = None,
    eval_resolutions: Annotated[str | None, typer.Option(help="Further grid sizes to test at.")] = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Training budget in epochs ...")] = None,
    steps: Annotated[int | None, typer.Option(help="... or in optimiser steps ...")] = None,
    seconds: Annotated[float | None, typer.Option(help="... or in seconds.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples in a step, in training and in measuring.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay of AdamW.")] = None,
    clip_norm: Annotated[float | None, typer.Option(help="Gradients are clipped to this norm.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32, tf32 or bf16.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch.")] = None,
    compile: Annotated[bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile.")] = None,
    measure: Annotated[
        bool | None, typer.Option("--measure/--no-measure", help="Measure latency, memory and FLOPs (default), or not.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME.OPTION=VALUE", help="Option of a model or the task.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Your own data file (.pt, .npz, .mat, .h5).")] = None,
    test_data: Annotated[Path | None, typer.Option(help="A second file with the test set.")] = None,
    out: Annotated[Path | None, typer.Option(help="Results folder [results/<task>-<date>].")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds a cell may take.")] = None,
    memory_limit: Annotated[float | None, typer.Option(help="MiB of memory a cell may take.")] = None,
    retry: Annotated[Retry, typer.Option(help="Run again what is there already: none, failed or all.")] = "none",
    skip: Annotated[
        bool, typer.Option("--skip/--no-skip", help="After an out-of-memory, skip the model's larger resolutions.")
    ] = True,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Write the report when done.")] = True,
) -> None:
    """Train, evaluate and measure models on a task, and write a table and plots.

    What the results folder already holds is not run again. The exit status is 1 if not one cell ended ok.
    """
    from attn_bench.execute.local import Limits
    from attn_bench.progress import Screen
    from attn_bench.runner import default_folder, run_sweep
    from attn_bench.sweep import Sweep, read_sweep_file

    settings = read_sweep_file(sweep_file) if sweep_file else {}
    folder = out or (Path(str(settings.pop("out"))) if settings.get("out") else None)
    settings.pop("out", None)
    given = {
        "models": None if models is None else [name for name in models.split(",") if name.strip()],
        "task": task,
        "resolutions": integers("--resolutions", resolutions),
        "eval_resolutions": integers("--eval-resolutions", eval_resolutions),
        "seeds": seeds,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "clip_norm": clip_norm,
        "precision": precision,
        "device": device,
        "threads": threads,
        "compile": compile,
        "measure": measure,
    }
    budget = {"epochs": epochs, "steps": steps, "seconds": seconds}
    if any(value is not None for value in budget.values()):
        settings = {key: value for key, value in settings.items() if key not in budget} | budget
    settings |= {key: value for key, value in given.items() if value is not None}
    settings = {key: value for key, value in settings.items() if value is not None}
    settings["options"] = merged(settings, set_ or [], data, test_data)
    sweep = Sweep.from_settings(settings)
    folder = folder or default_folder(sweep.task)
    with Screen(folder) as screen:
        table = run_sweep(
            sweep,
            folder,
            limits=Limits(timeout, memory_limit),
            retry=retry,
            skip_after_oom=skip,
            on_cells=screen.on_cells,
            on_data=screen.on_data,
            listen=screen.listen,
        )
    show(folder, table)
    if plots:
        write(folder)
    if not (table["status"] == "ok").any():
        raise typer.Exit(1)
