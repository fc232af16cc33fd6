"""Learning rates as functions of the progress of a training, so that they serve budgets in seconds as well.

The schedulers of torch and timm count steps, of which a budget in seconds does not know how many there will be; tests
hold these against torch's.
"""

from __future__ import annotations

import math

from attn_bench.sweep.groups import Training


def learning_rate(training: Training, progress: float) -> float:
    """Return the learning rate of a step that begins at ``progress`` in [0, 1]."""
    return training.learning_rate * _factor(training, min(progress, 1.0))


def _factor(training: Training, progress: float) -> float:
    values = training.lr_parameters
    warmup, end = values["lr_warmup"], values.get("lr_end", 0.0)
    if progress < warmup:
        rise = progress / warmup
        return (
            _cosine(values["lr_start"], 1.0, rise)
            if training.schedule == "one-cycle"
            else (values["lr_start"] + (1 - values["lr_start"]) * rise)
        )
    match training.schedule:
        case "one-cycle" | "cosine":
            return _cosine(1.0, end, (progress - warmup) / (1 - warmup))
        case "step":
            # A boundary that rounding puts just after a step belongs to that step.
            return values["lr_factor"] ** math.floor(progress / values["lr_step"] + 1e-9)
        case "constant":
            return 1.0


def _cosine(begin: float, end: float, t: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * t)) / 2
