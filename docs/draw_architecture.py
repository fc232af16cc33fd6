"""Draws the picture in docs/architecture.md from the imports of the code; a test holds them equal.

``python docs/draw_architecture.py`` writes it again. An arrow goes from a folder to one that it imports; an arrow that
others already imply is left out.
"""

from __future__ import annotations

import re
from itertools import combinations, permutations
from pathlib import Path

import grimp

PAGE = Path(__file__).with_name("architecture.md")
EVERYBODY = ("attn_bench.errors", "attn_bench.files", "attn_bench.format", "attn_bench.lease")
FOLDED = {"mano": "mano", "baselines": "baselines"}


def arrows() -> set[tuple[str, str]]:
    """Return which folder imports which, without modules that all may import and without implied arrows."""
    graph = grimp.build_graph("attn_bench", *FOLDED)
    found = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            source, target = _folder(module), _folder(imported)
            # The contract imports the shared transformer lazily, to build a mixer into it; this is not a step of a run.
            if source and target and source != target and (source, target) != ("contract", "nn"):
                found.add((source, target))
    names = sorted({name for arrow in found for name in arrow})
    reaches = set(found)
    for middle in names:
        reaches |= {(a, b) for a, b in permutations(names, 2) if (a, middle) in reaches and (middle, b) in reaches}
    implied = {(a, c) for a, c in found for b in names if b not in (a, c) and (a, b) in reaches and (b, c) in reaches}
    circles = [f"{a} and {b}" for a, b in combinations(names, 2) if (a, b) in reaches and (b, a) in reaches]
    assert not circles, circles
    return found - implied


def _folder(module: str) -> str | None:
    package, _, rest = module.partition(".")
    if package in FOLDED:
        return FOLDED[package]
    return rest.partition(".")[0] or None if module not in EVERYBODY else None


def picture() -> str:
    """Return the flow chart in Mermaid's notation."""
    lines = "\n".join(f"    {source} --> {target}" for source, target in sorted(arrows()))
    return f"```mermaid\nflowchart TD\n{lines}\n```"


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(re.sub(r"```mermaid\n.*?\n```", picture(), page, flags=re.S), encoding="utf-8")
