"""Leases: locks for what only one process may do at a time, on this machine or another.

A lease is a file created with O_EXCL that names the host and the processes that hold it. While it is held, its
modification time is updated; at the end it is removed. If the holder is gone, the lease is taken over: at once if its
processes are known to have ended, which only their own host can tell, or when the time has not changed for ``STALE_S``.
The waiting process measures that with its own clock, so differing clocks of hosts do not matter.

A lease is never replaced, as two processes could do so at once. It is continued: to take over a lease with the token T,
a process creates the file ``NAME.T``, again with O_EXCL, so only one succeeds. The last file of such a chain names the
holder. The holder ends the lease by continuing it once more, removing ``NAME``, and then the rest. A process that
created ``NAME.T`` when the chain no longer began with ``NAME`` removes it and starts again.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from json import dumps
from pathlib import Path

from attn_bench.files import disk_errors, read_json

BEAT_S, STALE_S = 10.0, 120.0
_POLL_S, _LONGEST_POLL_S = 0.02, 1.0
_LARGEST_BYTES = 1 << 16
_HIDDEN = "hidden"


@dataclass(frozen=True)
class _Holder:
    """The content of the last file of a chain.

    Attributes:
        path: the file.
        token: unique to the lease.
        host: empty if the file cannot be read, because it is still being written or is not a lease.
        processes: process ids and when each process started.
        job: the Slurm job that they belong to, or empty.
        beat: the modification time of the file.
    """

    path: Path
    token: str
    host: str
    processes: tuple[tuple[int, str], ...]
    job: str
    beat: int

    @property
    def gone(self) -> bool:
        """Whether every process is known to have ended."""
        return self.host == this_host() and not any(_lives(pid, start) for pid, start in self.processes)


@contextlib.contextmanager
def hold(
    path: Path, *, wait: bool | float, processes: Sequence[int] = (), ended: Collection[str] = ()
) -> Iterator[bool]:
    """Hold the lease ``path`` in the block; yield False, without it, if another process has it and ``wait`` is off.

    Args:
        path: a file in a folder only for leases, which is created, and removed when no lease is left in it.
        wait: whether to wait for another process that has it; a number limits the wait to so many seconds.
        processes: ids of further processes of this host that must have ended before another process may take over the
            lease of a killed one.
        ended: Slurm jobs that are known to have ended.

    Raises:
        DiskError: the lease cannot be created.
    """
    content = _content(processes)
    with disk_errors(path):
        mine = _take(path, content, _seconds(wait), ended)
    if mine is None:
        yield False
        return
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(mine, over), daemon=True)
    beating.start()
    try:
        yield True
    finally:
        over.set()
        beating.join()
        with contextlib.suppress(OSError):
            _end(path, mine)


def is_held(path: Path) -> bool:
    """Tell whether a process of this host may hold the lease ``path``; one of another host counts as such."""
    chain = _chain(path)
    # One that says nothing was left by a process that was killed before it could write, or is being written.
    unwritten = bool(chain) and not chain[-1].host
    return bool(chain) and not (chain[-1].gone or (unwritten and time.time() - chain[-1].beat / 1e9 > STALE_S))


def holding_job(path: Path) -> str | None:
    """Return the Slurm job that a lease was last held by; None if by none."""
    chain = _chain(path)
    return chain[-1].job or None if chain else None


def this_job() -> str:
    """Return the id of the Slurm job that this process is in, as ``squeue`` shows it; empty if it is in none."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def _seconds(wait: bool | float) -> float:
    return wait if not isinstance(wait, bool) else math.inf if wait else 0.0


def _take(path: Path, content: Mapping[str, object], wait: float, ended: Collection[str]) -> Path | None:
    """Return the file by which this process now holds the lease, or None if another does."""
    seen: tuple[str, int] | None = None
    since = began = time.monotonic()
    pause = _POLL_S
    while True:
        chain = _chain(path)
        if not chain:
            if _make(path, content):
                return path
            continue
        last = chain[-1]
        if (last.token, last.beat) != seen:
            seen, since = (last.token, last.beat), time.monotonic()
        if last.gone or last.job in ended or time.monotonic() - since > STALE_S:
            mine = _continued(path, last.token)
            if _make(mine, content):
                if [each.path for each in _chain(path)] == [*(each.path for each in chain), mine]:
                    return mine
                mine.unlink(missing_ok=True)
            continue
        if time.monotonic() - began >= wait:
            return None
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_POLL_S)


def _chain(path: Path) -> list[_Holder]:
    """Return the chain of holders of the lease."""
    found: list[_Holder] = []
    following = path
    while (holder := _read(following)) is not None:
        found.append(holder)
        following = _continued(path, holder.token)
    return found


def _continued(path: Path, token: str) -> Path:
    return path.with_name(f"{path.name}.{token}")


def _read(path: Path) -> _Holder | None:
    try:
        # Opened first, or NFS would return cached times and content.
        values = read_json(path, _LARGEST_BYTES)
        found = path.stat()
        processes = tuple((int(pid), str(start)) for pid, start in values["processes"])
        token, host = str(values["token"]), str(values["host"])
        if not token.isalnum():
            raise ValueError("not a token")
        return _Holder(path, token, host, processes, str(values.get("job", "")), found.st_mtime_ns)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, OSError):
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            # Its creator was killed before writing, or is still writing.
            return _Holder(path, f"{found.st_ino:x}x{found.st_mtime_ns:x}", "", (), "", found.st_mtime_ns)
        return None


def _content(processes: Sequence[int]) -> dict[str, object]:
    named = [[pid, started(pid)] for pid in (os.getpid(), *processes)]
    return {"host": this_host(), "processes": named, "job": this_job()}


def _make(path: Path, content: Mapping[str, object]) -> bool:
    """Create a lease file; False if it exists."""
    text = dumps({**content, "token": os.urandom(8).hex()}).encode()
    while True:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            break
        except FileExistsError:
            return False
        except FileNotFoundError:
            # Another process that ends a lease may remove the folder before it is used.
            path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return True


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(path)


def _end(path: Path, mine: Path) -> None:
    """Release a lease; does nothing if another process took it over."""
    chain = _chain(path)
    if not chain or chain[-1].path != mine:
        return
    last = _continued(path, chain[-1].token)
    # On a full disk it cannot be created; then no other process can have created it either.
    with contextlib.suppress(OSError):
        if not _make(last, _content(())):
            return
    for each in (*(holder.path for holder in chain), last):
        each.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def this_host() -> str:
    """Return an id of this host, its boot and its namespace of process ids."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip(),
            os.readlink("/proc/self/ns/pid"),
        ]
    return " ".join(parts)


def started(pid: int) -> str | None:
    """Return a unique string for the start of a process of this host; None if it has ended."""
    with contextlib.suppress(OSError, IndexError):
        # After the name, which may contain anything: state, ..., and as the 20th field the start in ticks since boot.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else fields[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    import psutil

    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
    return _HIDDEN


def _lives(pid: int, start: str) -> bool:
    return started(pid) in (start, _HIDDEN)
