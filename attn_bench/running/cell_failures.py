"""Failures in a cell: the status and one line of explanation."""

from __future__ import annotations

import contextlib
import linecache
import sys
import traceback
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from attn_bench.errors import DiskError, UserError
from attn_bench.format import clean
from attn_bench.plugin import Model, OptionError, Unsupported
from attn_bench.running.device.select import is_out_of_memory
from attn_bench.running.train.course import Diverged

FailedStatus = Literal["oom", "crashed", "diverged", "unsupported"]
REFUSALS = (AssertionError, ValueError, NotImplementedError)
# Functions in which torch asserts on behalf of its callers.
_ASSERTS = ("_assert", "_check")


class Refused(Unsupported):
    """A library that the model is built on refused what it was given."""


@dataclass(frozen=True)
class Failure:
    """Why something failed: a status and one line."""

    status: FailedStatus
    reason: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Classify an error; print the traceback to the log unless the reason says where the error arose."""
        if isinstance(error, Unsupported | OptionError):
            status: FailedStatus = "unsupported"
        elif isinstance(error, Diverged):
            status = "diverged"
        else:
            status = "oom" if is_out_of_memory(error) else "crashed"
        if status == "crashed" or isinstance(error, Refused):
            with contextlib.suppress(Exception):  # standard error may be closed
                traceback.print_exception(error)
        known = isinstance(error, Unsupported | OptionError | UserError | Diverged)
        return cls(status, (clean(_text(error)) if known else "") or one_line(error))


@contextlib.contextmanager
def failures_to(fail: Callable[[Failure], object]) -> Iterator[None]:
    """Pass what goes wrong in this block to ``fail``, so that nothing else fails with it.

    Raises:
        DiskError, KeyboardInterrupt: these concern more than this block.
    """
    try:
        yield
    except (DiskError, KeyboardInterrupt):
        raise
    except BaseException as error:
        fail(Failure.of(error))


@contextlib.contextmanager
def named_after(task: str) -> Iterator[None]:
    """Name the task in its errors in this block, as the row names only the model."""
    try:
        yield
    except (OptionError, Unsupported) as error:
        raise type(error)(f"task {task}: {_text(error)}") from error


def one_line(error: BaseException) -> str:
    """Return type and message of an error as one line of bounded length; without a message, the line of code."""
    return clean(f"{type(error).__name__}: {_text(error) or _code(error)}")


@contextlib.contextmanager
def refusals(model: Model, *, of_torch: bool) -> Iterator[None]:
    """Raise :class:`Refused` if a library refuses a size, a name or a combination of options in this block.

    A refusal is an AssertionError, ValueError or NotImplementedError raised by code of an installed distribution other
    than the model's own. Errors raised by the model's own code are its bugs or its own :class:`Unsupported`; so are
    errors raised by the standard library and by compiled code, as they do not tell whose request failed.

    Args:
        of_torch: whether torch counts as a library. It does where a module is only constructed, and where the same code
            has run with another size. In a first call an error raised by torch is the model's.
    """
    try:
        yield
    except (OptionError, Refused):
        raise
    except REFUSALS as error:
        library = _raised_by(error, of_torch=of_torch)
        if library is None or library in _own(model):
            raise
        raise Refused(f"{one_line(error)} (raised by {library})") from error


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return f"its message cannot be read ({type(error).__name__})"


def _code(error: BaseException) -> str:
    """Return the line of code that raised an error; a bare assertion has no other message."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return ""
    frame, line = frames[-1]
    return linecache.getline(frame.f_code.co_filename, line, frame.f_globals).strip()


def _raised_by(error: BaseException, *, of_torch: bool) -> str | None:
    """Return the top-level package of an installed distribution whose code raised an error, or None."""
    package = ""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package != "torch" or (of_torch and not frame.f_code.co_name.startswith(_ASSERTS)):
            break
    return package if package not in sys.stdlib_module_names and package in metadata.packages_distributions() else None


def _own(model: Model) -> Set[str]:
    """Return the top-level packages of the model: those of its distribution, of the harness, and of its bases."""
    installed = metadata.packages_distributions()
    mine = {kind.__module__.partition(".")[0] for kind in type(model).__mro__} - set(sys.stdlib_module_names)
    distributions = {name for package in mine | {"attn_bench"} for name in installed.get(package, ())}
    return mine | {package for package, names in installed.items() if distributions & set(names)}
