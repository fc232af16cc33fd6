"""Makes every model worse by a known share, on the side of ``benchmarks/gate.py`` that has this folder on its path.

Python imports a module of this name when it starts, before the worker of a side does anything.

Environment variables: ``PLANTED_LATENCY=0.1`` makes each step take a tenth longer, by waiting after it on the core that
launched it; ``PLANTED_MEMORY=0.01`` holds one more tensor, of a hundredth of the step's peak memory, while it runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch

from attn_bench.results.record import Memory
from attn_bench.running.measure.steps import Steps

LATENCY = float(os.environ.get("PLANTED_LATENCY", 0))
MEMORY = float(os.environ.get("PLANTED_MEMORY", 0))

_step, _memory = Steps.step, Steps.memory


def _worse(self: Steps, name: str) -> Callable[[], object]:
    step = _step(self, name)

    def planted() -> object:
        start = time.perf_counter()
        held = torch.empty(getattr(self, "planted_bytes", 0), dtype=torch.uint8)
        result = step()
        end = time.perf_counter()
        while time.perf_counter() - end < LATENCY * (end - start):
            pass
        return result, held

    return planted


def _with_more_memory(self: Steps, name: str) -> Memory:
    self.planted_bytes = 0
    self.planted_bytes = int(MEMORY * (_memory(self, name).peak_mib or 0) * 2**20)
    return _memory(self, name)


Steps.step = _worse
Steps.memory = _with_more_memory
