"""The command line: parse, call, print."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from attn_bench.errors import USER_ERRORS, UserError

Retry = Literal["none", "failed", "all"]

app = typer.Typer(
    help="Benchmark efficient attention: accuracy, latency and memory, in one command.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of ``attn-bench``: one line per error, exit status 2 for wrong input, 130 when interrupted."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    try:
        status = typer.main.get_command(app).main(arguments, prog_name="attn-bench", standalone_mode=False)
    except USER_ERRORS as error:
        if debug:
            raise
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        if debug:
            raise
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except Exception as error:
        # Typer's own errors about arguments; where it keeps their class differs between versions.
        if debug or not hasattr(error, "format_message"):
            raise
        _fail(error.format_message())
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str) -> None:
    print(f"attn-bench: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"attn-bench {version('attn-bench')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


@app.command()
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

    What the results folder already holds is not run again.
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
        "resolutions": _integers("--resolutions", resolutions),
        "eval_resolutions": _integers("--eval-resolutions", eval_resolutions),
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
    settings["options"] = _merged(settings, set_ or [], data, test_data)
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
    _show(folder, table)
    if plots:
        _report(folder)


def _merged(settings: Mapping[str, Any], sets: list[str], data: Path | None, test_data: Path | None) -> dict[str, Any]:
    """Return the options of the sweep file with those of ``--set``, ``--data`` and ``--test-data`` laid over them."""
    import yaml

    options = {str(owner): dict(values or {}) for owner, values in (settings.get("options") or {}).items()}
    for text in sets:
        key, equals, value = text.partition("=")
        owner, dot, name = key.strip().rpartition(".")
        if not (equals and dot and owner and name):
            raise UserError(f"--set {text}: write NAME.OPTION=VALUE, e.g. --set mano.dim=64")
        try:
            options.setdefault(owner, {})[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            options.setdefault(owner, {})[name] = value
    for name, path in (("data", data), ("test_data", test_data)):
        if path is not None:
            options.setdefault(str(settings.get("task")), {})[name] = str(path)
    return options


def _integers(name: str, text: str | None) -> list[int] | None:
    """Parse ``16,32`` or ``16..512`` (doubling from the first to at most the last)."""
    if text is None:
        return None
    values: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, dots, last = part.partition("..")
        try:
            value, end = int(first), int(last) if dots else int(first)
        except ValueError:
            raise UserError(f"{name} {text}: {part!r} is no whole number; write e.g. 16,32 or 16..256") from None
        if value < 2:
            raise UserError(f"{name} {text}: a resolution is at least 2 (given: {value})")
        while value <= end:
            values.append(value)
            value *= 2
    if not values:
        raise UserError(f"{name}: none given; write e.g. 16,32 or 16..256")
    return values


def _show(folder: Path, table: Any) -> None:
    from rich.console import Console

    from attn_bench.report.tables import console_table

    Console().print(console_table(table, _metrics(folder)))


def _metrics(folder: Path) -> dict[str, Any]:
    from attn_bench.plugin import Metric
    from attn_bench.results import Store

    return {name: Metric(**values) for name, values in Store.open(folder).run_info()["metrics"].items()}


def _report(folder: Path, out: Path | None = None) -> None:
    from attn_bench.report import write_report
    from attn_bench.results import load

    written = write_report(folder, load(folder), metrics=_metrics(folder), out=out)
    print(f"Table and plots: {written[0].parent}")


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="Results folder.")],
    out: Annotated[Path | None, typer.Option(help="Where to write [RESULTS/report].")] = None,
) -> None:
    """Write table and plots of stored results again, without running anything."""
    from attn_bench.results import load

    _show(results, load(results))
    _report(results, out)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(metavar="models|tasks", help="What to list.")],
    name: Annotated[str | None, typer.Argument(help="One of them.")] = None,
) -> None:
    """Show models or tasks with their options, where they come from, and those that are broken."""
    from attn_bench.listing import describe
    from attn_bench.registry import MODELS, TASKS, Registry

    groups: dict[str, Registry[Any]] = {"models": MODELS, "tasks": TASKS}
    if what not in groups:
        raise UserError(f"list {what}: say 'attn-bench list models' or 'attn-bench list tasks'")
    for line in describe(groups[what], name):
        print(line)


@app.command()
def data(
    task: Annotated[str, typer.Argument(help="Task, e.g. darcy.")],
    resolution: Annotated[
        str | None, typer.Option("--resolution", "--resolutions", help="Grid sizes, e.g. 64 or 16,32.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME.OPTION=VALUE", help="Option of the task.")
    ] = None,
    refresh: Annotated[bool, typer.Option(help="Make or fetch them again even if they are cached.")] = False,
) -> None:
    """Make or download the data of a task, and say where they are."""
    from attn_bench.options import validated
    from attn_bench.progress import DataBar
    from attn_bench.registry import TASKS

    plugin = TASKS.load(task)
    options = _merged({"task": task}, set_ or [], None, None)
    for owner in options:
        if owner != task:
            raise UserError(f"--set {owner}.…: only options of {task} make sense here")
    resolutions = tuple(_integers("--resolution", resolution) or plugin.defaults.resolutions)
    chosen = plugin.resolve(resolutions, **validated(task, plugin.splits, options.get(task, {})))
    with DataBar(f"{task} data") as bar:
        described = plugin.prepare(resolutions, bar.update, refresh=refresh, **chosen)
    for item in described:
        print("  ".join(f"{key}: {value}" for key, value in item.items()))


if __name__ == "__main__":
    main()
