"""MANO on SwinV2 against timm's SwinV2 and against attention written out cell by cell."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch.nn import functional as F

from mano.swin import MultipoleBlock, add_multipole, mano_swinv2, multipole_parameters, windows

SMALL = {"embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (2, 2, 4, 4), "num_classes": 5}


def small(**options):
    return mano_swinv2("swinv2_tiny_window8_256", **SMALL, **options)


def awake(model):
    """SwinV2 starts with the norms of its blocks at zero, which hides whatever their attention does."""
    for name, p in model.named_parameters():
        if "norm1.weight" in name or "norm2.weight" in name:
            torch.nn.init.ones_(p)
    return model.eval()


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("variant", "size"),
    [
        ("swinv2_tiny_window8_256", 200),
        pytest.param("swinv2_tiny_window8_256", 256, marks=pytest.mark.slow),
        pytest.param("swinv2_small_window8_256", 256, marks=pytest.mark.slow),
    ],
)
def test_with_up_at_zero_it_is_timms_swinv2(variant, size):
    torch.manual_seed(0)
    original = timm.create_model(variant, img_size=size, window_size=8).eval()
    model = awake(mano_swinv2(variant, img_size=size, window_size=8))
    x = torch.randn(1, 3, size, size)
    state = {name.replace(".block.", "."): value for name, value in model.state_dict().items()}
    original.load_state_dict(
        {name: value for name, value in state.items() if ".down." not in name and ".up." not in name}
    )
    with torch.no_grad():
        torch.testing.assert_close(model(x), original(x), atol=1e-5, rtol=1e-5)


def test_up_matters():
    torch.manual_seed(0)
    zero = awake(small(img_size=64, window_size=4))
    other = small(img_size=64, window_size=4, zero_up=False).eval()
    x = torch.randn(2, 3, 64, 64)
    state = {name: value for name, value in zero.state_dict().items() if ".up." not in name}
    other.load_state_dict(state, strict=False)
    assert (zero(x) - other(x)).abs().max() > 1e-4


def test_parameters_are_those_of_the_paper():
    swin = timm.create_model("swinv2_tiny_window8_256", num_classes=0)
    one_level = mano_swinv2(levels=(1, 1, 1, 1), num_classes=0)
    paper = mano_swinv2(num_classes=0)
    assert parameters(one_level) == parameters(swin)
    assert parameters(paper) - parameters(swin) == 737_280
    assert sum(p.numel() for p in multipole_parameters(paper)) == 737_280
    assert round(100 * 737_280 / parameters(swin), 2) == 2.67


def block_of(grid, shift, levels=3, window=4):
    from timm.models.swin_transformer_v2 import SwinTransformerV2Block

    torch.manual_seed(1)
    block = SwinTransformerV2Block(8, grid, 2, window_size=window, shift_size=shift, dynamic_mask=True)
    multipole = MultipoleBlock(block, levels).eval()
    return multipole.double()


def slow_attention(block, x, shift):
    """timm's formula for one head and cell at a time: only positions decide who shares a window."""
    b, h, w, c = x.shape
    (wh, ww), attn = block.window_size, block.attn
    bias_qkv = torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
    q, k, v = F.linear(x, attn.qkv.weight, bias_qkv).unflatten(-1, (3, attn.num_heads, -1)).unbind(3)
    table = 16 * torch.sigmoid(attn.cpb_mlp(attn.relative_coords_table).view(-1, attn.num_heads))
    index = attn.relative_position_index.view(wh, ww, wh, ww)
    scale = attn.logit_scale.clamp(max=math.log(100)).exp().flatten()

    def place(i, size, s):
        # Windows start at s - size, s, s + size ...; the first and the last may be cut off by an edge.
        return (i - s) // size, (i - s) % size

    out = torch.zeros(b, h, w, attn.num_heads, c // attn.num_heads, dtype=x.dtype)
    for i in range(h):
        for j in range(w):
            (wi, pi), (wj, pj) = place(i, wh, shift[0]), place(j, ww, shift[1])
            keys = [
                (m, n)
                for m in range(h)
                for n in range(w)
                if place(m, wh, shift[0])[0] == wi and place(n, ww, shift[1])[0] == wj
            ]
            scores = torch.stack(
                [
                    (F.normalize(q[:, i, j], dim=-1) * F.normalize(k[:, m, n], dim=-1)).sum(-1) * scale
                    + table[index[pi, pj, place(m, wh, shift[0])[1], place(n, ww, shift[1])[1]]]
                    for m, n in keys
                ],
                1,
            )
            values = torch.stack([v[:, m, n] for m, n in keys], 1)
            out[:, i, j] = (scores.softmax(1)[..., None] * values).sum(1)
    return attn.proj(out.flatten(3))


@pytest.mark.parametrize("grid", [(8, 8), (7, 10), (4, 9), (3, 3)])
@pytest.mark.parametrize("shift", [0, 2])
def test_coarse_levels_attend_within_windows_and_never_to_padding(grid, shift):
    multipole = block_of((32, 32), shift)
    x = torch.randn(2, *grid, 8, dtype=torch.float64)
    applied = [shift if n > 4 else 0 for n in grid]
    expected = slow_attention(multipole.block, x, applied)
    torch.testing.assert_close(multipole._coarse(x), expected)


@pytest.mark.parametrize("grid", [(16, 16), (13, 18)])
def test_levels_are_summed_as_in_the_equations(grid):
    multipole = block_of(grid, 2)
    x = torch.randn(2, *grid, 8, dtype=torch.float64)

    def down(x):
        h, w = x.shape[1:3]
        return F.conv2d(F.pad(x.permute(0, 3, 1, 2), (0, w % 2, 0, h % 2)), multipole.down.weight, stride=2).permute(
            0, 2, 3, 1
        )

    def up(x):
        return F.conv_transpose2d(x.permute(0, 3, 1, 2), multipole.up.weight, stride=2).permute(0, 2, 3, 1)

    x1, x2 = down(x), down(down(x))
    r2 = multipole._coarse(x2)
    r1 = multipole._coarse(x1) + up(r2)[:, : x1.shape[1], : x1.shape[2]]
    r0 = multipole.block._attn(x) + up(r1)[:, : grid[0], : grid[1]]
    assert len(multipole.grids(grid)) == 3
    torch.testing.assert_close(multipole.attend(x), r0)
    y = x + multipole.block.norm1(r0)
    torch.testing.assert_close(multipole(x), y + multipole.block.norm2(multipole.block.mlp(y)))


def test_a_grid_of_one_window_has_no_coarser_level():
    assert block_of((4, 4), 0).grids((4, 4)) == [(4, 4)]
    assert block_of((8, 8), 0).grids((9, 5)) == [(9, 5), (5, 3), (3, 2)]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_timm_from_a_file(tmp_path, suffix):
    torch.manual_seed(0)
    original = awake(timm.create_model("swinv2_tiny_window8_256", img_size=64, window_size=4, **SMALL))
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(original.state_dict(), path)
    else:
        from safetensors.torch import save_file

        save_file(original.state_dict(), path)
    # The seed that the file's weights were drawn with: all are its own all the same.
    torch.manual_seed(0)
    model = small(img_size=64, window_size=4, weights=path).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(x), original.forward_features(x), atol=1e-5, rtol=1e-5)


