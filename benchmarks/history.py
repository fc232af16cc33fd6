"""How often `attn-bench history` is wrong about steps: simulated curves without a step, and with planted ones.

    python benchmarks/history.py [--same 4000] [--planted 500] [--out results/history]

A curve has 60 revisions. The noise is like that between processes of the same code (``results/gate``): a standard
deviation of 1 to 2 %, different for each curve, and one process in twenty is off by 10 to 20 %, three times out of
four slower. Machines differ, so half of the curves also drift: neighboring revisions share a part of their noise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from attn_bench.files import atomic_write
from attn_bench.history.changepoints import Change, changes

REVISIONS = 60
NEAR = 2
SIZES = (0.05, 0.10)
PROCESSES = (1, 3)
# Revisions measured since the step.
SINCE = (2, 3, 5, 10, 20)
DRIFT, SHARED = 0.005, 0.7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--same", type=int, default=4000, help="curves without a step, for each row")
    parser.add_argument("--planted", type=int, default=500, help="curves with a step, for each number of the table")
    parser.add_argument("--out", type=Path, default=Path("results/history"))
    options = parser.parse_args()
    text = summary(options.same, options.planted)
    with atomic_write(options.out / "table.md") as file:
        file.write(text.encode())
    print(text)


def noise(generator: np.random.Generator, revisions: int, processes: int) -> np.ndarray:
    """Return the logarithms of one curve: of each revision the median of its processes."""
    spread = generator.uniform(0.01, 0.02)
    values = generator.normal(0, spread, (revisions, processes))
    odd = generator.random(values.shape) < 1 / 20
    side = np.where(generator.random(values.shape) < 3 / 4, 1, -1)
    values += odd * side * np.log(generator.uniform(1.1, 1.2, values.shape))
    if generator.random() < 1 / 2:
        drift = np.zeros(revisions)
        for i in range(1, revisions):
            drift[i] = SHARED * drift[i - 1] + generator.normal(0, DRIFT)
        values += drift[:, None]
    return np.median(values, axis=1)


def planted(generator: np.random.Generator, processes: int, size: float, since: int) -> tuple[np.ndarray, int]:
    """Return a curve with a step up or down, so many revisions before its end, and the step's place."""
    values, at = noise(generator, REVISIONS, processes), REVISIONS - since
    values[at:] += np.log1p(size) * generator.choice([-1, 1])
    return values, at


def near(at: int) -> Callable[[Change], bool]:
    """Tell whether a found step is within two revisions of the planted one."""
    return lambda change: abs(change.at - at) <= NEAR


def summary(same: int, number: int) -> str:
    """Return the table as Markdown."""
    generator = np.random.default_rng(0)
    head = ["processes per revision", "planted", "any step", *(f"found after {since} revisions" for since in SINCE)]
    rows = [[*head, "planted place is in the range told"], ["--:", ":--", *["--:"] * (len(SINCE) + 2)]]
    for processes in PROCESSES:
        false = sum(bool(changes(noise(generator, REVISIONS, processes), processes)) for _ in range(same))
        rows.append([str(processes), "nothing", f"**{100 * false / same:.2f} %**", *["-"] * (len(SINCE) + 1)])
        for size in SIZES:
            shares, named = [], []
            for since in SINCE:
                drawn = [planted(generator, processes, size, since) for _ in range(number)]
                found = [(next(filter(near(at), changes(values, processes)), None), at) for values, at in drawn]
                hits = [(change, at) for change, at in found if change is not None]
                shares.append(f"{100 * len(hits) / number:.0f} %")
                named += [change.first <= at <= change.last for change, at in hits]
            rows.append([str(processes), f"{100 * size:.0f} %", "-", *shares, f"{100 * np.mean(named):.1f} %"])
            print(*rows[-1], file=sys.stderr, flush=True)
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"""# How often the history is wrong about steps

    python benchmarks/history.py --same {same} --planted {number}

{table}

{same} simulated curves of {REVISIONS} revisions with nothing planted: the share of them that is told to have any step.
{number} with a planted step, up or down, for each number of revisions measured since: the share in which a step is told
within {NEAR} revisions of it. Processes of the same code differ by 1 to 2 %, one in twenty by 10 to 20 %
([results/gate](../gate/table.md)); half of the curves drift.
"""


if __name__ == "__main__":
    main()
