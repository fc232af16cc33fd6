"""Finds the largest batch size whose training step fits the memory, for cells that have ``auto`` in its place.

Steps on random data are taken with 1, 2, 4, ... samples and at most the training set, in a module that is not trained
afterwards. The next size is tried if the line through the last two says that it fits. A tenth of the memory is left
free. Memory may still run out: where an error says so, the size does not fit; where the process is ended, the cell is
run again and only smaller sizes are tried.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
import torch

from attn_bench.running.device.device import MIB, Device, MemoryCounter
from attn_bench.running.device.select import device_of, is_out_of_memory
from attn_bench.running.measure.memory import host_allocations, replay
from attn_bench.running.measure.torch_state import Keeper
from attn_bench.running.prepare import Posed, Prepared, prepare, with_batch_size
from attn_bench.running.processes import anonymous
from attn_bench.running.room import Room, stage_of
from attn_bench.sweep.cell import Cell

# The share of the memory that is left free.
SPARE = 0.1
# Without a training set, which no batch exceeds.
LARGEST = 1 << 16
Report = Callable[[dict[str, Any]], None]


def find_batch_size(
    cell: Cell, posed: Posed, keeper: Keeper, room: Room, most: int = LARGEST, report: Report = lambda event: None
) -> dict[str, Any]:
    """Return the batch size found, and the memory that it was found for, as settings in effect.

    Args:
        most: samples of the training set.

    Raises:
        MemoryError: a step with one sample does not fit.
        Exception: what the model raises at every size.
    """
    trial = _Trial(cell, posed, keeper, room)
    needs: dict[int, float] = {}
    failed: Exception | None = None
    for size in _sizes(most, room.below):
        if len(needs) > 1 and _expected(needs, size) > trial.fits_mib:
            break
        report({"stage": stage_of(size)})
        try:
            need = trial.needed_mib(size)
        except Exception as error:
            # Some models refuse a single sample, and some kernels large batches.
            failed = failed or error
            if needs or is_out_of_memory(error):
                break
            continue
        if need > (trial.fits_mib if needs else trial.limit_mib):
            failed = failed or MemoryError(
                f"a batch of {size} takes {need:.0f} MiB, and {trial.limit_mib:.0f} MiB can be used"
            )
            break
        needs[size] = need
    if not needs:
        raise failed or MemoryError(f"no batch below {room.below} fits the memory")
    return {"batch_size": max(needs), "batch_size_found_for_mib": round(trial.limit_mib)}


def _sizes(most: int, below: int | None) -> Iterator[int]:
    size = 1
    while size < most:
        yield from (size,) if below is None or size < below else ()
        size *= 2
    if below is None or most < below:
        yield most


def _expected(needs: dict[int, float], size: int) -> float:
    """Return the need at a larger size, on the line through the last two."""
    (small, less), (large, more) = list(needs.items())[-2:]
    return more + max(more - less, 0) * (size - large) / (large - small)


@dataclass
class _Trial:
    """A module that steps of several sizes are tried with.

    Attributes:
        limit_mib: the memory that the process may take.
        before_mib: what it took before any step.
        copies_mib: copies of the weights that the training makes and a step does not.
    """

    cell: Cell
    posed: Posed
    keeper: Keeper
    room: Room
    device: Device = field(init=False)
    prepared: Prepared = field(init=False)
    limit_mib: float = field(init=False)
    before_mib: float = field(init=False)
    copies_mib: float = field(init=False)

    def __post_init__(self) -> None:
        self.device = device_of(self.cell.execution.device)
        # Each size would be compiled, and what is compiled takes no more.
        self.cell = replace(self.cell, execution=replace(self.cell.execution, compile=False))
        self.prepared = prepare(with_batch_size(self.cell, 1), self.posed, self.keeper)
        self._collect()
        self.before_mib = _own_mib()
        self.limit_mib = self.device.room_mib(self.before_mib, self.room.limit_mib, self.room.share)
        training, module = self.cell.training, self.prepared.module
        copies = bool(training and training.ema) + bool(training and training.select != "last")
        each = sum(value.nbytes for value in module.state_dict().values() if isinstance(value, torch.Tensor))
        self.copies_mib = copies * each / MIB

    @property
    def fits_mib(self) -> float:
        """What a step may take."""
        return (1 - SPARE) * self.limit_mib

    def needed_mib(self, size: int) -> float:
        """Take steps with a batch of ``size``; return the peak of the memory that the process takes."""
        cell = with_batch_size(self.cell, size)
        try:
            with self.keeper.stage("finding the batch size"):
                counter = self.device.counter
                taken = self._replayed(cell) if counter is None else self._counted(cell, counter)
            return taken + self.copies_mib
        finally:
            self._collect()

    def _replayed(self, cell: Cell) -> float:
        taken = replay(host_allocations(lambda: self._steps(cell))) / MIB
        # What libraries and a model's own threads take is not among those, but the process keeps it.
        return max(self.before_mib + taken, _own_mib())

    def _counted(self, cell: Cell, counter: MemoryCounter) -> float:
        counter.restart()
        self._steps(cell)
        self.device.synchronize()
        return counter.peak_reserved() / MIB

    def _steps(self, cell: Cell) -> None:
        steps = self.prepared.steps(cell, self.posed, self.keeper)
        step = steps.step(steps.names[-1])
        for _ in range(2):  # the optimizer makes its state in the first
            step()

    def _collect(self) -> None:
        self.prepared.module.zero_grad(set_to_none=True)
        gc.collect()
        self.device.empty_cache()


def _own_mib() -> float:
    return anonymous(psutil.Process()) / MIB
