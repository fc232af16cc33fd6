"""How much memory a cell may take."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MIB = 2**20
_CGROUPS = Path("/sys/fs/cgroup")


def host_room_mib(own_mib: float, limit_mib: float | None, share: float) -> float:
    """Return how much memory of the host this process may take in MiB, with the ``own_mib`` that it has.

    That is ``limit_mib`` (``--memory-limit``), or less where the machine, the control group of this process or its
    Slurm job has less left.

    Args:
        share: of what is left, as others take the rest.
    """
    import psutil

    left = [psutil.virtual_memory().available / MIB, *_left_in_groups()]
    rooms = [min(left) * share + own_mib]
    if limit_mib is not None:
        rooms.append(limit_mib)
    with contextlib.suppress(KeyError, ValueError):
        rooms.append(float(os.environ["SLURM_MEM_PER_NODE"]) or rooms[0])  # 0: all of the node
    return min(rooms)


def _left_in_groups() -> list[float]:
    """Return what is left in each control group of this process that has a limit, in MiB; cached files do not count."""
    found = []
    for folder, limit, used, cached in _groups():
        with contextlib.suppress(OSError, ValueError, IndexError):
            allowed = int((folder / limit).read_text(encoding="utf-8"))  # "max" is no number
            taken = int((folder / used).read_text(encoding="utf-8"))
            lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
            files = [int(line.split()[1]) for line in lines if line.startswith(f"{cached} ")]
            found.append(max(allowed - taken + sum(files), 0) / MIB)
    return found


def _groups() -> list[tuple[Path, str, str, str]]:
    """Return the folder of each control group, and the names of its limit, its use and that of cached files there."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            old = "memory" in controllers.split(",")
            if controllers and not old:
                continue
            top = _CGROUPS / "memory" if old else _CGROUPS
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            names = names if old else ("memory.max", "memory.current", "inactive_file")
            own = top / path.lstrip("/")
            found += [(folder, *names) for folder in (own, *own.parents) if folder == top or top in folder.parents]
    return found
