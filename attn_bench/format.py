"""Text that comes from outside, made fit to be stored and shown."""

from __future__ import annotations

import re
from codecs import lookup

lookup("utf-16-le")  # now, as a plugin may leave no way to import it later
# Beyond this many characters for each one kept, nothing is looked at: a message may be of any length.
_READ_FACTOR, _READ_LEAST = 8, 1 << 16
# ECMA-48: control sequences, strings up to their terminator, and the two-character escapes.
_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]"
)
# Control characters, and those that turn the direction of the text around them.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def clean(text: str, limit: int = 500, *, lines: bool = False) -> str:
    """Return at most ``limit`` characters of ``text``, without terminal escapes, control characters, lone surrogates.

    It becomes one line, with single spaces, unless ``lines`` is on: then line breaks and indentation stay.
    """
    text = text[: max(_READ_FACTOR * limit, _READ_LEAST)]
    # Two halves of one character are joined, a single half becomes U+FFFD.
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    text = _ESCAPE.sub("", text)
    kept = text.splitlines() if lines else [" ".join(text.split())]
    text = "\n".join(_CONTROL.sub("", line.replace("\t", "    ")).rstrip() for line in kept).strip("\n")
    return text if len(text) <= limit else f"{text[: max(limit - 3, 0)].rstrip()}..."[:limit]
