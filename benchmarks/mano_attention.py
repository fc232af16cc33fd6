"""Time and memory of multipole attention, its slow reference and other attention of the same width.

    python benchmarks/mano_attention.py [--device cuda] [--grids 16 32 64] [--out results/mano-attention]

Implementations are timed alternately, so that changes of the machine's speed affect all of them. Time is the median
over the rounds; ``processor_ms`` is that of the processor, of all threads, which other processes change less;
``times_faster`` is the median over the rounds of the time of the same thing with the slow reference over this one's;
memory is the peak of one step above weights and inputs. The batch has about 32768 points, and 20 samples at most. The
allocator keeps freed memory, as in the cells of a run.

- ``mano unfold``: the reference (:mod:`mano.reference`): unfold, attend, fold, one level after the other.
- ``mano``: backend ``auto``; on the CPU C++, on CUDA Triton kernels. ``mano torch.compile``: inside ``torch.compile``.
- ``mano torch``, on the CPU: backend ``torch``, as on machines without a C++ compiler.
- ``mano bf16``: under autocast to bf16; it gets float32.
- ``mano 4/2``, ``mano 4/2 torch``: windows of 4 x 4 at a distance of 2 cells, for each of ``--windows``; the others
  have windows of 2 x 2 side by side.
- ``mano block``, ``mano unfold block``, ``swinv2 block``: with a feed-forward network four times as wide; the others
  are attention only.
- ``linear maps torch``, ``linear maps ours``, on the CPU: only the products of tokens and weights for queries, keys,
  values and outputs on all levels, two thirds of the floating-point operations of ``mano``, by torch and by what
  :func:`attn_bench.nn.fast_linear.product` calls. Their share of the limit bounds that of ``mano`` in practice.
- ``exact``: every point attends to every point, through ``scaled_dot_product_attention``.
- ``... step``: forward, backward and optimizer step of the model for Darcy at 32 x 32, with its default options or
  those of ``--preset``.

``share_of_limit`` is the least time that the machine would need, over the time taken. The least time is the larger of
two: the floating-point operations of multipole attention (three times the forward ones for both passes) at the measured
matrix rate; and moving the input, the output and their gradients once at the measured copy bandwidth.
``ps_per_multiply_add`` is the processor's time over the multiply-adds of the forward pass. ``cost.png`` shows the
implementations with windows of 2 x 2 side by side. All is written after every grid, so that an interrupted run leaves
what it has.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from turns import (
    BOTH,
    FORWARD,
    Step,
    batch_of,
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

from attn_bench.nn.fast_linear import product
from attn_bench.nn.transformer import Block
from attn_bench.plugin import Problem
from attn_bench.running.measure.flops import count_flops
from attn_bench.running.measure.memory import measure_memory
from mano import MultipoleAttention
from mano.levels import level_grids
from mano.multipole_options import Backend
from mano.plugin import MANOModel

REFERENCE = "mano unfold"
OURS = ("mano", "mano torch.compile", "mano torch")
MAPS = ("linear maps torch", "linear maps ours")
STEP = "training step"
# Least times as fast as with the reference, and the least share of the limit, on the CPU.
FASTER, SHARE = 2.5, 0.75
STEP_BATCH = 8


def with_backend(module: nn.Module, backend: Backend) -> nn.Module:
    """Return a copy of ``module`` whose multipole attention is computed by ``backend``."""
    module = copy.deepcopy(module)
    for part in module.modules():
        if isinstance(part, MultipoleAttention):
            part.backend = backend
    return module


class Exact(nn.Module):
    """Every point attends to every point, through ``scaled_dot_product_attention``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.heads = heads

    def forward(self, x_BHWC: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x_BHWC)).flatten(1, 2).unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x_BHWC.shape))


