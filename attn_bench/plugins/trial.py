"""Tries a plugin's import in a separate process, since it may exit, hang or crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from json import dumps, loads
from select import select

from attn_bench.format import clean

# A module that imports torch from a cold network drive may take a minute.
LIMIT_S = 120.0
_KEPT_BYTES = 4096


def refusal(group: str, entry: dict[str, str]) -> str | None:
    """Return why the plugin of an entry point cannot be used, or None if it can.

    Args:
        group: of the entry point.
        entry: ``name``, ``target``, ``package`` and ``version``.
    """
    read, write = os.pipe()
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "attn_bench.plugins.trial_process", str(write)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(write,),
        env={**os.environ, "PYTHONPATH": paths},
        start_new_session=True,
    )
    os.close(write)
    try:
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(dumps([group, entry]).encode())
        answer, printed, in_time = _follow(process, read)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        os.close(read)
    with suppress(ValueError):
        found = loads(answer)
        return None if found is None else clean(str(found))
    if not in_time:
        how = f"its import takes longer than {LIMIT_S:g} s"
    elif process.returncode < 0:
        names = {int(number): number.name for number in signal.Signals}
        how = f"its import ends the process ({names.get(-process.returncode, f'signal {-process.returncode}')})"
    else:
        how = f"its import ends the process (exit status {process.returncode})"
    last = clean(printed.decode(errors="replace")[-300:])
    return f"{how}{': ' if last else ''}{last}"


def _follow(process: subprocess.Popen[bytes], read: int) -> tuple[bytes, bytes, bool]:
    """Wait for the answer of a trial; return it, the end of the output, and whether it came in time."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    answer = printed = b""
    open_ends, end = {read, output}, time.monotonic() + LIMIT_S
    while not answer.endswith(b"\n"):
        # Forked copies of the process may keep its pipes open after it has ended.
        ended = process.poll() is not None
        ready = select(list(open_ends), [], [], 0 if ended else min(0.05, max(0.0, end - time.monotonic())))[0]
        for descriptor in ready:
            if not (chunk := os.read(descriptor, 1 << 16)):
                open_ends.discard(descriptor)
            elif descriptor == read:
                answer += chunk
            else:
                printed = (printed + chunk)[-_KEPT_BYTES:]
        if not ready and ended:
            break
        if time.monotonic() > end:
            return answer, printed, False
        if not open_ends:
            time.sleep(0.01)
    return answer, printed, True
