"""The command that compares results with published claims."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attn_bench.cli.as_json import Format, put_json
from attn_bench.cli.destinations import output_file
from attn_bench.cli.printing import put


def claims(
    results: Annotated[list[Path], typer.Argument(help="Results folders, or folders that contain them.")],
    file: Annotated[
        Path | None, typer.Option(help="YAML file of claims to check instead of the built-in ones.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Also list claims the results say nothing about.")] = False,
    markdown: Annotated[
        Path | None, typer.Option(help="Markdown file to write, with all claims.", callback=output_file)
    ] = None,
    form: Format = "text",
) -> None:
    """Show which published numbers the results reproduce, and which cannot be compared and why."""
    from attn_bench.analysis.claims.claim import SHIPPED, read_claims
    from attn_bench.analysis.claims.judges import check
    from attn_bench.analysis.claims.names import check_names
    from attn_bench.files import atomic_write
    from attn_bench.plugins.registry import MODELS
    from attn_bench.report import claims_table as shown
    from attn_bench.results.store import Store, results_folders

    said = read_claims(file or SHIPPED)
    results = results_folders(results)
    if file is not None:
        check_names(said, results)
    stores = [Store.open(folder) for folder in results]
    checks = sorted(check(said, stores), key=lambda c: shown.VERDICTS.index(c.verdict))
    if markdown is not None:
        with atomic_write(markdown) as out:
            out.write(shown.markdown(checks).encode())
    listed = checks if all_ else shown.touched(checks)
    if form == "json":
        return put_json(listed)
    if listed:
        put(shown.console(listed))
    if waiting := [c.claim.model.partition(":")[0] for c in checks if c.verdict == "not yet run" and not all_]:
        foreign = sorted(set(waiting) - set(MODELS.entries()))
        count = sum(model in foreign for model in waiting)
        of_others = f"; {count} of them need models that are not installed: {', '.join(foreign)}" if foreign else ""
        print(f"{len(waiting)} not yet run (--all lists them){of_others}")
