"""What ``attn-bench list`` prints."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import Any

from attn_bench.errors import UserError
from attn_bench.plugin import Model, TrainingDefaults
from attn_bench.plugins.options import options_of
from attn_bench.plugins.registry import Registry


def describe(registry: Registry[Any], only: str | None = None) -> Iterator[str]:
    """Yield lines: name, summary, kinds, origin, presets and options of every plugin, broken ones with their error.

    Of ``only`` one task also the published protocol.
    """
    names = [registry.entry(only).name] if only else list(registry.entries())
    for name in names:
        try:
            entry = registry.entry(name)
            plugin = entry.load()
            options = options_of(plugin).values()
        except UserError as error:
            yield f"{name}  BROKEN: {' '.join(str(error).split())}"
            yield ""
            continue
        kinds = ", ".join(sorted(plugin.kinds)) if isinstance(plugin, Model) else plugin.kind
        yield f"{name}  {plugin.summary}"
        yield f"    kinds: {kinds}    from: {entry.origin}" + (
            f"    source: {plugin.citation}" if plugin.citation else ""
        )
        if isinstance(plugin, Model):
            for preset, values in plugin.presets.items():
                yield f"    {name}:{preset}  " + ", ".join(f"{key}={shown(value)}" for key, value in values.items())
        else:
            for metric, definition in plugin.metrics.items():
                yield f"    {metric} ({definition.direction} is better)  {definition.summary}"
            yield f"    without options: {_defaults(plugin.defaults)}"
            if only and plugin.protocol:
                yield from wrap(f"protocol: {plugin.protocol}", 118, initial_indent="    ", subsequent_indent=" " * 12)
        for option in options:
            head = f"    --set {name}.{option.name}={shown(option.default)}  ({option.type_name})"
            yield from wrap(f"{head}  {option.doc}", 118, initial_indent="    ", subsequent_indent=" " * 12)
        yield ""


def _defaults(defaults: TrainingDefaults) -> str:
    return (
        f"--resolutions {','.join(map(str, defaults.resolutions))} --epochs {defaults.epochs:g} "
        f"--batch-size {defaults.batch_size} --learning-rate {defaults.learning_rate:g} "
        f"--weight-decay {defaults.weight_decay:g} --clip-norm {defaults.clip_norm:g}"
    )


def shown(value: Any) -> str:
    """Return a value as ``--set`` takes it."""
    import json

    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
