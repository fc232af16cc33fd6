"""Where cells run: one after another, side by side, or as jobs of a cluster."""

from __future__ import annotations

from collections.abc import Callable

from attn_bench.running.work import Work

# Runs what is due of some work. At the end every cell has a record; where cells are left because nobody waits for them,
# or they were cancelled, it returns what to say. Raises DiskError: the folder cannot be written.
Executor = Callable[[Work], str | None]
