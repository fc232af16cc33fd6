"""Floating-point operations of a call, counted from the operators that were executed.

Rules come from torch's registry (:mod:`torch.utils.flop_counter`), where a plugin registers its own custom operators,
and from this module, which adds what torch leaves out: FFTs, complex products and matrix-vector products.

Conventions:

- a multiply-add of real numbers is 2, of complex numbers 8 (4 multiplications, 4 additions);
- a complex FFT of N points is 5 N log2 N (Cooley-Tukey, radix 2), an FFT with real input or output half of that;
- pointwise operators, reductions, normalizations, softmax, pooling and resampling are 0, as usual, since memory bounds
  them, not arithmetic; so are views, copies, indexing and random numbers;
- attention counts every pair of query and key, masked or not, unless its own rule says otherwise.

Any other operator without a rule is listed in ``Flops.unknown``, never ignored. A kernel launched without
an operator (raw Triton, ctypes) is invisible: wrap it with ``torch.library.custom_op`` and give it a rule with
:func:`torch.utils.flop_counter.register_flop_formula`.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode

from attn_bench.results.record import Flops

aten = torch.ops.aten
Rule = Callable[..., int]


def count_flops(call: Callable[[], Any]) -> Flops:
    """Run ``call`` and count the floating-point operations that it executes.

    Compiled functions run eagerly meanwhile, and fused encoder layers unfused, so that their operators are seen. Count
    last: dispatch modes can switch ``torch.compile`` off for the rest of the process
    (:class:`~torch.utils.flop_counter.FlopCounterMode` sometimes does; a test shows that this one, which has no module
    hooks, does not).

    Raises:
        ValueError: no operator was seen, e.g. because ``call`` does its work in its own threads.
    """
    with _plain_operators(), _Counter() as counter:
        call()
    if not counter.seen:
        raise ValueError("no operator was seen; operators in the model's own threads cannot be counted")
    counts = {name: count for name, count in counter.counts.most_common() if count}
    return Flops(sum(counts.values()), counts, tuple(sorted(counter.unknown)))


@contextlib.contextmanager
def _plain_operators() -> Iterator[None]:
    """Keep torch from fusing a whole encoder layer into one operator, and flex attention from compiling itself."""
    flex, flag = sys.modules.get("torch.nn.attention.flex_attention"), "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG"
    fastpath, uncompiled = torch.backends.mha.get_fastpath_enabled(), getattr(flex, flag, None)
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        if uncompiled is not None:
            setattr(flex, flag, True)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        if uncompiled is not None:
            setattr(flex, flag, uncompiled)


class _Counter(TorchDispatchMode):
    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.unknown: set[str] = set()
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.seen = True
        operator = getattr(func, "_overloadpacket", func)  # higher-order operators have no overloads
        rule = _RULES.get(str(operator)) or flop_counter.flop_registry.get(operator)
        if rule is None and operator is not func:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if rule is not None:
            self._count(operator, rule, args, kwargs, result)
        elif operator is func or not _is_free(func):
            self.unknown.add(str(operator))
        return result

    def _count(self, operator: Any, rule: Rule, args: Any, kwargs: Any, result: Any) -> None:
        name = str(operator)
        try:
            count = rule(*args, **kwargs, out_val=result)
        except Exception as error:  # a faulty rule of a plugin must not lose the measurement
            self.unknown.add(f"{name} ({type(error).__name__} in its rule)")
            return
        # Torch's rules look only at shapes; a complex multiply-add is four real ones.
        is_complex = any(isinstance(arg, Tensor) and arg.is_complex() for arg in args)
        self.counts[name] += count * (4 if is_complex and operator in _REAL_RULES else 1)


def _complex_fft(x: Tensor, dim: list[int], *args: Any, out_val: Tensor) -> int:
    return _fft(x.shape, dim)


def _real_input_fft(x: Tensor, dim: list[int], *args: Any, out_val: Tensor) -> int:
    return _fft(x.shape, dim) // 2


def _real_output_fft(x: Tensor, dim: list[int], *args: Any, out_val: Tensor) -> int:
    return _fft(out_val.shape, dim) // 2


def _fft(shape: torch.Size, dim: list[int]) -> int:
    """5 N log2 N for each transform of N points, N the product of the transformed axes."""
    points = math.prod(shape[d] for d in dim)
    return round(5 * math.prod(shape) * math.log2(points)) if points else 0


def _mv(a: Tensor, x: Tensor, *, out_val: Tensor) -> int:
    return (8 if a.is_complex() else 2) * a.numel()


def _addmv(bias: Tensor, a: Tensor, x: Tensor, *, out_val: Tensor, **kwargs: Any) -> int:
    return _mv(a, x, out_val=out_val)


def _dot(x: Tensor, y: Tensor, *, out_val: Tensor) -> int:
    return (8 if x.is_complex() else 2) * x.numel()


def _addr(bias: Tensor, x: Tensor, y: Tensor, *, out_val: Tensor, **kwargs: Any) -> int:
    return (8 if x.is_complex() else 2) * x.numel() * y.numel()


def _addbmm(bias: Tensor, a: Tensor, b: Tensor, *, out_val: Tensor, **kwargs: Any) -> int:
    return (8 if a.is_complex() else 2) * a.numel() * b.shape[-1]


def _flash(
    query: Tensor, key: Tensor, value: Tensor, starts_q: Any, starts_k: Any, *_: Any, out_val: Any, **__: Any
) -> int:
    """Attention of (B, M, H, K) tensors, or of sequences of several lengths packed into (M, H, K)."""
    heads, width = query.shape[-2], query.shape[-1] + value.shape[-1]
    if starts_q is None:
        pairs = query.shape[:-2].numel() * key.shape[-3]
    else:
        pairs = int((starts_q.diff() * starts_k.diff()).sum())
    return 2 * pairs * heads * width


# By name, since some operators do not exist on every machine.
_RULES: Mapping[str, Rule] = {
    "aten._fft_c2c": _complex_fft,
    "aten._fft_r2c": _real_input_fft,
    "aten._fft_c2r": _real_output_fft,
    "aten.mv": _mv,
    "aten.addmv": _addmv,
    "aten.dot": _dot,
    "aten.vdot": _dot,
    "aten.addr": _addr,
    "aten.addbmm": _addbmm,
    "xformers_flash.flash_fwd": _flash,
}
_REAL_RULES = frozenset({aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution, aten.convolution_backward})


@cache
def _is_free(func: Any) -> bool:
    """Tell whether an operator without a rule counts 0 by the conventions above."""
    if func.namespace in ("prim", "prims", "profiler"):
        return True
    if func.namespace != "aten":
        return False
    name = func._schema.name.partition("::")[2].strip("_").removeprefix("foreach_")
    for ending in ("_backward_data", "_backward", "_copy", "_input", "_weight"):
        name = name.removesuffix(ending).strip("_")
    if name in _FREE or name.startswith(_FREE_FAMILIES):
        return True
    # In-place and backward operators often lack the tags of the operator that they belong to.
    own = getattr(aten, name, None)
    return any(_moves_only(f) for f in (func, own and getattr(own, own.overloads()[0])) if f is not None)


def _moves_only(func: Any) -> bool:
    tags = {str(tag).rpartition(".")[2] for tag in func.tags}
    return func.is_view or bool(tags & {"pointwise", "reduction", "inplace_view", "view_copy"})


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Operators that count 0 but that torch does not tag as pointwise, reduction or view, without leading and trailing
# underscores and without the endings of backward operators.
_COPIES = _names("""
    copy to_copy clone empty empty_strided empty_like new_empty new_empty_strided new_zeros new_ones new_full zeros ones
    full zeros_like ones_like full_like arange linspace logspace eye scalar_tensor lift lift_fresh resize resize_as fill
    zero item local_scalar_dense assert_async to_dense pin_memory is_pinned tril_indices triu_indices equal
