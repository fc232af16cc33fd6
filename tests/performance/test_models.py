"""Every registered model at a few sizes: time between rounds of a reference workload, memory, FLOPs, parameters."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch

from attn_bench.plugin import Unsupported
from attn_bench.plugins.registry import MODELS, TASKS
from attn_bench.running.measure.calibration import calibration_ms, calibration_step
from attn_bench.running.measure.steps import Steps
from attn_bench.running.prepare import count_parameters, set_flags
from attn_bench.sweep.cell import unsupported
from attn_bench.sweep.settings import Sweep

TASK_OF_KIND = {"field": "darcy", "image": "digits", "causal-text": "text"}
SIZES = {"field": (16, 32), "image": (32,), "causal-text": (256, 1024)}
ROUNDS = 20
# For what has parts of several sizes, one that runs on two cores.
SMALL = {"mano-swinv2": "mano-swinv2:small"}


def cases() -> list[tuple[str, str, int]]:
    """Model, task and size, for everything that is registered and the kinds it serves."""
    found = []
    for name in MODELS.entries():
        if MODELS.entry(name).package == "toy-plugins":
            continue  # models that misbehave, for the tests of the harness
        kinds = MODELS.load(name).kinds
        found += [
            (SMALL.get(name, name), TASK_OF_KIND[kind], size)
            for kind in TASK_OF_KIND
            if kind in kinds
            for size in SIZES[kind]
        ]
    return found


@pytest.mark.parametrize(("model", "task", "size"), cases())
def test_performance(model: str, task: str, size: int, benchmark: Any, baseline: Any, request: Any) -> None:
    sweep = Sweep.from_settings(
        {"models": [model], "task": task, "resolutions": [size], "train": False, "device": "cpu", "batch_size": 4}
    )
    (cell,) = sweep.cells()
    set_flags(cell)
    plugin, posed = MODELS.load(cell.plugin), TASKS.load(task)
    problem = posed.problem(size, posed.options())
    key = f"{model} on {task} at {size}"

    def skip(reason: str) -> None:
        known = baseline.stored["models"].pop(key, None) is not None
        if known and not request.config.getoption("--update-baseline"):
            pytest.fail(f"{key}: is in the baseline, and unsupported now: {reason}")
        pytest.skip(reason)

    if (reason := unsupported(cell, plugin, problem)) is not None:
        skip(reason)
    torch.manual_seed(0)
    try:
        steps = Steps(cell, posed, problem, plugin.make(problem, **cell.options))
        steps.step("forward")()
    except Unsupported as reason:
        skip(str(reason))
    found: dict[str, Any] = {f"peak_memory_{name}_mib": steps.memory(name).peak_mib for name in steps.names}
    found["parameters"] = count_parameters(steps.module)
    calibration, around = calibration_step(), []

    def between_rounds() -> None:
        around.append(calibration_ms(calibration, seconds=0.01))

    for name in steps.names[1:]:
        step = steps.step(name)
        step()
        found[f"relative_{name}"] = relative(step, calibration)
    step = steps.step("forward")
    step()
    benchmark.pedantic(step, setup=between_rounds, rounds=ROUNDS, warmup_rounds=1)
    found["relative_forward"] = benchmark.stats.stats.median * 1e3 / statistics.median(around)
    found["flops"] = steps.flops().total
    benchmark.extra_info.update(found)
    worse = baseline.judge(key, found)
    if not request.config.getoption("--update-baseline"):
        assert not worse, "; ".join(worse)


def relative(step: Any, calibration: Any) -> float:
    """Return the time of a step in units of the calibration workload, which runs between its rounds."""
    rounds = [(calibration_ms(step, seconds=0.0), calibration_ms(calibration, seconds=0.01)) for _ in range(2)]
    return statistics.median(ms for ms, _ in rounds) / statistics.median(ms for _, ms in rounds)
