"""How much worse a metric may get before a comparison fails."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from attn_bench.analysis.statistics import Ratio
from attn_bench.errors import UserError, unknown
from attn_bench.files import read_yaml
from attn_bench.gate.verdicts import Verdict, judge
from attn_bench.results.quantities import METRIC_ALLOWED, Quantity, groups, judged

# Changes of metrics that cannot fail are shown from this share on.
SHOWN = 0.05


@dataclass(frozen=True)
class Thresholds:
    """Shares by which a metric may get worse: 0.05 is 5 %.

    Attributes:
        common: by metric or group (``latency``, ``peak_memory``); None means every metric with its default.
        by_model: the same for one model only, by its name or by its label with the settings in which cells of one name
            differ. A label takes precedence over a name, and both over ``common``.
    """

    common: Mapping[str, float] | None = None
    by_model: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def of(self, metric: str, model: str) -> float | None:
        """Return the threshold of ``metric``, or None if getting worse does not count."""
        quantity = judged().get(metric)
        group = metric if quantity is None else quantity.group.name
        own = sorted((name for name in self.by_model if named_by(name, model)), key=len, reverse=True)
        for given in (*(self.by_model[name] for name in own), self.common or {}):
            for name in (metric, group):
                if name in given:
                    return given[name]
        default = METRIC_ALLOWED if quantity is None else quantity.group.allowed
        return default if self.common is None else None

    @property
    def named(self) -> bool:
        """Whether the metrics that can fail were named, rather than every metric with its default."""
        return self.common is not None

    def names_metric(self, metric: str) -> bool:
        """Tell whether a threshold is given for this metric, of any model."""
        return any(metric in given for given in (self.common or {}, *self.by_model.values()))

    def names_model(self, model: str) -> bool:
        """Tell whether a threshold is given for this model only."""
        return any(named_by(name, model) for name in self.by_model)

    def names_for(self, model: str) -> list[str]:
        """Return the metrics and groups that are named for a model."""
        own = (given for name, given in self.by_model.items() if named_by(name, model))
        return list(dict.fromkeys(name for given in (self.common or {}, *own) for name in given))

    def shown(self, metric: str, model: str) -> float:
        """Return the share beyond which ``metric`` has changed, whether or not that counts."""
        threshold = self.of(metric, model)
        return SHOWN if threshold is None else threshold

    def judge(self, ratio: Ratio, metric: str, model: str, *, higher: bool = False) -> Verdict:
        """Return the verdict on a ratio of ``metric``; how exactly it was measured matters only if it can fail."""
        ratio = ratio if self.of(metric, model) is not None else replace(ratio, noise=1.0)
        return judge(ratio, self.shown(metric, model), higher=higher)

    def negligible(self, quantity: Quantity, model: str) -> float:
        """Return the share up to which exact values count as equal; a limit of 0 is meant exactly."""
        return quantity.group.negligible if self.of(quantity.name, model) else 0.0

    def any(self, metrics: Collection[str], model: str) -> bool:
        """Tell whether one of ``metrics`` of a model can fail the comparison."""
        return any(self.of(metric, model) is not None for metric in metrics)

    def resolved(self, metrics: Collection[str], models: Collection[str]) -> Thresholds:
        """Return these thresholds with full labels for models given as tables shorten them.

        Raises:
            UserError: as in :meth:`check`.
        """
        full = {name: _full(name, models) for name in self.by_model}
        found = Thresholds(self.common, {full[name]: given for name, given in self.by_model.items()})
        found.check(metrics, models)
        return found

    def check(self, metrics: Collection[str], models: Collection[str]) -> None:
        """Raise UserError for a name that is not a group or one of ``metrics``, or not one of ``models``."""
        known = {*groups(), *judged(), *metrics}
        for model in self.by_model:
            if model not in models:
                raise unknown("model in --fail-on", model, models)
        for given in (self.common or {}, *self.by_model.values()):
            for name in given:
                if name in models and name not in known:
                    raise UserError(f"--fail-on {name} is a model; name one of its metrics, e.g. {name}.latency=5%")
                if name not in known:
                    raise unknown("metric in --fail-on", name, known)


def named_by(name: str, model: str) -> bool:
    """Tell whether ``name`` is a model's label, or its name without the settings in which its cells differ."""
    return model == name or (model.startswith(f"{name} [") and model.endswith("]"))


def _full(name: str, models: Collection[str]) -> str:
    """Return the label that ``name`` abbreviates, if it contains an ellipsis and only one label fits."""
    start, ellipsis, end = name.partition("…")
    found = [label for label in models if label.startswith(start) and label.endswith(end)] if ellipsis else []
    return found[0] if name not in models and len(found) == 1 else name


