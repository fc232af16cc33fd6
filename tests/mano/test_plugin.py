"""MANO through the contract of the benchmark."""

import subprocess
import sys

import pytest
import torch

from attn_bench.errors import UserError
from attn_bench.nn.patches import Patched
from attn_bench.plugin import OptionError, Problem
from attn_bench.plugins.options import options_of
from mano.plugin import MANOModel
from mano.swin_plugin import MANOSwinV2

PROBLEM = Problem("field", 1, 2, (16, 12))


def test_listing_imports_no_torch():
    code = "import sys, mano.plugin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_option_is_documented():
    assert all(option.doc for option in options_of(MANOModel).values())


@pytest.mark.parametrize("preset", [None, *MANOModel.presets])
def test_builds_and_runs(preset):
    model = MANOModel()
    options = dict(model.presets[preset]) if preset else {}
    module = model.make(PROBLEM, **options)
    with torch.no_grad():
        assert module(torch.randn(2, 1, 16, 12)).shape == (2, 2, 16, 12)
        assert module(torch.randn(2, 1, 9, 7)).shape == (2, 2, 9, 7)
    assert model.effective(module, PROBLEM) == {"levels": 4, "coarsest_grid": [2, 2], "backend": "cpp"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, "cpp"), ({"stride": 1}, "cpp"), ({"dim": 40}, "torch"), ({"dim": 40, "stride": 1}, "torch")],
    ids=str,
)
def test_rows_say_what_computed_the_attention(options, expected):
    model = MANOModel()
    assert model.effective(model.make(PROBLEM, **options), PROBLEM)["backend"] == expected


def test_bad_values_are_option_errors_of_one_line():
    for options in ({"dim": 30}, {"stride": 5}, {"depth": 0}, {"mlp_ratio": -1.0}, {"heads": 0}):
        with pytest.raises(OptionError, match=next(iter(options))) as caught:
            MANOModel().make(PROBLEM, **options)
        assert "\n" not in str(caught.value)


def test_a_window_that_is_larger_than_the_grid_of_tokens_is_refused():
    reason = lambda size, problem: MANOModel().unsupported(problem, "cpu", MANOModel.Options(window_size=size))  # noqa: E731
    assert reason(16, PROBLEM) is None
    assert reason(17, PROBLEM) == "window_size 17 is larger than the grid of tokens, 16 x 12; it must be <= 16"
    assert MANOModel().unsupported(PROBLEM, "cpu", MANOModel.Options(rate=17)).startswith("rate 17 is larger than")
    assert "16 x 15; it must be <= 16" in reason(1000, Problem("image", 1, 10, (32, 30)))  # patches of 2 x 2


def test_several_numbers_are_written_in_brackets():
    levels = options_of(MANOSwinV2)["levels"]
    assert levels.parse([1, 2, 1, 1], "mano-swinv2") == (1, 2, 1, 1)
    with pytest.raises(UserError, match=r"mano-swinv2\.levels must be a valid tuple .*; write it like \[1,2\]$"):
        levels.parse("1,2", "mano-swinv2")


def test_a_patch_is_a_token_with_all_its_values():
    class Recording(torch.nn.Module):
        def forward(self, x):
            self.seen = x
            return x

    operator = Recording()
    x = torch.randn(2, 3, 5, 7)
    assert Patched(operator, 2)(x).equal(x)  # the way there and back
    assert operator.seen.shape == (2, 12, 3, 4)
    token = operator.seen[1, :, 1, 2].view(3, 2, 2)
    assert token.equal(x[1, :, 2:4, 4:6])
    assert operator.seen[0, :, 2, 3].view(3, 2, 2)[:, 1].eq(0).all()


def test_patches_make_the_grid_smaller():
    image = Problem("image", 1, 10, (32, 30))
    module = MANOModel().make(image)
    assert MANOModel().effective(module, image)["levels"] == 4  # of 16 x 15 patches of 2 x 2
    assert module(torch.randn(2, 1, 32, 30)).shape == (2, 10)
    points = MANOModel().make(image, patch_size=1)
    assert MANOModel().effective(points, image)["levels"] == 5
    field = MANOModel().make(PROBLEM, patch_size=3)
    assert field(torch.randn(2, 1, 16, 12)).shape == (2, 2, 16, 12)
    assert "patch_size 13" in (MANOModel().unsupported(PROBLEM, "cpu", MANOModel.options(patch_size=13)) or "")
    with pytest.raises(OptionError, match="patch_size"):
        MANOModel().make(PROBLEM, patch_size=0)
