"""Time of every mixer of this project, and its share of what the machine allows.

    python benchmarks/mixers_cost.py [--only mano fma:linear] [--sizes 1024 4096] [--out results/mixers-cost]

Each mixer is timed alone, without the transformer around it, on what it serves: causal sequences, sequences that are
not, and square grids. Mixers around a module of a library are left out, unless ``--only`` names them. A batch has
16384 tokens, or one sample if that has more.

Times are medians over the rounds; ``processor_ms`` is that of the processor, of all threads. ``times_exact`` is the
time of exact attention (``full``) on the same tokens over this one's. A pass is left out where it would take longer
than ``--limit`` seconds, going by the size before; for the forward pass of exact attention, the measure of the others,
that is a minute, and one call is enough where it takes longer than the limit.

``share_of_limit`` is the least time that the machine would need, over the time taken. The least time is the larger of
two, and ``bound_by`` says which:

- ``operations``: the floating-point operations that the forward pass executes (:mod:`attn_bench.running.measure.flops`;
  scores that a mask hides count where they are computed), three times as many for both passes, at the measured matrix
  rate;
- ``bytes``: reading the input and the parameters and writing the output, once, at the measured copy bandwidth; twice as
  much for both passes, with the gradients of all of them.

``share_of_parts`` is the same for the operations of torch that the pass consists of: the sum of the least times of all,
each with its own floating-point operations, inputs and outputs, over the time taken. Where it is much more than
``share_of_limit``, the mixer is limited by what its operations store in between. It exceeds 1 where the cache is faster
than the copy bandwidth.

The table is written after every mixer, so that an interrupted run leaves what it has. ``cost.png`` shows the time of
both passes per token, and its share of the limit.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from turns import (
    BOTH,
    FORWARD,
    Step,
    machine,
    machine_rates,
    plot_lines,
    save,
    seconds,
    steps,
    subplots,
    table,
    take_turns,
    use_allocator_of_cells,
    write_tables,
)

from attn_bench.nn.transformer import Block
from attn_bench.plugin import Kind, Mixer, Problem
from attn_bench.plugins.registry import MODELS
from attn_bench.running.measure.flops import count_flops
from attn_bench.sweep.variants import Variant, expand

# Operations that do not read what they write to, their first argument; and those that read or write some of its rows.
_OVERWRITING = ("copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_")
_SOME_ROWS = ("index_select", "index", "embedding", "gather", "index_add_", "index_put_", "scatter_add_")
EXACT = "full"
# Presets that compute something else than the default, not only in another size.
PRESETS = ("fma:linear",)
LAYOUTS: dict[str, Kind] = {"causal sequence": "causal-text", "sequence": "masked-text", "grid": "field"}
BATCH_TOKENS = 16384
EXACT_LIMIT_S = 60.0
# A row is repeated until it has taken this long, at least three times.
ENOUGH_S = 1.0
TARGET = 0.5
# Fast Multipole Attention, forward: tokens and how many times as fast as exact attention.
FMA_TARGETS = {"fma": (16384, 8), "fma:linear": (65536, 30)}


@dataclass(frozen=True)
class Rates:
    """Of the machine: bytes read and written per second, and floating-point operations per second."""

    bandwidth: float
    matrix: float

    def least(self, flops: float, moved: float) -> tuple[float, str]:
        """Return the least seconds for operations and bytes, and which of them take longer."""
        return max((flops / self.matrix, "operations"), (moved / self.bandwidth, "bytes"))


def own_mixers() -> list[str]:
    """Return the names of the mixers that need torch alone, exact attention first, with :data:`PRESETS`."""
    entries = (entry for same in MODELS.entries().values() for entry in same if entry.package == "attn-bench")
    found = [e.name for e in entries if isinstance(m := e.load(contained=False), Mixer) and m.imports == ("torch",)]
    names = [name for own in sorted(found) for name in (own, *(p for p in PRESETS if p.startswith(f"{own}:")))]
    return sorted(names, key=lambda name: name != EXACT)


@dataclass
class Expected:
    """How long a pass takes, going by the size before: as long per token, per pair of tokens if it is quadratic."""

    quadratic: bool
    tokens: int = 0
    per_token_s: float = 0.0

    def seconds(self, batch: int, tokens: int) -> float:
        """Return the time of a batch; 0 if nothing has been timed."""
        more = tokens / self.tokens if self.tokens and self.quadratic else 1
        return self.per_token_s * more * batch * tokens

    def update(self, batch: int, tokens: int, seconds: float) -> None:
        """Keep the time of a batch."""
        self.tokens, self.per_token_s = tokens, seconds / (batch * tokens)


class Parts(TorchDispatchMode):
    """Sums the floating-point operations, and the least time, of the operations of torch that run in it."""

    def __init__(self, rates: Rates) -> None:
        super().__init__()
        self.rates, self.flops, self.least_s = rates, 0, 0.0

    def __call__(self, step: Step) -> Step:
        """Return ``step`` to be called in it."""

        def inside() -> None:
            with self:
                step()

        return inside

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results: list[Any] = []
        flops = count_flops(lambda: results.append(func(*args, **(kwargs or {})))).total
        self.flops += flops
        self.least_s += self.rates.least(flops, _moved(func, (args, kwargs), results[0]))[0]
        return results[0]


def _moved(func: Any, arguments: Any, result: Any) -> int:
    """Return the bytes that an operation reads and writes; 0 for views and new tensors without content."""
    inputs, outputs = ([x for x in tree_leaves(tree) if isinstance(x, Tensor)] for tree in (arguments, result))
    name = func._schema.name.partition("::")[2]
    storages = {x.untyped_storage()._cdata for x in inputs}
    aliased = all(x.untyped_storage()._cdata in storages for x in outputs)
    if name.startswith(("empty", "new_empty")) or (aliased and not func._schema.is_mutable):
        return 0
    if name.endswith("_like") or name.startswith("new_"):
        inputs = []
    elif name in _OVERWRITING:
        inputs = inputs[1:]
    # What is given twice is read once; what is expanded has fewer numbers than elements.
    each = {(x.untyped_storage()._cdata, x.storage_offset(), x.shape, x.stride()): x for x in inputs}
    read, written = ([_distinct(x) for x in some] for some in (each.values(), outputs))
    if name in _SOME_ROWS:
        rows = max(read[1:] if aliased else written)
        read, written = ([min(count, rows) for count in some] for some in (read, written))
    return sum(read) + sum(written)


def _distinct(x: Tensor) -> int:
    """Return the bytes of a tensor, counted once where it is expanded."""
    return math.prod(n for n, step in zip(x.shape, x.stride()) if step) * x.itemsize


def timed(warm_up: Step, step: Step, device: str, rounds: int) -> list[tuple[float, float]]:
    """Time a step several times, as :func:`turns.seconds` does; with 0 rounds only the warm-up, which calls it."""
    first = seconds(warm_up, device)
    if not rounds:
        return [first]
    again = seconds(step, device)[0]
    return take_turns({"": step}, device, min(rounds, max(3, int(ENOUGH_S / again))))[""]


def measure(variant: Variant, layout: str, options: argparse.Namespace, rates: Rates) -> Iterator[dict[str, Any]]:
    """Yield a row for each size and pass of a mixer; times in ms.

    Args:
        variant: the mixer.
        layout: of :data:`LAYOUTS`.
        options: of the command line.
        rates: of the machine.
    """
    plugin, device = MODELS.load(variant.plugin, contained=False), options.device
    chosen = plugin.options(**variant.options)
    expected = {kind: Expected(plugin.growth(chosen) == "n^2") for kind in (FORWARD, BOTH)}
    for tokens in options.sizes:
        torch.manual_seed(0)
        batch, side = max(1, BATCH_TOKENS // tokens), math.isqrt(tokens)
        problem = Problem(LAYOUTS[layout], 8, 8, (side, side) if layout == "grid" else (tokens,))
        row = {"layout": layout, "mixer": variant.label, "tokens": tokens, "batch": batch}
        if (why := plugin.unsupported(problem, device, chosen)) is not None:
            yield row | {"note": why}
            continue
        model = plugin.make(problem, **variant.options).to(device)
        mixer = next(part for part in model.modules() if isinstance(part, Block)).mixer
        x = torch.randn(batch, *problem.grid, options.dim, device=device)
        work = steps(mixer, x)
        flops = 0
        for kind, step in work.items():
            wait = expected[kind].seconds(batch, tokens)
            once = options.limit < wait <= EXACT_LIMIT_S and (variant.label, kind) == (EXACT, FORWARD)
            if wait > options.limit and not once:
                expected[kind].update(batch, tokens, wait)
                yield row | {"pass": kind, "note": f"left out: would take {wait:.0f} s"}
                continue
            parts = Parts(rates)
            taken = timed(parts(step), step, device, 0 if once else options.rounds)
            if kind == FORWARD:
                flops = parts.flops
            clock_s, processor_s = (statistics.median(times) for times in zip(*taken))
            expected[kind].update(batch, tokens, clock_s)
            passes, moved = (1, 1) if kind == FORWARD else (3, 2)
            moved *= 2 * x.nbytes + sum(p.nbytes for p in mixer.parameters())
            least_s, bound_by = rates.least(passes * flops, moved)
            yield row | {
                "pass": kind,
                "median_ms": 1e3 * clock_s,
                "fastest_ms": 1e3 * min(clock for clock, _ in taken),
                "processor_ms": 1e3 * processor_s,
                "rounds": len(taken),
                "ns_per_token": 1e9 * clock_s / (batch * tokens),
                "gflop": passes * flops / 1e9,
                "share_of_limit": least_s / clock_s,
                "bound_by": bound_by,
                "share_of_parts": parts.least_s / clock_s,
            }


def with_exact(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return the rows with ``times_exact``."""
    frame = pd.DataFrame(rows, columns=list(dict.fromkeys(key for row in rows for key in row)))
    for column in ("median_ms", "ns_per_token", "share_of_limit", "bound_by", "share_of_parts", "note"):
        if column not in frame:
            frame[column] = None
    same = ["layout", "tokens", "pass"]
    exact = frame.loc[frame["mixer"] == EXACT, [*same, "median_ms"]].rename(columns={"median_ms": "times_exact"})
    frame = frame.merge(exact, how="left", on=same)
    frame["times_exact"] /= frame["median_ms"]
    return frame


