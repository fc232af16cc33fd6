"""The verdict on a published claim; docs/claims.md explains the verdicts.

A number is reproduced if the mean over seeds is within the claim's tolerance of it. Otherwise it is better or not
reproduced, unless the confidence interval over the seeds contains it: then more seeds are needed. A ratio of two models
of one folder with the same training settings is judged alike. An exponent is judged by its interval
(:func:`attn_bench.analysis.claims.judges.judge_growth`). If a setting differs from the claim's protocol, the verdict is
"not comparable" and names the setting. If the numbers do not decide, it is "inconclusive".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attn_bench.analysis.claims.claim import Claim
from attn_bench.analysis.claims.evidence import Estimate

Verdict = Literal["reproduced", "better", "not reproduced", "inconclusive", "not comparable", "not yet run"]
# With these verdicts, another folder may still decide.
UNJUDGED = ("inconclusive", "not comparable", "not yet run")


@dataclass(frozen=True)
class Check:
    """The check of one claim on one variant of its model.

    Attributes:
        model: label of the variant, empty if none was run; ``resolution`` that it was trained and evaluated at.
        estimate: of our seeds: the metric, the ratio, the difference or the exponent.
        differences: settings that differ from the claim's.
        note: a note for the reader.
        decided_by: what would decide a claim that no results judge.
    """

    claim: Claim
    verdict: Verdict
    model: str = ""
    resolution: int | None = None
    estimate: Estimate | None = None
    differences: tuple[str, ...] = ()
    note: str = ""
    folder: str = ""
    decided_by: str = ""
