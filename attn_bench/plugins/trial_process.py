"""The process in which a plugin's import is tried.

``python -P -m attn_bench.plugins.trial_process DESCRIPTOR``
reads the plugin from standard input and writes one line of JSON
to the descriptor: null if it can be used, or why it cannot. Ending without a line also means that it cannot.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from json import loads
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, NoReturn

from attn_bench.plugins.registry import GROUPS, BrokenPlugin, Entry


def main(answers: int) -> None:
    """Try one plugin and write what is wrong with it to the descriptor ``answers``."""
    # Bound before the plugin is imported, which may replace any of them.
    write, leave, own = os.write, os._exit, os.getpid
    group, entry = loads(sys.stdin.buffer.read())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    threading.Thread(target=_end_with, args=(os.getppid(), os.getppid, time.sleep, leave), daemon=True).start()
    process = own()
    why = _refusal(group, entry)
    answer = b"null\n" if why is None else quoted(why).encode() + b"\n"
    if own() == process:
        write(answers, answer)
    leave(0)


def _end_with(
    parent: int, parent_now: Callable[[], int], sleep: Callable[[float], None], leave: Callable[[int], NoReturn]
) -> None:
    """End this process when its parent has ended for any reason."""
    while parent_now() == parent:
        sleep(1.0)
    leave(1)


def _refusal(group: str, entry: dict[str, Any]) -> str | None:
    base = next(base for base, each in GROUPS.items() if each == group)
    before = set(threading.enumerate())
    try:
        Entry(**entry, base=base).load(contained=False)
    except BrokenPlugin as error:
        return error.why
    except KeyboardInterrupt as error:
        return f"{type(error).__name__}: {error}"
    left = [thread.name for thread in threading.enumerate() if thread not in before and not thread.daemon]
    return (
        f"its import leaves a thread running ({left[0]}), which would keep every command from ending" if left else None
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
