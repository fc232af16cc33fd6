"""How a command fails: one line, an exit status, and a log if the error was unexpected."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from attn_bench.errors import USER_ERRORS
from attn_bench.format import clean

# EX_SOFTWARE and EX_IOERR of sysexits.h; 130 is the shell's status for an interruption.
WRONG_INPUT, FAULT, NOT_WRITTEN, INTERRUPTED = 2, 70, 74, 130
MESSAGE = 2000


class Unforeseen(Exception):
    """An unexpected error (its cause), and the results folder in use."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


@contextlib.contextmanager
def logged_in(folder: Path) -> Iterator[None]:
    """Write the traceback of an unexpected error in this block to the logs of a results folder."""
    try:
        yield
    except Exception as error:
        if message(error) is None and not interrupted(error):
            raise Unforeseen(folder) from error
        raise


def original(error: BaseException) -> BaseException:
    """Return the unexpected error."""
    return error.__cause__ if isinstance(error, Unforeseen) and error.__cause__ else error


def message(error: BaseException) -> str | None:
    """Return the message for an error that a user can cause, or None for any other error."""
    if isinstance(error, USER_ERRORS):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror or error}: {os.fsdecode(error.filename)}"
    return None


def interrupted(error: BaseException | None) -> bool:
    """Tell whether an error is an interruption, or was caused by one inside a library."""
    chain: list[BaseException] = []  # which can be a circle, when an error is raised from one that it caused
    while error is not None and error not in chain:
        if isinstance(error, KeyboardInterrupt):
            return True
        chain.append(error)
        error = error.__cause__ or error.__context__
    return False


def complain(text: str) -> None:
    """Print what is wrong as one line on standard error."""
    print(f"attn-bench: {clean(text, MESSAGE)}", file=sys.stderr)


class Lines(logging.Handler):
    """Prints messages of the harness besides its results, such as files that it skips."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        complain(record.getMessage())


def report_fault(error: BaseException) -> None:
    """Log the traceback of an unexpected error, and print one line with what happened and where the log is."""
    folders = [error.folder / "logs"] if isinstance(error, Unforeseen) and error.folder.is_dir() else []
    error = original(error)
    what = clean("".join(traceback.format_exception_only(error)), 500)
    log = _log(error, [*folders, *_log_folders()])
    where = f"its traceback is in {log}" if log else "its traceback could not be written anywhere"
    complain(f"unexpected error: {what}; {where} (--debug shows it)")


def _log_folders() -> Iterator[Path]:
    if cache := os.environ.get("ATTN_BENCH_CACHE"):
        yield Path(cache) / "logs"
    with contextlib.suppress(Exception):
        import platformdirs

        yield platformdirs.user_log_path("attn-bench")
    with contextlib.suppress(OSError):
        yield Path(tempfile.gettempdir())


def _log(error: BaseException, folders: list[Path]) -> Path | None:
    """Write the traceback to the first folder that can be written."""
    text = (
        f"attn-bench {' '.join(sys.argv[1:])}\nPython {sys.version}\n{platform.platform()}\n\n"
        f"{''.join(traceback.format_exception(error))}"
    )
    for folder in folders:
        # Without a home folder there is no cache path.
        if folder.is_absolute() or folder.parent.is_dir():
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile(
                    "w", dir=folder, prefix=time.strftime("error-%Y%m%d-%H%M%S-"), suffix=".txt", delete=False,
                    encoding="utf-8", errors="backslashreplace",
                ) as file:  # fmt: skip
                    file.write(text)
                return Path(file.name)
    return None
