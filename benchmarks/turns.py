"""What scripts that compare times share: steps, clocks, the rates of the machine, plots and Markdown tables."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attn_bench.files import atomic_write
from attn_bench.nn.fast_linear import product
from attn_bench.running.measure.machine import environment
from attn_bench.running.processes import ALLOCATOR

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORWARD, BOTH = "forward", "forward+backward"
Step = Callable[[], object]


def use_allocator_of_cells() -> None:
    """Start this script again unless its allocator keeps freed memory, as in the cells of a run."""
    if not ALLOCATOR.items() <= os.environ.items():
        os.execve(sys.executable, sys.orig_argv, os.environ | ALLOCATOR)


def batch_of(grid: int) -> int:
    """Return how many samples have about 32768 points, and 20 at most."""
    return max(1, min(20, 32768 // grid**2))


def steps(module: nn.Module, x: Tensor) -> dict[str, Step]:
    """Return a forward pass without gradients, and a forward and backward pass."""
    leaf = x.clone().requires_grad_()
    seed = torch.randn_like(x)

    def forward() -> None:
        with torch.no_grad():
            module(x)

    def forward_backward() -> None:
        leaf.grad = None
        module.zero_grad()
        module(leaf).backward(seed)

    return {FORWARD: forward, BOTH: forward_backward}


def seconds(step: Step, device: str) -> tuple[float, float]:
    """Time one call, by the clock and by the processor's time of all threads."""
    began = time.perf_counter(), time.process_time()
    step()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began[0], time.process_time() - began[1]


def take_turns(work: dict[str, Step], device: str, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Time every step once per round, as :func:`seconds` does."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, step in work.items():
            times[name].append(seconds(step, device))
    return times


def machine_rates(device: str) -> tuple[float, float]:
    """Measure the copy bandwidth (bytes read and written per second) and the matrix rate (operations per second)."""
    source = torch.randn(64 * 2**20 if device == "cpu" else 2**28, device=device)
    target = torch.empty_like(source)
    n = 2048 if device == "cpu" else 8192
    a, b = torch.randn(2, n, n, device=device)
    work: dict[str, Step] = {
        "copy": lambda: target.copy_(source),
        "torch": lambda: a @ b.t(),
        "ours": lambda: product(a, b),
    }
    best = {name: min(taken)[0] for name, taken in take_turns(work, device, 9).items()}
    return 2 * source.nbytes / best["copy"], 2 * n**3 / min(best["torch"], best["ours"])


def machine(device: str, bandwidth: float, rate: float) -> str:
    """Describe the machine in one line: versions, threads and the rates of :func:`machine_rates`."""
    return (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {environment(device).device_name}. "
        f"Copy bandwidth {bandwidth / 1e9:.1f} GB/s, matrix rate {rate / 1e9:.0f} GFLOP/s."
    )


def plot_lines(frame: pd.DataFrame, x: str, y: str, hue: str, names: list[str], axis: Axes, *, legend: bool) -> None:
    """Plot ``y`` over ``x``, a power of two, with one line and marker for each of ``names`` in the column ``hue``."""
    import seaborn as sns

    sns.lineplot(
        frame,
        x=x,
        y=y,
        hue=hue,
        style=hue,
        hue_order=names,
        style_order=names,
        markers=True,
        dashes=False,
        ax=axis,
        legend=legend,
    )
    axis.set_xscale("log", base=2)


def subplots(columns: int, width: float) -> tuple[Figure, np.ndarray]:
    """Return a figure of two rows, 8 inches high, and its axes, (2, columns); a row shares one scale."""
    import matplotlib

    matplotlib.use("agg")
    import seaborn as sns
    from matplotlib import pyplot as plt

    sns.set_theme(style="whitegrid", context="notebook", palette="colorblind")
    return plt.subplots(2, columns, figsize=(width, 8), sharex=True, sharey="row", squeeze=False)


def save(figure: Figure, path: Path, rect: tuple[float, float, float, float], **legend: Any) -> None:
    """Write a figure, with the legend of its first axis beside the rectangle ``rect`` of all axes."""
    from matplotlib import pyplot as plt

    first = figure.axes[0]
    handles, labels = first.get_legend_handles_labels()
    if inside := first.get_legend():
        inside.remove()
    figure.legend(handles, labels, frameon=False, **legend)
    figure.tight_layout(rect=rect)
    with atomic_write(path) as file:
        figure.savefig(file, dpi=120, format=path.suffix[1:])
    plt.close(figure)


def write_tables(folder: Path, frame: pd.DataFrame, text: str) -> None:
    """Write ``table.csv`` and ``table.md``."""
    for name, written in (("table.csv", frame.round(4).to_csv(index=False)), ("table.md", text)):
        with atomic_write(folder / name) as file:
            file.write(written.encode())


def table(columns: list[str], rows: list[list[object]]) -> list[str]:
    """Return the lines of a Markdown table; numbers have three digits, and cells that are NaN are empty."""
    return [_line(columns), _line(["---"] * len(columns)), *(_line([_cell(value) for value in row]) for row in rows)]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return str(value)
