"""Compares our latency instrument with ``torch.utils.benchmark``, and with ``triton.testing.do_bench`` on a GPU.

    python benchmarks/instrument.py [--device cuda] [--repeats 30] [--seconds 0.5] [--out results/instrument]

The instruments measure the forward passes of five models alternately, so that changes of the machine's speed affect all
of them. For each model: the median over repeats, its ratio to ours in the same repeat, and the spread of the repeats
(half the distance of their quartiles, and half their range). The instruments agree where the ratio differs from 1 by
less than the former. Repeats in which other processes took the cores are left out.

Below the table: the overhead of a cell, from being handed to the runner to its record, once the runner is there.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from attn_bench.files import atomic_write
from attn_bench.running.measure.latency import Sampling, measure_latency
from attn_bench.running.measure.machine import environment
from attn_bench.running.runner import Watcher, run_sweep
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.settings import Sweep

Step = Callable[[], object]
Instrument = Callable[[Step], float | None]


def models() -> dict[str, tuple[nn.Module, Tensor]]:
    """Return five models, whose forward passes take from about 0.05 ms to about 50 ms on a CPU, with random inputs."""
    import timm
    from neuralop.models import FNO

    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 2)
    return {
        "linear 256": (nn.Linear(256, 256), torch.randn(128, 256)),
        "encoder 256": (encoder, torch.randn(2, 256, 64)),
        "FNO 32": (
            FNO(n_modes=(8, 8), in_channels=1, out_channels=1, hidden_channels=16, n_layers=2),
            torch.randn(4, 1, 32, 32),
        ),
        "ViT-tiny 64": (
            timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=10),
            torch.randn(4, 3, 64, 64),
        ),
        "SwinV2-tiny 64": (
            timm.create_model("swinv2_tiny_window8_256", img_size=64, num_classes=10),
            torch.randn(1, 3, 64, 64),
        ),
    }


def instruments(device: str, seconds: float) -> dict[str, Instrument]:
    """Return the instruments; each returns the median in ms, or None if other processes disturbed it."""

    def ours(step: Step) -> float | None:
        latency = measure_latency(step, device, sampling=Sampling(max_seconds=seconds, warmup_seconds=seconds / 2))
        return None if latency.disturbed else latency.median_ms

    def timer(step: Step) -> float:
        made = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
        return made.blocked_autorange(min_run_time=seconds).median * 1e3

    found = {"attn-bench": ours, "torch Timer": timer}
    if device.startswith("cuda"):
        from triton.testing import do_bench

        # It flushes the L2 cache before each call, which we do only on request.
        found["do_bench"] = lambda step: do_bench(step, rep=int(seconds * 1e3), return_mode="median")
        found["attn-bench, L2 flushed"] = lambda step: (
            measure_latency(step, device, sampling=Sampling(max_seconds=seconds, flush_l2=True)).median_ms
        )
    return found


def overheads(device: str, cells: int = 8) -> tuple[float, float]:
    """Return the overhead in seconds of the first cell of a run, and the median of those after it."""
    sweep = Sweep.from_settings(
        {
            "models": ["mean"],
            "task": "darcy",
            "resolutions": list(range(8, 8 + cells)),
            "train": False,
            "device": device,
        }
    )
    started, beside = 0.0, []

    def listen(cell: Cell, event: dict[str, Any]) -> None:
        nonlocal started
        if event["event"] == "start":
            started = time.perf_counter()
        elif event["event"] == "done":
            beside.append(time.perf_counter() - started - event["record"]["seconds"])

    with tempfile.TemporaryDirectory() as folder:
        run_sweep(sweep, Path(folder) / "results", watcher=Watcher(listen=listen))
    return beside[0], statistics.median(beside[1:])


def spread(values: list[float]) -> tuple[float, float]:
    """Return half the distance of the quartiles and half the range, relative to the median."""
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return (third - first) / 2 / median, (max(values) - min(values)) / 2 / median


def main() -> None:
    """Measure and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments.add_argument("--repeats", type=int, default=30)
    arguments.add_argument("--seconds", type=float, default=0.5, help="per instrument, model and repeat")
    arguments.add_argument("--out", type=Path, default=Path("results/instrument"))
    given = arguments.parse_args()
    torch.manual_seed(0)

    where = environment(given.device)
    table = Table(title=f"{where.device_name}, torch {where.versions['torch']}")
    for head in ("model", "instrument", "n", "median ms", "ratio", "quartiles", "range"):
        table.add_column(head, justify="left" if head in ("model", "instrument") else "right", no_wrap=True)
    for name, (module, x) in models().items():
        module, x = module.to(given.device).eval(), x.to(given.device)

        def step(module: nn.Module = module, x: Tensor = x) -> Tensor:
            with torch.inference_mode():
                return module(x)

        compared = instruments(given.device, given.seconds)
        medians: dict[str, list[float]] = {name: [] for name in compared}
        for repeat in range(given.repeats):
            gc.collect()
            # Each comes first in turn: the second runs on a machine that the first has warmed up.
            order = list(compared.items())[:: 1 if repeat % 2 == 0 else -1]
            measured = {name: measure(step) for name, measure in order}
            if all(measured.values()):
                for instrument, values in medians.items():
                    values.append(measured[instrument] or 0.0)
        if len(medians["attn-bench"]) < 2:
            table.add_row(name, "disturbed", "", "", "", "", end_section=True)
            continue
        for i, (instrument, values) in enumerate(medians.items()):
            median = statistics.median(values)
            ratio = statistics.median(theirs / ours for theirs, ours in zip(values, medians["attn-bench"]))
            spreads = [f"± {100 * value:.1f} %" for value in spread(values)]
            cells = (str(len(values)), f"{median:.4g}", f"{ratio:.3f}", *spreads)
            table.add_row(name if i == 0 else "", instrument, *cells, end_section=i == len(medians) - 1)
    first, later = overheads(given.device)
    console = Console(record=True, width=90)
    console.print(table)
    console.print(f"The overhead of a cell is {later:.2f} s; of the first of a run {first:.1f} s.")
    text = console.export_text()
    with atomic_write(given.out / "table.md") as file:
        file.write(
            f"# Our instrument compared with others\n\n    python {' '.join(sys.argv)}\n\n```\n{text}```\n".encode()
        )


if __name__ == "__main__":
    main()
