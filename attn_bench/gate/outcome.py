"""What comes of checking a promise of a plugin."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """One promise.

    Attributes:
        promise: its name.
        holds: None where the plugin does not make it.
        note: what was seen, what is wrong, or why it is not made.
    """

    promise: str
    holds: bool | None
    note: str
