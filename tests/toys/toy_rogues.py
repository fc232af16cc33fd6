"""A model whose presets misbehave in the process that they run in."""

from __future__ import annotations

from dataclasses import dataclass

from toy_plugins import Toy

from attn_bench.plugin import Problem

IN_FORWARD = ("forward_raises", "segfault", "exit", "loop", "hungry", "shape", "handlers")


class Rogue(Toy):
    name = "rogue"
    summary = "Misbehaves as its preset says."
    presets = {
        how: {"how": how.replace("-", "_")}
        for how in (
            "build-raises",
            "forward-raises",
            "segfault",
            "exit",
            "loop",
            "hungry",
            "shape",
            "children",
            "flood",
            "stderr",
            "handlers",
            "system-exit",
            "interrupt",
            "abort",
            "message",
            "alarm",
            "stop-itself",
            "stop-server",
            "kill-server",
            "kill-group",
            "close",
            "write",
            "write-on",
            "fork-on",
            "bomb",
            "threads",
            "patch",
            "patch-builtins",
            "lose-modules",
            "move",
            "leave-files",
        )
    }

    @dataclass(frozen=True)
    class Options(Toy.Options):
        how: str = "exit"  # the name of one of this module's functions

    def build(self, problem: Problem, options: Options):
        how = options.how
        module = super().build(problem, options)
        if how in IN_FORWARD:
            module.register_forward_hook(lambda module, inputs, output: globals()[f"_{how}"](output))
        else:
            globals()[f"_{how}"]()
        return module


def _build_raises() -> None:
    raise RuntimeError("boom\nin two lines")


def _forward_raises(output):
    raise ValueError("no forward pass today")


def _segfault(output):
    import ctypes

    print("last words", flush=True)
    ctypes.string_at(0)


def _exit(output):
    import os

    print("last words", flush=True)
    os._exit(0)


def _loop(output):
    while True:
        pass


def _hungry(output):
    kept = []
    while True:
        kept.append(bytearray(b"x") * (32 << 20))


def _shape(output):
    return output[..., :1]


def _children() -> None:
    """One in this process's group, and one that has left both group and parent."""
    import os
    import time

    for leaves in (False, True):
        if os.fork() == 0:
            if leaves:
                os.setsid()
                if os.fork():
                    os._exit(0)
            while True:
                time.sleep(60)


def _flood() -> None:
    import os

    line = b"water " * 1000 + b"\n"
    for _ in range(6000):
        os.write(1, line)


def _stderr() -> None:
    import os
    import sys

    sys.stderr.close()
    os.close(2)
    raise RuntimeError("said without a standard error")


def _handlers(output):
    import signal
    import time

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM, signal.SIGCHLD, signal.SIGSEGV):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(60)


def _system_exit() -> None:
    raise SystemExit(3)


def _interrupt() -> None:
    raise KeyboardInterrupt


def _abort() -> None:
    import os

    os.abort()


def _message() -> None:
    raise RuntimeError("odd \ud800 text \x1b[31m red\x00" + "x" * 1_000_000)


def _alarm() -> None:
    import signal
    import time

    signal.setitimer(signal.ITIMER_REAL, 0.01)
    time.sleep(60)


def _stop_itself() -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSTOP)


def _stop_server() -> None:
    import os
    import signal
    import time

    os.kill(os.getppid(), signal.SIGSTOP)
    time.sleep(60)


def _kill_server() -> None:
    import os
    import signal
    import time

    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def _kill_group() -> None:
    import os
    import signal

    os.killpg(0, signal.SIGKILL)


def _close() -> None:
    import os

    os.closerange(0, 4096)


def _write() -> None:
    import contextlib
    import os

    for descriptor in range(3, 4096):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"who reads this? " * 100)


def _write_on() -> None:
    while True:
        _write()


def _fork_on() -> None:
    """Two processes go on from here."""
    import os

    os.fork()


def _bomb() -> None:
    import os
    import time

    for _ in range(5):
        os.fork()
    time.sleep(0.2)
    raise RuntimeError("32 processes")


def _threads() -> None:
    import threading
    import time

    def go_on() -> None:
        while True:
            time.sleep(0.001)

    for _ in range(8):
        threading.Thread(target=go_on).start()


def _patch() -> None:
    """Replaces what records and messages might be made with."""
    import dataclasses
    import hashlib
    import json
    import os
    import pickle
    import struct

    def refuse(*arguments, **options):
        raise RuntimeError("replaced by a plugin")

    json.dumps = json.dump = json.loads = lambda *arguments, **options: "{}"
    json.JSONEncoder.encode = json.JSONEncoder.iterencode = lambda *arguments, **options: "{}"
    json.encoder.c_make_encoder = json.encoder.encode_basestring_ascii = refuse
    dataclasses.asdict = lambda value: {}
    for module, names in (
        (os, ("write", "fsync", "replace", "_exit", "getpid", "fdopen")),
        (hashlib, ("sha256", "md5", "new")),
        (pickle, ("dumps", "dump", "loads")),
        (struct, ("pack", "unpack")),
    ):
        for name in names:
            setattr(module, name, refuse)


def _patch_builtins() -> None:
    import builtins

    def refuse(*arguments, **options):
        raise RuntimeError("replaced by a plugin")

    builtins.open = builtins.print = builtins.input = refuse


def _lose_modules() -> None:
    import sys

    sys.path.clear()
    sys.meta_path.clear()
    for name in [name for name in sys.modules if name.startswith(("attn_bench", "json"))]:
        del sys.modules[name]
    raise RuntimeError("no modules")


def _move() -> None:
    """Changes what a process inherits, and ends badly when it may."""
    import atexit
    import os

    os.chdir("/")
    os.umask(0o777)
    os.environ.clear()
    atexit.register(os.abort)


def _leave_files() -> None:
    import tempfile
    from pathlib import Path

    Path(tempfile.mkdtemp(), "a").write_text("left behind", encoding="utf-8")
    _abort()
