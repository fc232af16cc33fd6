"""Versions of what the harness computes, set by hand: a fingerprint of the whole harness would invalidate every result
with every change.

Raise one where numbers can change. The test tests/sweep/test_versions.py fails whenever the code behind one has
changed, until somebody decides.
"""

from __future__ import annotations

# Training and evaluation; part of the id of every cell that is trained.
TRAINING = 2
# Latency, memory and FLOPs; stored with the measurements.
MEASURING = 2
