"""The models of a sweep as its user names them: their plugins, presets, options and versions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from attn_bench.errors import UserError, unknown
from attn_bench.plugin import Model
from attn_bench.plugins.fingerprint import Source
from attn_bench.plugins.options import each_combination
from attn_bench.plugins.registry import MODELS, BrokenPlugin

# The version of a plugin that cannot be used; once it can be, its cells have other ids.
BROKEN = "broken"


@dataclass(frozen=True)
class Loaded:
    """The plugin of a model, its version and the files behind it; None with the reason if it is broken."""

    model: Model | None
    version: str
    sources: Mapping[str, Source] = field(default_factory=dict)
    broken: str | None = None


@dataclass(frozen=True)
class Variant:
    """One model of a sweep, with one value of each option.

    Attributes:
        label: its name in tables; the variants of one entry of the sweep share it.
        plugin: name of the plugin.
        options: validated, including the preset's; as given where the plugin is broken.
        several: the options of which the entry has several values.
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
    several: tuple[str, ...] = ()


def expand(
    models: Iterable[str | Mapping[str, Any]],
    options: Mapping[str, Mapping[str, Any]],
    load: Callable[[str], Loaded] = lambda name: loaded(name),
) -> list[Variant]:
    """Return the variants of every model of a sweep, one after the other: each combination of the values of options.

    Args:
        models: names, ``name:preset``, or mappings with ``name`` and any of ``preset``, ``options``, ``label``.
        options: more options, by the name of the plugin or the label; they have one value or several.
        load: returns a plugin by its name.

    Raises:
        UserError: an unknown name, preset or option; a label that stands twice; or all their plugins are broken.
    """
    variants: list[Variant] = []
    for label, name, preset, own in map(_named, models):
        if any(variant.label == label for variant in variants):
            raise UserError(f"model {label!r} is listed twice; set a different label for one of them")
        found = load(name)
        if found.model is not None and preset and preset not in found.model.presets:
            raise unknown(f"preset of {name}", preset, found.model.presets)
        chosen = {
            **(found.model.presets[preset] if found.model is not None and preset else {}),
            **own,
            **options.get(name, {}),
            **(options.get(label, {}) if label != name else {}),
        }
        each = [chosen] if found.model is None else each_combination(found.model, chosen)
        several = tuple(key for key in chosen if any(one[key] != each[0][key] for one in each))
        variants += [Variant(label, name, one, found.version, found.sources, found.broken, several) for one in each]
    if all(variant.broken for variant in variants):
        raise UserError("; ".join(dict.fromkeys(str(variant.broken) for variant in variants)))
    return variants


def loaded(name: str) -> Loaded:
    """Return the plugin of a model; one that is broken with the reason."""
    entry = MODELS.entry(name)
    try:
        model, sources = entry.load(), entry.sources()
    except BrokenPlugin as error:
        return Loaded(None, BROKEN, broken=str(error))
    return Loaded(model, entry.fingerprint(sources), sources)


def chosen_of(models: Iterable[Any], listed: Iterable[Any]) -> list[Any]:
    """Return ``models`` with those of a list, options and all, where a name is a label of it.

    Raises:
        UserError: a mapping of the list is not a model.
    """
    known = {_named(spec)[0]: spec for spec in listed if isinstance(spec, str | Mapping)}
    return [known.get(spec.strip(), spec) if isinstance(spec, str) else spec for spec in models]


def names_of(spec: str | Mapping[str, Any]) -> tuple[str, str]:
    """Return the label and the plugin's name of one entry of ``Sweep.models``, by which rules mean it."""
    return _named(spec)[:2]


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
