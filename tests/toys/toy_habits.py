"""Models that work in an ordinary training script, each with a habit seen in public, and outputs that no loss takes."""

from __future__ import annotations

from dataclasses import dataclass

from toy_plugins import Toy

from attn_bench.plugin import Problem

NAMES = """
plain cached lazy lazy-in-training batch-buffer running-mean scripted in-place frozen own-threads
flags-in-build flags-in-forward draws-in-build reseeds detached tuple-in-training shape-in-training
fails-in-training norm-of-samples asserts refuses-heads refuses-size misses-forward one-size complex
integer boolean double sparse named several constant numpy nested
"""


class Habit(Toy):
    name = "habit"
    summary = "Does as its preset says."
    presets = {how: {"how": how.replace("-", "_")} for how in NAMES.split()}

    @dataclass(frozen=True)
    class Options:
        how: str = "plain"  # the name of one of this module's functions

    def build(self, problem: Problem, options: Options):
        return globals()[f"_{options.how}"](problem)

    def effective(self, module, problem):
        return {}


def _plain(problem):
    from torch import nn

    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Dropout(0.5), nn.Conv2d(4, 1, 3, padding=1))


def _with(change):
    """Return a convolution whose output is changed by ``change(module, output)``."""
    from torch import nn

    class Changed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            return change(self, self.conv(x))

    return Changed()


def _cached(problem):
    from torch import ones_like

    def change(module, y):
        if getattr(module, "table", None) is None or module.table.shape != y.shape:
            module.table = ones_like(y).cos()
        return y * module.table

    return _with(change)


def _lazy(problem):
    from torch import nn

    return nn.Sequential(nn.LazyConv2d(4, 3, padding=1), nn.LazyBatchNorm2d(), nn.LazyConv2d(1, 1))


def _lazy_in_training(problem):
    from torch import nn

    module = _with(lambda module, y: module.extra(y) if module.training else y)
    module.extra = nn.LazyConv2d(1, 1)
    return module


def _batch_buffer(problem):
    from torch import zeros

    def change(module, y):
        if module.rows.shape != y.shape:
            module.rows = y.detach() * 0 + 1
        return y * module.rows

    module = _with(change)
    module.register_buffer("rows", zeros(1, 1, *problem.grid))
    return module


def _running_mean(problem):
    from torch import nn

    return nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 1, 3, padding=1))


def _scripted(problem):
    import torch

    return torch.jit.script(_running_mean(problem))


def _in_place(problem):
    from torch import nn

    class Adds(nn.Conv2d):
        def forward(self, x):
            x *= 3
            return super().forward(x)

    return nn.Sequential(Adds(1, 1, 1))


def _frozen(problem):
    return _plain(problem).requires_grad_(False)


def _own_threads(problem):
    from concurrent.futures import ThreadPoolExecutor

    from torch import nn

    inner = nn.Conv2d(1, 1, 3, padding=1)

    class Outside(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return ThreadPoolExecutor(1).submit(self.inner, x).result()

    return Outside()


def _flags_in_build(problem):
    import torch

    module = _plain(problem)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("medium")
    return module


def _flags_in_forward(problem):
    import torch

    def change(module, y):
        torch.set_num_threads(3)
        return y

    return _with(change)


def _draws_in_build(problem):
    import random

    import numpy as np
    import torch

    module = _plain(problem)
    torch.rand(7), np.random.rand(7), random.random()  # noqa: NPY002
    return module


def _reseeds(problem):
    import random

    import numpy as np
    import torch

    module = _plain(problem)
    torch.manual_seed(99), np.random.seed(99), random.seed(99)  # noqa: NPY002
    return module


def _detached(problem):
    return _with(lambda module, y: y.detach())


def _tuple_in_training(problem):
    return _with(lambda module, y: (y, y.mean()) if module.training else y)


def _shape_in_training(problem):
    return _with(lambda module, y: y.mean((2, 3), keepdim=True) if module.training else y)


def _fails_in_training(problem):
    from torch.autograd import Function

    class Fails(Function):
        @staticmethod
        def forward(context, y):
            return y.clone()

        @staticmethod
        def backward(context, gradient):
            raise RuntimeError("no way back")

    return _with(lambda module, y: Fails.apply(y))


def _norm_of_samples(problem):
    from torch import nn

    module = _with(lambda module, y: y + module.norm(y.mean((2, 3)))[..., None, None])
    module.norm = nn.BatchNorm1d(1)
    return module


def _asserts(problem):
    def change(module, y):
        assert len(y) > 99, "an assertion of its own"

    return _with(change)


def _refuses_heads(problem):
    from torch import nn

    return nn.MultiheadAttention(10, 3)


def _refuses_size(problem):
    from timm.layers.patch_embed import PatchEmbed

    embed = PatchEmbed(problem.grid[0], 2, 1, 4)
    module = _with(lambda module, y: embed(y).mean() + y)
    module.embed = embed
    return module


def _misses_forward(problem):
    from torch import nn

    return nn.Module()


def _one_size(problem):
    from torch import ones

    return _with(lambda module, y: y + ones(problem.grid))


def _complex(problem):
    return _with(lambda module, y: y * 1j)


def _integer(problem):
    return _with(lambda module, y: y.long())


def _boolean(problem):
    return _with(lambda module, y: y > 0)


def _double(problem):
    return _with(lambda module, y: y.double())


def _sparse(problem):
    return _with(lambda module, y: y.to_sparse())


def _named(problem):
    return _with(lambda module, y: {"logits": y, "loss": y.mean()})


def _several(problem):
    return _with(lambda module, y: (y, [y, 3]))


def _constant(problem):
    return _with(lambda module, y: y.mean(0, keepdim=True))


def _numpy(problem):
    return _with(lambda module, y: y.detach().numpy())


def _nested(problem):
    import torch

    return _with(lambda module, y: torch.nested.nested_tensor(list(y)))
