"""Which settings of a record differ from the published ones of a claim."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from attn_bench.analysis.claims.claim import ANY, Claim
from attn_bench.errors import UserError
from attn_bench.plugins.registry import MODELS
from attn_bench.results.quantities import at
from attn_bench.results.record import Record

# The key of a set of settings that is a remark.
NOTE = "note"


def differences_from(claim: Claim, record: Record) -> tuple[str, ...]:
    """Return the differences from the closest set of settings that the claim allows; empty if comparable."""
    return (*unlike_preset(record, claim.model, claim.options), *_closest(claim, record)[0])


def remark_on(claim: Claim, record: Record) -> str:
    """Return the remark on results with the set of settings that a record is closest to; empty if there is none."""
    return _closest(claim, record)[1]


def _closest(claim: Claim, record: Record) -> tuple[tuple[str, ...], str]:
    """Return the differences from the closest set of settings, and the remark on it.

    The first setting of a set identifies the data, so a set that agrees in it is closer.
    """
    found = []
    for allowed in claim.protocol or ({},):
        settings = {path: wanted for path, wanted in allowed.items() if path != NOTE}
        unlike = {path: said for path, wanted in settings.items() if (said := _unlike(record, path, wanted))}
        found.append((next(iter(settings), None) in unlike, len(unlike), tuple(unlike.values()), allowed.get(NOTE, "")))
    return min(found)[2:]


def unlike_preset(record: Record, wanted: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the differences from ``wanted``, a plugin or ``plugin:preset`` with some options besides.

    Labels decide if it is not installed.
    """
    plugin, _, preset = wanted.partition(":")
    if not preset:
        return ()
    try:
        known = MODELS.load(plugin).presets[preset]
    except (UserError, KeyError):
        same = record.cell.model == wanted
    else:
        same = record.cell.options == json.loads(json.dumps({**known, **options}))
    return () if same else (f"model: options are not those of {wanted}",)


def short_training(claim: Claim, record: Record) -> tuple[str, ...]:
    """Return a difference if a model was trained for too few epochs to judge the claim; empty if not."""
    epochs = at(record, "training.epochs")
    if claim.epochs is None or not isinstance(epochs, int | float) or epochs >= claim.epochs * (1 - 1e-9):
        return ()
    return (f"too few epochs: at least {claim.epochs:g} are needed",)


def _unlike(record: Record, path: str, wanted: Any) -> str:
    given = at(record, path if path.startswith("data.") else f"cell.{path}")
    if wanted == ANY:
        return "" if given is not None else f"{path}: not set, published: any value"
    close = isinstance(wanted, float) and isinstance(given, int | float) and math.isclose(given, wanted, rel_tol=1e-5)
    said, published = ("not set" if value is None else value for value in (given, wanted))
    return "" if close or given == wanted else f"{path}: {said}, published: {published}"
