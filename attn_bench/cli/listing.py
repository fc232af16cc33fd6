"""``attn-bench list``: the models and tasks that can be run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attn_bench.cli.as_json import Format, put_json
from attn_bench.cli.completion import LISTED, among, name_listed
from attn_bench.cli.printing import put
from attn_bench.errors import UserError, unknown
from attn_bench.plugin import KINDS, Model, Task, TrainingDefaults

if TYPE_CHECKING:
    from rich.table import Table

    from attn_bench.plugins.registry import Entry, Registry

_WIDTH = 118
_BROKEN = "BROKEN"


def list_(
    what: Annotated[
        str, typer.Argument(metavar="|".join(LISTED), help="What to list.", autocompletion=among(lambda: LISTED))
    ],
    name: Annotated[
        str | None,
        typer.Argument(
            help="Show only this model or task with its options, or this recipe.", autocompletion=name_listed
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", help=f"Show only what serves this kind of problem: {', '.join(KINDS)}."),
    ] = None,
    form: Format = "text",
) -> None:
    """List models, tasks or training recipes, or show one of them with its options or settings."""
    from attn_bench.plugins.registry import MODELS, TASKS

    groups: dict[str, Registry[Any]] = {"models": MODELS, "tasks": TASKS}
    if what not in (*groups, "recipes"):
        raise UserError(
            f"list {what}: use 'attn-bench list models', 'attn-bench list tasks' or 'attn-bench list recipes'"
        )
    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    if what == "recipes":
        if kind is not None:
            raise UserError("--kind: recipes have no kind; omit it")
        return _list_recipes(name, form)
    if form == "json":
        listed = [name] if name else list(groups[what].entries())
        return put_json([each for entry in listed for each in _plain_data(groups[what].entry(entry), kind, name)])
    if name is None:
        put(overview(groups[what], kind))
        return
    for line in details(groups[what].entry(name)):
        print(line)


def _list_recipes(name: str | None, form: str) -> None:
    """Print a table of the recipes, or one of them in full."""
    from rich.table import Table

    from attn_bench.sweep.training_recipes import recipe, recipes

    if form == "json":
        return put_json([recipe(name)] if name else list(recipes().values()))
    if name is None:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for header in ("recipe", "", "source"):
            table.add_column(header, no_wrap=header == "recipe")
        for each in recipes().values():
            table.add_row(each.name, each.summary, each.source)
        return put(table)
    found = recipe(name)
    for line in (
        f"{name}  {found.summary}",
        f"    source: {found.source}",
        *(f"    {setting}: {as_set(value)}" for setting, value in found.settings.items()),
        *_wrapped(found.notes),
    ):
        print(line)


def overview(registry: Registry[Any], kind: str | None = None) -> Table:
    """Return a table with a row for every plugin, or for those of one kind; broken plugins show their error."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in (registry.what, "kinds", *(("growth",) if registry.base is Model else ()), ""):
        table.add_column(header, no_wrap=header != "")
    for row in rows(registry, kind):
        # A summary is cut to one line on a narrow terminal; an error is shown in full.
        summary = Text(row[-1]) if row[-1].startswith(_BROKEN) else Text(row[-1], no_wrap=True, overflow="ellipsis")
        table.add_row(*map(Text, row[:-1]), summary)
    return table


def rows(registry: Registry[Any], kind: str | None = None) -> Iterator[tuple[str, ...]]:
    """Yield name, kinds, growth (of a model) and summary of every plugin, or the error of a broken one."""
    for name in registry.entries():
        try:
            plugin = registry.entry(name).load()
        except UserError as error:
            if kind is None:
                empty = ("",) * (2 if registry.base is Model else 1)
                yield (name, *empty, " ".join(f"{_BROKEN}: {error}".split()))
            continue
        kinds = kinds_of(plugin)
        if kind is None or kind in kinds:
            growth = (plugin.complexity or "",) if isinstance(plugin, Model) else ()
            shown = "all" if len(kinds) == len(KINDS) else ", ".join(kinds)
            yield (name, shown, *growth, plugin.summary)


def _plain_data(entry: Entry[Any], kind: str | None, name: str | None) -> Iterator[dict[str, Any]]:
    """Yield what is known of a plugin, for other programs; the error of a broken one, unless it was named."""
    from attn_bench.plugins.options import options_of

    about: dict[str, Any] = {"name": entry.name, "origin": entry.origin}
    try:
        plugin = entry.load()
    except UserError as error:
        if name is not None:
            raise
        if kind is None:
            yield {**about, "error": str(error)}
        return
    if kind is not None and kind not in kinds_of(plugin):
        return
    about |= {"summary": plugin.summary, "citation": plugin.citation, "kinds": kinds_of(plugin)}
    if isinstance(plugin, Model):
        about |= {"complexity": plugin.complexity, "presets": plugin.presets}
    else:
        about |= {"metrics": plugin.metrics, "defaults": plugin.defaults, "protocol": plugin.protocol}
    options = options_of(plugin).values()
    yield {
        **about,
        "options": [{"name": o.name, "type": o.type_name, "default": o.default, "doc": o.doc} for o in options],
    }


def kinds_of(plugin: Model | Task) -> list[str]:
    """Return the kinds that a model serves, or the kind of a task, in the order of the contract."""
    served = plugin.kinds if isinstance(plugin, Model) else {plugin.kind}
    return [kind for kind in KINDS if kind in served]


def details(entry: Entry[Any]) -> Iterator[str]:
    """Yield lines about one plugin: summary, kinds, origin, presets or metrics and defaults, and options."""
    from attn_bench.plugins.options import options_of

    plugin, name = entry.load(), entry.name
    yield f"{name}  {plugin.summary}"
    source = f"    source: {plugin.citation}" if plugin.citation else ""
    yield f"    kinds: {', '.join(kinds_of(plugin))}    from: {entry.origin}{source}"
    if isinstance(plugin, Model):
        for preset, values in plugin.presets.items():
            yield f"    {name}:{preset}  " + ", ".join(f"{key}={as_set(value)}" for key, value in values.items())
    else:
        for metric, definition in plugin.metrics.items():
            yield from _wrapped(f"{metric} ({definition.direction} is better)  {definition.summary}")
        yield f"    defaults: {_flags(plugin.defaults)}"
        if plugin.protocol:
            yield from _wrapped(f"published protocol: {plugin.protocol}")
    for option in options_of(plugin).values():
        yield from _wrapped(f"--set {name}.{option.name}={as_set(option.default)}  ({option.type_name})  {option.doc}")


def _wrapped(text: str) -> list[str]:
    return wrap(text, _WIDTH, initial_indent="    ", subsequent_indent=" " * 12)


def _flags(defaults: TrainingDefaults) -> str:
    resolutions = f"--resolutions {','.join(map(str, defaults.resolutions))} " if defaults.resolutions else ""
    return (
        f"{resolutions}--epochs {defaults.epochs:g} "
        f"--batch-size {defaults.batch_size} --learning-rate {defaults.learning_rate:g} "
        f"--weight-decay {defaults.weight_decay:g} --clip-norm {defaults.clip_norm:g}"
    )


def as_set(value: Any) -> str:
    """Return a value in the syntax of ``--set``."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
