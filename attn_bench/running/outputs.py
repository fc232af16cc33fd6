"""Checks a model's output: it must be one real floating-point tensor of the shape that the problem requires."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from attn_bench.plugin import Problem

# Most names and parts that a description lists.
LISTED = 6


def check_output(output: Any, inputs: Tensor, problem: Problem, when: str = "") -> None:
    """Refuse an output that a loss would broadcast, cast or otherwise turn into nonsense.

    Args:
        when: added to the message.

    Raises:
        ValueError: ``output`` is not a dense, real floating-point tensor of the shape of ``problem`` on the device of
            ``inputs``; the message says what it is.
    """
    wanted = problem.output_shape(len(inputs))
    if not isinstance(output, Tensor) or output.is_nested or tuple(output.shape) != wanted:
        found, asked = _described(output, shape_only=True), str(wanted)
    elif not output.is_floating_point() or output.is_quantized or output.layout != torch.strided:
        found, asked = _described(output), f"{wanted}, dense and of a real floating-point type"
    elif output.device != inputs.device:
        found, asked = f"{wanted} on {output.device}", f"{wanted} on {inputs.device}, where the input is"
    else:
        return
    given = f"{when and f'{when} '}for an input {tuple(inputs.shape)}"
    raise ValueError(f"the model returned {found} {given}; {problem.kind} requires {asked}")


def _described(value: Any, *, shape_only: bool = False) -> str:
    if isinstance(value, Tensor):
        if value.is_nested:
            return "a nested tensor"
        shape, dtype = tuple(value.shape), str(value.dtype).removeprefix("torch.")
        if shape_only and value.is_floating_point() and value.layout == torch.strided:
            return str(shape)
        layout = "" if value.layout == torch.strided else f" ({str(value.layout).removeprefix('torch.')})"
        return f"{shape} of {dtype}{layout}"
    name = type(value).__name__
    if isinstance(value, Mapping):
        return f"a {name} with {_listed([f'{key!r}: {_described(item)}' for key, item in value.items()])}"
    if isinstance(value, list | tuple):
        return f"a {name} of {len(value)} ({_listed([_described(item) for item in value])})"
    return name


def _listed(texts: list[str]) -> str:
    return ", ".join(texts[:LISTED]) + (", ..." if len(texts) > LISTED else "")
