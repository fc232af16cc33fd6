"""The steps of cells under NVIDIA Nsight Compute, which replays each CUDA kernel and reports what limits it.

``ncu ... python -P -m attn_bench.profiling.ncu REQUEST`` runs a step; the request is a file with the cell.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from json import dumps, loads
from pathlib import Path
from typing import Any

from attn_bench.errors import UserError
from attn_bench.sweep.cell import Cell

STEPS = ("forward", "train_step")


def run_under_ncu(cells: Sequence[Cell], out: Path, calls: int) -> int:
    """Run the steps of cells one after another under ``ncu`` and return its exit status, the first that is not 0.

    Raises:
        UserError: there is no ``ncu``, or a cell does not run on a GPU.
    """
    program = shutil.which("ncu")
    if program is None:
        raise UserError("--ncu: ncu was not found; install NVIDIA Nsight Compute and put its folder on PATH")
    if any(not cell.execution.device.startswith("cuda") for cell in cells):
        raise UserError("--ncu: reports CUDA kernels, and there are none on the CPU; use --device cuda")
    out.mkdir(parents=True, exist_ok=True)
    status = 0
    with tempfile.TemporaryDirectory(prefix="attn-bench-") as folder:
        for cell in cells:
            for step in STEPS:
                request = Path(folder, f"{cell.id}-{step}.json")
                request.write_text(dumps({"cell": cell.to_request(), "step": step, "calls": calls}), encoding="utf-8")
                status = status or subprocess.run(command(program, request, out)).returncode
    return status


def command(program: str, request: Path, out: Path) -> list[str]:
    """Return the command that runs a request under ``ncu``; only recorded calls are reported, by their NVTX ranges."""
    return [
        program, "--profile-from-start", "off", "--target-processes", "all", "--nvtx", "--force-overwrite",
        "--export", str(out / request.stem), sys.executable, "-P", "-m", "attn_bench.profiling.ncu", str(request),
    ]  # fmt: skip


def main(path: str) -> None:
    """Run what a request asks for, with a range for each part of the step and each call of a module."""
    import torch

    from attn_bench.profiling.recorded import calls_of, ranges
    from attn_bench.running.prepare import open_steps

    request: dict[str, Any] = loads(Path(path).read_text(encoding="utf-8"))
    steps = open_steps(Cell.from_json(request["cell"]))
    if request["step"] not in steps.names:
        print(f"{steps.cell.title}: has no {request['step'].replace('_', ' ')}")
        return
    run, runtime = calls_of(steps, request["step"]), torch.cuda.cudart()
    for _ in range(3):
        run()
    steps.device.synchronize()
    with torch.autograd.profiler.emit_nvtx(), ranges(steps.module):
        runtime.cudaProfilerStart()
        for _ in range(request["calls"]):
            run()
        steps.device.synchronize()
        runtime.cudaProfilerStop()


if __name__ == "__main__":
    main(sys.argv[1])
