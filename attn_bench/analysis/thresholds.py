"""How much worse a metric may get before a comparison fails."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attn_bench.errors import UserError, unknown

GROUPS: Mapping[str, tuple[str, ...]] = {
    "latency": ("latency_forward", "latency_train_step"),
    "peak_memory": ("peak_memory_forward", "peak_memory_train"),
}
TIMED = GROUPS["latency"]
EXACT = (*GROUPS["peak_memory"], "parameters", "flops")
# Steps as records name them.
STEPS = {
    "latency_forward": "forward",
    "latency_train_step": "train_step",
    "peak_memory_forward": "forward",
    "peak_memory_train": "train_step",
}
DEFAULTS = {"latency": 0.05, "peak_memory": 0.005, "parameters": 0.0, "flops": 0.0}
DEFAULT_METRIC = 0.03
# Changes of what cannot fail are shown from here on.
SHOWN = 0.05


@dataclass(frozen=True)
class Thresholds:
    """Shares by which a metric may get worse: 0.05 is 5 %.

    Attributes:
        common: by metric or group (``latency``, ``peak_memory``); None stands for every metric with its default.
        by_model: the same for one model alone; goes before ``common``. By its name, or by its label with the settings
            in which cells of one name differ, which goes before the name.
    """

    common: Mapping[str, float] | None = None
    by_model: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def of(self, metric: str, model: str) -> float | None:
        """Return the threshold of ``metric``, or None where getting worse does not count."""
        group = next((name for name, members in GROUPS.items() if metric in members), metric)
        own = (self.by_model.get(name, {}) for name in (model, model.partition(" [")[0]))
        for given in (*own, self.common or {}):
            for name in (metric, group):
                if name in given:
                    return given[name]
        return DEFAULTS.get(group, DEFAULT_METRIC) if self.common is None else None

    def shown(self, metric: str, model: str) -> float:
        """Return the share from which on a change of ``metric`` is one, whether or not it counts."""
        threshold = self.of(metric, model)
        return SHOWN if threshold is None else threshold

    def any(self, metrics: Collection[str]) -> bool:
        """Tell whether one of ``metrics`` can fail the comparison, for some model."""
        models = ("", *self.by_model)
        return any(self.of(metric, model) is not None for metric in metrics for model in models)

    def check(self, metrics: Collection[str], models: Collection[str]) -> None:
        """Raise UserError for a name that is no group and none of the task's ``metrics``, or none of ``models``."""
        known = {*GROUPS, *TIMED, *EXACT, *metrics}
        for model in self.by_model:
            if model not in models:
                raise unknown("model in --fail-on", model, models)
        for given in (self.common or {}, *self.by_model.values()):
            for name in given:
                if name not in known:
                    raise unknown("metric in --fail-on", name, known)


def read_thresholds(text: str | None) -> Thresholds:
    """Read ``latency=5%,mano.peak_memory=2%``, or the name of a YAML or TOML file with the same.

    In a file, ``latency: 5%`` stands for all models and ``models: {mano: {latency: 10%}}`` for one.

    Raises:
        UserError: it cannot be read.
    """
    if text is None:
        return Thresholds()
    path = Path(text)
    if path.suffix in (".yaml", ".yml", ".toml"):
        return _from_file(path)
    common: dict[str, float] = {}
    by_model: dict[str, dict[str, float]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"--fail-on {part}: write METRIC=SHARE, e.g. latency=5%, or name a .yaml or .toml file")
        model, _, metric = name.strip().rpartition(".")
        given = by_model.setdefault(model, {}) if model else common
        if metric in given:
            raise UserError(f"--fail-on {part}: {name.strip()} has a share already; name it once")
        given[metric] = _share(part, value)
    if not common and not by_model:
        raise UserError("--fail-on: names no metric, so nothing could fail; write METRIC=SHARE, e.g. latency=5%")
    return Thresholds(common, by_model)


def _from_file(path: Path) -> Thresholds:
    import tomllib

    import yaml

    try:
        content = path.read_text(encoding="utf-8")
        values = tomllib.loads(content) if path.suffix == ".toml" else yaml.safe_load(content)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"--fail-on {path}: cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict) or not isinstance(values.get("models", {}), dict):
        raise UserError(
            f"--fail-on {path}: write 'latency: 5%' and, for one model, 'models: {{mano: {{latency: 5%}}}}'"
        )
    models = values.pop("models", {})
    return Thresholds(_shares(path, values), {str(name): _shares(path, given) for name, given in models.items()})


def _shares(path: Path, values: Any) -> dict[str, float]:
    if not isinstance(values, dict):
        raise UserError(f"--fail-on {path}: {values!r} is no mapping of metrics to shares, e.g. {{latency: 5%}}")
    return {str(name): _share(f"{path}: {name}", value) for name, value in values.items()}


def _share(where: str, value: Any) -> float:
    text = str(value).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if share >= 1 and not text.endswith("%"):
        raise UserError(f"--fail-on {where}: {text} without % is {100 * share:g} %; write {text}% if that is meant")
    # NaN compares false, too.
    if not 0 <= share < 10:
        raise UserError(f"--fail-on {where}: {text!r} is no share; write e.g. 5% or 0.05")
    return share
