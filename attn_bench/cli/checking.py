"""The command that tests a plugin against the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from attn_bench.cli.completion import among, named
from attn_bench.cli.flags import takes
from attn_bench.errors import UserError
from attn_bench.sweep.execution import Running
from attn_bench.sweep.fields import settings_of
from attn_bench.sweep.settings import Sweep

MARKS = {True: "ok", False: "FAIL", None: "-"}


@takes([settings_of(Sweep)["set"]])
def check(
    model: Annotated[
        str,
        typer.Argument(metavar="NAME[:PRESET]", help="Model to check.", autocompletion=among(lambda: named("models"))),
    ],
    given: Mapping[str, Any] = {},
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "cpu",
    timeout: Annotated[str, typer.Option(metavar="FLOAT", help="Limit for each promise, in seconds.")] = "600",
    compile: Annotated[bool, typer.Option("--compile", help="Also check causality under torch.compile.")] = False,
) -> None:
    """Test a model against the plugin contract, on small problems of every kind that it serves.

    Prints one line per promise: ok, FAIL with the reason, or - if it does not apply. The exit status is 0 if
    all hold, otherwise 1.
    """
    from attn_bench.gate.check import check as outcomes
    from attn_bench.plugins.values import Text
    from attn_bench.sweep.devices import resolve_device
    from attn_bench.sweep.variants import expand

    settings = settings_of(Sweep)
    options = settings["set"].read(given.get("set", []))
    usable = resolve_device(settings["device"].read(Text(device)))
    limit = settings_of(Running)["timeout"].read(Text(timeout))
    (variant,) = expand((model,), options)
    for owner in options:
        if owner not in (variant.plugin, variant.label):
            raise UserError(f"--set {owner}.…: only {variant.plugin} is checked; set its options")
    failed = 0
    for outcome in outcomes(variant.plugin, variant.options, device=usable, compiled=compile, timeout_s=limit):
        failed += outcome.holds is False
        print(f"{MARKS[outcome.holds]:<5}{outcome.promise}: {outcome.note}", flush=True)
    if failed:
        raise typer.Exit(1)
