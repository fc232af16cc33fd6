"""TFNO and UNO compute what neuraloperator computes, and say truly what they use of a spectrum."""

import contextlib
import io

import pytest
import torch

from attn_bench.plugin import OptionError, Problem
from baselines.fno.plugin import FNO
from baselines.fno.tfno import TFNO
from baselines.fno.uno import UNO


def field(height: int, width: int | None = None) -> Problem:
    return Problem("field", 1, 1, (height, width or height))


@pytest.mark.parametrize("factorization", ["tucker", "cp", "tt"])
def test_tfno_is_neuraloperators(factorization):
    from neuralop.models import TFNO as Original

    module = TFNO().make(field(16), n_modes=(8, 6), hidden_channels=8, factorization=factorization, rank=0.3)
    original = Original(
        n_modes=(8, 6), in_channels=1, out_channels=1, hidden_channels=8, factorization=factorization, rank=0.3
    )
    original.load_state_dict(module.state_dict())
    for height, width in [(16, 16), (32, 20), (43, 43)]:
        x = torch.randn(2, 1, height, width)
        assert torch.equal(module(x), original(x))


def test_the_rank_is_the_share_of_numbers_that_are_left():
    def spectral(model, **options) -> int:
        module = model.make(field(16), n_modes=(12, 12), hidden_channels=32, **options)
        return sum(p.numel() for name, p in module.named_parameters() if "convs" in name and "weight" in name)

    assert spectral(TFNO(), rank=0.2) == pytest.approx(0.2 * spectral(FNO()), rel=0.15)


def uno(**settings) -> torch.nn.Module:
    from neuralop.models import UNO as Original

    with contextlib.redirect_stdout(io.StringIO()):
        return Original(in_channels=1, out_channels=1, channel_mlp_skip="linear", **settings)


def test_uno_is_neuraloperators(capsys):
    module = UNO().make(field(16), n_modes=(8, 6), hidden_channels=6)
    assert capsys.readouterr().out == ""
    original = uno(
        hidden_channels=6, lifting_channels=12, projection_channels=12, n_layers=5, uno_out_channels=[6, 12, 12, 6, 6],
        uno_n_modes=[[8, 6], [4, 3], [4, 3], [4, 3], [8, 6]],
        uno_scalings=[[1.0, 1.0], [0.5, 0.5], [1.0, 1.0], [2.0, 2.0], [1.0, 1.0]],
    )  # fmt: skip
    original.load_state_dict(module.state_dict())
    for height, width in [(16, 16), (32, 20), (43, 43), (7, 9)]:
        x = torch.randn(2, 1, height, width)
        assert torch.equal(module(x), original(x))


@pytest.mark.parametrize("grid", [(16, 16), (43, 30), (7, 9)])
@pytest.mark.parametrize("options", [{"levels": 1}, {"levels": 2}, {"levels": 1, "domain_padding": 0.25}])
def test_uno_says_on_which_grids_its_layers_work(grid, options):
    model = UNO()
    module = model.make(field(*grid), hidden_channels=2, **options)
    seen = []
    for block in module.fno_blocks:
        block.convs[0].register_forward_hook(lambda _, given, __: seen.append(tuple(given[0].shape[2:])))
    assert module(torch.randn(1, 1, *grid)).shape == (1, 1, *grid)
    assert [found for _, found in model.convolutions(module, grid)] == seen
    assert len(model.effective(module, field(*grid))["frequencies"]) == 2 * options["levels"] + 3


def test_uno_in_bfloat16():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert UNO().make(field(16))(torch.randn(1, 1, 16, 16)).isfinite().all()


def test_uno_needs_a_grid_that_can_be_halved():
    assert "levels is 3" in UNO().unsupported(field(7), "cpu", UNO.options(levels=3))
    assert UNO().unsupported(field(8), "cpu", UNO.options(levels=3)) is None
    assert "cannot be halved" in UNO().unsupported(Problem("field", 1, 1, (7,)), "cpu", UNO.options(levels=3))


@pytest.mark.parametrize(
    ("model", "options"),
    [(TFNO, {"rank": 0.0}), (TFNO, {"factorization": "svd"}), (UNO, {"levels": 0}), (UNO, {"skip": "identity"})],
)
def test_bad_values_are_option_errors(model, options):
    with pytest.raises(OptionError, match=next(iter(options))):
        model.options(**options)
