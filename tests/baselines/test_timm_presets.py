"""The presets of timm serve what they say they do, and say what they do not."""

import pytest
import torch

from attn_bench.plugin import Problem
from baselines.timm.plugin import Timm


@pytest.mark.parametrize("preset", ["focalnet", "maxvit", "xcit", "efficientvit", "hiera", "pvtv2"])
def test_images_of_32_by_32_are_classified(preset):
    problem = Problem("image", 1, 5, (32, 32))
    model, options = Timm(), Timm.presets[preset]
    assert model.unsupported(problem, "cpu", model.options(**options)) is None
    with torch.no_grad():
        assert model.make(problem, **options).eval()(torch.randn(2, 1, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize("preset", ["xcit", "efficientvit", "pvtv2"])
def test_masks_of_other_sizes_are_served(preset):
    problem = Problem("mask", 3, 5, (48, 40))
    with torch.no_grad():
        assert Timm().make(problem, **Timm.presets[preset]).eval()(torch.randn(1, 3, 48, 40)).shape == (1, 5, 48, 40)


@pytest.mark.parametrize(
    ("preset", "grid", "reason"),
    [("focalnet", (8, 8), ">= 32"), ("maxvit", (64, 8), ">= 32"), ("hiera", (48, 40), "multiples of 32")],
)
def test_sizes_that_the_stages_cannot_halve_are_unsupported(preset, grid, reason):
    options = Timm.options(**Timm.presets[preset])
    assert reason in Timm().unsupported(Problem("image", 3, 5, grid), "cpu", options)
