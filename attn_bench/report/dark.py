"""Figures for dark pages: the grays of a figure, from white to black, become those of the page's dark scheme."""

from __future__ import annotations

import re

# The page and its text in the dark scheme of page.css, and the gray of text in figures.
PAGE, INK, TEXT_GRAY = (0x16, 0x18, 0x1B), (0xE6, 0xE8, 0xEB), 0x26
_PAINTED = re.compile(rb"(fill|stroke): ?#([0-9a-f]{2})\2\2\b")


def with_dark_scheme(svg: bytes) -> bytes:
    """Return an SVG of matplotlib with a style for readers who prefer dark pages; in light ones it looks as before.

    Colors of models stay. White text stays white, as it is drawn on one of these colors.
    """
    grays = sorted(set(_PAINTED.findall(svg)))
    if not grays or b"</defs>" not in svg:
        return svg
    rules = "".join(_rule(what.decode(), int(gray, 16)) for what, gray in grays)
    style = f"<style>@media (prefers-color-scheme: dark) {{{rules}}}</style>"
    return svg.replace(b"</defs>", style.encode() + b"</defs>", 1)


def _rule(what: str, gray: int) -> str:
    share = min((255 - gray) / (255 - TEXT_GRAY), 1.0)
    color = "".join(f"{round(page + share * (ink - page)):02x}" for page, ink in zip(PAGE, INK))
    # Texts are groups of glyphs.
    element = "path" if what == "fill" and gray == 255 else ""
    return f'{element}[style*="{what}: #{gray:02x}{gray:02x}{gray:02x}"]{{{what}:#{color}!important}}'
