"""Runs of one results folder on one machine: several may train at a time, and one measures while none does.

What a run does is said by leases (:mod:`attn_bench.lease`) in the folder, which end with their process. One that waits
to measure lets no other begin to train, so it gets its turn.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from attn_bench.lease import hold, is_held, this_host

_POLL_S = 0.2
ALONE = "alone"


class Machine:
    """What runs of ``folder`` do on this machine; ``stop`` interrupts a thread that waits."""

    def __init__(self, folder: Path, stop: threading.Event | None = None) -> None:
        self._folder = folder / "machines"
        self._stop = stop or threading.Event()
        self._host = sha256(this_host().encode()).hexdigest()[:12]
        self._run = self._token("run")

    def _token(self, kind: str) -> Path:
        return self._folder / f"{self._host}-{kind}-{os.urandom(8).hex()}"

    @property
    def _measuring(self) -> Path:
        return self._folder / f"{self._host}-measuring"

    @contextlib.contextmanager
    def present(self) -> Iterator[None]:
        """Say in the block that this run is here."""
        with hold(self._run, wait=True):
            yield

    def shared(self) -> bool:
        """Tell whether another run is here."""
        return any(self._held("run"))

    def _wait(self) -> None:
        if self._stop.wait(_POLL_S):
            raise KeyboardInterrupt

    def _held(self, kind: str) -> Iterator[Path]:
        for path in self._folder.glob(f"{self._host}-{kind}-*"):
            # What continues a lease is named after it.
            if "." in path.name or path == self._run:
                continue
            if is_held(path):
                yield path
            else:  # its run was killed
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Train in the block, beside others that do; waits for one that measures."""
        with contextlib.ExitStack() as stack:
            while True:
                while is_held(self._measuring):
                    self._wait()
                stack.enter_context(hold(self._token("training"), wait=True))
                if not is_held(self._measuring):
                    break
                stack.close()
            yield

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Measure in the block, while no run trains or measures here; waits for that."""
        with hold(self._measuring, wait=True):
            while any(self._held("training")):
                self._wait()
            yield
