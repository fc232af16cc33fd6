"""Multipole Attention Neural Operator (arXiv:2507.02748): multi-scale windowed attention in O(n).

The public names are imported on first use, so that listing plugins does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mano.attention import MultipoleAttention
    from mano.convert import from_authors
    from mano.operator import MANO

_HOMES = {"MultipoleAttention": "mano.attention", "MANO": "mano.operator", "from_authors": "mano.convert"}

__all__ = ["MANO", "MultipoleAttention", "from_authors"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'mano' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
