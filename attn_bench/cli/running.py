"""Commands that run sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from attn_bench.cli.arguments import Root, integers, merged, names
from attn_bench.cli.failures import logged_in
from attn_bench.cli.reporting import conclude

Models = Annotated[str | None, typer.Option(help="Models, e.g. mano,swinv2,fno or vit:patch4 (a preset).")]
Resolutions = Annotated[str | None, typer.Option(help="Grid sizes, e.g. 16,32 or 16..256 (doubling).")]
BatchSize = Annotated[int | None, typer.Option(help="Samples in a step, in training and in measuring.")]
Precision = Annotated[str | None, typer.Option(help="float32, tf32 or bf16.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads of torch, at most four times the CPUs.")]
Compile = Annotated[bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile.")]
CudaGraph = Annotated[
    bool | None, typer.Option("--cuda-graph/--no-cuda-graph", help="Also time a forward pass replayed as a CUDA graph.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME.OPTION=VALUE", help="Option of a model or the task.")
]
Out = Annotated[Path | None, typer.Option(help="Results folder [results/<task>-<date>].")]
Timeout = Annotated[float | None, typer.Option(help="Seconds a cell may take, its data aside, which are made before.")]
MemoryLimit = Annotated[float | None, typer.Option(help="MiB of memory a cell may take.")]
Retry = Annotated[
    Literal["none", "failed", "all"], typer.Option(help="Run again what is there already: none, failed or all.")
]
Skip = Annotated[
    bool, typer.Option("--skip/--no-skip", help="After an oom or a timeout, skip the model's larger resolutions.")
]
Plots = Annotated[bool, typer.Option("--plots/--no-plots", help="Write the report when done.")]


def run(
    sweep_file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Sweep file (YAML); the options below override it.")
    ] = None,
    models: Models = None,
    task: Annotated[str | None, typer.Option(help="Task, e.g. darcy.")] = None,
    resolutions: Resolutions = None,
    eval_resolutions: Annotated[str | None, typer.Option(help="Further grid sizes to test at.")] = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Training budget in epochs ...")] = None,
    steps: Annotated[int | None, typer.Option(help="... or in optimiser steps ...")] = None,
    seconds: Annotated[float | None, typer.Option(help="... or in seconds.")] = None,
    batch_size: BatchSize = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay of AdamW.")] = None,
    clip_norm: Annotated[float | None, typer.Option(help="Gradients are clipped to this norm.")] = None,
    precision: Precision = None,
    device: Device = None,
    threads: Threads = None,
    compile: Compile = None,
    cuda_graph: CudaGraph = None,
    protocol: Annotated[
        str | None, typer.Option(help="scratch, linear-probe (the head alone on frozen features) or finetune; images.")
    ] = None,
    mixup: Annotated[float | None, typer.Option(help="Fine-tuning: mixup's alpha, 0 for none [0.2].")] = None,
    cutmix: Annotated[
        float | None, typer.Option(help="Fine-tuning: CutMix's alpha, 0 for none [0]; with mixup, either at random.")
    ] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Fine-tuning: label smoothing [0.1].")] = None,
    ema: Annotated[
        float | None, typer.Option(help="Fine-tuning: decay of the weights' running mean, 0 off [0].")
    ] = None,
    warm_up: Annotated[
        float | None, typer.Option(help="Fine-tuning: epochs in which added parameters are trained alone [0].")
    ] = None,
    measure: Annotated[
        bool | None, typer.Option("--measure/--no-measure", help="Measure latency, memory and FLOPs (default), or not.")
    ] = None,
    set_: Set = None,
    data: Annotated[Path | None, typer.Option(help="Your own data file (.pt, .npz, .mat, .h5).")] = None,
    test_data: Annotated[Path | None, typer.Option(help="A second file with the test set.")] = None,
    root: Root = None,
    out: Out = None,
    timeout: Timeout = None,
    memory_limit: MemoryLimit = None,
    retry: Retry = "none",
    skip: Skip = True,
    plots: Plots = True,
) -> None:
    """Train, evaluate and measure models on a task, and write a table and plots.

    What the results folder already holds is not run again. The exit status is 1 if not one cell ended ok.
    """
    from attn_bench.sweep.settings import read_sweep_file

    settings = read_sweep_file(sweep_file) if sweep_file else {}
    named = settings.pop("out", None)
    budget = {"epochs": epochs, "steps": steps, "seconds": seconds}
    if any(value is not None for value in budget.values()):
        settings = {key: value for key, value in settings.items() if key not in budget} | budget
    given = {
        "models": names(models),
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
        "cuda_graph": cuda_graph,
        "protocol": protocol,
        "mixup": mixup,
        "cutmix": cutmix,
        "label_smoothing": label_smoothing,
        "ema": ema,
        "warm_up": warm_up,
        "measure": measure,
    }
    settings |= {key: value for key, value in given.items() if value is not None}
    settings["options"] = merged(settings, set_ or [], data=data, test_data=test_data, root=root)
    folder = out or (Path(str(named)) if named else None)
    _sweep(settings, folder, timeout, memory_limit, retry, skip, plots)


def measure(
    models: Models = None,
    task: Annotated[str, typer.Option(help="Task whose inputs and outputs are measured with.")] = "darcy",
    resolutions: Resolutions = None,
    batch_size: BatchSize = None,
    precision: Precision = None,
    device: Device = None,
    threads: Threads = None,
    compile: Compile = None,
    cuda_graph: CudaGraph = None,
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(help="Results folder [results/measure-<task>-<date>].")] = None,
    timeout: Timeout = None,
    memory_limit: MemoryLimit = None,
    retry: Retry = "none",
    skip: Skip = True,
    plots: Plots = True,
) -> None:
    """Measure latency, memory and FLOPs on random inputs, without training and without data; fit how they scale.

    What the results folder already holds is not run again. The exit status is 1 if not one cell ended ok.
    """
    given = {
        "models": names(models),
        "task": task,
        "resolutions": integers("--resolutions", resolutions),
        "batch_size": batch_size,
        "precision": precision,
        "device": device,
        "threads": threads,
        "compile": compile,
        "cuda_graph": cuda_graph,
        "train": False,
    }
    settings: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    settings["options"] = merged(settings, set_ or [])
    _sweep(settings, out, timeout, memory_limit, retry, skip, plots)


def _sweep(
    settings: Mapping[str, Any],
    out: Path | None,
    timeout: float | None,
    memory_limit: float | None,
    retry: Literal["none", "failed", "all"],
    skip: bool,
    plots: bool,
) -> None:
    from attn_bench.cli.progress import Screen
    from attn_bench.running.local import Limits
    from attn_bench.running.runner import default_folder, run_sweep
    from attn_bench.sweep.settings import Sweep

    sweep = Sweep.from_settings({key: value for key, value in settings.items() if value is not None})
    folder = out or default_folder(sweep)
    with logged_in(folder):
        with Screen(folder) as screen:
            table = run_sweep(
                sweep,
                folder,
                limits=Limits(timeout, memory_limit),
                retry=retry,
                skip_larger=skip,
                on_cells=screen.on_cells,
                on_data=screen.on_data,
                on_warning=screen.on_warning,
                on_read=screen.on_read,
                listen=screen.listen,
            )
        conclude(folder, table, report=plots)
    if not (table["status"] == "ok").any():
        raise typer.Exit(1)
