"""The campaigns behind docs/answers.md: which cells each has, and what of them is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import pandas as pd
from answers_data import ROOT, VARIANT, own, rows, table

from attn_bench.sweep.settings import Sweep
from attn_bench.sweep.sweep_file import read_sweep_file


@dataclass(frozen=True)
class Campaign:
    """A sweep file and the folder that it fills; ``hours`` on two cores, an estimate from its comment."""

    sweep: str
    command: str
    hours: float
    task: str | None = None


CAMPAIGNS = {
    "darcy-16": Campaign(
        "darcy-16", "run sweeps/darcy-16.yaml --data darcy_train_16.pt --test-data darcy_test_16.pt", 2.5
    ),
    "darcy-16-overlap": Campaign(
        "darcy-16-overlap",
        "run sweeps/darcy-16-overlap.yaml --data darcy_train_16.pt --test-data darcy_test_16.pt",
        3,
    ),
    "darcy": Campaign("darcy", "run sweeps/darcy.yaml", 40),
    "darcy-overfitting": Campaign(
        "darcy-overfitting",
        "run sweeps/darcy-overfitting.yaml --data darcy_train_16.pt --test-data darcy_test_16.pt",
        4,
    ),
    "ablation-16": Campaign(
        "ablation-16", "run sweeps/ablation-16.yaml --data darcy_train_16.pt --test-data darcy_test_16.pt", 1
    ),
    "ablation": Campaign("ablation", "run sweeps/ablation.yaml --task darcy", 7, task="darcy"),
    "ablation-digits": Campaign("ablation", "run sweeps/ablation.yaml --task digits", 1.5, task="digits"),
    "interfaces": Campaign("interfaces", "run sweeps/interfaces.yaml", 6),
    "darcy-85": Campaign("darcy-85", "run sweeps/darcy-85.yaml --device cuda", 0),
    "context": Campaign("context", "run sweeps/context.yaml", 6),
    "mechanisms": Campaign("mechanisms", "run sweeps/mechanisms.yaml", 11),
    "pathfinder": Campaign("pathfinder", "run sweeps/pathfinder.yaml", 60),
    "navier-stokes": Campaign("navier-stokes", "run sweeps/navier-stokes.yaml", 1),
    "burgers": Campaign("burgers-short", "run sweeps/burgers-short.yaml", 0.3),
    "darcy-bf16": Campaign(
        "",
        "run --models mano,swinv2 --task darcy --resolutions 16 --seeds 3 --precision float32,bf16 --no-measure",
        0.3,
    ),
    "darcy-zero-shot": Campaign(
        "", "run --from results/darcy --resolutions 32 --eval-resolutions 16,64,128", 0.5
    ),
}  # fmt: skip


@cache
def expected(name: str) -> Mapping[tuple[str, str, int], int]:
    """Return how many cells a campaign has, by model, task and resolution."""
    campaign = CAMPAIGNS[name]
    settings = read_sweep_file(ROOT / "sweeps" / f"{campaign.sweep}.yaml")
    settings = {key: value for key, value in settings.items() if key != "keep_weights"} | {"device": "cpu"}
    found: dict[tuple[str, str, int], int] = {}
    for cell in Sweep.from_settings(settings).cells():
        if campaign.task in (None, cell.task):
            key = (cell.model, cell.task, cell.resolution)
            found[key] = found.get(key, 0) + 1
    return found


def state(folder: str) -> str:
    """Say what of a campaign is not there, with the command that adds it and its hours."""
    campaign = CAMPAIGNS[folder]
    command = f"`attn-bench {campaign.command} --out results/{folder}`"
    there = own(table(folder)) if campaign.sweep else table(folder)
    needs = f", about {campaign.hours:g} hours on two cores" if campaign.hours else ", on a GPU"
    if there.empty:
        return f"Not run yet: {command}{needs}."
    if not campaign.sweep:
        return f"[Report](../results/{folder}/report/report.md), made by {command}."
    names = _models(there)
    counts = there.groupby([names, "task", "resolution"]).size().to_dict()
    missing = {key: wanted - counts.get(key, 0) for key, wanted in expected(folder).items()}
    missing = {key: count for key, count in missing.items() if count > 0}
    total, failed = sum(expected(folder).values()), there[~there["status"].isin(["ok"])]
    done = f"{total - sum(missing.values())} of {total} cells are there" if missing else f"All {total} cells are there"
    if len(failed):
        kinds = ", ".join(f"{count} {status}" for status, count in failed["status"].value_counts().items())
        done += f" ({kinds})"
    text = f"{done}: [report](../results/{folder}/report/report.md)."
    if not missing:
        return f"{text} Made by {command}."
    sizes: dict[tuple[str, int], list[str]] = {}
    for (model, task, resolution), count in missing.items():
        sizes.setdefault((task, resolution), []).append(f"{model}{f' ({count})' if count > 1 else ''}")
    what = "; ".join(f"{task} at {resolution}: {', '.join(models)}" for (task, resolution), models in sizes.items())
    return f"{text} Missing, by {command}{_hours(there, names, missing)}: {what}."


def _models(found: pd.DataFrame) -> pd.Series:
    return found["model"].str.replace(VARIANT, "", regex=True)


def so_far(folder: str, task: str, resolution: int) -> str:
    """Say how many models of a campaign are there, if not all are: ``, 3 of 14 models so far``."""
    campaign = CAMPAIGNS.get(folder)
    if campaign is None or not campaign.sweep:
        return ""
    wanted = {model for model, *where in expected(folder) if where == [task, resolution]}
    found = wanted & set(_models(own(rows(folder, task, resolution=resolution))))
    return f", {len(found)} of {len(wanted)} models so far" if found != wanted else ""


def _hours(there: pd.DataFrame, names: pd.Series, missing: Mapping[tuple[str, str, int], int]) -> str:
    """Estimate what is missing from cells of the same model, task and resolution."""
    seconds = there.groupby([names, "task", "resolution"])["train_seconds"].mean().to_dict()
    known = {key: seconds[key] for key in missing if key in seconds and seconds[key] == seconds[key]}
    if not known:
        return ""
    hours = sum(known[key] * missing[key] for key in known) / 3600
    rest = "" if len(known) == len(missing) else f" for {len(known)} of {len(missing)} models and sizes"
    return f" (about {hours:.2g} hours{rest}, by the cells that are there)"
