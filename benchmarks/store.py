"""What a results folder of many cells costs: loading, the resume scan, the table, the page and a comparison.

``python benchmarks/store.py --records 20000`` makes a folder of synthetic records (two of them to compare) and prints
how long each takes, in a process of its own, as a Markdown table. Records are like those of a real sweep: sixteen
models, resolutions, seeds and the samples of two latencies. ``--profile STEP`` prints where the time of a step goes.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from attn_bench.plugin import Metric
from attn_bench.results.record import Evaluation, Flops, Latency, Memory, Record, TrainingResult
from attn_bench.results.run_info import RunInfo
from attn_bench.results.store import Store
from attn_bench.sweep import versions
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.groups import Execution, Training

Work = Callable[[], object]
METRICS = {"rel_l2": Metric("lower", "relative L2 error"), "rel_mse": Metric("lower", "the same, squared")}
RESOLUTIONS = (16, 32, 64, 128, 256)
MODELS, SAMPLES = 16, 50


def latency(median: float, noise: random.Random) -> Latency:
    samples = tuple(round(median * noise.gauss(1, 0.02), 4) for _ in range(SAMPLES))
    return Latency(median, 0.99 * median, 1.01 * median, 0.97 * median, 1.03 * median, samples, 10, True, True, 1)


def records(count: int, scale: float) -> list[Record]:
    """Return ``count`` records that end ok."""
    noise = random.Random(0)
    training = Training(epochs=10.0, learning_rate=2e-3, weight_decay=1e-4, clip_norm=1.0)
    found = []
    for number in range(count):
        model, rest = number % MODELS, number // MODELS
        resolution, seed = RESOLUTIONS[rest % len(RESOLUTIONS)], rest // len(RESOLUTIONS)
        cell = Cell(
            model=f"model{model}", plugin="mano", model_version="mine==1+0", options={"dim": 32 + model}, task="darcy",
            task_version="mine==1+0", task_options={"n_train": 1000}, resolution=resolution, seed=seed,
            execution=Execution(batch_size=8, device="cpu"), training=training, training_version=1,
        )  # fmt: skip
        ms = scale * (1 + model) * resolution / 16
        error = (1 + model) * noise.gauss(1, 0.05) / resolution**0.5
        found.append(
            Record(
                cell, "ok", environment="env", tokens=resolution**2, complexity="n", reference=False, parameters=10**5,
                flops=Flops(1e6 * ms, {"mm": 6e5 * ms, "bmm": 4e5 * ms}),
                training=TrainingResult(1250, 10.0, 60.0, 0.1),
                evaluations=(Evaluation(resolution, "ok", metrics={"rel_l2": error, "rel_mse": error**2}),),
                latency={"forward": latency(ms, noise), "train_step": latency(3 * ms, noise)},
                memory={name: Memory(n * ms, n * ms + 2) for name, n in (("forward", 1), ("train_step", 4))},
                data={"recipe": "fno", "n_train": 1000}, measured_version=versions.MEASURING, seconds=100.0,
                started=f"2026-01-31T10:{number // 60 % 60:02}:{number % 60:02}+00:00",
            )
        )  # fmt: skip
    return found


def make(folder: Path, count: int, scale: float = 1.0) -> None:
    """Write the records as a run does, but without waiting for the disk each time."""
    store = Store(folder)
    store.write_run_info(RunInfo({"darcy": METRICS}))
    environment = Path(__file__).parents[1] / "results" / "digits" / "environments"
    store.path("environments", "env").parent.mkdir(parents=True)
    store.path("environments", "env").write_text(next(environment.glob("*.json")).read_text())
    (folder / "cells").mkdir()
    for record in records(count, scale):
        store.path("cells", record.id).write_text(json.dumps(record.to_json(), indent=1))


def loading(folder: Path, other: Path) -> Work:
    """``attn_bench.load``."""
    import attn_bench

    return lambda: attn_bench.load(folder)


def reading(folder: Path, other: Path) -> Work:
    """Every record as a dataclass."""
    return lambda: Store(folder).records()


def resume(folder: Path, other: Path) -> Work:
    """What the same command does again before anything runs: which cells are there, and which are due."""
    from attn_bench.running.runner import _due
    from attn_bench.running.work import Work

    # Made anew: their ids are computed in the scan.
    cells = [Cell.from_json(record.cell.to_json()) for record in Store(folder).records()]

    def scan() -> None:
        parts, there = _due(Work.of(cells, Store(folder)))
        assert (len(parts), len(there)) == (0, len(cells))

    return scan


def writing(folder: Path, other: Path) -> Work:
    """Table as CSV and Parquet."""
    return lambda: Store(folder).write_table()


def page(folder: Path, other: Path) -> Work:
    """``attn-bench report``: loading included."""
    from attn_bench.report import summarise, write_report

    def report() -> None:
        store = Store(folder).as_it_is()
        write_report(store, summarise(store.table(), store.run_info().metrics))

    return report


def comparison(folder: Path, other: Path) -> Work:
    """``attn-bench compare`` of two such folders."""
    from attn_bench.gate.compare import compare
    from attn_bench.gate.thresholds import read_thresholds

    return lambda: compare(Store(folder), Store(other), read_thresholds(None))


STEPS = {step.__name__: step for step in (reading, loading, resume, writing, page, comparison)}


def timed(step: str, folder: Path, other: Path, *, indexed: bool, profile: bool) -> None:
    """Print the seconds of a step, its imports left out as far as it makes them here, on the clock and of the CPU."""
    work, profiler = STEPS[step](folder, other), cProfile.Profile()
    if not indexed:
        for each in (folder, other):
            (each / "index.parquet").unlink(missing_ok=True)
    began, used = time.perf_counter(), time.process_time()
    if profile:
        profiler.runcall(work)
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(45)
    else:
        work()
    print(time.perf_counter() - began, time.process_time() - used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="where the folders are made, or are already [a temporary one]")
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--profile", metavar="STEP")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--indexed", action="store_true", help="with --profile: use the index that is there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        parent = given.folder or Path(temporary)
        folders = parent / f"base-{given.records}", parent / f"new-{given.records}"
        if step := given.one or given.profile:
            return timed(step, *folders, indexed=given.indexed, profile=given.profile is not None)
        for folder, scale in zip(folders, (1.0, 1.001)):
            if not folder.exists():
                make(folder, given.records, scale)
        print(f"| {given.records} records | first, s | of the CPU | again, s | of the CPU |")
        print("| :-- | --: | --: | --: | --: |")
        for name in given.steps.split(","):
            took = []
            for run in ("first", "again"):
                command = [sys.executable, __file__, "--records", str(given.records), "--folder", str(parent)]
                indexed = ["--indexed"] if run == "again" else []
                found = subprocess.run([*command, "--one", name, *indexed], check=True, capture_output=True, text=True)
                took += found.stdout.split()[-2:]
            print(f"| {name} |{'|'.join(f' {float(each):.1f} ' for each in took)}|", flush=True)


if __name__ == "__main__":
    main()
