"""Process-wide settings that change results: threads, precision, determinism, random generators.

A model may change any of them in an import, in ``build`` or in a forward pass. :class:`Keeper` restores them between
the stages of a cell, never within a timed or trained step, and remembers what was changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from operator import attrgetter
from typing import Any

import numpy as np
import torch

_BACKENDS = torch.backends
# Where the precision of float32 is set by library and operator. Torch derives the older settings from these, and
# refuses to read them if the operators disagree.
_PRECISIONS = {
    name: attrgetter(name)(torch)
    for name in (
        "backends",
        "backends.cuda.matmul",
        "backends.cudnn",
        "backends.cudnn.conv",
        "backends.cudnn.rnn",
        "backends.mkldnn",
        "backends.mkldnn.matmul",
        "backends.mkldnn.conv",
        "backends.mkldnn.rnn",
    )
}
_ATTENTION = ("flash", "mem_efficient", "math", "cudnn")


@dataclass(frozen=True)
class TorchState:
    """Settings of the process, as JSON values.

    Attributes:
        threads, interop_threads: of torch on the CPU.
        cores: those that this process may use, if the system reports them.
        default_dtype, default_device: of tensors made without either.
        grad_mode, anomaly_mode: of autograd in this thread.
        autocast: device types for which it is on.
        deterministic: 0, 1 (warns) or 2 (raises), as ``torch.set_deterministic_debug_mode`` takes it.
        matmul_precision: of float32, or ``"mixed"`` where it was set by library.
        cudnn_allow_tf32: whether cuDNN may use TF32, or ``"mixed"``.
        fp32_precision: what was set by library and operator.
        cudnn_enabled, cudnn_benchmark, cudnn_deterministic: of cuDNN.
        mkldnn_enabled, mha_fastpath: whether torch uses oneDNN, and its fused encoder layers.
        attention: kernels of scaled-dot-product attention that may be used.
        flush_denormal: whether denormal numbers become zero.
    """

    threads: int
    interop_threads: int
    cores: tuple[int, ...] | None
    default_dtype: str
    default_device: str
    grad_mode: bool
    anomaly_mode: bool
    autocast: tuple[str, ...]
    deterministic: int
    matmul_precision: str
    cudnn_allow_tf32: bool | str
    fp32_precision: tuple[str, ...]
    cudnn_enabled: bool
    cudnn_benchmark: bool
    cudnn_deterministic: bool
    mkldnn_enabled: bool
    mha_fastpath: bool
    attention: tuple[str, ...]
    flush_denormal: bool

    @classmethod
    def read(cls) -> TorchState:
        """Return the current settings."""
        return cls(**{name: read() for name, (read, _) in _SETTINGS.items()})

    def difference(self, other: TorchState) -> dict[str, tuple[Any, Any]]:
        """Return the settings that differ in ``other``, by name: the value here and the value there."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return {name: (value, theirs[name]) for name, value in mine.items() if value != theirs[name]}

    def apply(self) -> TorchState:
        """Apply these settings as far as torch allows, and return the resulting ones."""
        # In the order of the fields: the precision by library is finer and comes after the coarse settings.
        for name in self.difference(TorchState.read()):
            with contextlib.suppress(Exception):
                _SETTINGS[name][1](getattr(self, name))
        _set_precisions(self.fp32_precision)  # the coarse settings change it as well
        return TorchState.read()


def _cores() -> tuple[int, ...] | None:
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None


def _set_cores(cores: tuple[int, ...] | None) -> None:
    if cores is not None:
        os.sched_setaffinity(0, cores)


def _or_mixed(read: Callable[[], Any]) -> Callable[[], Any]:
    def value() -> Any:
        try:
            return read()
        except RuntimeError:
            return "mixed"

    return value


def _precisions() -> tuple[str, ...]:
    return tuple(f"{name}={getattr(where, 'fp32_precision', None)}" for name, where in _PRECISIONS.items())


def _set_precisions(values: tuple[str, ...]) -> None:
    for (name, where), value in zip(_PRECISIONS.items(), values, strict=True):
        wanted = value.removeprefix(f"{name}=")
        if getattr(where, "fp32_precision", None) != wanted:
            with contextlib.suppress(Exception):
                where.fp32_precision = wanted


def _autocast() -> tuple[str, ...]:
    return tuple(device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device))


def _set_autocast(devices: tuple[str, ...]) -> None:
    for device in ("cpu", "cuda"):
        torch.set_autocast_enabled(device, device in devices)


def _attention() -> tuple[str, ...]:
    return tuple(name for name in _ATTENTION if getattr(_BACKENDS.cuda, f"{name}_sdp_enabled")())


def _set_attention(names: tuple[str, ...]) -> None:
    for name in _ATTENTION:
        getattr(_BACKENDS.cuda, f"enable_{name}_sdp")(name in names)


