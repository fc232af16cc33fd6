"""Takes cells apart into sweeps: products of models, resolutions, seeds, and the values of settings and options.

Cells that differ in nothing but models, resolutions and seeds make a product. Two products that differ in the values of
one axis alone are one product with the values of both; so are two with other models, and sweeps of several tasks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attn_bench.errors import UserError
from attn_bench.plugins.options import options_of
from attn_bench.plugins.registry import TASKS
from attn_bench.report.several_tasks import ALONE, Several, of_several_tasks
from attn_bench.sweep.cell import GROUPS
from attn_bench.sweep.fields import settings_of
from attn_bench.sweep.settings import Sweep
from attn_bench.sweep.training_recipes import recipes

# More of them are several sweeps.
MOST_RULES = 6
# Settings that can be combined with any others.
_FREE = {"resolutions", "seeds", "precision", "batch_size", "compile", "threads", "optimizer", "ema", *ALONE}
_RULED = {"resolutions": "resolution", "seeds": "seed"}
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")
# Keys that all cells of one product share.
_SHARED = ("task", "task_options", "regime", *GROUPS)
JSON = Mapping[str, Any]
Values = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class _Variant:
    """A model of a product, with the values of each option that is set."""

    label: str
    plugin: str
    options: Values


@dataclass(frozen=True)
class _Product:
    """Every combination of some values.

    Attributes:
        fixed: what has one value, by name of the setting.
        axes: the values of resolutions, seeds and settings.
        task_options: the values of options of the task.
    """

    task: str
    fixed: JSON
    axes: Values
    task_options: Values
    variants: tuple[_Variant, ...]


def sweeps(cells: Iterable[JSON]) -> list[dict[str, Any]]:
    """Return settings, as ``Sweep.from_settings`` takes them, whose cells together are exactly ``cells``."""
    products = list[_Product]()
    for group in grouped(_tuned_together(map(_asked, cells)), lambda cell: {name: cell.get(name) for name in _SHARED}):
        tested = list(dict.fromkeys(r for cell in group for r in cell["eval_resolutions"]))
        if all(cell["eval_resolutions"] == [r for r in tested if r != cell["resolution"]] for cell in group):
            products += _rectangles(group, tested)
        else:
            for alike in grouped(group, lambda cell: cell["eval_resolutions"]):
                products += _rectangles(alike, alike[0]["eval_resolutions"])
    by_task: dict[str, list[_Product]] = {}
    for product in _with_all_models(_joined(products)):
        by_task.setdefault(product.task, []).append(product)
    return of_several_tasks({task: list(_with_rules(of)) for task, of in by_task.items()})


def _asked(cell: JSON) -> JSON:
    """Return a cell without the values that tuning chose."""
    chosen = (cell.get("tuning") or {}).get("tune", {})
    return {**cell, "training": {**cell["training"], **dict.fromkeys(chosen)}} if chosen else cell


def _tuned_together(cells: Iterable[JSON]) -> list[JSON]:
    """Return cells; those at the resolution that others are tuned at are tuned there too, as they say."""
    cells = list(cells)

    def tuned_at(cell: JSON) -> int | None:
        return (cell.get("tuning") or {}).get("tune_resolution")

    at = {tuned_at(cell) for cell in cells} - {None}
    return [
        {**cell, "tuning": {**cell["tuning"], "tune_resolution": cell["resolution"]}}
        if cell.get("tuning") and cell["resolution"] in at and not tuned_at(cell)
        else cell
        for cell in cells
    ]


def grouped(cells: Iterable[Any], key: Callable[[Any], Any]) -> list[list[Any]]:
    """Return cells in groups that have one ``key``, JSON values."""
    groups: dict[str, list[Any]] = {}
    for cell in cells:
        groups.setdefault(json.dumps(key(cell), sort_keys=True), []).append(cell)
    return list(groups.values())


def _rectangles(cells: Sequence[JSON], tested: list[int]) -> Iterator[_Product]:
    """Split cells that share their settings into products of resolutions and seeds, of one model each."""
    for variant in grouped(cells, lambda cell: [cell["model"], cell["plugin"], cell["options"]]):
        by_seeds: dict[tuple[int, ...], list[int]] = {}
        for resolution in sorted({cell["resolution"] for cell in variant}):
            seeds = tuple(sorted({cell["seed"] for cell in variant if cell["resolution"] == resolution}))
            by_seeds.setdefault(seeds, []).append(resolution)
        for seeds, resolutions in by_seeds.items():
            yield _product(variant[0], resolutions, seeds, tested)


def _product(cell: JSON, resolutions: Sequence[int], seeds: Sequence[int], tested: list[int]) -> _Product:
    known = settings_of(Sweep)
    given: dict[str, Any] = {}
    if tested:
        given["eval_resolutions"] = tested
    if not cell["training"]:
        given["train"] = False
    if cell["regime"] != "scratch":
        given["regime"] = cell["regime"]
    usual = _usual((cell["training"] or {}).get("recipe"))
    for group in GROUPS:
        values = cell.get(group) or {}
        own = {name: value for name, value in values.items() if name in usual and value is not None}
        given |= {name: value for name, value in own.items() if value != usual[name]}
    return _Product(
        task=cell["task"],
        fixed={name: value for name, value in given.items() if not known[name].axis},
        axes={
            "resolutions": tuple(resolutions),
            "seeds": tuple(seeds),
            **{name: (value,) for name, value in given.items() if known[name].axis},
        },
        task_options=_single(cell["task_options"]),
        variants=(_Variant(cell["model"], cell["plugin"], _single(cell["options"])),),
    )


def _usual(recipe: str | None) -> dict[str, Any]:
    """Return the value of each setting where none is given, with a recipe or without."""
    usual = {name: setting.default for name, setting in settings_of(Sweep).items()}
    known = recipes().get(recipe or "")
    return {**usual, **(known.settings if known else {})}


def _single(options: JSON) -> Values:
    return {name: (value,) for name, value in options.items()}


# Returns the values on the axes of a product that one of its parts has, and the product with others there.
_Part = tuple[Callable[[_Product], Values], Callable[[_Product, Values], _Product]]
_PARTS: Sequence[_Part] = (
    (lambda of: of.variants[0].options, lambda of, to: replace(of, variants=(replace(of.variants[0], options=to),))),
    (lambda of: of.axes, lambda of, to: replace(of, axes=to)),
    (lambda of: of.task_options, lambda of, to: replace(of, task_options=to)),
)


def _joined(products: Sequence[_Product]) -> list[_Product]:
    """Join products of one model that differ in the values of one axis alone, as long as there are such."""
    while True:
        found = list(products)
        for values_of, with_values in _PARTS:
            for name in _differing(found, values_of):
                found = _joined_along(found, name, values_of, with_values)
        if len(found) == len(products):
            return found
        products = found


def _differing(products: Sequence[_Product], values_of: Callable[[_Product], Values]) -> list[str]:
    """Return the names on which products do not all have the same values."""
    names = dict.fromkeys(name for each in products for name in values_of(each))
    first = values_of(products[0]) if products else {}
    return [name for name in names if any(values_of(each).get(name) != first.get(name) for each in products)]


def _joined_along(
    products: Sequence[_Product],
    name: str,
    values_of: Callable[[_Product], Values],
    with_values: Callable[[_Product, Values], _Product],
) -> list[_Product]:
    def rest(product: _Product) -> Any:
        others = {key: values for key, values in values_of(product).items() if key != name}
        return [_json(with_values(product, others)), name in values_of(product)]

    completed = _completed(products, name, values_of, with_values)
    found = []
    for group in grouped(completed, rest):
        first = group[0]
        if len(group) > 1 and name in values_of(first):
            joined = _distinct(value for each in group for value in values_of(each)[name])
            first, group = with_values(first, {**values_of(first), name: joined}), []
        found += group or [first]
    # What a default was written out for, and is alone nevertheless, is as it was.
    written = {_json(after): before for before, after in zip(products, completed) if after is not before}
    return [written.get(_json(product), product) for product in found]


def _completed(
    products: Sequence[_Product],
    name: str,
    values_of: Callable[[_Product], Values],
    with_values: Callable[[_Product, Values], _Product],
) -> list[_Product]:
    """Return products with the default of an axis that others of their task give, where the same cells come of it."""
    tasks = {product.task for product in products if name in values_of(product)}
    return [
        _with_default(product, name, values_of(product), with_values) if product.task in tasks else product
        for product in products
    ]


def _with_default(
    product: _Product, name: str, values: Values, with_values: Callable[[_Product, Values], _Product]
) -> _Product:
    if name in values:
        return product
    if values is product.axes:
        several = product.axes.get("recipe", (None,))
        default = _usual(several[0])[name] if len(several) == 1 else None
    elif values is product.task_options:
        default = _default_of_task(product.task, name)
    else:
        return product  # an option of a model that is given is part of the cell, even its default
    return product if default is None else with_values(product, {**values, name: (default,)})


def _default_of_task(task: str, option: str) -> Any:
    try:
        known = options_of(TASKS.load(task))
    except UserError:  # it is not installed here, or broken
        return None
    default = known[option].default if option in known else None
    return default if isinstance(default, bool | int | float | str) else None


def _json(product: _Product) -> Any:
    variants = [[each.label, each.plugin, each.options] for each in product.variants]
    values = [product.task, product.fixed, product.axes, product.task_options, variants]
    return json.dumps(values, sort_keys=True, default=dict)


def _distinct(values: Iterable[Any]) -> tuple[Any, ...]:
    """Return values once each, numbers by their size: equal values are in equal order, wherever they come from."""
    by_text = {json.dumps(value, sort_keys=True): value for value in values}
    numbers = {text: value if isinstance(value, int | float) else 0 for text, value in by_text.items()}
    return tuple(by_text[text] for text in sorted(by_text, key=lambda text: (numbers[text], text)))


def _with_all_models(products: Sequence[_Product]) -> list[_Product]:
    """Join products that differ in their models, so that no label is used twice in one."""
    found = []
    for group in grouped(products, lambda product: _json(replace(product, variants=()))):
        parts: list[list[_Variant]] = []
        for (variant,) in (product.variants for product in group):
            free = (part for part in parts if all(variant.label != other.label for other in part))
            if (part := next(free, None)) is None:
                parts.append(part := [])
            part.append(variant)
        found += [replace(group[0], variants=tuple(part)) for part in parts]
    return found


def _with_rules(products: Sequence[_Product]) -> Iterator[dict[str, Any]]:
    """Yield the settings of products of one task, of those that differ only in values one, with rules to include."""

    def form(product: _Product) -> Any:
        bound = {name: of for name, of in product.axes.items() if name not in _FREE}
        # A combination that a task refuses would end the sweep, whatever rules say.
        return [product.fixed, sorted(product.axes), bound, product.task_options]

    completed = list(products)
    for values_of, with_values in _PARTS[1:]:
        for name in _differing(products, values_of):
            completed = _completed(completed, name, values_of, with_values)
    given = dict(zip(map(_json, completed), products))
    for group in grouped(completed, form):
        whole = _whole(group)
        rules = [rule for product in group for rule in _rules(product, whole)] if whole is not None else []
        if whole is not None and len(group) > 1 and len(rules) <= MOST_RULES and all(rules):
            yield {**_settings(whole), "include": rules}
        else:
            yield from (_settings(given[_json(product)]) for product in group)


def _whole(products: Sequence[_Product]) -> _Product | None:
    """Return the smallest product that holds all of some; None if rules could not tell them apart."""
    variants: dict[str, _Variant] = {}
    for each in (variant for product in products for variant in product.variants):
        known = variants.get(each.label, each)
        if (known.plugin, known.options.keys()) != (each.plugin, each.options.keys()):
            return None
        variants[each.label] = replace(known, options=_all_values([known.options, each.options]))
    # A rule on a model means its presets as well.
    if any(each.plugin != each.label and each.plugin in variants for each in variants.values()):
        return None
    whole = replace(
        products[0],
        axes=_all_values([product.axes for product in products]),
        variants=tuple(variants.values()),
    )
    each_axis = [whole.axes, *(variant.options for variant in whole.variants)]
    values = [value for axes in each_axis for several in axes.values() for value in several]
    return whole if all(isinstance(value, bool | int | float | str) for value in values) else None


def _all_values(each: Sequence[Values]) -> Values:
    return {name: _distinct(value for of in each for value in of[name]) for name in each[0]}


def _rules(product: _Product, whole: _Product) -> list[dict[str, Any]]:
    """Return rules that mean the cells of a product among those of a larger one."""
    common = {_RULED.get(name, name): Several(of) for name, of in product.axes.items() if of != whole.axes[name]}
    of_whole = {variant.label: variant.options for variant in whole.variants}
    free, found = list[str](), list[dict[str, Any]]()
    for variant in product.variants:
        options = {name: of for name, of in variant.options.items() if of != of_whole[variant.label][name]}
        if options:
            own = {f"{variant.label}.{name}": Several(of) for name, of in options.items()}
            found.append({"model": Several([variant.label]), **common, **own})
        else:
            free.append(variant.label)
    if free:
        found.append(({"model": Several(free)} if len(free) < len(of_whole) else {}) | common)
    return found


def _settings(product: _Product) -> dict[str, Any]:
    settings: dict[str, Any] = {"task": product.task, "resolutions": list(product.axes["resolutions"])}
    settings |= {name: product.fixed[name] for name in ("eval_resolutions",) if name in product.fixed}
    seeds = list(product.axes["seeds"])
    if seeds != [0]:
        settings["seeds"] = len(seeds) if seeds == list(range(len(seeds))) else seeds
    axes = {name: values for name, values in product.axes.items() if name not in ("resolutions", "seeds")}
    settings |= {name: value for name, value in product.fixed.items() if name not in settings} | _plain(axes)
    options = {product.task: _plain(product.task_options)} if product.task_options else {}
    if _nameable(product.variants):
        settings["models"] = [variant.label for variant in product.variants]
        options |= {variant.label: _plain(variant.options) for variant in product.variants if variant.options}
    else:
        settings["models"] = [
            {"name": variant.plugin, "label": variant.label, "options": _plain(variant.options)}
            for variant in product.variants
        ]
    return settings | ({"options": options} if options else {})


def _plain(values: Values) -> dict[str, Any]:
    """Return one value as it is and several as a list."""
    return {name: Several(of) if len(of) > 1 else of[0] for name, of in values.items()}


def _nameable(variants: Sequence[_Variant]) -> bool:
    """Tell whether models can be given by name, with their options separate.

    Options of ``vit`` also apply to ``vit:patch4``, so two variants of one plugin cannot if either has options.
    """
    plugins = [variant.plugin for variant in variants]
    return all(
        PLAIN.fullmatch(v.label)
        and (v.label == v.plugin or v.label.startswith(f"{v.plugin}:"))
        and (plugins.count(v.plugin) == 1 or not any(w.options for w in variants if w.plugin == v.plugin))
        for v in variants
    )
