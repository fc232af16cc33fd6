"""Undoes the side effects of importing a plugin's module."""

from __future__ import annotations

import builtins
import contextlib
import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

# The harness calls functions of these modules. Added attributes, such as caches, stay.
_PATCHED = (
    *("os", "os.path", "io", "json", "json.encoder", "json.decoder", "hashlib", "math", "time"),
    *("tempfile", "shutil", "subprocess", "threading"),
)
_PYTHON = ("argv", "path", "stdin", "stdout", "stderr", "excepthook", "displayhook", "unraisablehook", "exit")
Undo = Callable[[], object]


@contextlib.contextmanager
def undone() -> Iterator[None]:
    """Run a block silently, and afterwards undo its changes to the process, as far as that is cheap.

    Its output is discarded, on the descriptors as well. It restores the import path, arguments and streams, the
    environment, the current folder, signal handlers, warning filters, the root of ``logging``, replaced functions of
    the standard library and of the harness, replaced modules, and torch's global settings.
    """
    process = os.getpid()
    with _silence(), warnings.catch_warnings():
        back = [*_python(), *_surroundings(), *_signals(), *_logging(), *_functions(), *_torch()]
        try:
            yield
        finally:
            if os.getpid() != process:
                os._exit(0)  # a forked copy of this process that left the block
            for undo in reversed(back):
                with contextlib.suppress(Exception):
                    undo()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Discard output to descriptors 1 and 2, and to streams that go elsewhere, as in a notebook."""
    saved: dict[int, int] = {}
    replaced = [(name, getattr(sys, name)) for name in ("stdout", "stderr") if _descriptor(getattr(sys, name)) is None]
    _flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in (1, 2):
            with contextlib.suppress(OSError):  # closed already
                saved[descriptor] = os.dup(descriptor)
                os.dup2(nowhere, descriptor)
        for name, _ in replaced:
            # Never closed, as a handler may keep it.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        yield
    finally:
        _flush()
        for name, stream in replaced:
            setattr(sys, name, stream)
        for descriptor, copy in saved.items():
            with contextlib.suppress(OSError):
                os.dup2(copy, descriptor)
                os.close(copy)
        with contextlib.suppress(OSError):
            os.close(nowhere)


def _descriptor(stream: Any) -> int | None:
    try:
        return stream.fileno() if stream.fileno() in (1, 2) else None
    except (OSError, ValueError, AttributeError):
        return None


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _python() -> Iterator[Undo]:
    for name in _PYTHON:
        yield partial(setattr, sys, name, getattr(sys, name))
    for kept in (sys.argv, sys.path):
        yield _refill(kept, list(kept))
    modules = dict(sys.modules)
    yield lambda: sys.modules.update(modules)
    limit, interval, collects = sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled()
    yield lambda: sys.setrecursionlimit(limit)
    yield lambda: sys.setswitchinterval(interval)
    yield lambda: gc.enable() if collects else gc.disable()


def _surroundings() -> Iterator[Undo]:
    variables = dict(os.environ)

    def put_back() -> None:
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]
        for name, value in variables.items():
            if os.environ.get(name) != value:
                os.environ[name] = value

    yield put_back
    with contextlib.suppress(OSError):  # the folder may have been deleted
        folder = os.getcwd()
        yield lambda: os.chdir(folder)
    mask = os.umask(0o022)
    os.umask(mask)
    yield lambda: os.umask(mask)


def _signals() -> Iterator[Undo]:
    """Signal handlers, which belong to the main thread; handlers not set by Python cannot be restored."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def put_back() -> None:
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)

    yield put_back
    if hasattr(signal, "getitimer") and not signal.getitimer(signal.ITIMER_REAL)[0]:
        yield lambda: signal.setitimer(signal.ITIMER_REAL, 0)


def _logging() -> Iterator[Undo]:
    if (logging := sys.modules.get("logging")) is None:
        # A logger created in the block starts without handlers.
        yield lambda: sys.modules["logging"].root.handlers.clear() if "logging" in sys.modules else None
        return
    root, disabled = logging.root, logging.root.manager.disable
    yield _refill(root.handlers, list(root.handlers))
    yield _refill(root.filters, list(root.filters))
    level = root.level
    yield lambda: root.setLevel(level)
    yield lambda: logging.disable(disabled)


def _functions() -> Iterator[Undo]:
    names = [*_PATCHED, *(name for name in sys.modules if name.partition(".")[0] == "attn_bench")]
    for module in (builtins, *(sys.modules[name] for name in names if name in sys.modules)):
        known = {name: value for name, value in vars(module).items() if callable(value)}
        yield partial(module.__dict__.update, known)
        for value in known.values():
            if isinstance(value, type) and value.__module__.partition(".")[0] == module.__name__.partition(".")[0]:
                yield partial(_put_methods_back, value, dict(vars(value)))


def _put_methods_back(kind: type, known: dict[str, Any]) -> None:
    for name, value in known.items():
        if callable(value) and vars(kind).get(name) is not value:
            setattr(kind, name, value)


def _torch() -> Iterator[Undo]:
    torch: Any = sys.modules.get("torch")
    if torch is None:

        def put_back() -> None:
            if torch := sys.modules.get("torch"):
                torch.set_default_dtype(torch.float32)
                torch.set_grad_enabled(True)
                torch.set_default_device(None)
                _make_deterministic(torch, False)

        yield put_back
        return
    dtype, gradients, threads = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    deterministic, device = torch.are_deterministic_algorithms_enabled(), torch.get_default_device()
    yield lambda: torch.set_default_dtype(dtype)
    yield lambda: torch.set_grad_enabled(gradients)
    yield lambda: torch.set_num_threads(threads) if torch.get_num_threads() != threads else None
    yield lambda: _make_deterministic(torch, deterministic)
    yield lambda: torch.set_default_device(device) if torch.get_default_device() != device else None


def _make_deterministic(torch: Any, deterministic: bool) -> None:
    if torch.are_deterministic_algorithms_enabled() != deterministic:  # else it imports a compiler for nothing
        torch.use_deterministic_algorithms(deterministic)


def _refill(kept: list[Any], values: list[Any]) -> Undo:
    def put_back() -> None:
        if kept != values:
            kept[:] = values

    return put_back
