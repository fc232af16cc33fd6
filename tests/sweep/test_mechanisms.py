"""The sweep of mechanisms compares all that run on a CPU, at equal numbers of parameters on each task."""

from pathlib import Path

import pytest
import torch

from attn_bench.plugins.registry import MODELS, TASKS
from attn_bench.running.prepare import count_parameters
from attn_bench.sweep.settings import Sweep
from attn_bench.sweep.sweep_file import read_sweep_file

FILE = Path(__file__).parents[2] / "sweeps" / "mechanisms.yaml"
# What is no mechanism of its own, or needs CUDA.
LEFT_OUT = {"mean", "timm", "mano-swinv2", "natten", "fla"}


@pytest.mark.parametrize("name", ["darcy", "digits", "text", "masked-text"])
def test_parameters_agree_within_20_percent_and_no_mechanism_is_missing(name):
    task = TASKS.load(name)
    counts: dict[str, list[int]] = {}
    settings = read_sweep_file(FILE)
    assert set(settings["tasks"]) == {"darcy", "digits", "text", "masked-text"}
    for cell in Sweep.from_settings(settings | {"device": "cpu"}).cells():
        if cell.task != name:
            continue
        problem = task.problem(cell.resolution, task.options())
        torch.manual_seed(0)
        model = MODELS.load(cell.plugin)
        assert model.unsupported(problem, "cpu", model.options(**cell.options)) is None
        counts.setdefault(cell.plugin, []).append(count_parameters(model.make(problem, **cell.options)))
    kind = problem.kind
    ours = {name for name, claims in MODELS.entries().items() if claims[0].package == "attn-bench"}
    assert set(counts) == {name for name in ours - LEFT_OUT if kind in MODELS.load(name).kinds}
    for same_resolution in zip(*counts.values(), strict=True):
        assert max(same_resolution) <= 1.2 * min(same_resolution), dict(zip(counts, same_resolution))
