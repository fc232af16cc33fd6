"""The sweep files of mechanisms compare all that run on a CPU, at equal numbers of parameters."""

from pathlib import Path

import pytest
import torch
import yaml

from attn_bench.plugins.registry import MODELS, TASKS
from attn_bench.running.prepare import count_parameters
from attn_bench.sweep.settings import Sweep

FILES = sorted((Path(__file__).parents[2] / "sweeps").glob("mechanisms-*.yaml"))
# What is no mechanism of its own, or needs CUDA.
LEFT_OUT = {"mean", "timm", "mano-swinv2", "natten", "fla"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_parameters_agree_within_20_percent_and_no_mechanism_is_missing(file):
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    task = TASKS.load(settings["task"])
    counts: dict[str, list[int]] = {}
    for cell in Sweep(**settings).cells():
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
