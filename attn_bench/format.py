"""Text: cleaning untrusted text, and formatting numbers and labels."""

from __future__ import annotations

import hashlib
import html
import math
import re
import unicodedata
from codecs import lookup
from collections.abc import Iterable, Mapping, Sequence

lookup("utf-16-le")  # now, as a plugin may prevent importing it later
# Input beyond this many characters per character kept is ignored, as a message may be of any length.
_READ_FACTOR, _READ_LEAST = 8, 1 << 16
# ECMA-48: control sequences, strings up to their terminator, and the two-character escapes.
_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]"
)
# Control characters, and those that change the direction of text.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def clean(text: str, limit: int = 500, *, lines: bool = False) -> str:
    """Return at most ``limit`` characters of ``text``, without terminal escapes, control characters, lone surrogates.

    The result is one line with single spaces, unless ``lines`` is true; then line breaks and indentation stay.
    """
    text = text[: max(_READ_FACTOR * limit, _READ_LEAST)]
    # Surrogate pairs are joined; a lone surrogate becomes U+FFFD.
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    text = _ESCAPE.sub("", text)
    kept = text.splitlines() if lines else [" ".join(text.split())]
    text = "\n".join(_CONTROL.sub("", line.replace("\t", "    ")).rstrip() for line in kept).strip("\n")
    return text if len(text) <= limit else f"{text[: max(limit - 3, 0)].rstrip()}..."[:limit]


LABEL_WIDTH = 40
_BETWEEN = " ,;[]()"
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def plain(text: object, width: int = LABEL_WIDTH) -> str:
    """Return ``text`` as one line of at most ``width`` printable characters, cut in the middle if it is longer."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split()) or "?"
    if len(line) <= width:
        return line
    tail = width // 3
    return f"{line[: width - tail - 1].rstrip()}…{line[-tail:].lstrip()}"


def distinct(labels: Iterable[str], width: int = LABEL_WIDTH) -> dict[str, str]:
    """Return a short, unique name to show for each label.

    Labels that would look the same keep the part in which they differ, or get the beginning of their hash.
    """
    short = {label: plain(label, width) for label in labels}
    for alike in _alike(short):
        short |= {label: _differing(label, alike, width) for label in alike}
    digits = 4
    while twins := _alike(short):
        # A label that is shown unchanged keeps its name.
        whole = {next((label for label in alike if short[label] == label), None) for alike in twins}
        for label in (label for alike in twins for label in alike if label not in whole):
            ending = f" #{hashlib.sha256(label.encode(errors='replace')).hexdigest()[:digits]}"
            short[label] = plain(label, width - len(ending)) + ending
        digits += 4
    return short


def _alike(short: Mapping[str, str]) -> list[list[str]]:
    """Return the groups of labels that look the same."""
    groups: dict[str, list[str]] = {}
    for label, name in short.items():
        groups.setdefault(unicodedata.normalize("NFKC", name), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def _differing(label: str, others: Sequence[str], width: int) -> str:
    """Cut a label, keeping the part in which it differs from others, with the whole word around that part."""
    line, lines = plain(label, len(label) + 1), [plain(other, len(other) + 1) for other in others]
    first = _shared(lines)
    last = len(line) - _shared([each[first:][::-1] for each in lines])
    while first > 0 and last - first < width // 2 and line[first - 1] not in _BETWEEN:
        first -= 1
    while last < len(line) and last - first < width // 2 and line[last] not in _BETWEEN:
        last += 1
    middle = line[first:last]
    room = width - len(middle) - 2
    if room < 2:
        return plain(label, width)
    tail = min(len(line) - last, room // 3)
    head = min(first, room - tail)
    start = line[:first] if head == first else f"{line[:head].rstrip()}…"
    end = line[last:] if tail == len(line) - last else f"…{line[len(line) - tail :].lstrip()}"
    return f"{start}{middle}{end}"


def _shared(lines: Sequence[str]) -> int:
    """Return the length of the common prefix of lines."""
    return next((i for i, letters in enumerate(zip(*lines)) if len(set(letters)) > 1), min(map(len, lines)))


def for_figure(text: str) -> str:
    """Keep matplotlib from treating ``$`` as mathematics and a leading underscore as 'not in the legend'."""
    escaped = text.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def for_markdown(text: str) -> str:
    """Escape everything that Markdown, its tables or its HTML would treat as markup."""
    return re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", html.escape(text, quote=False))


def significant(value: float, digits: int = 3) -> str:
    """Return ``value`` with ``digits`` significant digits, but all digits of its integer part."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return str(value)
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if exponent < -4 or exponent >= 9:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - exponent)}f}"


def rounded(value: float, digits: int = 2) -> str:
    """Return ``value`` rounded to ``digits`` significant digits, padded with zeros: 303 becomes 300."""
    return f"{float(f'{value:.{digits - 1}e}'):.0f}"


def with_spread(mean: float, spread: float | None) -> str:
    """Return ``mean ± spread``: the spread to two digits, the mean to as many decimals but no more than four digits.

    A spread that would need an exponent has the decimals of the mean, unless nothing would be left of it.
    """
    if spread is None:
        return significant(mean)
    if spread <= 0 or abs(mean) < 1e-4:
        return f"{significant(mean)} ± {significant(spread, 2)}"
    decimals = max(0, min(1 - math.floor(math.log10(spread)), 3 - math.floor(math.log10(abs(mean)))))
    shown, as_many = significant(spread, 2), f"{spread:.{decimals}f}"
    return f"{mean:.{decimals}f} ± {as_many if 'e' in shown and float(as_many) else shown}"


def human(value: float) -> str:
    """Return a count with a decimal prefix: 212 k, 28.3 M."""
    for factor, prefix in PREFIXES:
        # 999.5 k would become 1000 k.
        if abs(value) >= factor * 0.9995:
            return f"{significant(value / factor)} {prefix}"
    return significant(value) if value % 1 else f"{value:.0f}"


def count(number: int, noun: str, plural: str = "") -> str:
    """Return ``number`` and ``noun``, in the plural unless it is one."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
