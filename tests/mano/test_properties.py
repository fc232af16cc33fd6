"""Properties of multipole attention for any weights: reach, exact padding, precision, counts."""

import pytest
import torch

from attn_bench.nn.fast_linear import Linear, product
from attn_bench.running.measure.flops import count_flops
from mano import MANO, MultipoleAttention, reference
from mano.attend import attend, attend_backward
from mano.levels import level_grids, window_counts
from mano.overlapping.layout import coverage, real_cells, sum_windows, to_windows
from mano.overlapping.window_attention import window_attention
from mano.tiled import eager
from mano.tiled import sampling as scales

OPTIONS = [{}, {"stride": 1, "level_weights": "learned"}, {"window_size": 3, "stride": 2}, {"rate": 3, "levels": 2}]


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("grid", "window", "rate", "expected"),
    [
        ((16, 16), 2, 2, [16, 8, 4, 2]),
        ((32, 32), 2, 2, [32, 16, 8, 4, 2]),
        ((64, 64), 2, 2, [64, 32, 16, 8, 4, 2]),
        ((85, 85), 2, 2, [85, 43, 22, 11, 6, 3, 2]),
        ((16, 16), 4, 2, [16, 8, 4]),
        ((16, 16), 2, 4, [16, 4, 1]),
        ((2, 2), 2, 2, [2]),
    ],
)
def test_levels_end_at_one_window(grid, window, rate, expected):
    assert level_grids(grid, window, rate) == tuple((n, n) for n in expected)


def test_levels_are_an_upper_bound():
    assert len(level_grids((16, 4), 2, 2, levels=3)) == 3
    assert len(level_grids((4, 4), 2, 2, levels=3)) == 2
    x = torch.randn(1, 4, 4, 8)
    torch.manual_seed(0)
    bounded = MultipoleAttention(8, levels=9)
    torch.manual_seed(0)
    assert torch.equal(bounded(x), MultipoleAttention(8)(x))


@pytest.mark.parametrize("level_weights", ["harmonic", "sum", "learned"])
def test_parameters_depend_on_neither_levels_nor_grid(level_weights):
    counts = {count(MultipoleAttention(8, levels=levels, level_weights=level_weights)) for levels in (None, 1, 2, 5)}
    assert len(counts) == 1


def test_learned_gates_start_harmonic():
    torch.manual_seed(0)
    learned = MultipoleAttention(8, level_weights="learned")
    torch.manual_seed(0)
    harmonic = MultipoleAttention(8)
    x = torch.randn(1, 16, 16, 8)
    torch.testing.assert_close(learned(x), harmonic(x))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("grid", [(1, 1), (1, 9), (8, 1), (5, 7), (3, 16)])
@pytest.mark.usefixtures("form")
def test_any_grid_is_supported_in_one_sample_and_in_a_batch(grid, options):
    torch.manual_seed(0)
    attention = MultipoleAttention(16, **options)
    x = torch.randn(3, *grid, 16)
    y = attention(x)
    assert y.shape == x.shape
    assert y.isfinite().all()
    torch.testing.assert_close(y[1:2], attention(x[1:2]))


@pytest.mark.parametrize("grid", [(8, 8), (7, 6), (1, 5)])
def test_every_output_depends_on_every_input(grid):
    torch.manual_seed(0)
    attention = MultipoleAttention(4, heads=2).double()
    x = torch.randn(1, *grid, 4, dtype=torch.float64)
    cells = grid[0] * grid[1]
    jacobian = torch.autograd.functional.jacobian(attention, x).view(cells, 4, cells, 4).abs().amax((1, 3))
    assert (jacobian > 1e-12).all()
    local = MultipoleAttention(4, heads=2, levels=1).double()
    jacobian = torch.autograd.functional.jacobian(local, x).view(cells, 4, cells, 4).abs().amax((1, 3))
    assert (jacobian == 0).any() == (max(grid) > 2)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.usefixtures("form")
