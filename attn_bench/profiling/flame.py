"""The page of a profile: one self-contained file that makes no requests, with a flame graph for each recording."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attn_bench.format import significant
from attn_bench.profiling import breakdown
from attn_bench.profiling.recorded import Frame, Kind, Recording, Stack
from attn_bench.report import html

TEMPLATES = Path(__file__).parent / "templates"
# Of a frame, in pixels.
HEIGHT = 18
# Frames that are narrower, as a share of the step, are not drawn.
NARROWEST = 0.0005
# Wider ones can be reached with the keyboard.
REACHED = 0.01


@dataclass
class Node:
    """A frame with everything that is called from it.

    Attributes:
        time_ms: per call of the step, with what is called.
        allocated: bytes in all calls, with what is called.
        inner: by frame, in the order of their first calls.
    """

    time_ms: float = 0.0
    allocated: int = 0
    inner: dict[Frame, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawn:
    """A frame as it is drawn.

    Attributes:
        x, width: in percent of the step.
        y: in pixels.
        text: shown in it.
        says: its name, time and allocations, for who points at it.
    """

    kind: Kind
    x: float
    y: int
    width: float
    text: str
    says: str

    @property
    def reached(self) -> bool:
        """Whether it can be reached with the keyboard."""
        return self.width >= 100 * REACHED


def tree(recording: Recording) -> Node:
    """Return the stacks of a recording as a tree."""
    root = Node()
    for stack, spent in recording.spent.items():
        way = [root]
        for frame in stack:
            way.append(way[-1].inner.setdefault(frame, Node()))
        for node in way:
            node.time_ms += recording.ms(spent)
            node.allocated += spent.allocated
    return root


def frames(recording: Recording) -> list[Drawn]:
    """Return the frames of a flame graph: the step above its parts, these above modules, and those above operators."""
    root = tree(recording)
    top = [(Frame("part", recording.step.replace("_", " ")), root)] if len(root.inner) > 1 else list(root.inner.items())
    return [frame for each in top for frame in _drawn(*each, 0.0, (), recording)] if root.time_ms > 0 else []


def _drawn(frame: Frame, node: Node, x: float, above: Stack, recording: Recording) -> Iterator[Drawn]:
    share = node.time_ms / recording.total_ms
    if share < NARROWEST:
        return
    name = _name(frame)
    says = f"{name}: {significant(node.time_ms)} ms per call, {100 * share:.1f} %"
    if node.allocated:
        says += f", {significant(node.allocated / breakdown.MIB / recording.calls)} MiB allocated"
    around = next((each.name for each in reversed(above) if each.kind == "module"), "")
    # The frames above say the rest of a path.
    short = name.removeprefix(f"{around}.") if frame.kind == "module" and around else name
    yield Drawn(frame.kind, round(x, 4), len(above) * HEIGHT, round(100 * share, 4), short, says)
    for inner, below in node.inner.items():
        yield from _drawn(inner, below, x, (*above, frame), recording)
        x += 100 * below.time_ms / recording.total_ms


def _name(frame: Frame) -> str:
    return f"{frame.name or 'model'} ({frame.of})" if frame.kind == "module" else frame.name


def html_page(recordings: Sequence[Recording], failures: Sequence[str] = ()) -> str:
    """Return the page.

    Args:
        failures: a line for each cell that could not be recorded.
    """
    from markupsafe import Markup

    environment = html.templates(TEMPLATES)
    environment.globals |= {
        "title": breakdown.title,
        "headline": breakdown.headline,
        "number": breakdown.number,
        "calls": breakdown.calls,
    }
    css = (html.TEMPLATES / "page.css").read_text(encoding="utf-8")
    css += (TEMPLATES / "profile.css").read_text(encoding="utf-8")
    script = (TEMPLATES / "profile.js").read_text(encoding="utf-8")
    return environment.get_template("profile.html.j2").render(
        css=Markup(css),
        script=Markup(script),
        policy=html.policy(css, script),
        parts=[_part(*part) for part in breakdown.longest(recordings)],
        failures=failures,
    )


def _part(
    recording: Recording, operators: list[breakdown.OperatorRow], modules: list[breakdown.ModuleRow]
) -> dict[str, Any]:
    drawn = frames(recording)
    return {
        "recording": recording,
        "frames": drawn,
        "height": max((frame.y for frame in drawn), default=0) + HEIGHT,
        "row": HEIGHT - 1,
        "operators": operators,
        "modules": modules,
    }
