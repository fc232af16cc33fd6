"""How a command ends that did not end well: one line, an exit status, and a log where nobody foresaw the error."""

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

# Of sysexits.h: what failed is the program, or what it was to write to; 130 is the shell's for an interruption.
WRONG_INPUT, FAULT, NOT_WRITTEN, INTERRUPTED = 2, 70, 74, 130
MESSAGE = 2000


class Unforeseen(Exception):
    """An error that nobody foresaw (its cause), and the results folder that was worked on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


@contextlib.contextmanager
def logged_in(folder: Path) -> Iterator[None]:
    """Have the traceback of an unforeseen error written to the logs of a results folder."""
    try:
        yield
    except Exception as error:
        if message(error) is None and not interrupted(error):
            raise Unforeseen(folder) from error
        raise


def original(error: BaseException) -> BaseException:
    """Return the error that was unforeseen."""
    return error.__cause__ if isinstance(error, Unforeseen) and error.__cause__ else error


def message(error: BaseException) -> str | None:
    """Return what to say of an error that a user can cause, or None if it is none."""
    if isinstance(error, USER_ERRORS):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror or error}: {os.fsdecode(error.filename)}"
    return None


def interrupted(error: BaseException | None) -> bool:
    """Tell whether an error is an interruption, or what a library made of one."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def complain(text: str) -> None:
    """Say what is wrong, in one line on standard error."""
    print(f"attn-bench: {clean(text, MESSAGE)}", file=sys.stderr)


class Lines(logging.Handler):
    """Prints what the harness has to say beside its results, such as files that it skips."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        complain(record.getMessage())


def report_fault(error: BaseException) -> None:
    """Log the traceback of an unforeseen error, and say in one line what happened and where the log is."""
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
    """Write the traceback to the first folder that takes it."""
    text = (
        f"attn-bench {' '.join(sys.argv[1:])}\nPython {sys.version}\n{platform.platform()}\n\n"
        f"{''.join(traceback.format_exception(error))}"
    )
    for folder in folders:
        # Without a home folder its name is no path.
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
