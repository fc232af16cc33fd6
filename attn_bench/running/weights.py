"""Weights of trained modules: kept as safetensors beside the records, and loaded again into a module built anew.

A file holds the tensors of a module's ``state_dict``, complex ones included; tensors that share their memory are
written once. What else is needed to build the module is in the record: the cell, and whether the task wrapped the
module. A file is read as untrusted: only safetensors, of the size that the module asks for, and with the digest that
the record has.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from json import dumps
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from attn_bench.errors import UserError
from attn_bench.files import atomic_write, read_regular
from attn_bench.format import clean
from attn_bench.results.known import reason
from attn_bench.results.record import Record, Weights
from attn_bench.results.store import Store
from attn_bench.running.device.select import device_of
from attn_bench.running.measure.steps import random_batch
from attn_bench.running.measure.torch_state import Keeper
from attn_bench.running.prepare import FIRST_SAMPLES, Posed, pose, prepare
from attn_bench.running.reuse import changed_since, kept_record
from attn_bench.running.train.checkpoint import load_weights
from attn_bench.running.train.step import autocast
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.devices import resolve_device
from attn_bench.sweep.fields import settings_of
from attn_bench.sweep.groups import Execution

Device = Literal["auto", "cpu", "cuda"]
# Buffers that follow the batch may be larger than those of a module that was just built.
_SLACK_BYTES = 64 << 20
# Relative difference of outputs between a module and one built from its weights: rounding, not other numbers.
_SAME = 1e-3


def keep(path: Path, whole: nn.Module, cell: Cell, *, adapted: bool) -> Weights:
    """Write the weights of ``whole`` to ``path`` and return what the record says of them.

    Args:
        adapted: the task wrapped what the model built.

    Raises:
        ValueError: its ``state_dict`` holds something that is not a dense tensor.
        DiskError: the file cannot be written.
    """
    from safetensors.torch import save

    content = save(_tensors(whole), {"format": "pt", "cell": dumps(cell.to_json())})
    with atomic_write(path) as file:
        file.write(content)
    return Weights(cell.id, sha256(content).hexdigest(), adapted)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return what is written of a ``state_dict``: each piece of memory once, complex128 as pairs of numbers."""
    found, places = dict[str, Tensor](), set[tuple[Any, ...]]()
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
            raise ValueError(f"{name} in its state_dict is not a dense tensor, so its weights cannot be kept")
        if (place := _place(tensor)) is None or place not in places:
            places.add(place or ())
            real = torch.view_as_real(tensor) if tensor.dtype == torch.complex128 else tensor
            # A copy: views of one storage would be refused.
            found[name] = real.detach().cpu().clone(memory_format=torch.contiguous_format)
    return found


def _place(tensor: Tensor) -> tuple[Any, ...] | None:
    """Return what is equal for two tensors only if they are the same memory; None for an empty one."""
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device) if tensor.numel() else None


def verify(path: Path, weights: Weights, cell: Cell, posed: Posed, whole: nn.Module, keeper: Keeper) -> None:
    """Check that a module built from the weights gives the outputs of ``whole``.

    Raises:
        ValueError: it does not, because its outputs depend on something that is not in its ``state_dict``.
    """
    again = _built(cell, posed, keeper, adapted=weights.adapted)
    fill(again, path, weights.sha256)
    inputs, _ = random_batch(posed.problem, FIRST_SAMPLES, cell.execution.device, cell.seed + 1)
    outputs = []
    for module in (whole, again):
        module.eval()
        with torch.no_grad(), autocast(cell.execution.device, cell.execution.precision):
            outputs.append(module(inputs.clone()).double().nan_to_num())
    if not (outputs[0] - outputs[1]).norm() <= _SAME * outputs[0].norm():
        raise ValueError(
            "a module built anew with its weights gives other outputs: something that it computes with is not in its "
            "state_dict; register it as a buffer"
        )


def _built(cell: Cell, posed: Posed, keeper: Keeper, *, adapted: bool) -> nn.Module:
    """Build the module of a cell as it was before training; what the task fits to data is fitted to random numbers."""
    module = prepare(cell, posed, keeper).module
    if adapted:
        placeholder = TensorDataset(*random_batch(posed.problem, FIRST_SAMPLES, "cpu", cell.seed))
        module = posed.task.adapt(module, placeholder).to(device_of(cell.execution.device).tensors)  # type: ignore[arg-type]
    return module.eval()


