"""Commands that compare results, or revisions of the code."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attn_bench.cli.as_json import Format, put_json
from attn_bench.cli.destinations import output_file
from attn_bench.cli.flags import takes
from attn_bench.cli.running import CALLING

if TYPE_CHECKING:
    from attn_bench.gate.compare import Comparison

FailOn = Annotated[
    str | None,
    typer.Option(
        metavar="LIMITS",
        help="Allowed regression per metric, e.g. latency=5%,mano.peak_memory=2%,rel_l2=10%, or a .yaml or .toml file. "
        "Metrics that are not named cannot fail. [latency 5 %, peak memory 0.5 %, parameters and FLOPs 0, others 3 %]",
    ),
]
AllowUnclear = Annotated[
    bool,
    typer.Option(
        "--allow-unclear",
        help="Exit with 0, not 2, if all could be compared, but the measurements are too inexact to decide.",
    ),
]
Markdown = Annotated[
    Path | None, typer.Option(help="Markdown file to write, for a pull request.", callback=output_file)
]
JUnit = Annotated[Path | None, typer.Option(help="JUnit XML file to write.", callback=output_file)]


def compare(
    base: Annotated[Path, typer.Argument(help="Results folder to compare with.")],
    new: Annotated[Path, typer.Argument(help="Results folder to check for regressions.")],
    fail_on: FailOn = None,
    allow_unclear: AllowUnclear = False,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Measure cells that look slower again in three more processes.")
    ] = False,
    markdown: Markdown = None,
    junit: JUnit = None,
    form: Format = "text",
) -> None:
    """Compare two results folders: which model got slower, more memory-hungry or less accurate?

    The exit status is 0 if none did, 1 if a limit is exceeded, 2 if the result is inconclusive.
    """
    from attn_bench.gate.compare import compare as compare_folders
    from attn_bench.gate.thresholds import read_thresholds
    from attn_bench.results.store import Store

    thresholds = read_thresholds(fail_on)
    stores = Store.open(base), Store.open(new)
    if confirm:
        from attn_bench.gate.confirm import compare_confirmed

        comparison = compare_confirmed(*stores, thresholds, on_case=_say)
    else:
        comparison = compare_folders(*stores, thresholds)
    _conclude(replace(comparison, allow_unclear=allow_unclear), markdown, junit, form)


@takes(CALLING)
def ab(
    base: Annotated[str, typer.Option(help="Revision to compare with: a branch, tag or commit.")],
    new: Annotated[
        str | None, typer.Option(help="Revision to check [the work tree, with uncommitted changes].")
    ] = None,
    given: Mapping[str, Any] = {},
    fail_on: FailOn = None,
    allow_unclear: AllowUnclear = False,
    repository: Annotated[
        Path, typer.Option("--repository", "--repo", help="Folder of the project, which pip can install.")
    ] = Path(),
    markdown: Markdown = None,
    junit: JUnit = None,
    form: Format = "text",
) -> None:
    """Compare latency and memory of two git revisions, interleaved on this machine so that drift cancels.

    The exit status is 0 if nothing got worse, 1 if a limit is exceeded, 2 if the result is inconclusive.
    """
    from attn_bench.gate.ab.revisions import Plan, compare_revisions
    from attn_bench.gate.thresholds import read_thresholds
    from attn_bench.sweep.settings import Sweep

    sweep = Sweep.from_settings({"task": "darcy", **given, "train": False})
    thresholds = read_thresholds(fail_on)

    def planned() -> Plan:
        return Plan.of(sweep, thresholds)

    comparison = compare_revisions(base, new, planned, repository=repository, on_stage=_say)
    _conclude(replace(comparison, allow_unclear=allow_unclear), markdown, junit, form)


def _say(stage: str) -> None:
    print(f"attn-bench: {stage}", file=sys.stderr)


def _conclude(comparison: Comparison, markdown: Path | None, junit: Path | None, form: str) -> None:
    from attn_bench.cli.printing import put
    from attn_bench.files import atomic_write
    from attn_bench.gate import comparison as written

    for path, content in (
        (markdown, written.markdown(comparison).encode()),
        (junit, written.junit(comparison)),
    ):
        if path is not None:
            with atomic_write(path) as file:
                file.write(content)
    if form == "json":
        put_json(written.plain_data(comparison))
    else:
        put(written.console(comparison))
    if comparison.status:
        raise typer.Exit(comparison.status)
