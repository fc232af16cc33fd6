"""Queries and control of operating-system processes."""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from attn_bench.format import clean
from attn_bench.lease import this_job

# glibc trims and remaps the heap in every large training step; higher thresholds make it keep the memory.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
# Looking for a GPU must not start CUDA in a process that forks, or its children could not use CUDA.
FORKABLE = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
# The profiler, which measures memory, reports an error where there is no GPU.
QUIET = {"KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}
# The folder from which this package was imported.
HOME = Path(__file__).resolve().parents[2]
LAST_CHARACTERS = 300
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def adopt_orphans() -> None:
    """Become the parent of processes that this process's children leave behind, so that they can be found and ended."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Have the system end this process when its parent ends."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def be_killed_first() -> None:
    """If the machine runs out of memory, have the system end this process and not one that writes the results."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")


def surroundings() -> dict[str, str]:
    """Return the environment variables of a process that runs models.

    Its output goes to a log in UTF-8, and a library's warning is not an error in it. It imports the same copy of this
    package, which Python may have found in the current folder or beside a script.
    """
    warnings = without_errors(os.environ.get("PYTHONWARNINGS", ""))
    own = {"PYTHONIOENCODING": "utf-8:backslashreplace", "PYTHONWARNINGS": warnings}
    if HOME.name not in ("site-packages", "dist-packages"):
        own["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HOME), os.environ.get("PYTHONPATH"))))
    return {**ALLOCATOR, **FORKABLE, **QUIET, "TORCHINDUCTOR_CACHE_DIR": _inductor_cache(), **os.environ, **own}


def without_errors(options: str) -> str:
    """Return ``PYTHONWARNINGS`` without the entries that turn warnings into errors; an action may be abbreviated."""
    parts = [part.strip() for part in options.split(",")]
    return ",".join(part for part in parts if part and not "error".startswith(part.partition(":")[0].lower()))


def _inductor_cache() -> str:
    """Return the default cache folder of torch.compile, which would otherwise be among the temporary files of a run."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return str(Path(tempfile.gettempdir()) / f"torchinductor_{user.replace(os.sep, '_')}")


def end(process: subprocess.Popen[bytes], within_s: float = 1.0) -> None:
    """Wait for a process that was told to end; if it does not, end it and everything it started."""
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        kill_tree(process)


def kill_tree(process: subprocess.Popen[bytes], within_s: float = 2.0) -> None:
    """End a process and every process below it; gives up on processes that the system cannot end in time."""
    import psutil

    if process.poll() is not None:
        return  # its id may have been reused
    deadline = time.monotonic() + within_s
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(process.pid)
        root.suspend()  # so that it starts no more processes
        while (members := _alive(root)) and time.monotonic() < deadline:
            for member in members:
                with contextlib.suppress(psutil.Error):
                    member.kill()
            time.sleep(0.001)
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(within_s)


def _alive(root: Any) -> list[Any]:
    import psutil

    found = []
    for member in root.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if member.status() != psutil.STATUS_ZOMBIE:
                found.append(member)
    return found


def last_words(log: IO[bytes]) -> str:
    """Return the last line that a process wrote to its log, with as much of the text before it as fits."""
    log.seek(0, os.SEEK_END)
    log.seek(max(log.tell() - 8 * LAST_CHARACTERS, 0))
    # Without the markers below a line of a traceback.
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip(" ^~")]
    return clean("\n".join(lines), 8 * LAST_CHARACTERS)[-LAST_CHARACTERS:]


def how_ended(code: int) -> str:
    """Return how a process with this return code ended, e.g. ``"ended by SIGKILL"``, or its exit code."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"ended by {signal.Signals(-code).name}"
    return f"ended by signal {-code}"


def interrupt_when_told() -> list[int]:
    """Have SIGTERM and SIGHUP interrupt this process as Ctrl-C does; return a list of those that arrived.

    Schedulers, ``timeout`` and closing terminals send them. Signals that are ignored, as under nohup, stay ignored.
    """
    arrived: list[int] = []

    def handle(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second signal ends it at once
        arrived.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, handle)
    return arrived


def kill(leader: int) -> None:
    """End a process and its whole group."""
    kill_group(leader)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(leader, signal.SIGKILL)


def kill_group(leader: int) -> None:
    """End every process of a group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def kill_orphans() -> None:
    """End every process below this one; gives up on those that the system cannot end within ten seconds."""
    import psutil

    end = time.monotonic() + 10
    # Repeatedly: a process may start another just before it ends.
    while (members := psutil.Process().children(recursive=True)) and time.monotonic() < end:
        for process in members:
            with contextlib.suppress(psutil.Error):
                process.kill()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.001)


def out_of_memory_kills() -> int:
    """Number of processes that the system has ended since it booted because it ran out of memory."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="utf-8").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def out_of_memory_reason() -> str:
    """Say why the system ended a process for want of memory: that of the machine, or of the Slurm job it is in."""
    if job := this_job():
        return f"killed by the operating system: Slurm job {job} exceeded its memory (--slurm mem=... sets it)"
    return "killed by the operating system, which ran out of memory"


def takes_more(child: int, limit: float) -> bool:
    """Tell whether a cell's processes take more than ``limit`` bytes of resident memory, excluding libraries."""
    import psutil

    members: list[Any] = []
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(child)
        members = [process, *process.children(recursive=True)]
    # A fast upper bound: pages shared by forked processes count in each. Finding out which are shared takes
    # milliseconds, which would disturb the measurement.
    return sum(map(_resident, members)) > limit and sum(map(anonymous, members)) > limit


def _resident(process: Any) -> int:
    import psutil

    with contextlib.suppress(psutil.Error):
        memory = process.memory_info()
        return memory.rss - getattr(memory, "shared", 0)
    return 0


def anonymous(process: Any) -> int:
    """Anonymous memory in bytes; a page shared by n processes counts as 1/n in each."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
            if line.startswith("Pss_Anon:"):
                return int(line.split()[1]) * 1024
        return _resident(process)
    return 0
