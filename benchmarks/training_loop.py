"""Seconds per step of the training loop against the step that is measured, and where a step's time goes.

``python benchmarks/training_loop.py`` trains models on Darcy flow for a few steps at a time, in turns with the measured
step, and prints the ratio of the medians; on a quiet machine it is at most 1.05. The parts are those of the loop, timed
one by one; ``opt %`` is the share of clipping and the optimizer, at most 3. On a machine that is not quiet, use
``--threads 1 --cpu-time``: the processor time of one thread is disturbed less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch

from attn_bench.plugin import Splits
from attn_bench.running.measure.steps import Steps
from attn_bench.running.measure.torch_state import Keeper
from attn_bench.running.prepare import Posed, pose, prepare, set_flags
from attn_bench.running.train import loop as training_loop
from attn_bench.running.train.batches import batches
from attn_bench.running.train.regimes import training_setup
from attn_bench.running.train.setup import TrainingSetup
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.settings import Sweep

Clock = Callable[[], float]
PARTS = ("batch", "forward", "loss", "backward", "clip", "optimizer")


def opened(cell: Cell) -> tuple[Posed, TrainingSetup, Steps, Splits]:
    """Return what a cell trains, and the steps of it that are measured."""
    set_flags(cell)
    keeper = Keeper(cell.seed)
    posed = pose(cell, keeper)
    prepared = prepare(cell, posed, keeper)
    data = posed.task.splits(cell.resolution, posed.options)
    whole = posed.task.adapt(prepared.module, data.train)
    setup = training_setup(cell, posed.task, posed.model, posed.problem, prepared.module, whole, data)
    return posed, setup, prepared.steps(cell, posed, keeper), data


def compare(cell: Cell, turns: int, steps: int, clock: Clock) -> tuple[float, float]:
    """Return the median milliseconds of a measured step, and of a step of the loop, taken in turns."""
    assert cell.training is not None
    _, setup, measured, _ = opened(cell)
    step = measured.step("train_step")
    loop = training_loop._Loop(setup, cell.training, cell.execution, training_loop.Every())
    found = batches(setup.train, loop.batch_size, cell.seed, 0, cell.execution.device)

    def one() -> None:
        loop.advance(*setup.extras.mix(*next(found)))

    times: dict[str, list[float]] = {"measured": [], "loop": []}
    for turn in range(turns):
        for name, call in (("measured", step), ("loop", one)):
            setup.module.train()
            start = clock()
            for _ in range(steps):
                call()
            if turn:  # the first is a warm-up
                times[name].append(1000 * (clock() - start) / steps)
    return median(times["measured"]), median(times["loop"])


def parts(cell: Cell, steps: int, clock: Clock) -> dict[str, float]:
    """Return the median milliseconds of each part of a step of the loop."""
    assert cell.training is not None
    _, setup, _, _ = opened(cell)
    loop = training_loop._Loop(setup, cell.training, cell.execution, training_loop.Every())
    found = batches(setup.train, loop.batch_size, cell.seed, 0, cell.execution.device)
    step, times = loop.step, {name: list[float]() for name in PARTS}
    setup.module.train()

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        start = clock()
        yield
        times[name].append(1000 * (clock() - start))

    for _ in range(steps):
        with timed("batch"):
            inputs, targets = next(found)
        with timed("forward"):
            prediction = step.called(inputs)
        with timed("loss"):
            loss = step.loss(prediction.float(), targets)
        with timed("backward"):
            step.backward(loss)
        with timed("clip"):
            step.optimizer.clip(step.clip_norm)
        with timed("optimizer"):
            step.optimizer.step()
            step.optimizer.zero_grad()
    return {name: median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="mano,fno,swinv2")
    parser.add_argument("--resolutions", default="16,32")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--steps", type=int, default=10, help="steps in a turn")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--cpu-time", action="store_true", help="processor time instead of wall-clock time")
    given: dict[str, Any] = vars(parser.parse_args())
    turns, steps = given.pop("turns"), given.pop("steps")
    clock = time.process_time if given.pop("cpu_time") else time.perf_counter
    # A schedule of a training that is much longer, in which nothing is evaluated.
    sweep = Sweep.from_settings({**given, "task": "darcy", "epochs": 1000, "validation": 0, "device": "cpu"})
    width = [12, 10, 12, 9, 7, 6, *[10] * (len(PARTS) + 1)]
    head = ("model", "resolution", "measured ms", "loop ms", "ratio", "opt %", *PARTS, "rest")
    print("".join(f"{text:>{size + 1}}" for text, size in zip(head, width)))
    for cell in sweep.cells():
        measured, looped = compare(cell, turns, steps, clock)
        shares = parts(cell, turns * steps, clock)
        rest = looped - sum(shares.values())
        times = [f"{value:.2f}" for value in (*shares.values(), rest)]
        share = f"{100 * (shares['clip'] + shares['optimizer']) / looped:.1f}"
        both = (f"{measured:.2f}", f"{looped:.2f}", f"{looped / measured:.3f}")
        row = (cell.model, cell.resolution, *both, share, *times)
        print("".join(f"{text:>{size + 1}}" for text, size in zip(row, width)), flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
