"""Errors a user can cause; the command line prints their message as one line, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Unsupported(Exception):
    """Raised if a model does not support a problem; its message is the reason shown in the results."""


class DataError(Exception):
    """Raised by a task if its data are missing, broken or in the wrong form; the message is one line for the user."""


class OptionError(ValueError):
    """Raised for an invalid option value in ``build``, ``problem`` or ``splits``; its message is one line."""


class UserError(Exception):
    """Wrong input; the message says what was given, what is allowed and what to do next."""


class DiskError(UserError):
    """A file cannot be written: its disk is full, its folder read-only."""

    def __init__(self, path: object, reason: str, remedy: str = "") -> None:
        self.path, self.reason = path, reason
        super().__init__(f"cannot write {path} ({reason}){remedy}")


USER_ERRORS = (UserError, DataError, OptionError)


def unknown(what: str, given: str, allowed: Iterable[str]) -> UserError:
    """Return the error for a name that does not exist, with the closest existing one."""
    allowed = sorted(allowed)
    close = difflib.get_close_matches(given, allowed, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(allowed) or 'none'}"
    return UserError(f"unknown {what} {given!r}; {hint}")
