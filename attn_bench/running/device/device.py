"""The interface: everything that differs between devices, and nothing else asks torch which device there is."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from attn_bench.running.device.clocks import Clocks
from attn_bench.running.device.meter import Meter

if TYPE_CHECKING:
    import torch

MIB = 2**20


class Event(Protocol):
    """A mark in the work of a device."""

    def record(self) -> None:
        """Place the mark after all work given to the device so far."""

    def elapsed_time(self, end_event: Any) -> float:
        """Return the milliseconds from this mark to a later one; both must have been reached."""


class MemoryCounter(Protocol):
    """The counters of a device's allocator, in bytes."""

    def allocated(self) -> int:
        """Return what tensors take now."""

    def restart(self) -> None:
        """Begin again with the peaks."""

    def peak_allocated(self) -> int:
        """Return the most that tensors took since then."""

    def peak_reserved(self) -> int:
        """Return the most that the allocator had from the device since then."""


class Device(ABC):
    """A device that cells run on.

    Attributes:
        name: ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
        asynchronous: whether it works through a queue while the host goes on. If it does not, a call is finished when
            it returns, and the processor is what is measured.
        counter: of its memory; None if it has none.
    """

    asynchronous: bool
    counter: MemoryCounter | None = None

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    @abstractmethod
    def tensors(self) -> torch.device:
        """Where its tensors are."""

    @abstractmethod
    def current(self) -> contextlib.AbstractContextManager[Any]:
        """Return a block in which work goes to this device."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device has done all that it was given."""

    @abstractmethod
    def event(self) -> Event:
        """Return a mark for its work."""

    @abstractmethod
    def cache_flush(self) -> Callable[[], object]:
        """Return what overwrites its last cache."""

    @abstractmethod
    def graph(self, step: Callable[[], object]) -> Callable[[], object]:
        """Capture the work of ``step`` and return what repeats it without launching each operator."""

    @abstractmethod
    def room_mib(self, own_mib: float, limit_mib: float | None, share: float) -> float:
        """Return how much memory this process may take, with what it has.

        Args:
            own_mib: what it has of the host's memory.
            limit_mib: what it may have of that.
            share: of what is left there, as others take the rest.
        """

    @abstractmethod
    def process_mib(self) -> float | None:
        """Return the memory that the system attributes to this process, libraries included; None if unknown."""

    @abstractmethod
    def empty_cache(self) -> None:
        """Return memory that no tensor takes."""

    @abstractmethod
    def clocks(self) -> Clocks:
        """Return what reads its clock."""

    @abstractmethod
    def meter(self) -> Meter | str:
        """Return its energy counter, or why there is none."""

    @abstractmethod
    def same_generators(self) -> contextlib.AbstractContextManager[Any]:
        """Return a block after which torch's generators, of host and device, are as they were before it."""

    @abstractmethod
    def activities(self) -> Sequence[Any]:
        """Return what torch's profiler has to watch."""
