"""The command that tests this machine."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from attn_bench.cli.as_json import Format, put_json
from attn_bench.cli.printing import put


def selftest(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[
        Path, typer.Option(help="Folder in which finished lines are kept; the same command resumes there.")
    ] = Path("selftest"),
    smallest: Annotated[bool, typer.Option("--smallest", help="Use the smallest sizes, in seconds.")] = False,
    format: Format = "text",
) -> None:
    """Test what this machine and its device are used for, and print a table: pass, fail or skipped, and a number.

    Kernels against a reference, memory counters, speed, bf16, torch.compile, graphs, running out of memory, energy.
    It takes less than nine minutes on a GPU and two on a CPU. An interrupted self-test resumes; lines that failed are
    run again. The exit status is 0 if no line fails, otherwise 1.
    """
    from rich.table import Table

    from attn_bench.plugins.values import Text
    from attn_bench.selftest.run import selftest as outcomes
    from attn_bench.sweep.devices import resolve_device
    from attn_bench.sweep.fields import settings_of
    from attn_bench.sweep.settings import Sweep

    usable = resolve_device(settings_of(Sweep)["device"].read(Text(device)))

    def started(line: str) -> None:
        print(f"{line} ...", file=sys.stderr, flush=True)

    found = list(outcomes(usable, out, "smallest" if smallest else None, started))
    if format == "json":
        put_json([dataclasses.asdict(each) for each in found])
    else:
        table: Any = Table("line", "", "found", "seconds")
        for each in found:
            table.add_row(each.line, each.status, each.number or each.reason, f"{each.seconds:.1f}")
        put(table)
    if any(each.status == "fail" for each in found):
        raise typer.Exit(1)
