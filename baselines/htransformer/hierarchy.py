"""The modules of h-transformer-1d on sequences of any length."""

from __future__ import annotations

from math import ceil, log2
from typing import Any

from h_transformer_1d.h_transformer_1d import CausalHAttention1D, HAttention1D
from torch import Tensor, nn
from torch.nn import functional as F

from attn_bench.plugin import Unsupported

# A causal module holds masks for its longest sequence; those for 4096 tokens take 40 kB.
LONGEST = 4096


class AnyLengthHierarchical(nn.Module):
    """Map tokens (B, N, dim) to the same shape by the library's ``HAttention1D``, or ``CausalHAttention1D``.

    It pads a sequence to a power of two; a bidirectional module then gets a mask. Blocks are smaller than
    ``block_size`` if the sequence has fewer than four of them (causal: two).

    Args:
        length: tokens of the sequence; a causal module accepts at most this length, or 4096 if that is more.
        block_size: tokens of a block.
        causal: whether a token sees no later ones.
        **settings: of the library's module.

    Raises:
        Unsupported: when called, for a sequence longer than a causal module was built for.
    """

    def __init__(self, length: int, block_size: int, causal: bool, **settings: int) -> None:
        super().__init__()
        self.causal, self.block_size, self.fewest = causal, block_size, 2 if causal else 4
        self.tokens, self.length = length, (padded := self.padded(length))
        block = min(block_size, padded // self.fewest)
        if causal:
            self.longest = max(padded, LONGEST)
            self.attention: Any = CausalHAttention1D(max_seq_len=self.longest, block_size=block, **settings)
        else:
            self.attention = HAttention1D(block_size=block, **settings)

    def padded(self, n: int) -> int:
        """Return the length to which ``n`` tokens are padded."""
        return max(2 ** ceil(log2(n)), self.fewest)

    def forward(self, x_BNC: Tensor) -> Tensor:
        n = x_BNC.shape[1]
        padded = self.padded(n)
        if self.causal and padded > self.longest:
            raise Unsupported(f"built for at most {self.longest} tokens, not {n}")
        self.attention.block_size = min(self.block_size, padded // self.fewest)
        x = F.pad(x_BNC, (0, 0, 0, padded - n))
        mask = None
        if n < padded and not self.causal:
            mask = F.pad(x_BNC.new_ones(x_BNC.shape[:2]).bool(), (0, padded - n))
        return self.attention(x, mask=mask)[:, :n]


def visible(module: AnyLengthHierarchical) -> float:
    """Return the share of pairs of tokens, causal of those that do not look ahead, that attend to each other."""
    n, padded = module.tokens, module.length
    if not module.causal:
        half = min(n, padded // 2)
        return (half**2 + (n - half) ** 2) / n**2
    block = min(module.block_size, padded // 2)
    blocks, rest = divmod(n, block)
    seen = (blocks * block * (block + 1) + rest * (rest + 1)) // 2
    group = 2
    while group * block < padded:
        # Of each second stretch of ``width``, the last token of each group sees the whole stretch before.
        width = group * block
        pairs, rest = divmod(n, 2 * width)
        seen += (pairs * block + max(rest - width, 0) // group) * width
        group *= 2
    return seen / (n * (n + 1) / 2)