class InBfloat16(nn.Module):
    """A module under autocast to bf16."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.module(x)


def windows(text: str) -> tuple[int, int]:
    """Return the side of a window and the distance between windows of ``4/2`` or ``4``."""
    size, _, stride = text.partition("/")
    return int(size), int(stride or size)


def reference_of(name: str) -> str:
    """Return the name of the same thing, a block, a training step or attention alone, with the slow reference."""
    kind = name.rsplit(" ", 1)[-1]
    return f"{REFERENCE} {kind}" if kind in ("block", "step") else REFERENCE


def implementations(grid: int, dim: int, heads: int, device: str, more: list[tuple[int, int]]) -> dict[str, nn.Module]:
    """Return the modules to compare, each (B, grid, grid, dim) to the same; ``more`` windows besides 2 x 2."""
    from timm.models.swin_transformer_v2 import SwinTransformerV2Block

    attention = MultipoleAttention(dim, heads=heads)
    ours: dict[str, nn.Module] = {
        "mano": attention,
        "mano bf16": InBfloat16(attention),
        "mano torch.compile": torch.compile(attention, dynamic=False),
    }
    if device == "cpu":
        ours["mano torch"] = with_backend(attention, "torch")
    for size, stride in more:
        if size <= grid:
            other = MultipoleAttention(dim, heads=heads, window_size=size, stride=stride)
            ours[f"mano {size}/{stride}"] = other
            if device == "cpu":
                ours[f"mano {size}/{stride} torch"] = with_backend(other, "torch")
    block = Block(copy.deepcopy(attention), dim, 4.0, normalise=False)
    return {
        REFERENCE: with_backend(attention, "reference"),
        **ours,
        f"{REFERENCE} block": with_backend(block, "reference"),
        "mano block": block,
        "swinv2 block": SwinTransformerV2Block(
            dim, (grid, grid), heads, window_size=min(8, grid), shift_size=min(4, grid // 4)
        ),
        "exact": Exact(dim, heads),
    }


def linear_maps(tokens: int, dim: int, multiply: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Step]:
    """Return the products of all tokens with the weights for queries, keys, values and outputs, and their gradients.

    In the layouts of :mod:`mano.tiled.eager`: T tokens, C = ``dim`` channels, F features of queries, keys and values.
    """
    (y_TC, g_TC), o_FT, dqkv_FT = torch.randn(2, tokens, dim), torch.randn(dim, tokens), torch.randn(3 * dim, tokens)
    qkv_FC, out_CF = torch.randn(3 * dim, dim), torch.randn(dim, dim)
    qkv_CF, out_FC = qkv_FC.t().contiguous(), out_CF.t().contiguous()

    def forward() -> None:
        multiply(qkv_FC, y_TC)
        multiply(out_CF, o_FT.t())

    def forward_backward() -> None:
        forward()
        multiply(out_FC, g_TC)
        multiply(o_FT, g_TC.t())
        multiply(qkv_CF, dqkv_FT.t())
        multiply(dqkv_FT, y_TC.t())

    return {FORWARD: forward, BOTH: forward_backward}


def training_steps(
    device: str, grid: int, batch: int, preset: str | None, more: list[tuple[int, int]]
) -> dict[str, Step]:
    """Return training steps of a model for Darcy: with the reference attention, with ours, with ``more`` windows."""
    options = dict(MANOModel.presets[preset]) if preset else {}
    problem = Problem("field", 1, 1, (grid, grid))
    ours = MANOModel().make(problem, **options).to(device)
    slow = with_backend(ours, "reference")
    x, y = torch.randn(2, batch, 1, grid, grid, device=device)

    def step_of(model: nn.Module) -> Step:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

        def step() -> None:
            optimizer.zero_grad()
            F.mse_loss(model(x).float(), y).backward()
            optimizer.step()

        return step

    compiled = torch.compile(copy.deepcopy(ours), dynamic=False)
    half = InBfloat16(copy.deepcopy(ours))
    models = {REFERENCE: slow, "mano": ours, "mano bf16": half, "mano torch.compile": compiled}
    for size, stride in more:
        other = MANOModel().make(problem, **options | {"window_size": size, "stride": stride}).to(device)
        models |= {f"mano {size}/{stride}": other, f"mano {size}/{stride} torch": with_backend(other, "torch")}
    return {f"{name} step": step_of(model) for name, model in models.items()}


def compare(work: dict[str, Step], device: str, rounds: int) -> dict[str, dict[str, float]]:
    """Return median time, times the reference's speed, and peak memory of each step."""
    both = take_turns(work, device, rounds)
    times = {name: [clock for clock, _ in taken] for name, taken in both.items()}
    found = {}
    for name, taken in times.items():
        reference = times.get(reference_of(name), [math.nan] * rounds)
        ratios = [r / t for t, r in zip(taken, reference, strict=True)]
        found[name] = {
            "median_ms": 1e3 * statistics.median(taken),
            "fastest_ms": 1e3 * min(taken),
            "processor_ms": 1e3 * statistics.median(processor for _, processor in both[name]),
            "times_faster": statistics.median(ratios),
            "peak_memory_mib": measure_memory(work[name], device).peak_mib,
        }
    return found


