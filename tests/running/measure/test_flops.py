"""Operations against counts by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import register_flop_formula

from attn_bench.running.measure.flops import _flash, count_flops


def total(call: Callable[[], Any]) -> int:
    flops = count_flops(call)
    assert flops.unknown == ()
    assert flops.total == sum(flops.by_operator.values())
    return flops.total


@pytest.mark.parametrize("inference", [False, True])
def test_linear(inference: bool) -> None:
    layer, x = nn.Linear(32, 48), torch.randn(5, 7, 32)
    with torch.inference_mode(inference):
        assert total(lambda: layer(x)) == 2 * 5 * 7 * 32 * 48


def test_backward_is_two_more_products() -> None:
    layer, x = nn.Linear(32, 48), torch.randn(5, 32, requires_grad=True)
    assert total(lambda: layer(x).relu().square().mean().backward()) == 3 * 2 * 5 * 32 * 48


def test_convolutions() -> None:
    x = torch.randn(2, 4, 16, 16)
    assert total(lambda: nn.Conv2d(4, 6, 3, padding=1)(x)) == 2 * 2 * 16 * 16 * 4 * 6 * 9
    assert total(lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4)(x)) == 2 * 2 * 16 * 16 * 8 * 9
    assert total(lambda: nn.ConvTranspose2d(4, 6, 2, stride=2)(x)) == 2 * 2 * 16 * 16 * 4 * 6 * 4


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
@pytest.mark.parametrize("inference", [False, True])
def test_attention_is_two_products_whatever_runs_it(backend: SDPBackend, inference: bool) -> None:
    q, k, v = torch.randn(2, 3, 20, 8), torch.randn(2, 3, 30, 8), torch.randn(2, 3, 30, 8)
    with sdpa_kernel(backend), torch.inference_mode(inference):
        assert total(lambda: scaled_dot_product_attention(q, k, v)) == 2 * (2 * 3 * 20 * 30 * 8) * 2


def test_fused_encoder_layer_is_taken_apart() -> None:
    layer, x = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), torch.randn(3, 10, 16)
    projections, scores, feed_forward = 4 * 16 * 16, 2 * 10 * 16, 2 * 16 * 32
    expected = 2 * 3 * 10 * (projections + scores + feed_forward)
    for mode in (layer.train(), layer.eval()):
        with torch.inference_mode():
            assert total(lambda mode=mode: mode(x)) == expected


def test_fft() -> None:
    x, z = torch.randn(3, 64), torch.randn(3, 16, 32, dtype=torch.complex64)
    assert total(lambda: torch.fft.fft(z)) == 3 * 16 * 5 * 32 * 5
    assert total(lambda: torch.fft.ifft2(z)) == 3 * 5 * 512 * 9
    assert total(lambda: torch.fft.rfft(x)) == 3 * 5 * 64 * 6 // 2
    assert total(lambda: torch.fft.irfft(torch.fft.rfft(x))) == 2 * 3 * 5 * 64 * 6 // 2
    # A real transform of two axes is half a complex one of both, however torch splits it.
    assert total(lambda: torch.fft.rfft2(z.real)) == 3 * 5 * 512 * 9 // 2


def test_complex_products_are_four_real_ones() -> None:
    a, b = (torch.randn(2, 5, 5, dtype=torch.complex64) for _ in range(2))
    assert total(lambda: a @ b) == 8 * 2 * 5**3
    assert total(lambda: torch.einsum("bij,bjk->bik", a, b)) == 8 * 2 * 5**3
    assert total(lambda: a[0] @ b[0]) == 8 * 5**3
    assert total(lambda: torch.addmm(a[1], a[0], b[0])) == 8 * 5**3
    assert total(lambda: torch.baddbmm(a, a, b)) == 8 * 2 * 5**3
    assert total(lambda: a[0] @ b[0, 0]) == 8 * 25
    assert total(lambda: a.real[0] @ b.real[0, 0]) == 2 * 25
    assert total(lambda: a.real[0, 0] @ b.real[0, 0]) == 2 * 5


def test_spectral_convolution_of_the_fno() -> None:
    from neuralop.layers.spectral_convolution import SpectralConv

    layer, x = SpectralConv(3, 5, n_modes=(8, 8)), torch.randn(2, 3, 32, 32)
    transform = 5 * 1024 * 10 // 2
    modes = 8 * (8 // 2 + 1)
    with torch.inference_mode():
        assert total(lambda: layer(x)) == 2 * 3 * transform + 2 * 5 * transform + modes * 8 * 2 * 3 * 5


def test_what_moves_or_reduces_counts_nothing() -> None:
    x = torch.randn(2, 6, 8, 8)

    def step() -> None:
        y = nn.functional.pad(x, (1, 1, 1, 1)).roll(1, -1).permute(0, 2, 3, 1).contiguous()
        y = nn.functional.layer_norm(y, (6,)).softmax(-1).masked_fill_(y > 1, 0.0)
        y = nn.functional.interpolate(y, scale_factor=2, mode="nearest") + torch.rand(1)
        torch.cat([y, y.flip(0)]).cumsum(1).topk(2).values.std()
        nn.functional.avg_pool2d(nn.functional.group_norm(x, 2), 2).amax((-1, -2)).argmax()

    assert total(step) == 0


def test_operators_without_a_rule_are_named() -> None:
    a, b = torch.randn(4, 4), torch.randn(4)
    flops = count_flops(lambda: torch.linalg.solve(a, b) + (a @ b))
    assert flops.by_operator == {"aten.mv": 32}
    assert "aten._linalg_solve_ex" in flops.unknown


def test_rules_of_custom_operators() -> None:
    @torch.library.custom_op("attn_bench_tests::pairs", mutates_args=())
    def pairs(x: Tensor) -> Tensor:
        return x @ x.T

    @torch.library.custom_op("attn_bench_tests::torch_rule", mutates_args=())
    def torch_rule(x: Tensor) -> Tensor:
        return x.clone()

    x = torch.randn(6, 3)
    assert count_flops(lambda: pairs(x)).unknown == ("attn_bench_tests.pairs",)
    rule = register_flop_formula(torch.ops.attn_bench_tests.pairs)
    rule(lambda shape, out_shape=None: 2 * out_shape.numel() * shape[1])
    assert count_flops(lambda: pairs(x)).by_operator == {"attn_bench_tests.pairs": 2 * 36 * 3}
    # A rule that is broken.
    register_flop_formula(torch.ops.attn_bench_tests.torch_rule)(lambda shape, out_shape=None: shape[7])
    assert count_flops(lambda: torch_rule(x)).unknown == ("attn_bench_tests.torch_rule (IndexError in its rule)",)


def test_packed_sequences_attend_within_themselves() -> None:
    starts = torch.tensor([0, 3, 10])
    q = torch.empty(10, 2, 8)
    assert _flash(q, q, q, starts, starts, out_val=None) == 2 * 2 * (3 * 3 + 7 * 7) * (8 + 8)
    q = torch.empty(4, 5, 2, 8)
    assert _flash(q, q, q, None, None, out_val=None) == 2 * 4 * 2 * 5 * 5 * (8 + 8)


def test_compiled_functions_are_counted_and_compile_afterwards() -> None:
    frames = []

    def backend(module: Any, inputs: Any) -> Any:
        frames.append(module)
        return module

    layer, x = nn.Linear(8, 8), torch.randn(4, 8)
    compiled = torch.compile(layer, backend=backend)
    assert total(lambda: compiled(x)) == 2 * 4 * 8 * 8
    assert not frames
    compiled(x)
    assert len(frames) == 1
    assert total(lambda: compiled(x)) == 2 * 4 * 8 * 8
