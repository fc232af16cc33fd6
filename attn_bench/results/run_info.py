"""``run.json``: what the sweeps that were written to a results folder were about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from attn_bench.format import clean
from attn_bench.plugin import Metric
from attn_bench.results.upgrade import SCHEMA, newer
from attn_bench.results.validation import as_json, plain, validated


@dataclass(frozen=True)
class RunInfo:
    """The tasks of a results folder with the metrics of each, and the settings of the last sweep."""

    tasks: Mapping[str, Mapping[str, Metric]]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics of all tasks; of those that share a name the one of the last."""
        return {name: metric for metrics in self.tasks.values() for name, metric in metrics.items()}

    def joined(self, earlier: RunInfo) -> RunInfo:
        """Return these with the tasks of an earlier sweep in the same folder before their own."""
        return replace(self, tasks={**earlier.tasks, **self.tasks})

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
        values = {**values}
        if "task" in values:  # a folder had one
            values["tasks"] = {values.pop("task"): values.pop("metrics", {})}
        return validated(cls, plain(values))