""")
_INDEXING = _names("""
    cat stack index index_put index_put_impl unsafe_index unsafe_index_put index_select index_add index_copy index_fill
    gather scatter scatter_add scatter_reduce masked_select masked_scatter take put select_scatter slice_scatter
    diagonal_scatter as_strided_scatter unfold im2col col2im roll flip rot90 repeat repeat_interleave constant_pad_nd
    reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
    tril triu unsafe_view reshape_alias complex polar channel_shuffle pixel_shuffle pixel_unshuffle embedding
    embedding_dense nonzero nonzero_static sort topk kthvalue searchsorted bucketize unique unique2 unique_consecutive
    histc bincount mode
""")
_REDUCTIONS = _names("""
    sum mean prod var std var_mean std_mean median norm linalg_vector_norm cumsum cumprod cummax cummin logcumsumexp
    softmax log_softmax safe_softmax masked_softmax native_layer_norm native_group_norm native_batch_norm
    native_batch_norm_legit native_batch_norm_legit_no_training batch_norm_with_update batch_norm_no_update
    cudnn_batch_norm fused_rms_norm weight_norm_interface nll_loss nll_loss_forward nll_loss2d nll_loss2d_forward
    mse_loss smooth_l1_loss huber_loss binary_cross_entropy
""")
_POINTWISE = _names("""
    rsub glu prelu_kernel rrelu_with_noise native_dropout fused_dropout heaviside conj_physical
    amp_foreach_non_finite_check_and_unscale
    rand randn randint randperm rand_like randn_like randint_like uniform normal bernoulli multinomial random
    exponential cauchy geometric log_normal fused_adam fused_adamw fused_sgd fused_adagrad
""")
_FREE = _COPIES | _INDEXING | _REDUCTIONS | _POINTWISE
_FREE_FAMILIES = (
    "upsample_",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "avg_pool",
    "max_pool",
    "max_unpool",
    "grid_sampler",
)
