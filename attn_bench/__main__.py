"""``python -m attn_bench`` is ``attn-bench``."""

from __future__ import annotations

import sys
from pathlib import Path


def leave_current_folder() -> None:
    """Take the current folder off the import path, where Python puts it first: it may hold files named like modules.

    Where this package itself is only found there it stays.
    """
    if sys.flags.safe_path:
        return
    home, (here, *others) = Path(__file__).resolve().parents[1], sys.path
    if Path(here).resolve() != home or any(Path(path).resolve() == home for path in others):
        sys.path[:] = others


if __name__ == "__main__":
    leave_current_folder()
    from attn_bench.cli import main

    main()
