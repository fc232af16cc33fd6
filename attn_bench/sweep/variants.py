"""The models of a sweep as its user names them: their plugins, presets, options and versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from attn_bench.errors import UserError, unknown
from attn_bench.plugin import Model
from attn_bench.plugins.fingerprint import Source
from attn_bench.plugins.options import validated
from attn_bench.plugins.registry import MODELS, BrokenPlugin

# The version of a plugin that cannot be used; once it can be, its cells have other ids.
BROKEN = "broken"


@dataclass(frozen=True)
class _Loaded:
    model: Model | None
    version: str
    sources: Mapping[str, Source] = field(default_factory=dict)
    broken: str | None = None


@dataclass(frozen=True)
class Variant:
    """One model of a sweep.

    Attributes:
        label: its name in tables.
        plugin: name of the plugin.
        options: validated, including the preset's; as given where the plugin is broken.
        version: of the plugin, ``BROKEN`` if it cannot be used.
        sources: the files behind the version.
        broken: why the plugin cannot be used, or None.
    """

    label: str
    plugin: str
    options: Mapping[str, Any]
    version: str
    sources: Mapping[str, Source]
    broken: str | None


def expand(models: Iterable[str | Mapping[str, Any]], options: Mapping[str, Mapping[str, Any]]) -> list[Variant]:
    """Return the models of a sweep.

    Args:
        models: names, ``name:preset``, or mappings with ``name`` and any of ``preset``, ``options``, ``label``.
        options: more options, by the name of the plugin or the label.

    Raises:
        UserError: an unknown name, preset or option, or every plugin is broken.
    """
    loaded: dict[str, _Loaded] = {}
    variants = []
    for label, name, preset, own in map(_named, models):
        loaded[name] = found = loaded.get(name) or _load(name)
        if found.model is not None and preset and preset not in found.model.presets:
            raise unknown(f"preset of {name}", preset, found.model.presets)
        chosen = {
            **(found.model.presets[preset] if found.model is not None and preset else {}),
            **own,
            **options.get(name, {}),
            **(options.get(label, {}) if label != name else {}),
        }
        if found.model is not None:
            chosen = validated(found.model, chosen)
        variants.append(Variant(label, name, chosen, found.version, found.sources, found.broken))
    if all(variant.broken for variant in variants):
        raise UserError("; ".join(dict.fromkeys(str(variant.broken) for variant in variants)))
    return variants


def _load(name: str) -> _Loaded:
    entry = MODELS.entry(name)
    try:
        model, sources = entry.load(), entry.sources()
    except BrokenPlugin as error:
        return _Loaded(None, BROKEN, broken=str(error))
    return _Loaded(model, entry.fingerprint(sources), sources)


def _named(spec: str | Mapping[str, Any]) -> tuple[str, str, str, Mapping[str, Any]]:
    """Return label, plugin name, preset and own options of one entry of ``Sweep.models``."""
    if isinstance(spec, str):
        name, _, preset = spec.strip().partition(":")
        return spec.strip(), name, preset, {}
    allowed = ("name", "preset", "options", "label")
    for key in spec:
        if key not in allowed:
            raise unknown("key of a model in the sweep", str(key), allowed)
    if not spec.get("name"):
        raise UserError(f"a model in the sweep has no name: {dict(spec)}")
    if not isinstance(spec.get("options"), Mapping | None):
        raise UserError(
            f"options of model {spec['name']!s} in the sweep: {spec['options']!r} is not a mapping, e.g. {{dim: 64}}"
        )
    name, preset = str(spec["name"]), str(spec.get("preset") or "")
    label = str(spec.get("label") or (f"{name}:{preset}" if preset else name))
    return label, name, preset, spec.get("options") or {}
