"""Mixers that break one promise each."""

from __future__ import annotations

from attn_bench.plugin import Mixer, Tokens


class Means(Mixer):
    """Mixes every token with the mean of those up to it, or of all."""

    name = "toy-means"
    summary = "Running means."
    kinds = Mixer.kinds | {"causal-text"}
    complexity = "n"
    layout = "sequence"

    def mixer(self, tokens: Tokens, options):
        from torch import arange, nn

        class Mean(nn.Linear):
            def forward(self, x):
                if not tokens.causal:
                    return super().forward(x.mean(1, keepdim=True).expand_as(x))
                counts = arange(1, x.shape[1] + 1, device=x.device)[:, None]
                return super().forward(x.cumsum(1) / counts)

        return Mean(options.dim, options.dim)


class Leaks(Means):
    """Reads the text as a whole, though it says that it is causal."""

    name = "toy-leaks"

    def mixer(self, tokens: Tokens, options):
        return super().mixer(Tokens(tokens.grid, causal=False), options)


class IgnoresSeed(Means):
    name = "toy-ignores-seed"

    def build(self, problem, options):
        import torch

        torch.manual_seed(99)
        return super().build(problem, options)


class SetsDtype(Means):
    name = "toy-sets-dtype"

    def build(self, problem, options):
        import torch

        module = super().build(problem, options)
        torch.set_default_dtype(torch.float64)
        return module


class ImportsSetter(Means):
    name = "toy-imports-setter"
    imports = ("toy_sets",)


class Quadratic(Means):
    """Means by a matrix of all pairs."""

    name = "toy-quadratic"

    def mixer(self, tokens: Tokens, options):
        from torch import nn, ones

        class Pairs(nn.Linear):
            def forward(self, x):
                n = x.shape[1]
                weights = ones(n, n, dtype=x.dtype, device=x.device)
                weights = weights.tril() if tokens.causal else weights
                return super().forward((weights / weights.sum(1, keepdim=True)) @ x)

        return Pairs(options.dim, options.dim)


class SeesBatch(Means):
    name = "toy-sees-batch"

    def mixer(self, tokens: Tokens, options):
        from torch import nn

        class Batch(nn.Linear):
            def forward(self, x):
                return super().forward(x + x.mean(0, keepdim=True))

        return Batch(options.dim, options.dim)


class Detached(Means):
    name = "toy-detached"

    def build(self, problem, options):
        module = super().build(problem, options)
        module.register_forward_hook(lambda module, inputs, output: output.detach())
        return module


class StateAside(Means):
    """Keeps a random tensor where state_dict does not see it."""

    name = "toy-state-aside"

    def mixer(self, tokens: Tokens, options):
        from torch import nn, randn

        class Scaled(nn.Linear):
            def __init__(self, *sizes):
                super().__init__(*sizes)
                self.scale = randn(sizes[0])

            def forward(self, x):
                return super().forward(x) * self.scale

        return Scaled(options.dim, options.dim)


class Uncounted(Means):
    """Calls an operator that has no rule for its FLOPs."""

    name = "toy-uncounted"

    def mixer(self, tokens: Tokens, options):
        from torch import linalg, nn

        class Inverse(nn.Linear):
            def forward(self, x):
                return super().forward(x) @ linalg.inv(self.weight.float() @ self.weight.float().mT + 9)

        return Inverse(options.dim, options.dim)


class Wordy(Means):
    name = "toy-wordy"

    def effective(self, module, problem):
        return {"module": module}


class Dies(Means):
    name = "toy-dies"

    def build(self, problem, options):
        import os

        print("last words", flush=True)
        os._exit(3)
