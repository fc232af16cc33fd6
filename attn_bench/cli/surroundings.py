"""Protects a command from its surroundings: streams in any encoding, full or closed, and warnings as errors."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from errno import EPIPE
from typing import Any

from attn_bench.running.processes import without_errors

# Replacements in encodings that lack these characters.
SUBSTITUTES = {"±": "+-", "…": "...", "†": "+", "‡": "++"}
REPLACE = "attn_bench.replace"


def _replacement(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(SUBSTITUTES.get(character, "?") for character in error.object[error.start : error.end]), error.end


codecs.register_error(REPLACE, _replacement)


class Output:
    """A standard stream that raises nothing: what cannot be written is dropped.

    Attributes:
        error: the first one that occurred.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write ``text`` as far as possible."""
        with self._kept():
            self.stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush what was written."""
        with self._kept():
            self.stream.flush()

    @property
    def failure(self) -> str:
        """Why something was not written; empty if everything was, or if the reader closed the pipe early."""
        return "" if self.error is None or self.error.errno == EPIPE else self.error.strerror or str(self.error)

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error
            # The contents of the buffer would fail again when Python exits.
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.stream.fileno())
                os.close(null)


@contextlib.contextmanager
def standard_streams() -> Iterator[tuple[Output, Output]]:
    """Replace ``sys.stdout`` and ``sys.stderr`` by an :class:`Output` each, and yield both."""
    _open_descriptors()
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as null:
        outputs = Output(before[0] or null), Output(before[1] or null)
        for output in outputs:
            if isinstance(output.stream, io.TextIOWrapper):
                output.stream.reconfigure(errors=REPLACE)
        sys.stdout, sys.stderr = outputs
        try:
            yield outputs
        finally:
            for output in outputs:
                output.flush()
            sys.stdout, sys.stderr = before


def _open_descriptors() -> None:
    """Reopen any of the first three descriptors that is closed, or the next file opened would become one of them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


@contextlib.contextmanager
def warnings_are_no_errors() -> Iterator[None]:
    """Restore Python's default warnings if they were turned into errors, here and in child processes.

    A warning of a library to its own developers must not end a run.
    """
    given = os.environ.get("PYTHONWARNINGS")
    with warnings.catch_warnings():
        filters: Any = warnings.filters
        kept = [each for each in filters if each[0] != "error"]
        warnings.resetwarnings()
        filters.extend(kept)
        try:
            if given is not None:
                os.environ["PYTHONWARNINGS"] = without_errors(given)
            yield
        finally:
            if given is not None:
                os.environ["PYTHONWARNINGS"] = given
