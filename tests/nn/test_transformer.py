"""The transformer that all mixers share."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from attn_bench.nn.transformer import TextTransformer, Transformer
from attn_bench.plugin import Mixer


@pytest.mark.parametrize("text", [False, True])
def test_tokens_are_freed_when_the_next_block_runs(text):
    """Without gradients, the input of a block must not outlive it: it would add to the peak of every forward pass."""
    seen = []

    class Watch(nn.Module):
        def forward(self, x):
            assert all(before() is None for before in seen)
            seen.append(weakref.ref(x))
            return 0 * x

    options = Mixer.Options(dim=8, depth=3)
    if text:
        net, x = (
            TextTransformer(8, 8, options, Watch, causal=False, normalise=False),
            torch.zeros(1, 4, dtype=torch.long),
        )
    else:
        net, x = Transformer(1, 1, options, Watch, normalise=False), torch.zeros(1, 1, 4, 4)
    with torch.no_grad():
        net(x)
    assert len(seen) == 3
