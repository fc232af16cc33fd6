"""The outcome of checking a promise of a plugin."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """The outcome of one promise.

    Attributes:
        promise: its name.
        holds: None if the promise does not apply to the plugin.
        note: what was observed, what is wrong, or why it does not apply.
    """

    promise: str
    holds: bool | None
    note: str