def test_a_pickle_is_not_executed(tmp_path):
    import pickle

    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return open, (str(marker), "w")

    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"weights\.pth cannot be loaded as weights of swinv2.* \(.*weights_only"):
        small(weights=path)
    assert not marker.exists()


def test_effective_settings_are_visible():
    found = windows(small(img_size=64, window_size=8))
    assert [stage["grid"] for stage in found] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert [stage["window_size"] for stage in found] == [(8, 8), (8, 8), (4, 4), (2, 2)]
    assert [stage["shift"] for stage in found] == [(4, 4), (0, 0), (0, 0), (0, 0)]
    assert [stage["levels"] for stage in found] == [[(16, 16), (8, 8)], [(8, 8)], [(4, 4)], [(2, 2)]]


def test_every_parameter_learns():
    torch.manual_seed(0)
    model = awake(small(img_size=64, window_size=4, zero_up=False))
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in multipole_parameters(model))


def test_another_input_size():
    model = small(img_size=64, window_size=4).eval()
    model.set_input_size(img_size=(96, 80), window_size=4)
    assert model(torch.randn(1, 3, 96, 80)).shape == (1, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "swinv2_gigantic"}, "not a SwinV2 of timm"),
        ({"variant": "resnet18"}, "not a SwinV2 of timm"),
        ({"levels": (1, 2)}, "2 entries; the model has 4 stages"),
        ({"levels": (1, 0, 1, 1)}, "levels is 0"),
    ],
)
def test_wrong_input(options, message):
    with pytest.raises(ValueError, match=message):
        mano_swinv2(**options)
    with pytest.raises(ValueError, match="no such file"):
        mano_swinv2(weights="nowhere.pth")
    with pytest.raises(ValueError):
        add_multipole(timm.create_model("swinv2_tiny_window8_256", **SMALL), (1,))
