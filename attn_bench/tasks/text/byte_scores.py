"""Loss and metrics of bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from attn_bench.plugin import Metric

if TYPE_CHECKING:
    from torch import Tensor

# The target of a byte that is not predicted.
NOT_COUNTED = -100
TEXT_METRICS = {
    "bits_per_byte": Metric("lower", "mean of -log2 of the probability given to each byte of the test set", "bit"),
    "perplexity": Metric("lower", "2 to the power of bits per byte: per byte, not per word"),
    "accuracy": Metric("higher", "share of bytes that have the highest probability", "%"),
}


def byte_cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy, in nats, of scores (B, N, 256) and targets (B, N); 0 where none counts."""
    counted = (targets != NOT_COUNTED).sum().clamp(min=1)
    return _total(scores, targets) / counted


def byte_scores(batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return :data:`TEXT_METRICS` over batches of scores (B, N, 256) and targets (B, N).

    Raises:
        ValueError: there are no bytes to predict.
    """
    nats, right, total = 0.0, 0, 0
    for scores, targets in batches:
        nats += float(_total(scores, targets))
        right += int((scores.argmax(-1) == targets).sum())
        total += int((targets != NOT_COUNTED).sum())
    if not total:
        raise ValueError("no bytes to evaluate")
    bits = nats / total / math.log(2)
    # Beyond 1024, after divergence, Python would raise an error instead of returning infinity.
    perplexity = 2**bits if bits < 1024 else math.inf
    return {"bits_per_byte": bits, "perplexity": perplexity, "accuracy": 100 * right / total}


def _total(scores: Tensor, targets: Tensor) -> Tensor:
    from torch.nn import functional as F

    return F.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=NOT_COUNTED, reduction="sum")
