"""The source of the data for one set of options: generated, a file of the user, or a download."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attn_bench.plugin import PrepareContext, PreparedData
from attn_bench.tasks.darcy.task_options import DarcyOptions

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Fields:
    """Inputs and targets of one split, float32, shape (N, H, W) both."""

    inputs: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class Loaded:
    """Both splits at one resolution, and their identity."""

    train: Fields
    test: Fields
    identity: Mapping[str, Any]


class Source(ABC):
    """Data for one set of options. Creating a source checks nothing and is cheap."""

    def __init__(self, options: DarcyOptions) -> None:
        self.options = options

    @abstractmethod
    def resolved(self, resolutions: Sequence[int]) -> dict[str, Any]:
        """Return the options that depend on all resolutions together; raises OptionError, DataError."""

    @abstractmethod
    def grid(self, resolution: int) -> tuple[int, int]:
        """Return (H, W) at a resolution; raises OptionError, DataError."""

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The resolutions used if the user gives none; empty if the source has no preference."""
        return ()

    @abstractmethod
    def prepare(self, resolutions: Sequence[int], context: PrepareContext) -> PreparedData:
        """Make sure that :meth:`load` will succeed, and describe the data that it will read."""

    @abstractmethod
    def load(self, resolution: int) -> Loaded:
        """Return the data."""