def fill(module: nn.Module, path: Path, digest: str) -> None:
    """Load a file of weights into ``module``; raises UserError."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    own = module.state_dict()
    expected = sum(tensor.numel() * tensor.element_size() for tensor in own.values() if isinstance(tensor, Tensor))
    try:
        content = read_regular(path, 2 * expected + _SLACK_BYTES)
        if sha256(content).hexdigest() != digest:
            raise ValueError("damaged or replaced: its SHA-256 is not that of the record")
        tensors = load(content)
    except FileNotFoundError:
        raise UserError(f"{path}: the weights are gone; train the cell again with --keep-weights --retry all") from None
    except (OSError, ValueError, SafetensorError, KeyError) as error:
        raise UserError(f"{path}: the weights cannot be read ({clean(reason(error), 200)})") from None
    try:
        load_weights(module, dict(_completed(tensors, own)))
    except (RuntimeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: the weights do not fit the module ({clean(str(error), 400)})") from None


def _completed(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a file as a module has them, and those again that share their memory in the module."""
    places: dict[tuple[Any, ...], Tensor] = {}
    for name, tensor in tensors.items():
        if name in own and own[name].is_complex() and not tensor.is_complex():
            tensor = torch.view_as_complex(tensor.contiguous())
        if name in own and (place := _place(own[name])) is not None:
            places[place] = tensor
        yield name, tensor
    for name, tensor in own.items():
        if name not in tensors and (place := _place(tensor)) in places:
            assert place is not None
            yield name, places[place]


@dataclass(frozen=True)
class Loaded:
    """A trained module that was loaded, and what poses its problem."""

    module: nn.Module
    posed: Posed


def loaded(record: Record, store: Store, device: Device, keeper: Keeper) -> Loaded:
    """Build the module of a record that kept its weights, on ``device``; raises UserError where that cannot be done."""
    weights = record.weights
    assert weights is not None
    cell = replace(record.cell, execution=replace(record.cell.execution, device=device, compile=False))
    posed = pose(cell, keeper)
    module = _built(cell, posed, keeper, adapted=weights.adapted)
    fill(module, store.path("weights", weights.cell), weights.sha256)
    return Loaded(module, posed)


def load_model(folder: str | PathLike[str], cell: Any, *, device: str = "cpu", strict: bool = True) -> nn.Module:
    """Return a trained module of a results folder whose weights were kept (``--keep-weights``), ready to be called.

    It maps the inputs of the problem to its outputs as they are in the data: what normalizes them is part of it. It is
    in evaluation mode and in the precision of its parameters; a cell run in ``bf16`` was called under autocast.

    Args:
        folder: the results folder.
        cell: id of a cell, or a row of the table that :func:`attn_bench.load` returns.
        device: ``cpu``, ``cuda`` or ``auto``.
        strict: refuse weights of code that has changed since; if false, they are loaded if they fit.

    Raises:
        UserError: there is no such cell or device; its weights were not kept, are damaged or do not fit; the code of
            its model or task has changed since.
    """
    store = Store.open(Path(fspath(folder)))
    record = kept_record(store, _id_of(cell))
    if strict and (why := changed_since(record.cell)) is not None:
        raise UserError(f"cell {record.id}: {why}; strict=False loads the weights if they fit")
    with _generators_kept():
        usable = resolve_device(settings_of(Execution)["device"].read(device))
        return loaded(record, store, usable, Keeper(record.cell.seed)).module


def _id_of(cell: Any) -> str:
    """Return the id of a cell given as text, or as a row of the table: a Series, a mapping or a named tuple."""
    if isinstance(cell, str):
        return cell
    with contextlib.suppress(TypeError, KeyError, IndexError, ValueError):
        if isinstance(found := cell["cell"], str):
            return found
    if isinstance(found := getattr(cell, "cell", None), str):
        return found
    raise UserError(f"cell {clean(repr(cell), 80)}: give the id of a cell, or one row of the table")


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """Leave the caller's generators as they are: building a module draws from them."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
