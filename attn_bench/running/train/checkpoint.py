"""Checkpoints of training: everything needed to resume, restored completely or not at all."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

import torch
from torch import nn

from attn_bench.files import UNUSABLE, atomic_write
from attn_bench.format import clean
from attn_bench.running.device.select import generators, set_generators
from attn_bench.running.train.course import State
from attn_bench.running.train.optimizer import Update


@dataclass(frozen=True)
class Trainee:
    """What training changes besides its :class:`State` and torch's generators.

    Attributes:
        average: a running mean of the weights (``timm.utils.ModelEmaV3``) or None.
        batch_size: of the training, which it keeps when it resumes.
    """

    module: nn.Module
    optimizer: Update
    average: Any = None
    batch_size: int | None = None

    def state(self) -> dict[str, Any]:
        """Return all of it, as views of the tensors."""
        return {
            "module": self.module.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generators": generators(),
            "batch_size": self.batch_size,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Load what :meth:`state` returned; raises any exception if it does not fit."""
        load_weights(self.module, state["module"])
        if self.average is not None:
            load_weights(self.average.module, state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        set_generators(state["generators"])


def save(path: Path, trainee: Trainee, state: State) -> None:
    """Write a checkpoint if possible; without one a later run starts over, but this one continues."""
    # Torch raises a RuntimeError if the disk is full, and a module may add anything to its state.
    with contextlib.suppress(Exception), atomic_write(path) as file:
        torch.save(trainee.state() | state.content(), file)


def restore(path: Path, trainee: Trainee) -> tuple[State, str | None]:
    """Restore a checkpoint, if there is one, and return the state of training.

    One that cannot be used is set aside and changes nothing. Training then starts over, and the reason is returned too
    and printed to the log.
    """
    if not os.path.lexists(path):
        return State(), None
    before = None
    try:
        before = deepcopy(trainee.state())
        if not S_ISREG(path.stat().st_mode):
            raise ValueError("not a regular file")
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = State.of(content)
        trainee.load(content)
        if state.best is not None:
            _check_alike(trainee.module, state.best)
        _check_numbers(trainee)
    except Exception as error:
        aside = path.with_name(path.name + UNUSABLE)
        with contextlib.suppress(OSError):
            path.replace(aside)
        if before is not None:
            trainee.load(before)
        why = f"its checkpoint could not be used and is set aside as {aside.name}; started over"
        warning = f"{why} ({type(error).__name__}: {clean(str(error), 300)})"
        with contextlib.suppress(Exception):  # standard error may be closed
            print(f"attn-bench: {warning}", file=sys.stderr)
        return State(), warning
    return state, None


def batch_size_in(path: Path) -> int | None:
    """Return the batch size of the training that a checkpoint is of; None if there is none that can be used."""
    with contextlib.suppress(Exception):
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["batch_size"]
        return found if type(found) is int and found > 0 else None
    return None


def _check_numbers(trainee: Trainee) -> None:
    """Refuse weights that are not finite, and moments of the wrong shape, which the optimizer would accept."""
    names = [name for name, _ in trainee.module.named_parameters()]
    for name, (parameter, moments) in zip(names, trainee.optimizer.moments(), strict=True):
        if any(moment.shape != parameter.shape for moment in moments):
            raise ValueError(f"the optimizer's state of {name} has another shape")
        if not all(bool(torch.isfinite(tensor).all()) for tensor in (parameter, *moments)):
            raise ValueError(f"{name} is not finite")


def _check_alike(module: nn.Module, best: Mapping[str, Any]) -> None:
    """Refuse best weights of another module."""
    if best.keys() != module.state_dict().keys():
        raise ValueError("the best weights have other names")
    for name, parameter in module.named_parameters():
        if best[name].shape != parameter.shape:
            raise ValueError(f"the best {name} has another shape")


def load_weights(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Load what ``state_dict`` of ``module`` returned; raises any exception if it does not fit."""
    # Some buffers change shape with the batch.
    for name, buffer in list(module.named_buffers()):
        if name in state and state[name].shape != buffer.shape:
            owner, _, own = name.rpartition(".")
            setattr(module.get_submodule(owner), own, state[name].to(buffer.device))
    module.load_state_dict(state)