def targets(frame: pd.DataFrame) -> list[str]:
    """Return one line for each target: the share of the limit, and Fast Multipole Attention against exact attention."""
    lines = []
    for column, limit in (("share_of_limit", "limit"), ("share_of_parts", "limit of its operations")):
        slowest = frame.groupby("mixer", sort=False)[column].agg(["min", "max"])
        far = [f"{mixer} ({low:.2g} to {high:.2g})" for mixer, low, high in slowest.itertuples() if low < TARGET]
        reached = f"missed by {', '.join(far)}" if far else "met"
        lines.append(f"- Share of the {limit} (target: >= {TARGET}): {reached}.")
    for label, (tokens, least) in FMA_TARGETS.items():
        rows = frame[(frame["mixer"] == label) & (frame["tokens"] == tokens) & (frame["pass"] == FORWARD)]
        for _, row in rows[rows["times_exact"].notna()].iterrows():
            reached = "met" if row["times_exact"] >= least else "missed"
            lines.append(
                f"- {label}, {row['layout']} of {tokens} tokens, forward, times as fast as exact attention "
                f"(target: >= {least}): {row['times_exact']:.3g}; {reached}."
            )
    return lines


def markdown(frame: pd.DataFrame, description: str, command: str) -> str:
    """Return the tables, a row for each mixer and size, with the machine and the command."""
    lines = ["# The cost of mixers", "", f"`{command}`", "", description, "", *targets(frame)]
    heads = ["mixer", "tokens", "batch"]
    for kind in (FORWARD, BOTH):
        heads += [f"{kind} ms", "ns per token", "share of limit", "bound by", "of parts", "times exact"]
    for layout in dict.fromkeys(frame["layout"]):
        rows = []
        for (mixer, tokens), both in frame[frame["layout"] == layout].groupby(["mixer", "tokens"], sort=False):
            cells: list[object] = [mixer, tokens, both["batch"].iloc[0]]
            for kind in (FORWARD, BOTH):
                cells += _cells(both[both["pass"].isna() | (both["pass"] == kind)].iloc[0])
            rows.append(cells)
        lines += ["", f"## {layout}", "", *table(heads, rows)]
    return "\n".join(lines) + "\n"


