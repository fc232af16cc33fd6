"""Which arrays are the input and which the target, and which part of each: ``density+Vx``, ``Q[4]``, ``u[t=0:10]``."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from attn_bench.plugin import OptionError
from attn_bench.tasks.fields.axis_letters import LETTERS, checked_letters

_PART = re.compile(rf"(?P<name>.+?)(?::(?P<axes>[{LETTERS}{LETTERS.upper()}]+))?(?P<cuts>(?:\[[^\[\]]*\])*)", re.DOTALL)
_CUT = re.compile(r"\[(?:([tc])=)?(\d+)(?::(\d+))?\]")
FORM = "NAME, NAME[CHANNEL], NAME[FROM:TO] or NAME[t=FROM:TO], several joined by +, each with its axes as in NAME:nhw"


@dataclass(frozen=True)
class Part:
    """One array of the input or the target.

    Attributes:
        name: of the array.
        axes: its own axes, if they were given for it.
        channels, steps: the range taken of them; None takes all channels, and leaves the steps a time axis.
    """

    name: str
    axes: str | None = None
    channels: tuple[int, int] | None = None
    steps: tuple[int, int] | None = None

    @property
    def cut(self) -> str:
        """The ranges as they are written."""
        words = [
            f"[{letter}{low}{f':{high}' if high > low + 1 else ''}]"
            for letter, range_ in (("t=", self.steps), ("", self.channels))
            if range_ is not None
            for low, high in [range_]
        ]
        return "".join(words)


def parsed(text: str, names: Collection[str], option: str) -> tuple[Part, ...]:
    """Return the parts that ``text`` names; a name of a file goes before any notation.

    Args:
        names: of the arrays there are.
        option: for messages.

    Raises:
        OptionError: it has another form.
    """
    if text in names:
        return (Part(text),)
    return tuple(_part(each.strip(), names, f"fields.{option}={text}") for each in text.split("+"))


def _part(text: str, names: Collection[str], where: str) -> Part:
    if text in names:
        return Part(text)
    matched = _PART.fullmatch(text)
    if matched is None:
        raise OptionError(f"{where}: write {FORM}")
    cuts = re.findall(r"\[[^\[\]]*\]", matched["cuts"])
    ranges: dict[str, tuple[int, int]] = {}
    for cut in cuts:
        found = _CUT.fullmatch(cut)
        letter = (found[1] or "c") if found else ""
        if found is None or letter in ranges:
            raise OptionError(f"{where}: {cut} is not one channel [4], channels [0:3] or steps [t=0:10]; write {FORM}")
        low = int(found[2])
        high = low + 1 if found[3] is None else int(found[3])
        if high <= low:
            raise OptionError(f"{where}: {cut} is empty; the second number is the first that is left out")
        ranges[letter] = (low, high)
    axes = None if matched["axes"] is None else checked_letters(matched["axes"], where)
    return Part(matched["name"], axes, ranges.get("c"), ranges.get("t"))
