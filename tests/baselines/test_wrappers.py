"""The wrapped libraries compute what they compute on their own, and the docstrings tell the truth about them."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from attn_bench.nn.coordinates import append_coordinates
from attn_bench.nn.patches import PatchUnembed
from attn_bench.plugin import Problem
from baselines.fno.plugin import FNO
from baselines.swinv2.plugin import SwinV2
from baselines.vit.plugin import ViT


def field(height: int, width: int | None = None) -> Problem:
    return Problem("field", 1, 1, (height, width or height))


def line(points: int) -> Problem:
    return Problem("field", 1, 1, (points,))


def effective(model, problem: Problem, **options):
    return model.effective(model.make(problem, **options), problem)


def test_unembedding_undoes_the_cut_into_patches():
    unembed = PatchUnembed(dim=9, out_channels=1, patch_size=3)
    torch.nn.init.eye_(unembed.linear.weight)
    torch.nn.init.zeros_(unembed.linear.bias)
    x = torch.randn(2, 1, 7, 8)
    patches = F.unfold(F.pad(x, (0, 1, 0, 2)), 3, stride=3).transpose(1, 2).unflatten(1, (3, 3))
    assert torch.equal(unembed(patches, (7, 8)), x)


def test_coordinates_run_from_0_to_1():
    rows, columns = append_coordinates(torch.zeros(1, 1, 3, 2))[0, 1:]
    assert rows.tolist() == [[0, 0], [0.5, 0.5], [1, 1]]
    assert columns.tolist() == [[0, 1]] * 3


def test_fno_is_neuraloperators():
    from neuralop.models import FNO as Original

    module = FNO().make(field(16), n_modes=(8, 6), hidden_channels=8, n_layers=2)
    original = Original(n_modes=(8, 6), in_channels=1, out_channels=1, hidden_channels=8, n_layers=2)
    original.load_state_dict(module.state_dict())
    for height, width in [(16, 16), (32, 20), (43, 43)]:
        x = torch.randn(2, 1, height, width)
        assert torch.equal(module(x), original(x))


def test_fno_on_a_line_is_neuraloperators():
    from neuralop.models import FNO as Original

    module = FNO().make(line(64), hidden_channels=8, n_layers=2)
    original = Original(n_modes=(32,), in_channels=1, out_channels=1, hidden_channels=8, n_layers=2)
    original.load_state_dict(module.state_dict())
    for points in (64, 301):
        x = torch.randn(2, 1, points)
        assert torch.equal(module(x), original(x))
    assert FNO().effective(module, line(64)) == {"frequencies": [17]}
    assert FNO().effective(module, line(15)) == {"frequencies": [8]}


def test_n_modes_has_a_number_for_each_axis():
    model = FNO()
    for problem, modes, said in (
        (field(16), (8,), r"n_modes is [8]; it must have 2 numbers, one for each axis of the grid (16, 16)"),
        (line(64), (8, 8), r"n_modes is [8, 8]; it must have 1 number, one for each axis of the grid (64,)"),
    ):
        assert model.unsupported(problem, "cpu", model.options(n_modes=modes)) == said


def test_fno_paper_presets_have_the_spectral_weights_of_the_paper_on_a_line():
    module = FNO().make(line(256), **FNO.presets["paper-1d"])
    # layers, width^2, modes
    assert sum(p.numel() for p in module.parameters() if p.is_complex()) == 4 * 64 * 64 * 16


def test_fno_paper_preset_has_the_spectral_weights_of_the_paper():
    module = FNO().make(field(64), **FNO.presets["paper"])
    complex_weights = sum(p.numel() for p in module.parameters() if p.is_complex())
    assert complex_weights == 4 * 2 * 32 * 32 * 12 * 12  # layers, signs of the row frequency, width^2, modes


def test_fno_reports_the_frequencies_of_a_small_grid():
    model = FNO()
    assert effective(model, field(64), n_modes=(24, 22), hidden_channels=4) == {"frequencies": [24, 12]}
    assert effective(model, field(16, 12), n_modes=(24, 22), hidden_channels=4) == {"frequencies": [16, 7]}


@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 10)])
def test_fno_frequencies_are_those_that_get_a_gradient(height, width):
    model = FNO()
    module = model.make(field(height, width), n_modes=(12, 12), hidden_channels=4, n_layers=1)
    module(torch.randn(1, 1, height, width)).square().sum().backward()
    used = next(p.grad for p in module.parameters() if p.is_complex()).abs().sum((0, 1)) > 0
    assert [int(used.any(1).sum()), int(used.any(0).sum())] == model.effective(module, field(height, width))[
        "frequencies"
    ]


def test_fno_says_whether_odd_rows_shift_the_spectrum():
    from neuralop.layers.spectral_convolution import SpectralConv

    identity = SpectralConv(1, 1, (8, 8), bias=False)
    with torch.no_grad():
        for weight in identity.parameters():
            weight.fill_(1)
    wave = torch.cos(torch.arange(17) * (2 * torch.pi / 17)).view(1, 1, 17, 1).repeat(1, 1, 1, 16)
    wrong = not torch.allclose(identity(wave), wave, atol=1e-5)
    model = FNO()
    assert effective(model, field(17, 16)).get("row_frequencies_off_by_one", False) == wrong
    assert "row_frequencies_off_by_one" not in effective(model, field(16, 17))


def test_fno_runs_in_bfloat16():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert FNO().make(field(16))(torch.randn(1, 1, 16, 16)).isfinite().all()


@pytest.mark.slow
def test_importing_neuraloperator_keeps_the_warning_filters():
    code = (
        "import torch, warnings; before = list(warnings.filters); import baselines.fno.float32_spectral; "
        "assert list(warnings.filters) == before"
    )
    run = subprocess.run(
        [sys.executable, "-W", "default", "-c", code], check=False, capture_output=True, encoding="utf-8"
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_vit_trunk_is_timms():
    from timm.models.vision_transformer import VisionTransformer

    module = ViT().make(field(24, 16), patch_size=4, dim=24, depth=2, heads=3)
    original = VisionTransformer(
        img_size=(24, 16), patch_size=4, in_chans=1, num_classes=0, global_pool="", class_token=False,
        embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.0,
    )  # fmt: skip
    original.load_state_dict(module.trunk.state_dict())
    x = torch.randn(2, 1, 24, 16)
    tokens = original.forward_features(x).unflatten(1, (6, 4))
    assert torch.equal(module(x), module.unembed(tokens, (24, 16)))


def test_vit_at_its_own_grid_does_not_interpolate_positions():
    module = ViT().make(field(43), patch_size=4, dim=8, depth=1, heads=1)
    assert tuple(module.trunk.patch_embed.grid_size) == module.tokens((43, 43)) == (11, 11)
    assert module.trunk.pos_embed.shape == (1, 121, 8)


@pytest.mark.parametrize(("tokens", "window"), [((16, 16), 4), ((12, 8), 8), ((11, 9), 4)])
def test_swinv2_stage_is_timms(tokens, window):
    from timm.models.swin_transformer_v2 import SwinTransformerV2Stage

    height, width = tokens
    module = SwinV2().make(field(5), patch_size=1, window_size=window, dim=16, depth=2, heads=2)
    original = SwinTransformerV2Stage(16, 16, tokens, 2, 2, window, mlp_ratio=2.0)
    original.load_state_dict(module.stage.state_dict())
    x = torch.randn(2, 1, height, width)
    with torch.no_grad():
        inner = module.embed(append_coordinates(x))
        expected = module.unembed(module.norm(original(inner)), tokens)
        assert torch.equal(module(x), expected)  # built for another grid: resized to what timm makes for this one


def test_swinv2_reports_clamped_windows_and_lost_shifts():
    model = SwinV2()
    options = {"patch_size": 2, "window_size": 8, "dim": 8, "depth": 2, "heads": 1}
    assert effective(model, field(64), **options) == {
        "tokens": [32, 32], "windows": [[8, 8], [8, 8]], "shifts": [[0, 0], [4, 4]],
    }  # fmt: skip
    assert effective(model, field(8, 43), **options) == {
        "tokens": [4, 22], "windows": [[4, 8], [4, 8]], "shifts": [[0, 0], [0, 4]],
        "attends_to_padding": True,
    }  # fmt: skip


def reach(module: torch.nn.Module, tokens: int, source: int) -> list[int]:
    """Rows of the last block's output that depend on row ``source`` of its input."""
    block = module.stage.blocks[-1]
    x = torch.randn(1, tokens, tokens, block.dim)
    changed = x.clone()
    changed[:, source] += 1
    with torch.no_grad():
        difference = (block._attn(x) - block._attn(changed)).abs().amax((0, 2, 3))
    return (difference > 1e-6).nonzero().flatten().tolist()


def test_swinv2_windows_stay_apart_on_whole_windows_and_wrap_on_padded_ones():
    options = {"patch_size": 1, "window_size": 4, "dim": 8, "depth": 2, "heads": 1}
    whole = SwinV2().make(field(12), **options)
    assert reach(whole, 12, 0) == [0, 1]  # half a window at the edge
    padded = SwinV2().make(field(11), **options)
    assert 10 in reach(padded, 11, 0)  # what the docstring of DenseSwinV2 warns of


@pytest.mark.slow
def test_swinv2_compiles_without_graph_breaks_and_after_a_change_of_grid():
    import torch._dynamo

    module = SwinV2().make(field(8), dim=8, depth=2, heads=1, window_size=2).eval()
    compiled = torch.compile(module, backend="eager", dynamic=False, fullgraph=True)
    x = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), module(x))
        torch._dynamo.reset()
        compiled = torch.compile(module, backend="eager", dynamic=False)
        other = torch.randn(1, 1, 12, 10)
        for given in (x, other, x):
            torch.testing.assert_close(compiled(given), module(given))
    torch._dynamo.reset()