def read_thresholds(text: str | None) -> Thresholds:
    """Parse ``latency=5%,mano.peak_memory=2%``, or the name of a YAML or TOML file with the same content.

    A model may be given by its label in tables, ``mano [depth=2, dim=64].latency=5%``. A label with quotes, or with
    commas outside brackets, must be quoted: ``'a, b'.latency=5%``. In a file, ``latency: 5%`` applies to all models and
    ``models: {mano: {latency: 10%}}`` to one.

    Raises:
        UserError: it cannot be parsed.
    """
    if text is None:
        return Thresholds()
    path = Path(text)
    if path.suffix in (".yaml", ".yml", ".toml"):
        return _collected(_of_file(path), f"--fail-on {path}")
    given = []
    for part in filter(None, (part.strip() for part in _parts(text))):
        name, equals, value = part.rpartition("=")
        if not equals:
            raise UserError(f"--fail-on {part}: write METRIC=LIMIT, e.g. latency=5%, or name a .yaml or .toml file")
        given.append((*_named(name.strip()), value, part))
    return _collected(given, "--fail-on")


Given = tuple[str, str, Any, str]


def _collected(given: Iterable[Given], where: str) -> Thresholds:
    """Collects shares of metrics, each with its model (empty for all), its value and the text that gave it."""
    common: dict[str, float] = {}
    by_model: dict[str, dict[str, float]] = {}
    for model, metric, value, words in given:
        shares = by_model.setdefault(model, {}) if model else common
        if metric in shares:
            raise UserError(f"--fail-on {words}: {metric} is given twice; give it once")
        shares[metric] = _share(words, value)
    if not common and not any(by_model.values()):
        raise UserError(f"{where}: contains no metric; write METRIC=LIMIT, e.g. latency=5%")
    return Thresholds(common, by_model)


def _parts(text: str) -> Iterator[str]:
    """Split at commas outside brackets and outside quotes around a model."""
    text = text.strip()
    if text[:1] in ("'", '"') and text[1:].find(text[0]) == len(text) - 2:
        text = text[1:-1]  # quotes around everything, which the shell did not remove
    part, depth, quote = "", 0, ""
    for i, character in enumerate(text):
        if quote:
            # A quote ends where a metric follows.
            quote = "" if character == quote and text[i + 1 : i + 2] == "." else quote
        elif character in "'\"" and not part.strip():
            quote = character
        elif character in "[]":
            depth = max(0, depth + (1 if character == "[" else -1))
        elif character == "," and not depth:
            yield part
            part = ""
            continue
        part += character
    yield part


def _named(name: str) -> tuple[str, str]:
    """Split ``mano.latency`` into the model, without quotes around it, and the metric."""
    model, _, metric = name.rpartition(".")
    model = model.strip()
    if len(model) > 1 and model[0] == model[-1] and model[0] in "'\"":
        model = model[1:-1]
    return model, metric.strip()


def _of_file(path: Path) -> Iterator[Given]:
    import tomllib

    try:
        values = tomllib.loads(path.read_text(encoding="utf-8")) if path.suffix == ".toml" else read_yaml(path)
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        reason = (error.strerror or reason) if isinstance(error, OSError) else reason
        raise UserError(f"--fail-on {path}: cannot be read ({reason})") from None
    form = "write 'latency: 5%' and, for one model, 'models: {mano: {latency: 5%}}'"
    if not isinstance(values, dict) or not isinstance(values.get("models") or {}, dict):
        raise UserError(f"--fail-on {path}: {form}")
    models = values.pop("models", None) or {}
    for name, value in values.items():
        if isinstance(value, dict):
            raise UserError(f"--fail-on {path}: {name} is not a metric with a limit; {form}")
        yield *_named(str(name)), value, f"{path}: {name}"
    for model, shares in models.items():
        if not isinstance(shares, dict):
            raise UserError(
                f"--fail-on {path}: {shares!r} is not a mapping of metrics to limits; write e.g. {{latency: 5%}}"
            )
        for name, value in shares.items():
            yield str(model), str(name), value, f"{path}: {model}: {name}"


def _share(where: str, value: Any) -> float:
    text = str(value).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if share >= 1 and not text.endswith("%"):
        raise UserError(f"--fail-on {where}: {text} means {100 * share:g} %; did you mean {text}%?")
    # NaN compares false, and is rejected too.
    if not 0 <= share < 10:
        raise UserError(f"--fail-on {where}: {text!r} is not a valid limit; write e.g. 5% or 0.05")
    return share
