"""Keeps the digests of the code that trains and of the code that measures, for test_versions.py.

``python tests/sweep/acknowledge.py`` after a change of that code: either it can change no number, or the version in
attn_bench/sweep/versions.py was raised.
"""

from __future__ import annotations

import json
from pathlib import Path

import attn_bench
from attn_bench.plugins.sourcecode import read_source
from attn_bench.sweep import versions

KEPT = Path(__file__).with_name("versions.json")
PACKAGE = Path(attn_bench.__file__).parent
# machine.py only describes a machine.
_MEASURED = ("calibration", "energy", "flops", "latency", "memory", "parts")
_EITHER = ("running/device/*.py", "running/prepare.py", "running/measure/steps.py", "running/measure/torch_state.py")
CODE = {
    "TRAINING": (
        "contract/*.py",
        "running/evaluation.py",
        "running/run_cell.py",
        "running/sample_metrics.py",
        "running/train/*.py",
        *_EITHER,
    ),
    "MEASURING": (
        *(f"running/measure/{name}.py" for name in _MEASURED),
        *(f"running/train/{name}.py" for name in ("optimizer", "step")),
        *_EITHER,
    ),
}


def current() -> dict[str, dict[str, object]]:
    """Return the versions and the digest of each file behind them; comments and docstrings are not in it."""
    return {
        name: {
            "version": getattr(versions, name),
            "files": {
                file.relative_to(PACKAGE).as_posix(): read_source(file.read_bytes()).digest
                for pattern in patterns
                for file in sorted(PACKAGE.glob(pattern))
                if file.name != "taken_names.py"  # with every column
            },
        }
        for name, patterns in CODE.items()
    }


if __name__ == "__main__":
    KEPT.write_text(json.dumps(current(), indent=1) + "\n")
    print(f"kept {KEPT}")
