"""Losses and metrics for one class per image or per point."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from attn_bench.plugin import Metric

if TYPE_CHECKING:
    from torch import Tensor

# The class of an unlabeled point, which torch's cross-entropy ignores.
UNLABELLED = -100
CLASS_METRICS = {
    "top1": Metric("higher", "share of images whose class has the highest score", "%"),
    "top5": Metric("higher", "share of images whose class is among the five highest scores", "%"),
}
MASK_METRICS = {
    "mean_iou": Metric("higher", "intersection over union of a class, over labeled points; mean over classes", "%"),
    "pixel_accuracy": Metric("higher", "share of labeled points whose class has the highest score", "%"),
}


def cross_entropy(scores: Tensor, classes: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy of (B, classes, ...) scores and (B, ...) classes; 0 where nothing is labeled."""
    from torch.nn import functional as F

    total = F.cross_entropy(scores, classes, label_smoothing=smoothing, ignore_index=UNLABELLED, reduction="sum")
    return total / (classes != UNLABELLED).sum().clamp(min=1)


def class_scores(batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return :data:`CLASS_METRICS` over batches of scores (B, classes) and classes (B,).

    Raises:
        ValueError: there is no image.
    """
    top1 = top5 = total = 0
    for scores, classes in batches:
        best = scores.topk(min(5, scores.shape[1]), 1).indices == classes[:, None]
        top1 += int(best[:, 0].sum())
        top5 += int(best.any(1).sum())
        total += len(classes)
    if not total:
        raise ValueError("no images to evaluate")
    return {"top1": 100 * top1 / total, "top5": 100 * top5 / total}


def class_hits(scores: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """Return :data:`CLASS_METRICS` of each image, (B,): 100 or 0; scores (B, classes), classes (B,)."""
    best = scores.topk(min(5, scores.shape[1]), 1).indices == classes[:, None]
    return {"top1": 100.0 * best[:, 0], "top5": 100.0 * best.any(1)}


def mask_scores(batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return :data:`MASK_METRICS` over batches of scores (B, classes, H, W) and classes (B, H, W).

    Unlabeled points do not count, nor do classes that neither occur nor are predicted at labeled points.

    Raises:
        ValueError: no point is labeled.
    """
    import torch

    # Integers, as large counts would stop growing in float32.
    confusion = torch.zeros((1, 1), dtype=torch.int64)
    for scores, classes in batches:
        n = scores.shape[1]
        pairs = (classes * n + scores.argmax(1))[classes != UNLABELLED]
        confusion = confusion + torch.bincount(pairs, minlength=n * n).view(n, n).cpu()
    if not confusion.any():
        raise ValueError("no labeled points to evaluate")
    both = confusion.diag()
    either = confusion.sum(0) + confusion.sum(1) - both
    present = either > 0
    return {
        "mean_iou": 100 * float((both[present] / either[present]).mean()),
        "pixel_accuracy": 100 * float(both.sum() / confusion.sum()),
    }
