"""A model that does, by preset, what no model should do to the process it runs in."""

from __future__ import annotations

from toy_plugins import Toy

from attn_bench.plugin import Problem


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
        )
    }

    def build(self, problem: Problem, *, how: str = "exit"):
        """Build it.

        Args:
            how: the name of one of this module's functions.
        """
        module = super().build(problem)
        if how in ("build_raises", "children", "flood", "stderr"):
            globals()[f"_{how}"]()
        else:
            module.register_forward_hook(lambda module, inputs, output: globals()[f"_{how}"](output))
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