def _cells(row: pd.Series) -> list[object]:
    if pd.isna(row["median_ms"]):
        return [row["note"], *[""] * 5]
    columns = ("median_ms", "ns_per_token", "share_of_limit", "bound_by", "share_of_parts", "times_exact")
    return [row[column] for column in columns]


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Plot the time of both passes per token and its share of the limit over the tokens, a column for each layout."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    frame = frame[(frame["pass"] == BOTH) & frame["median_ms"].notna()]
    names, layouts = list(dict.fromkeys(frame["mixer"])), list(dict.fromkeys(frame["layout"]))
    width = 1.5 + 4 * len(layouts)
    figure, axes = subplots(len(layouts), width)
    for column, layout in zip(axes.T, layouts, strict=True):
        for axis, quantity in zip(column, ("ns_per_token", "share_of_limit"), strict=True):
            plot_lines(
                frame[frame["layout"] == layout], "tokens", quantity, "mixer", names, axis, legend=axis is axes[0, 0]
            )
            axis.set_ylabel(quantity.replace("_", " "))
        column[0].set_yscale("log")
        column[0].yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        for ticks in (column[0].yaxis.set_major_formatter, column[0].yaxis.set_minor_formatter):
            ticks(FuncFormatter(lambda y, _: f"{y:g}"))
        column[1].set_ylim(0, None)
        column[1].axhline(TARGET, color="0.4", linestyle=":")
        column[0].set_title(layout)
    sizes = sorted(frame["tokens"].unique())
    axes[0, 0].set_xticks(sizes, [f"{n / 1024:g}k" for n in sizes])
    figure.suptitle("Forward and backward pass of one mixer")
    save(figure, path, (0, 0, 1 - 1.7 / width, 1), loc="center right")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", metavar="MIXER", help="mixers, also name:preset (all own ones if unset)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096, 16384, 65536], help="tokens, squares")
    parser.add_argument("--layouts", choices=LAYOUTS, nargs="+", default=list(LAYOUTS))
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9, help="at most")
    parser.add_argument("--limit", type=float, default=3.0, help="leave out what takes longer than this many seconds")
    parser.add_argument("--threads", type=int, help="threads on the CPU")
    parser.add_argument("--out", type=Path, help="write table.csv, table.md and cost.png into this folder")
    options = parser.parse_args(arguments)
    if wrong := [size for size in options.sizes if math.isqrt(size) ** 2 != size]:
        parser.error(f"--sizes: {wrong[0]} is not a square; a grid has as many rows as columns")
    options.sizes.sort()
    if options.threads:
        torch.set_num_threads(options.threads)
    variants = expand(options.only or own_mixers(), {})
    rates = Rates(*machine_rates(options.device))
    description = machine(options.device, rates.bandwidth, rates.matrix)
    description += f" {options.dim} channels, {options.heads} heads."
    command = " ".join(["python", "benchmarks/mixers_cost.py", *arguments])
    rows: list[dict[str, Any]] = []
    text = ""

    def write() -> None:
        nonlocal text
        frame = with_exact(rows)
        text = markdown(frame, description, command)
        if options.out:
            write_tables(options.out, frame, text)

    try:
        for variant in variants:
            kinds = MODELS.load(variant.plugin, contained=False).kinds
            variant.options.update(dim=options.dim, heads=options.heads, depth=1)
            for layout in options.layouts:
                if LAYOUTS[layout] in kinds:
                    print(f"{variant.label}, {layout}", end=":", flush=True)
                    for row in measure(variant, layout, options, rates):
                        rows.append(row)
                        print(f" {row.get('median_ms', math.nan):.3g}", end="", flush=True)
                    print(" ms", flush=True)
            write()
    except KeyboardInterrupt:
        print("\ninterrupted; what was measured:")
        write()
    print(text)
    if options.out and rows:
        draw(with_exact(rows), options.out / "cost.png")


if __name__ == "__main__":
    use_allocator_of_cells()
    main(sys.argv[1:])
