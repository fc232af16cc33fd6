"""What the system can be asked about processes, and told to do with them."""

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

# glibc trims and remaps the heap in every large training step; with higher thresholds it keeps the memory.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
# Looking for a GPU must not start CUDA in a process that forks: its children could not use it then.
FORKABLE = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
# The profiler, with which memory is measured, looks for a GPU where there is none, and calls that an error.
QUIET = {"KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}
# The folder from which this package was imported.
HOME = Path(__file__).resolve().parents[2]
LAST_CHARACTERS = 300
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def adopt_orphans() -> None:
    """Become the parent of whatever this process's children leave behind, so that it can be found and ended."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Have the system end this process when its parent ends."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def be_killed_first() -> None:
    """When the machine runs out of memory, let the system end this process and not one that keeps the results."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")


def surroundings() -> dict[str, str]:
    """Return the environment variables of a process that runs models.

    Whatever it prints goes to a log in UTF-8, and a library's warning is not an error there. It imports the copy of
    this package that runs here, which Python may have found in the current folder or beside a script.
    """
    warnings = without_errors(os.environ.get("PYTHONWARNINGS", ""))
    own = {"PYTHONIOENCODING": "utf-8:backslashreplace", "PYTHONWARNINGS": warnings}
    if HOME.name not in ("site-packages", "dist-packages"):
        own["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HOME), os.environ.get("PYTHONPATH"))))
    return {**ALLOCATOR, **FORKABLE, **QUIET, "TORCHINDUCTOR_CACHE_DIR": _inductor_cache(), **os.environ, **own}


def without_errors(options: str) -> str:
    """Return ``PYTHONWARNINGS`` without what makes errors of warnings; an action may be abbreviated."""
    parts = [part.strip() for part in options.split(",")]
    return ",".join(part for part in parts if part and not "error".startswith(part.partition(":")[0].lower()))


def _inductor_cache() -> str:
    """Return where torch.compile keeps what it compiled by default; it would be among the temporary files of a run."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return str(Path(tempfile.gettempdir()) / f"torchinductor_{user.replace(os.sep, '_')}")


def end(process: subprocess.Popen[bytes], within_s: float = 1.0) -> None:
    """Wait for a process that has been told to end, and end it with all that it started if it does not."""
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        kill_tree(process)


def kill_tree(process: subprocess.Popen[bytes], within_s: float = 2.0) -> None:
    """End a process and every process below it; gives up on what the system cannot end in time."""
    import psutil

    if process.poll() is not None:
        return  # its id may be another's by now
    deadline = time.monotonic() + within_s
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(process.pid)
        root.suspend()  # so that it starts nothing more
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
    """Return the last line that a process wrote to its log, with as much of what stands before it as fits."""
    log.seek(0, os.SEEK_END)
    log.seek(max(log.tell() - 8 * LAST_CHARACTERS, 0))
    # Without what marks a place in a traceback's line above.
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip(" ^~")]
    return clean("\n".join(lines), 8 * LAST_CHARACTERS)[-LAST_CHARACTERS:]


def how_ended(code: int) -> str:
    """Say how a process with this return code ended: ``"ended by SIGKILL"``, or with its exit code."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"ended by {signal.Signals(-code).name}"
    return f"ended by signal {-code}"


def interrupt_when_told() -> list[int]:
    """Have SIGTERM and SIGHUP interrupt this process as Ctrl-C does; return a list that tells which arrived.

    A scheduler, ``timeout``, or a terminal that is closed sends them. What is ignored, as under nohup, stays ignored.
    """
    arrived: list[int] = []

    def handle(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)  # told once more, it ends at once
        arrived.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, handle)
    return arrived


def kill(leader: int) -> None:
    """End a process and every other of its group."""
    kill_group(leader)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(leader, signal.SIGKILL)


def kill_group(leader: int) -> None:
    """End every process of a group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def kill_orphans() -> None:
    """End every process below this one; gives up on what the system cannot end within ten seconds."""
    import psutil

    end = time.monotonic() + 10
    # Again and again: one that is ended may have started another a moment before.
    while (members := psutil.Process().children(recursive=True)) and time.monotonic() < end:
        for process in members:
            with contextlib.suppress(psutil.Error):
                process.kill()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.001)


def out_of_memory_kills() -> int:
    """How many processes the system has ended for want of memory since it was started."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="utf-8").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def takes_more(child: int, limit: float) -> bool:
    """Tell whether a cell's processes take more than ``limit`` bytes of resident memory, libraries aside."""
    import psutil

    members: list[Any] = []
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(child)
        members = [process, *process.children(recursive=True)]
    # Quick, and an upper bound: pages that forked processes share count in each. The system takes milliseconds to tell
    # what is shared, which would disturb what is being measured.
    return sum(map(_resident, members)) > limit and sum(map(_proportional, members)) > limit


def _resident(process: Any) -> int:
    import psutil

    with contextlib.suppress(psutil.Error):
        memory = process.memory_info()
        return memory.rss - getattr(memory, "shared", 0)
    return 0


def _proportional(process: Any) -> int:
    """Anonymous memory in bytes, where a page of n processes counts as 1/n in each."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
            if line.startswith("Pss_Anon:"):
                return int(line.split()[1]) * 1024
        return _resident(process)
    return 0
