"""Small files in the layouts of published data sets, and what the task says and reads of a file."""

from __future__ import annotations

import numpy as np
import torch

from attn_bench.plugin import PrepareContext
from attn_bench.tasks.fields.task import Fields

GENERATOR = np.random.default_rng(0)


def values(*shape):
    """Return numbers of which no two are equal, in single precision, so that a wrong order of axes is seen."""
    return (GENERATOR.permutation(int(np.prod(shape))).reshape(shape) + 1).astype(np.float32)


def resolved(*resolutions, **options):
    """Return the resolutions and options as a run has them."""
    task = Fields()
    given = task.options(**options)
    own = resolutions or task.default_resolutions(given)
    every = tuple(dict.fromkeys((*own, *task.further_resolutions(own, given))))
    return every, task.resolve(every, given)


def splits(*resolutions, **options):
    """Return the data of the first resolution."""
    every, given = resolved(*resolutions, **options)
    return Fields().splits(every[0], given)


def prepared(*resolutions, **options):
    """Return what a run says before it trains."""
    return Fields().prepare(*resolved(*resolutions, **options), PrepareContext())


def problem(*resolutions, **options):
    """Return the problem at the first resolution."""
    every, given = resolved(*resolutions, **options)
    return Fields().problem(every[0], given)


def tensors(dataset):
    """Return all samples of a data set."""
    inputs, targets = zip(*(dataset[i] for i in range(len(dataset))))
    return torch.stack(inputs).numpy(), torch.stack(targets).numpy()


def whole(**options):
    """Return inputs and targets of all samples, those for training first, and their numbers in the file."""
    found = splits(**options)
    both = [np.concatenate(parts) for parts in zip(tensors(found.train), tensors(found.test))]
    return both[0], both[1]
