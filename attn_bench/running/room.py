"""What the runner tells the process of a cell that has to find its batch size."""

from __future__ import annotations

from dataclasses import dataclass

_STAGE = "trying a batch of "


@dataclass(frozen=True)
class Room:
    """What is known about the batch size, and the memory that there is for it.

    Attributes:
        known: the batch size that was found when another part of the cell was run.
        below: only smaller ones are tried, as this one ended the process.
        limit_mib: the memory limit that the user gave (``--memory-limit``).
        share: of the memory that is free on this machine.
    """

    known: int | None = None
    below: int | None = None
    limit_mib: float | None = None
    share: float = 1.0


ALL_OF_IT = Room()


def stage_of(size: int) -> str:
    """Return the stage of a cell that tries a batch size."""
    return f"{_STAGE}{size}"


def size_in(stage: str) -> int | None:
    """Return the batch size that a stage of a cell tries; None if it is another stage."""
    size = stage.removeprefix(_STAGE)
    return int(size) if stage != size and size.isdecimal() else None
