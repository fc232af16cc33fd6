"""Peak memory against what is known on paper."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from attn_bench.running.measure.memory import MIB, measure_memory, replay

FLOAT = 4


def repeatable(step: object) -> float:
    """Measure three times in inference mode, check that it is the same, and return bytes."""

    def inference() -> None:
        with torch.inference_mode():
            step()  # type: ignore[operator]

    peaks = {measure_memory(inference, "cpu").peak_mib for _ in range(3)}
    assert len(peaks) == 1
    return peaks.pop() * MIB


def test_linear_needs_its_output() -> None:
    layer, x = nn.Linear(256, 1024), torch.randn(512, 256)
    assert repeatable(lambda: layer(x)) == pytest.approx(512 * 1024 * FLOAT, rel=0.05)


def test_two_layers_need_two_outputs_and_three_no_more() -> None:
    x = torch.randn(4096, 64)
    for depth in (2, 5):
        layers = nn.Sequential(*(nn.Linear(64, 64) for _ in range(depth)))
        assert repeatable(lambda layers=layers: layers(x)) == pytest.approx(2 * 4096 * 64 * FLOAT, rel=0.05)


def test_plain_attention_needs_the_scores_twice() -> None:
    """Before and after the softmax, and a byte per pair that marks rows without any score."""
    n, heads = 512, 4
    q = torch.randn(1, heads, n, 16)

    def step() -> None:
        with sdpa_kernel(SDPBackend.MATH):
            scaled_dot_product_attention(q, q, q)

    assert repeatable(step) == pytest.approx((2 * FLOAT + 1) * heads * n * n + q.nbytes, rel=0.05)


def test_fused_attention_needs_its_output() -> None:
    q = torch.randn(8, 16, 512, 64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each thread has a scratch tile
    try:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            assert repeatable(lambda: scaled_dot_product_attention(q, q, q)) == pytest.approx(q.nbytes, rel=0.05)
    finally:
        torch.set_num_threads(threads)


def test_real_fft_needs_half_a_spectrum() -> None:
    x = torch.randn(4, 8, 128, 128)
    half = 4 * 8 * 128 * (128 // 2 + 1) * 2 * FLOAT
    one, two = repeatable(lambda: torch.fft.rfft(x)), repeatable(lambda: torch.fft.rfft2(x))
    assert one == pytest.approx(half, rel=0.05)
    assert half <= two <= 2.05 * half  # the second axis works in a copy


def test_gradients_belong_to_the_step_and_not_to_the_baseline() -> None:
    layer = nn.Linear(1024, 1024, bias=False)
    x = torch.randn(2, 1024)

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        layer(x).sum().backward()

    before = measure_memory(lambda: None, "cpu").baseline_mib
    memory = measure_memory(step, "cpu")
    assert memory.peak_mib == pytest.approx(layer.weight.nbytes / MIB, rel=0.05)
    assert memory.baseline_mib == pytest.approx(before, abs=0.01)
    assert memory.total_mib == pytest.approx(memory.peak_mib + memory.baseline_mib)
    assert memory.process_mib is None or memory.process_mib > memory.peak_mib


def test_baseline_is_what_was_there_once_per_storage() -> None:
    before = measure_memory(lambda: None, "cpu").baseline_mib
    kept = torch.zeros(2 * MIB, dtype=torch.uint8)
    views = [kept[:10], kept.view(2, -1)]
    memory = measure_memory(lambda: None, "cpu")
    assert memory.baseline_mib - before == pytest.approx(2.0)
    assert memory.peak_mib == 0
    assert len(views) == 2


def test_tensors_that_a_compiler_traces_with_take_no_memory() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    before = measure_memory(lambda: None, "cpu").baseline_mib
    mode = FakeTensorMode(shape_env=ShapeEnv())
    with mode:
        traced = torch.zeros(MIB)
    symbolic = mode.from_tensor(torch.zeros(MIB), static_shapes=False)
    assert traced.device.type == symbolic.device.type == "cpu"
    after = measure_memory(lambda: None, "cpu").baseline_mib
    assert isinstance(after, float)
    assert after == pytest.approx(before)


def test_replay_is_the_highest_running_sum() -> None:
    assert replay([3, 4, -3, 2, -4, -2]) == 7
    assert replay([]) == 0


def test_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="use 'cpu' or 'cuda'"):
        measure_memory(lambda: None, "tpu")


@pytest.mark.parametrize("times", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_a_training_step_is_the_same_however_often_the_process_measured_before(times: int) -> None:
    """The profiler remembers sizes of blocks that were freed while it did not look; their addresses come again."""
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0), 3)
    optimizer = torch.optim.AdamW(model.parameters())
    x = torch.randn(4, 50, 32)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(x).square().mean().backward()
        optimizer.step()

    peaks = set()
    for length in range(times):
        measure_memory(lambda length=length: model(x[:, : 6 * length + 1]), "cpu")
        optimizer.zero_grad(set_to_none=True)
        peaks.add(measure_memory(step, "cpu").peak_mib)
    assert len(peaks) == 1
