"""``run.json``: describes the last sweep that wrote to a results folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attn_bench.format import clean
from attn_bench.plugin import Metric
from attn_bench.results.upgrade import SCHEMA, newer
from attn_bench.results.validation import as_json, plain, validated


@dataclass(frozen=True)
class RunInfo:
    """The task of a results folder, its metrics, and the settings of the last sweep."""

    task: str
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"schema": SCHEMA, **as_json(self)}

    @classmethod
    def from_json(cls, values: Any) -> RunInfo:
        """Return the content of untrusted ``values``; raises ValueError saying what is wrong."""
        schema = values.get("schema") if isinstance(values, Mapping) else None
        if newer(schema):
            raise ValueError(f"written by a newer attn-bench (schema {schema}, this one reads {SCHEMA})")
        if schema not in range(1, SCHEMA + 1):
            raise ValueError(f"schema {clean(repr(schema), 40)}, this version reads 1 to {SCHEMA}")
        return validated(cls, plain(values))
