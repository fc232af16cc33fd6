"""A file larger than the memory of a process is read in pieces."""

from __future__ import annotations

import multiprocessing
import resource

import h5py
import numpy as np
import pytest
import torch
from field_files import resolved

from attn_bench.tasks.fields.task import Fields

# Each array has 60 MiB; a process may take 104 MiB more than it had, of which surveys and batches need about 45. The
# limit counts what an allocator keeps, too, so it cannot be tight.
SAMPLES, SIZE, ROOM = 240, 256, 104 << 20


@pytest.fixture
def made(tmp_path):
    """Return a function that makes a file by the name of its kind, all with the same arrays."""

    def make(name):
        path = tmp_path / name
        rows = np.arange(SAMPLES, dtype=np.float32)[:, None, None]
        x = np.broadcast_to(rows, (SAMPLES, SIZE, SIZE)) + np.eye(SIZE, dtype=np.float32)
        arrays = {"x": x, "y": x + 1}
        if path.suffix == ".h5":
            with h5py.File(path, "w") as file:
                for key, array in arrays.items():
                    file.create_dataset(key, data=array, chunks=(4, SIZE, SIZE))
        elif path.suffix == ".npz":
            np.savez(path, **arrays)
        elif path.suffix == ".pt":
            torch.save({key: torch.from_numpy(array) for key, array in arrays.items()}, path)
        else:
            path.mkdir()
            for key, array in arrays.items():
                np.save(path / f"{key}.npy", array)
        return path

    return make


def status(entry):
    """Return an entry on the memory of this process in bytes."""
    with open("/proc/self/status", encoding="utf-8") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(entry))


def read_all(path, reading, answers):
    """Read every sample once, as a training does, in a process that may take little more memory."""
    before = status("RssAnon")
    # torch maps a file so that writing would be allowed, which counts here though it takes no memory.
    if path.suffix != ".pt":
        resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + ROOM, resource.RLIM_INFINITY))
    torch.set_num_threads(1)
    total, most = 0.0, 0
    try:
        every, options = resolved(data=str(path), reading=reading)
        splits = Fields().splits(every[0], options)
        module = Fields().adapt(torch.nn.Identity(), splits.train)
        for rows in torch.randperm(len(splits.train)).split(8):
            total += float(splits.train.batch(rows)[0].sum(dtype=torch.float64))
            most = max(most, status("RssAnon") - before)
    except (MemoryError, RuntimeError) as error:
        return answers.put(f"{type(error).__name__}: {error}")
    answers.put((total, float(module.input_mean.flatten()[0]), most))


def run(path, reading, method="fork"):
    """Return the sum of all inputs, their mean, and the memory that the process took; or its error."""
    context = multiprocessing.get_context(method)
    answers = context.SimpleQueue()
    process = context.Process(target=read_all, args=(path, reading, answers))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    return answers.get()


@pytest.mark.parametrize(
    "name", ["a.h5", *(pytest.param(name, marks=pytest.mark.slow) for name in ("b.npz", "c.pt", "folder"))]
)
def test_pieces_need_no_memory_for_the_whole(made, name):
    found = run(made(name), "pieces")
    assert not isinstance(found, str), found
    total, mean, most = found
    train = SAMPLES * 4 // 5
    assert total == pytest.approx(mean * train * SIZE**2)
    assert 0 < mean < SAMPLES
    assert most < ROOM


@pytest.mark.slow
def test_the_whole_does_not_fit(made):
    # In a new process: one that is forked has room that earlier tests left.
    assert "memory" in run(made("a.h5"), "memory", "spawn").lower()
