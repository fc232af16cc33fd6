"""Compares what the suite measures with a stored baseline: ``tox -e perf``, and ``-- --update-baseline`` to store one.

The file holds, per model and grid, what does not vary from run to run (parameters, FLOPs, peak memory) and the time of
a step in units of a reference workload that ran between its rounds. The former is judged exactly; the latter coarsely,
because machines differ in more than speed (``attn-bench ab`` tells a few percent, on one machine).
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest
import torch

from attn_bench.files import write_json

BASELINE = Path(__file__).parents[2] / "results" / "performance" / "baseline.json"
STEPS = ("forward", "train_step")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("attn-bench")
    group.addoption("--baseline", type=Path, default=BASELINE, help="file to compare with")
    group.addoption("--update-baseline", action="store_true", help="store what is measured there instead")
    group.addoption("--slower-by", type=float, default=0.5, help="share by which relative time may grow [0.5]")


def machine() -> dict[str, Any]:
    """What peak memory depends on besides the code."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
    }


class Baseline:
    """Stored measurements, and those of this run."""

    def __init__(self, path: Path, slower_by: float) -> None:
        self.path, self.slower_by = path, slower_by
        self.stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"models": {}}
        self.measured: dict[str, Any] = {}

    def judge(self, key: str, found: dict[str, Any]) -> list[str]:
        """Return what got worse or is not as stored, one line each."""
        self.measured[key] = found
        before = self.stored["models"].get(key)
        if before is None:
            return [f"{key}: not in {self.path.name}; add it with --update-baseline"]
        exact = ["parameters", "flops"]
        if self.stored.get("machine") == machine():
            exact += [name for step in STEPS if (name := f"peak_memory_{step}_mib") in before]
        lines = [
            f"{key}: {name} was {before.get(name)} and is {found.get(name)}"
            for name in exact
            if before.get(name) != found.get(name)
        ]
        for step in STEPS:
            name = f"relative_{step}"
            if name in before and name in found and found[name] > (1 + self.slower_by) * before[name]:
                lines.append(f"{key}: {step} took {before[name]:.3g} reference steps and takes {found[name]:.3g}")
        return lines

    def update(self) -> None:
        """Store the measurements of this run beside those of models that it left out; of another machine, no memory."""
        kept = self.stored["models"]
        if self.stored.get("machine") != machine():
            kept = {
                key: {name: value for name, value in values.items() if not name.startswith("peak_memory")}
                for key, values in kept.items()
            }
        models = {**kept, **self.measured}
        write_json(self.path, {"machine": machine(), "models": models})


@pytest.fixture(scope="session")
def baseline(request: pytest.FixtureRequest) -> Any:
    """The stored baseline; written at the end with ``--update-baseline``."""
    option = request.config.getoption
    kept = Baseline(option("--baseline"), option("--slower-by"))
    yield kept
    if option("--update-baseline"):
        kept.update()
