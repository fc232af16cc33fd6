"""Command that holds results against published claims."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def claims(
    results: Annotated[list[Path], typer.Argument(help="Results folders.")],
    file: Annotated[Path | None, typer.Option(help="Claims of your own, instead of those that ship.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table as Markdown here.")] = None,
) -> None:
    """Say which published numbers results reproduce, and which they cannot be compared with, and why."""
    from rich.console import Console

    from attn_bench.analysis.claim_checks import check
    from attn_bench.analysis.claims import SHIPPED, read_claims
    from attn_bench.report import claims as shown
    from attn_bench.results import atomic_write

    checks = check(read_claims(file or SHIPPED), results)
    Console().print(shown.console(checks))
    if markdown is not None:
        with atomic_write(markdown) as out:
            out.write(shown.markdown(checks).encode())
