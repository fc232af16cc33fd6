"""MANO through the contract of the benchmark."""

import subprocess
import sys

import pytest
import torch

from attn_bench.options import options_of
from attn_bench.plugin import OptionError, Problem
from mano.plugin import MANOModel

PROBLEM = Problem("field", 1, 2, (16, 12))


def test_listing_imports_no_torch():
    code = "import sys, mano.plugin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_option_is_documented():
    assert all(option.doc for option in options_of(MANOModel().build).values())


@pytest.mark.parametrize("preset", [None, *MANOModel.presets])
def test_builds_and_runs(preset):
    model = MANOModel()
    options = dict(model.presets[preset]) if preset else {}
    module = model.build(PROBLEM, **options)
    with torch.no_grad():
        assert module(torch.randn(2, 1, 16, 12)).shape == (2, 2, 16, 12)
        assert module(torch.randn(2, 1, 9, 7)).shape == (2, 2, 9, 7)
    assert model.effective(module) == {"levels": 4, "coarsest_grid": [2, 2]}


def test_bad_values_are_option_errors_of_one_line():
    for options in ({"dim": 30}, {"stride": 5}, {"depth": 0}, {"mlp_ratio": -1.0}, {"heads": 0}):
        with pytest.raises(OptionError, match=next(iter(options))) as caught:
            MANOModel().build(PROBLEM, **options)
        assert "\n" not in str(caught.value)
