"""Versions of what the harness computes, set by hand: a fingerprint that followed the whole harness would throw away
every result with every change of it.

Raise one where numbers can change. A test, tests/sweep/test_versions.py, fails whenever the code behind one has
changed until somebody has decided.
"""

from __future__ import annotations

# Training and evaluation; part of the id of every cell that is trained.
TRAINING = 1
# Latency, memory and FLOPs; kept with what was measured.
MEASURING = 1
