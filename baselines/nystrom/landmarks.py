"""The module of nystrom-attention on sequences of any length."""

from __future__ import annotations

from typing import Any

from nystrom_attention import NystromAttention
from torch import Tensor, nn


def landmarks_used(n: int, most: int) -> int:
    """Return the number of stretches for ``n`` tokens: <= ``most``, all of one length except perhaps the first.

    With exactly ``most`` some could consist only of padding (300 tokens in 64 stretches of 5).
    """
    return -(-n // -(-n // most))


class AnyLengthNystrom(nn.Module):
    """Map tokens (B, N, dim) to the same shape by ``nystrom_attention.NystromAttention``.

        If the landmarks do not divide the sequence, the library pads it; it then gets a mask that excludes the padding.

    Args:
        landmarks: maximum number; see :func:`landmarks_used`.
            **settings: of the library's module.
    """

    def __init__(self, landmarks: int, **settings: Any) -> None:
        super().__init__()
        self.landmarks = landmarks
        self.attention = NystromAttention(num_landmarks=landmarks, **settings)

    def forward(self, x_BNC: Tensor) -> Tensor:
        n = x_BNC.shape[1]
        self.attention.num_landmarks = used = landmarks_used(n, self.landmarks)
        mask = x_BNC.new_ones(x_BNC.shape[:2]).bool() if n % used else None
        return self.attention(x_BNC, mask=mask)
