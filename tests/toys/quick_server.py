"""The fork server with short samples: tests look at what is measured, not at how exactly it is."""

from __future__ import annotations

import runpy
from functools import partial

from attn_bench.running.measure import steps
from attn_bench.running.measure.latency import Sampling

BRIEF = Sampling(min_seconds=0.02, max_seconds=0.2, warmup_seconds=0.1)

if __name__ == "__main__":
    steps.measure_latency = partial(steps.measure_latency, sampling=BRIEF)
    steps.measure_parts = partial(steps.measure_parts, sampling=BRIEF)
    steps.calibration_ms = partial(steps.calibration_ms, seconds=0.02)
    runpy.run_module("attn_bench.running.server", run_name="__main__", alter_sys=True)