def test_gradients(options):
    torch.manual_seed(0)
    attention = MultipoleAttention(8, heads=2, **options).double()
    x = torch.randn(1, 3, 4, 8, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(attention, x)


def test_content_of_masked_cells_changes_nothing():
    torch.manual_seed(0)
    real = real_cells(2, 2, 1, (3, 3), torch.device("cpu"))  # 4 windows; 4, 2, 2 and 1 real cells
    assert real.sum(0).tolist() == [4, 2, 2, 1]
    qkv = torch.randn(3, 2, 4, *real.shape)
    want, _ = attend(qkv, real)
    for junk in (1e30, -7.0):
        got, _ = attend(torch.where(real, qkv, junk), real)
        assert torch.equal(got[..., real], want[..., real])


@pytest.mark.parametrize("size", [2, 4])
def test_gradient_of_masked_cells_is_zero(size):
    real = real_cells(size, size, 1, (size + 1, size + 1), torch.device("cpu"))
    qkv = torch.randn(3, 2, 4, *real.shape)
    _, p = attend(qkv, real)
    gradient = attend_backward(torch.randn(2, 4, *real.shape) * real, qkv, p)
    assert (gradient[..., ~real] == 0).all()
    assert (gradient[..., real] != 0).any()


@pytest.mark.parametrize(("grid", "levels"), [((4, 2), 1), ((3, 3), 2)])
def test_dropout_drops_probabilities_and_their_gradients(grid, levels):
    torch.manual_seed(0)
    grids = level_grids(grid, 2, 2, levels)
    tokens, windows = sum(h * w for h, w in grids), sum(-(-h // 2) * -(-w // 2) for h, w in grids)
    qkv = torch.randn(tokens, 3 * 2 * 3, dtype=torch.float64, requires_grad=True)
    keep = torch.randint(0, 2, (2, 4, 4, windows)).double() * 2

    def attention(qkv, keep):
        return window_attention(qkv, [1, *grid, levels, 2, 2, 2, 2], keep, True)[0]

    torch.autograd.gradcheck(lambda x: attention(x, keep), qkv)
    torch.testing.assert_close(attention(qkv, torch.ones_like(keep)), attention(qkv, None))


def test_dropout_of_one_window_is_a_product():
    torch.manual_seed(0)
    qkv, keep = torch.randn(4, 3 * 2 * 3), torch.randint(0, 2, (2, 4, 4, 1)) * 2.0
    q, k, v = qkv.view(4, 3, 2, 3).permute(1, 2, 0, 3)
    p = (q @ k.mT / 3**0.5).softmax(-1) * keep[..., 0]
    want = (p @ v).transpose(0, 1).flatten(1)
    torch.testing.assert_close(window_attention(qkv, [1, 2, 2, 1, 2, 2, 2, 2], keep, True)[0], want)


def test_dropout_is_active_only_in_training():
    torch.manual_seed(0)
    attention = MultipoleAttention(8, dropout=0.5)
    x = torch.randn(1, 8, 8, 8)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))
    torch.testing.assert_close(attention(x), _without_dropout(attention)(x))


def _without_dropout(attention):
    other = MultipoleAttention(8)
    other.load_state_dict(attention.state_dict())
    return other


@pytest.mark.parametrize("grid", [(6, 6), (5, 7), (1, 3)])
def test_layouts_lose_nothing(grid):
    x = torch.randn(3, 2, *grid)
    for size, stride in ((2, 1), (3, 2), (4, 3), (4, 1)):
        total = sum_windows(to_windows(x, size, stride), size, stride, 2, grid)
        torch.testing.assert_close(total / coverage(size, stride, grid, x), x)
        rows, columns = window_counts(grid, size, stride)
        real = real_cells(size, stride, 2, grid, torch.device("cpu"))
        assert real.shape == (size * size, 2 * rows * columns)
        assert real.any(0).all()


@pytest.mark.parametrize("stride", [2, 1])
def test_bfloat16_stays_close(stride):
    torch.manual_seed(0)
    attention = MultipoleAttention(32, stride=stride)
    x = torch.randn(2, 16, 16, 32)
    want = attention(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = attention(x)
    assert (got - want).norm() < 2e-2 * want.norm()


@pytest.mark.usefixtures("form")
def test_compiles_without_graph_breaks():
    torch.manual_seed(0)
    torch.compiler.reset()
    attention = MultipoleAttention(16, heads=2)
    x = torch.randn(1, 7, 8, 16, requires_grad=True)
    compiled = torch.compile(attention, fullgraph=True, dynamic=False, backend="aot_eager")
    want = attention(x)
    torch.testing.assert_close(compiled(x), want)
    (gradient,) = torch.autograd.grad(want.sum(), x)
    torch.testing.assert_close(torch.autograd.grad(compiled(x).sum(), x)[0], gradient)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 30}, r"heads is 4; it must divide dim \(30\)"),
        ({"stride": 3}, "stride is 3"),
        ({"stride": 0}, "stride is 0"),
        ({"rate": 1}, "rate is 1"),
        ({"levels": 0}, "levels is 0"),
        ({"level_weights": "mean"}, "harmonic, sum, learned"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_invalid_settings_raise(options, message):
    with pytest.raises(ValueError, match=message):
        MultipoleAttention(**{"dim": 32} | options)


@pytest.mark.parametrize("batch", [2, 16])
@pytest.mark.parametrize("threads", [1, 2])
def test_linear_is_linear_and_never_the_slow_convolution(threads, batch):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(0)
        ours = Linear(6, 5)
        x = torch.randn(batch, 3, 4, 6, requires_grad=True)
        seed = torch.randn(batch, 3, 4, 5)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            got = ours(x)
        assert not [event.name for event in profile.events() if "slow_conv" in event.name]
        want = torch.nn.functional.linear(x, ours.weight, ours.bias)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(got, want)
    inputs = [x, ours.weight, ours.bias]
    gradients = (torch.autograd.grad(y, inputs, seed) for y in (got, want))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    assert got.is_contiguous()


def test_linear_compiles_as_one_graph():
    ours, x = Linear(6, 5), torch.randn(2, 3, 4, 6)
    compiled = torch.compile(ours, dynamic=False, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), ours(x))


