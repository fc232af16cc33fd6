"""What would decide a claim that no results judge: the command, its hours on two cores, and what it needs."""

from __future__ import annotations

import statistics
from collections.abc import Container, Iterable

from attn_bench.analysis.claims.claim import Claim
from attn_bench.analysis.claims.evidence import Run
from attn_bench.analysis.claims.published import unlike_preset

# As many seeds as a verdict should have.
SEEDS = 3


def what_decides(claim: Claim, there: Iterable[Run], installed: Container[str]) -> str:
    """Return in words what would decide ``claim``; empty if its file does not say it.

    Args:
        there: what is there already: the pace of its trainings tells the hours.
        installed: models that are.
    """
    missing = [name for name in (claim.model, claim.than) if name and name.partition(":")[0] not in installed]
    plugin = f"a plugin {missing[0]}, which is not installed" if missing else ""
    if claim.campaign is None:
        return f"needs {plugin}" if plugin else ""
    models = ",".join(dict.fromkeys(name for name in (claim.model, claim.than) if name))
    command = claim.campaign.run
    for name, value in {"models": models, "task": claim.task, "resolution": claim.resolution}.items():
        command = command.replace(f"{{{name}}}", str(value))
    hours = _hours(claim, there) or claim.hours or claim.campaign.hours
    about = f"about {hours:.2g} {'hour' if hours == 1 else 'hours'} on two cores" if hours else ""
    wanted = " and ".join(filter(None, (plugin, claim.campaign.needs)))
    needs = f"needs {wanted}" if wanted else ""
    return ", ".join(part for part in (f"would be decided by: {command}", about, needs) if part)


def _hours(claim: Claim, there: Iterable[Run]) -> float | None:
    """Return the hours that records of the same model at the same resolution let expect; None without any."""
    if claim.epochs is None or claim.resolution is None or claim.than is not None:
        return None
    paces = [
        record.training.seconds / record.training.epochs
        for run in there
        if run.task == claim.task
        for group in run.of(claim.model, claim.options)
        if group.resolution == claim.resolution and not unlike_preset(group.first, claim.model, claim.options)
        for record in group.records
        if record.training is not None and record.training.seconds and record.training.epochs
    ]
    return statistics.median(paces) * claim.epochs * SEEDS / 3600 if paces else None
