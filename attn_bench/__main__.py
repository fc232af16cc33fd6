"""``python -m attn_bench`` is ``attn-bench``."""

from __future__ import annotations

import sys
from pathlib import Path


def leave_current_folder() -> None:
    """Remove the current folder, which Python puts first, from the import path: its files may be named like modules.

    It stays if this package itself is found only there.
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
