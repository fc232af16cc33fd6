"""Results folders made without running anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from attn_bench.files import write_json
from attn_bench.plugin import Metric
from attn_bench.results.record import Evaluation, Flops, Latency, Memory, Record, TrainingResult
from attn_bench.results.run_info import RunInfo
from attn_bench.results.store import Store
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.groups import Execution, Training

METRICS = {"rel_l2": Metric("lower", "relative <L2> error"), "rel_mse": Metric("lower", "the same, squared")}
TRAINING = Training(epochs=10.0, learning_rate=2e-3, weight_decay=1e-4, clip_norm=1.0)
EXECUTION = Execution(batch_size=8, device="cpu")
ENVIRONMENT = {
    "device_name": "Some CPU",
    "cpu": {"model": "Some CPU", "cores": 2, "usable_cores": 2, "memory_gib": 24, "governor": None},
    "gpus": {"devices": [{"name": "Some GPU", "memory_gib": 80}], "driver": "1.2"},
    "os": {"system": "Linux", "release": "6.1", "machine": "x86_64"},
    "python": {"version": "3.11.7", "implementation": "CPython"},
    "torch": {"cuda": "13.2", "cuda_available": False, "threads": 2},
    "versions": {"attn-bench": "0.1.0", "torch": "2.15.0"},
    "git": {"revision": "0123456789abcdef", "dirty": True},
    "variables": {},
}

HOSTILE = (
    "<script>window.pwned = 1</script>",
    "\"><img src=x onerror='window.pwned = 1'>",
    "</style></title><!-- &amp; -->",
    "{{ 7 * 7 }}{% raw %}",
    "x" * 10_000,
    "word " * 2_000,
    "انتباه متعدد الأقطاب",
    "mano\u202egnp.exe\u2066",
    "a\x00b\x1b[31mc\u2028d",
)


def not_yet_measured(record: Record) -> Record:
    """Return the record that a training leaves before its model is measured."""
    return replace(record, cell=replace(record.cell, measuring=replace(record.cell.measuring, measure=False)))


class Folder:
    """Writes records as a runner would."""

    def __init__(self, path: Path, task: str = "darcy", environment: Any = ENVIRONMENT) -> None:
        self.store = Store(path)
        self.store.write_run_info(RunInfo({task: METRICS}))
        write_json(self.store.path("environments", "env"), environment)
        self.task = task

    def add(
        self, model: str, resolution: int, seed: int = 0, *, options: Any = None, error: str | None = None,
        status: Any = "ok", tested: tuple[int, ...] = (), scale: float = 1.0, fields: bool = False,
        rel_l2: float | None = None, data: Any = None, epochs: float | None = None, disturbed: bool = False,
        changed: Any = None,
    ) -> None:  # fmt: skip
        """Add one cell; ``scale`` multiplies its errors and costs, ``rel_l2`` takes the place of its error.

        ``changed`` holds further fields of the cell.
        """
        cell = Cell(
            model=model, plugin=model.partition(":")[0], model_version="1", options=options or {}, task=self.task,
            task_version="1", resolution=resolution, seed=seed, execution=EXECUTION,
            **{"task_options": {}, "training": TRAINING, "eval_resolutions": tested, **(changed or {})},
        )  # fmt: skip
        if status != "ok":
            self.store.write(Record(cell, status, error=error, environment="env"))
            return
        cost = scale * resolution**2 / 64 * (1 + seed / 50)
        forward = Latency(cost, 0.98 * cost, 1.03 * cost, cost, cost, disturbed=disturbed)
        step = Latency(3 * cost, 2.94 * cost, 3.09 * cost, 3 * cost, 3 * cost)
        self.store.write(
            Record(
                cell, "ok", environment="env", tokens=resolution**2, complexity="n", parameters=212_345,
                training=None if epochs is None else TrainingResult(epochs=epochs),
                flops=Flops(1e6 * cost),
                evaluations=tuple(
                    Evaluation(r, "ok", metrics={"rel_l2": e, "rel_mse": e * e})
                    for r in (resolution, *tested)
                    for e in [rel_l2 or 0.5 * scale / resolution**0.5 + seed / 1000]
                ),
                latency={"forward": forward, "train_step": step},
                memory={"forward": Memory(cost, cost + 2), "train_step": Memory(4 * cost, 4 * cost + 2)},
                data=data or {"recipe": "fno", "resolution": resolution, "sha256": {"train": "0" * 64}},
                started=f"2026-01-31T10:{seed:02}:00+00:00",
            )
        )  # fmt: skip
        if fields:
            target = np.random.default_rng(0).random((1, 1, resolution, resolution))
            path = self.store.path("artifacts", cell.id)
            path.parent.mkdir(exist_ok=True)
            np.savez(path, input=target, target=target, prediction=target * (1 + 0.1 * scale))


def usual(path: Path) -> Folder:
    """Three models at three resolutions, two seeds, of which one model runs out of memory; one is tested elsewhere."""
    folder = Folder(path)
    for resolution in (16, 32, 64):
        for seed in (0, 1):
            folder.add("mano", resolution, seed, tested=(128,), fields=seed == 0)
            folder.add("fno", resolution, seed, scale=1.5, options={"modes": 12}, fields=seed == 0)
            if resolution < 64:
                folder.add("vit", resolution, seed, scale=0.8)
        folder.add("mean", resolution, scale=4)
    folder.add("vit", 64, status="oom", error="tried to allocate 12 GiB")
    folder.add("vit", 64, 1, status="timeout", error="ended after 60 s")
    folder.add("broken", 16, status="crashed", error="boom " * 200)
    return folder


def hostile(path: Path) -> Folder:
    """Every kind of text that is not what it seems, wherever a results folder holds text."""
    environment = ENVIRONMENT | {"device_name": HOSTILE[0], "variables": {HOSTILE[1]: HOSTILE[4]}}
    folder = Folder(path, HOSTILE[0], environment)
    for i, text in enumerate(HOSTILE):
        folder.add(text, 16, options={text: text}, scale=1 + i / 10, fields=True)
        folder.add(text, 32, status="crashed", error=text)
    return folder
