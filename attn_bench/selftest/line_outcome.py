"""What a line of the self-test found, and the sizes at which it looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "fail", "skipped"]


class Skip(Exception):
    """A line does not apply to this machine; the message says why."""


class Failed(Exception):
    """A line found something wrong; the message says what."""


@dataclass(frozen=True)
class Outcome:
    """A line of the table.

    Attributes:
        number: what was measured, with its unit; empty if nothing was.
        reason: why it failed or was skipped.
        seconds: how long it took.
    """

    line: str
    status: Status
    number: str = ""
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Sizes:
    """Where a line looks, smallest first.

    Attributes:
        grids: sides of fields.
        lengths: of sequences.
        copied_mib: of a copy in memory.
        steps: of training.
    """

    grids: tuple[int, ...]
    lengths: tuple[int, ...]
    copied_mib: int
    steps: int


# The smallest is for tests; on the CPU all lines take less than two minutes, on a GPU less than nine.
SIZES = {
    "smallest": Sizes((16,), (512,), 16, 2),
    "cpu": Sizes((32, 64), (1024, 8192), 256, 5),
    "cuda": Sizes((64, 256, 1024), (4096, 65536, 1 << 20), 2048, 50),
}
