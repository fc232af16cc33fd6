"""Command that holds results against published claims."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def claims(
    results: Annotated[list[Path], typer.Argument(help="Results folders.")],
    file: Annotated[Path | None, typer.Option(help="Claims of your own, instead of those that ship.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Say which published numbers results reproduce, and which they cannot be compared with, and why."""
    from attn_bench.analysis.claim_checks import check
    from attn_bench.analysis.claims import SHIPPED, read_claims
    from attn_bench.report import claims as shown

    checks = check(read_claims(file or SHIPPED), results)
    if markdown:
        print(shown.markdown(checks), end="")
    else:
        from rich.console import Console

        Console().print(shown.console(checks))
