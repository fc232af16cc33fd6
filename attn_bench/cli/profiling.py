"""The command that shows where the time of a step goes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from attn_bench.cli.as_json import Format, put_json
from attn_bench.cli.destinations import output_folder
from attn_bench.cli.flags import takes
from attn_bench.cli.printing import put
from attn_bench.cli.running import CALLING
from attn_bench.errors import UserError


@takes(CALLING)
def profile(
    given: Mapping[str, Any] = {},
    out: Annotated[Path, typer.Option(help="Output folder.", callback=output_folder)] = Path("profile"),
    calls: Annotated[int, typer.Option(help="Calls of each step that are recorded, after some that are not.")] = 5,
    ncu: Annotated[
        bool,
        typer.Option(
            "--ncu",
            help="Run the steps under NVIDIA Nsight Compute instead, which reports each CUDA kernel (docs/profile.md).",
        ),
    ] = False,
    form: Format = "text",
) -> None:
    """Show where the time and the memory of a forward pass and of a training step go, by operator and by module.

    Also writes the complete tables as CSV, a Chrome trace of each step, and a page with flame graphs.
    Without --task, the shapes are those of darcy. The exit status is 1 if nothing could be recorded.
    """
    from attn_bench.profiling import breakdown
    from attn_bench.profiling.ncu import run_under_ncu
    from attn_bench.profiling.profile import profile as record
    from attn_bench.running.processes import QUIET
    from attn_bench.running.reuse import expansion_of
    from attn_bench.running.runner import separated
    from attn_bench.sweep.groups import AUTO

    # The profiler warns of memory that was allocated before; torch reads this when it is imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", QUIET["TORCH_CPP_LOG_LEVEL"])
    if not 1 <= calls <= 1000:
        raise UserError(f"--calls: must be between 1 and 1000 (given: {calls})")
    sweep, running = separated({"task": "darcy", **given, "train": False})
    cells = expansion_of(sweep, running).cells
    if any(cell.execution.batch_size == AUTO for cell in cells):
        raise UserError("--batch-size auto: steps of a known size are profiled; give a number")
    if ncu:
        raise typer.Exit(run_under_ncu(cells, out, calls))
    found = record(cells, out, calls, lambda title: print(f"attn-bench: profiling {title}", file=sys.stderr))
    for line in found.failures:
        print(f"attn-bench: {line}", file=sys.stderr)
    if form == "json":
        put_json(breakdown.plain_data(found.recordings))
    elif found.recordings:
        put(breakdown.console(found.recordings))
        print(f"Page: {out / 'index.html'}")
    if not found.recordings:
        raise typer.Exit(1)
