"""Converts weights of the authors' module (https://github.com/AlexColagrande/MANO)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

NAMES = {
    "Attention.norm.weight": "norm.weight",
    "Attention.norm.bias": "norm.bias",
    "Attention.Attention.norm.weight": "inner_norm.weight",
    "Attention.Attention.norm.bias": "inner_norm.bias",
    "Attention.Attention.to_qkv.weight": "to_qkv.weight",
    "Attention.Attention.to_out.0.weight": "to_out.weight",
    "Attention.Attention.to_out.0.bias": "to_out.bias",
    "down.1.weight": "down.weight",
    "up.1.weight": "up.weight",
}


def from_authors(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of a :class:`mano.MultipoleAttention` from that of the authors' multipole attention.

    The order of queries, keys, values and heads is the same in both. With one head as wide as the input, the authors'
    module has no output projection: it becomes the identity.

    Args:
        state_dict: weights of one attention module, without a prefix.

    Raises:
        KeyError: a key is missing, or is not one of the authors'.
    """
    state = dict(state_dict)
    projection = [key for key in NAMES if "to_out" in key]
    qkv = state.get("Attention.Attention.to_qkv.weight")
    if qkv is not None and qkv.shape[0] == 3 * qkv.shape[1] and not any(key in state for key in projection):
        dim = qkv.shape[1]
        identity = torch.eye(dim, dtype=qkv.dtype, device=qkv.device), qkv.new_zeros(dim)
        state |= dict(zip(projection, identity, strict=True))
    if missing := [key for key in NAMES if key not in state]:
        raise KeyError(f"missing from the authors' weights: {', '.join(missing)}; given are {', '.join(state_dict)}")
    if unknown := [key for key in state if key not in NAMES]:
        raise KeyError(f"not among the authors' weights: {', '.join(unknown)}; known are {', '.join(NAMES)}")
    return {ours: state[theirs] for theirs, ours in NAMES.items()}