@pytest.mark.parametrize("transposed", [False, True])
def test_products_take_views(transposed):
    a, b = torch.randn(70, 33), torch.randn(33, 40).t()
    a = a.t().contiguous().t() if transposed else a
    torch.testing.assert_close(product(a, b), a @ b.t())


@pytest.mark.parametrize("options", [{}, {"window_size": 4}, {"rate": 4, "window_size": 3}], ids=str)
@pytest.mark.parametrize("grid", [(16, 16), (13, 18)])
def test_chunks_change_nothing(options, grid, monkeypatch):
    torch.manual_seed(0)
    attention = MultipoleAttention(8, **options)
    x = torch.randn(3, *grid, 8, requires_grad=True)
    found = []
    for tokens in (1, 37, 10_000):
        monkeypatch.setattr(eager, "CELLS_PER_THREAD", tokens)
        monkeypatch.setattr(scales, "ROWS_CELLS", tokens)
        y = attention(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *attention.parameters()])])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_float32_equals_the_equations():
    torch.manual_seed(0)
    for options in ({}, {"stride": 1}, {"window_size": 8, "rate": 4}):
        attention = MultipoleAttention(32, **options)
        x = torch.randn(2, 17, 32, 32)
        want = reference.multipole(attention, x, len(attention.grids((17, 32))))
        assert (attention(x) - want).norm() < 1e-5 * want.norm()


@pytest.mark.parametrize("stride", [2, 1])
def test_operations_are_counted(stride):
    attention = MultipoleAttention(16, heads=2, stride=stride)
    x = torch.randn(2, 8, 8, 16)
    windows = 2 * sum((n // 2) ** 2 if stride == 2 else (n - 1) ** 2 for n in (8, 4, 2))
    tokens = 2 * (64 + 16 + 4)
    projections, scaling = 2 * tokens * 4 * 16 * 16, 2 * 2 * 2 * (16 + 4) * 4 * 16 * 16
    found = count_flops(lambda: attention(x))
    assert not found.unknown
    assert found.total == projections + scaling + windows * 2 * 2 * 16 * 16


def test_operator_on_any_grid():
    torch.manual_seed(0)
    operator = MANO(3, 2, dim=8, depth=2)
    for grid in ((8, 8), (5, 9), (1, 4)):
        y = operator(torch.randn(2, 3, *grid))
        assert y.shape == (2, 2, *grid)
        y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in operator.parameters())


def test_operator_knows_where_it_is():
    torch.manual_seed(0)
    y = MANO(1, 1, dim=8, depth=1)(torch.ones(1, 1, 6, 6))[0, 0]
    assert len(y.unique()) == 36
