"""The mean baseline is the mean."""

import torch
from torch.utils.data import TensorDataset

from attn_bench.plugin import Problem
from baselines.mean.plugin import Mean


def test_predicts_the_mean_target_for_any_input():
    targets = torch.randn(70, 2, 5, 4) + 1e4  # more than one batch, and large enough for float32 sums to lose digits
    model = Mean()
    module = model.make(Problem("field", 3, 2, (5, 4)))
    assert model.fit(module, TensorDataset(torch.randn(70, 3, 5, 4), targets))
    prediction = module(torch.randn(6, 3, 5, 4))
    assert prediction.shape == (6, 2, 5, 4)
    torch.testing.assert_close(prediction[3].double(), targets.double().mean(0), rtol=1e-7, atol=0)
    assert list(module.parameters()) == []
    assert set(module.state_dict()) == {"mean"}