def measure(options: argparse.Namespace, bandwidth: float, rate: float) -> Iterator[pd.DataFrame]:
    """Yield, after each grid and at the end, a row for each grid, pass and implementation; times in ms, memory in MiB.

    Args:
        options: of the command line.
        bandwidth: bytes read and written per second.
        rate: floating-point operations per second.
    """
    rows: list[dict[str, object]] = []
    slow: set[tuple[str, str]] = set()
    for grid in options.grids:
        torch.manual_seed(0)
        torch.compiler.reset()  # or it would give up after a few grids
        batch = batch_of(grid)
        x = torch.randn(batch, grid, grid, options.dim, device=options.device)
        found = implementations(grid, options.dim, options.heads, options.device, options.windows)
        modules = {n: m.to(options.device) for n, m in found.items()}
        tokens = batch * sum(h * w for h, w in level_grids((grid, grid), 2, 2))
        libraries = dict(zip(MAPS, (lambda a, b: a @ b.t(), product))) if options.device == "cpu" else {}
        maps = {name: linear_maps(tokens, options.dim, multiply) for name, multiply in libraries.items()}
        each = {name: steps(module, x) for name, module in modules.items()} | maps
        for kind in (FORWARD, BOTH):
            work = {name: both[kind] for name, both in each.items() if (name, kind) not in slow}
            for name in list(work):
                # Costs grow with the grid, so implementations too slow here are not tried on larger grids.
                if min(seconds(work[name], options.device)[0] for _ in range(2)) > options.limit:
                    slow.add((name, kind))
                    del work[name]
            for name, values in compare(work, options.device, options.rounds).items():
                rows.append({"grid": grid, "batch": batch, "pass": kind, "implementation": name} | values)
        with torch.no_grad():  # last: counting may switch compilation off for the rest of the process
            ours = {name: module for name, module in modules.items() if isinstance(module, MultipoleAttention)}
            counted = {name: count_flops(partial(module, x)).total for name, module in ours.items()}
        flops = dict.fromkeys((REFERENCE, *OURS), counted["mano"]) | dict.fromkeys(maps, 8 * tokens * options.dim**2)
        for row in rows:
            if row["grid"] == grid and row["implementation"] in counted:
                row["ps_per_multiply_add"] = 2e9 * row["processor_ms"] / counted[row["implementation"]]
            if row["grid"] == grid and row["implementation"] in flops:
                passes, moved = (1, 2) if row["pass"] == FORWARD else (3, 4)
                least_s = max(passes * flops[str(row["implementation"])] / rate, moved * x.nbytes / bandwidth)
                row["share_of_limit"] = 1e3 * least_s / row["median_ms"]
        print(f"{grid} x {grid} done", flush=True)
        yield _per_token(rows)
    if not options.no_step:
        step = compare(
            training_steps(options.device, 32, STEP_BATCH, options.preset, options.windows),
            options.device,
            options.rounds,
        )
        rows += [
            {"grid": 32, "batch": STEP_BATCH, "pass": STEP, "implementation": name} | v for name, v in step.items()
        ]
        yield _per_token(rows)