def _default_device() -> str:
    return str(torch.get_default_device())


def _set_default_device(device: str) -> None:
    torch.set_default_device(None)
    if _default_device() != device:
        torch.set_default_device(device)


def _flushes() -> bool:
    smallest = sys.float_info.min  # a variable, or Python would divide at compile time
    return smallest / 2 == 0.0


def _setter(owner: Any, name: str) -> Callable[[Any], None]:
    return lambda value: setattr(owner, name, value)


# By field: the functions that read and set it.
_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "interop_threads": (torch.get_num_interop_threads, torch.set_num_interop_threads),
    "cores": (_cores, _set_cores),
    "default_dtype": (
        lambda: str(torch.get_default_dtype()).removeprefix("torch."),
        lambda name: torch.set_default_dtype(getattr(torch, name)),
    ),
    "default_device": (_default_device, _set_default_device),
    "grad_mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "anomaly_mode": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "autocast": (_autocast, _set_autocast),
    "deterministic": (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    "matmul_precision": (_or_mixed(torch.get_float32_matmul_precision), torch.set_float32_matmul_precision),
    "cudnn_allow_tf32": (_or_mixed(lambda: _BACKENDS.cudnn.allow_tf32), _setter(_BACKENDS.cudnn, "allow_tf32")),
    "fp32_precision": (_precisions, _set_precisions),
    "cudnn_enabled": (lambda: _BACKENDS.cudnn.enabled, _setter(_BACKENDS.cudnn, "enabled")),
    "cudnn_benchmark": (lambda: _BACKENDS.cudnn.benchmark, _setter(_BACKENDS.cudnn, "benchmark")),
    "cudnn_deterministic": (lambda: _BACKENDS.cudnn.deterministic, _setter(_BACKENDS.cudnn, "deterministic")),
    "mkldnn_enabled": (lambda: _BACKENDS.mkldnn.enabled, _setter(_BACKENDS.mkldnn, "enabled")),
    "mha_fastpath": (_BACKENDS.mha.get_fastpath_enabled, _BACKENDS.mha.set_fastpath_enabled),
    "attention": (_attention, _set_attention),
    "flush_denormal": (_flushes, torch.set_flush_denormal),
}


def stage_seed(seed: int, stage: str) -> int:
    """Return the seed of a stage of a cell: the cell's own for ``build``, one derived from it for any other stage."""
    if stage == "build":
        return seed
    return int.from_bytes(sha256(f"{stage} {seed}".encode()).digest()[:7], "big")


def seed_generators(seed: int) -> None:
    """Seed torch's generators on every device, NumPy's and Python's."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed % 2**64)  # it would take the absolute value of a negative seed


class Keeper:
    """Keeps the current settings through the stages of a cell, whatever its model does.

    Attributes:
        wanted: the settings restored after each stage.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.stage_name, self.measures = seed, "", False
        self.wanted = TorchState.read()
        self._measured: dict[str, Any] = {}
        self._changes: dict[str, list[str]] = {}

    @contextlib.contextmanager
    def stage(self, name: str, *, measures: bool = False) -> Iterator[None]:
        """Seed every generator for a stage, and restore changed settings when the stage ends, even by an error."""
        self.stage_name, self.measures = name, measures
        seed_generators(stage_seed(self.seed, name))
        try:
            yield
        finally:
            self.put_back()

    def put_back(self) -> None:
        """Restore what was changed in this stage, and remember it; not to be called during a timing."""
        changed = self.wanted.difference(TorchState.read())
        if not changed:
            return
        left = self.wanted.difference(self.wanted.apply())
        for name, (wanted, found) in changed.items():
            what = f"{name} {_brief(wanted, found)}{', which cannot be restored' if name in left else ''}"
            stages = self._changes.setdefault(what, [])
            if self.stage_name not in stages:
                stages.append(self.stage_name)
            if self.measures:
                self._measured[name] = found
        self.wanted = dataclasses.replace(self.wanted, **{name: found for name, (_, found) in left.items()})

    def changed_by_model(self) -> list[str]:
        """Return what was changed, and in which stages: ``"threads 1 (not 2): build, training"``."""
        return [f"{what}: {', '.join(stages)}" for what, stages in self._changes.items()]

    def in_force(self) -> dict[str, Any]:
        """Return the settings in effect while measuring, including the model's changes."""
        return dataclasses.asdict(self.wanted) | self._measured | {"changed_by_model": self.changed_by_model()}


def _brief(wanted: Any, found: Any) -> str:
    if isinstance(wanted, tuple) and isinstance(found, tuple) and len(wanted) == len(found):
        pairs = [(w, f) for w, f in zip(wanted, found, strict=True) if w != f]
        wanted, found = (" ".join(str(pair[i]) for pair in pairs) for i in (0, 1))
    return f"{found} (not {wanted})"
