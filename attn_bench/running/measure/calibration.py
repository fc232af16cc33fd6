"""A fixed workload, timed beside a model: where it is slower, the machine is slower.

On shared machines the same code can take a third longer two minutes later. A workload corrects for that only if it is
slowed down as much as a model is, so this one consists of what models consist of: a transformer block and a Fourier
transform, in many operators of a few hundred kilobytes. (What slows a model down hardly affects pure matrix products.)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def calibration_step() -> Callable[[], object]:
    """Return the workload: float32 on the CPU, about 2 ms on two cores; it leaves the global generators unchanged."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        tokens, field = torch.randn(8, 256, 32), torch.randn(8, 32, 16, 16)

    def step() -> object:
        with torch.inference_mode():
            return block(tokens), torch.fft.irfft2(torch.fft.rfft2(field))

    return step


def calibration_ms(step: Callable[[], object], seconds: float = 0.25) -> float:
    """Return the median time of one call of ``step`` in milliseconds, over ``seconds`` and at least 20 calls."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 20:
        start = time.perf_counter_ns()
        step()
        times.append((time.perf_counter_ns() - start) / 1e6)
    return statistics.median(times[len(times) // 5 :])
