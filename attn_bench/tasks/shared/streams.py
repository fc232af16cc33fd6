"""Samples that a task draws itself: two streams of them, each sample with random numbers of its own.

A sample depends only on the seed, its stream and its number: sample 7 is the same whether 10 or 1000 are drawn, at
every resolution and on every platform.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from attn_bench.plugin import DataError, OptionError
from attn_bench.tasks.shared.array_formats.contents import check_memory

Stream = Literal["train", "test"]
STREAM_KEYS: dict[Stream, int] = {"train": 0, "test": 1}
# Arrays of each resolution, by name, with the samples along the first axis.
Arrays = dict[int, dict[str, np.ndarray]]


class NotFinite(Exception):
    """The time step is too long for the flow."""


@contextlib.contextmanager
def enough_steps(task: str, steps: int) -> Iterator[None]:
    """Raise DataError where a solver in the block raises NotFinite with so many steps in a unit of time."""
    try:
        yield
    except NotFinite as error:
        raise DataError(
            f"generating {task} data failed: {error}, with {steps} steps of the solver in a unit of time; set "
            f"{task}.steps to more"
        ) from None


def normals(seed: int, stream: Stream, index: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the standard normal numbers of one sample, from numpy's Philox generator."""
    sequence = np.random.SeedSequence(seed, spawn_key=(STREAM_KEYS[stream], index))
    return np.random.Generator(np.random.Philox(sequence)).standard_normal(shape)


def check_device(task: str, device: str) -> None:
    """Raise OptionError unless there is the device on which ``task`` is to make its samples."""
    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError(f"{task}.device=cuda: no CUDA device found; use {task}.device=cpu")


def make_all(
    task: str,
    stream: Stream,
    count: int,
    like: Mapping[int, Mapping[str, tuple[tuple[int, ...], Any]]],
    make: Callable[[range], Mapping[int, Mapping[str, Tensor]]],
    *,
    samples: str,
    at_once: int,
    device: str = "cpu",
    on_samples: Callable[[int], None] = lambda more: None,
) -> Arrays:
    """Return the first ``count`` samples of a stream, made in chunks.

    On the CPU each of torch's threads makes its own chunks, which is faster than sharing each operation among them.

    Args:
        task: its name, for messages.
        like: shape of one sample and type of every array, by resolution and name.
        make: returns the arrays of the samples whose numbers it is given.
        samples: what they are called, for messages.
        at_once: samples in a chunk.
        on_samples: called with the number of further finished samples.

    Raises:
        DataError: there is not enough memory.
    """
    size = sum(math.prod(shape) * np.dtype(kind).itemsize for each in like.values() for shape, kind in each.values())
    made = f"making {count} {samples} at {', '.join(map(str, like))}"
    check_memory(made, count * size, f"ask for fewer with {task}.n_{stream}")
    done = {
        resolution: {name: np.empty((count, *shape), kind) for name, (shape, kind) in arrays.items()}
        for resolution, arrays in like.items()
    }

    def work(chunk: range) -> range:
        for resolution, arrays in make(chunk).items():
            for name, values in arrays.items():
                done[resolution][name][chunk.start : chunk.stop] = values.cpu().numpy()
        return chunk

    chunks = [range(first, min(first + at_once, count)) for first in range(0, count, at_once)]
    for chunk in on_threads(work, chunks, 1 if device == "cuda" else torch.get_num_threads()):
        on_samples(len(chunk))
    return done


def on_threads(make: Callable[[range], range], chunks: Sequence[range], workers: int) -> Iterator[range]:
    """Yield the chunks in order, each after ``make`` processed it in its own thread with one torch thread."""
    if workers == 1:
        yield from map(make, chunks)
        return
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(make, chunks)
    finally:
        pool.shutdown(cancel_futures=True)
        # The number is partly per process, not per thread.
        torch.set_num_threads(threads)