def _per_token(rows: list[dict[str, object]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    frame["ns_per_token"] = 1e6 * frame["median_ms"] / (frame["batch"] * frame["grid"] ** 2)
    return frame


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Plot time and memory for each token over the side of the grid, forward and with the backward pass."""
    from matplotlib.ticker import FuncFormatter

    frame = frame[(frame["pass"] != STEP) & ~frame["implementation"].str.contains("/")].copy()
    frame["KiB per token"] = 1024 * frame["peak_memory_mib"] / (frame["batch"] * frame["grid"] ** 2)
    frame = frame.rename(columns={"ns_per_token": "ns per token", "grid": "side of the grid"})
    figure, axes = subplots(2, 11)
    names = list(dict.fromkeys(frame["implementation"]))
    for column, kind in zip(axes.T, (FORWARD, BOTH), strict=True):
        for axis, quantity in zip(column, ("ns per token", "KiB per token"), strict=True):
            plot_lines(
                frame[frame["pass"] == kind],
                "side of the grid",
                quantity,
                "implementation",
                names,
                axis,
                legend=axis is axes[0, 0],
            )
            axis.set_yscale("log", base=2)
            axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        column[0].set_title(kind)
    sides = sorted(frame["side of the grid"].unique())
    axes[0, 0].set_xticks(sides, [str(n) for n in sides])
    save(figure, path, (0, 0, 1, 0.9), loc="upper center", ncols=4)


def markdown(frame: pd.DataFrame, bandwidth: float, rate: float, device: str, command: str) -> str:
    """Return the tables with the machine and the command."""
    lines = [
        "# Multipole attention: time and memory",
        "",
        f"`{command}`",
        "",
        machine(device, bandwidth, rate),
    ]
    if device == "cpu":
        lines += ["", *targets(frame)]
    columns = [
        *("grid", "batch", "implementation", "median_ms", "fastest_ms", "processor_ms", "times_faster"),
        *("peak_memory_mib", "ns_per_token", "share_of_limit", "ps_per_multiply_add"),
    ]
    for kind in dict.fromkeys(frame["pass"]):
        rows = [list(row) for _, row in frame.loc[frame["pass"] == kind, columns].iterrows()]
        lines += ["", f"## {kind}", "", *table(columns, rows)]
    return "\n".join(lines) + "\n"


def targets(frame: pd.DataFrame) -> list[str]:
    """Return one line for each target on the CPU, for the measured grids."""
    rows = frame.set_index(["pass", "implementation", "grid"]).sort_index()
    slow, lines = rows.loc[BOTH, REFERENCE], list[str]()

    def say(what: str, values: pd.Series, reached: pd.Series) -> None:
        shown = ", ".join(f"{value:.3g}" for value in values)
        short = ", ".join(str(grid) for grid in values.index[~reached])
        lines.append(f"- {what}: {shown}; {f'missed at {short}' if short else 'met'}.")

    for name in ("mano", "mano torch.compile", "mano block"):
        ours = rows.loc[BOTH, name]
        grids = [grid for grid in (32, 64, 128) if grid in ours.index]
        if grids:
            where = ", ".join(map(str, grids))
            times = ours["times_faster"][grids]
            what = f"{name}, forward and backward at {where}, times as fast as {reference_of(name)}"
            say(f"{what} (target: >= {FASTER})", times, times >= FASTER)
        if name == "mano block":
            continue
        if grids:
            memory = (ours["peak_memory_mib"] / slow["peak_memory_mib"])[grids]
            say(f"{name}, its peak memory at {where}, as a share (target: <= 0.5)", memory, memory <= 0.5)
        if len(share := ours.loc[[grid for grid in ours.index if grid >= 32], "share_of_limit"]):
            say(f"{name}, share of the limit from 32 up (target: >= {SHARE})", share, share >= SHARE)
        if STEP in rows.index:
            times = rows.loc[STEP, f"{name} step"]["times_faster"]
            say(
                f"{name}, training step, times as fast as with {REFERENCE} (target: >= {FASTER})",
                times,
                times >= FASTER,
            )
        large = ours.loc[[grid for grid in ours.index if 64 <= grid <= 512]]
        if len(large) > 1:
            per_token = large[["median_ms", "fastest_ms"]].div(large["batch"] * large.index**2, axis=0)
            spread = per_token.max() / per_token.min()
            what = f"{name}, largest over smallest cost per token, 64 to 512, median and fastest (target: <= 1.2)"
            say(what, spread, spread <= 1.2)
    if maps := [rows.loc[BOTH, name]["share_of_limit"] for name in MAPS if (BOTH, name) in rows.index]:
        best = pd.concat(maps, axis=1).max(axis=1)
        best = best[best.index >= 32]
        say(f"the linear maps alone, share of their limit from 32 up (target of mano: >= {SHARE})", best, best >= SHARE)
    for kind in (FORWARD, BOTH):
        cost = rows.loc[kind]["ps_per_multiply_add"].unstack("implementation")
        for name in cost.columns[cost.columns.str.fullmatch(r"mano \d+/\d+")]:
            ratio = (cost[name] / cost["mano"]).dropna()
            say(f"{name}, {kind}, time per multiply-add over that of 2 x 2 (target: <= 1.5)", ratio, ratio <= 1.5)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--grids", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512])
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument(
        "--windows",
        type=windows,
        nargs="*",
        default=[(2, 1), (4, 2), (4, 4), (5, 5), (6, 6), (8, 8)],
        help="further windows: side/distance in cells, or the side (2/1 4/2 4 5 6 8 if unset)",
    )
    parser.add_argument("--preset", choices=MANOModel.presets, help="of the model whose training step is timed")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--limit", type=float, default=2.0, help="skip implementations that take longer than this many seconds"
    )
    parser.add_argument("--threads", type=int, help="threads on the CPU")
    parser.add_argument("--no-step", action="store_true", help="skip the training step")
    parser.add_argument("--out", type=Path, help="write table.csv, table.md and cost.png into this folder")
    options = parser.parse_args()
    use_allocator_of_cells()
    if options.threads:
        torch.set_num_threads(options.threads)
    bandwidth, rate = machine_rates(options.device)
    command = " ".join(["python", "benchmarks/mano_attention.py", *sys.argv[1:]])
    text = ""
    for frame in measure(options, bandwidth, rate):
        text = markdown(frame, bandwidth, rate, options.device, command)
        if options.out:
            write_tables(options.out, frame, text)
            draw(frame, options.out / "cost.png")
    print(text)


if __name__ == "__main__":
    main()
