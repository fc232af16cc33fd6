"""Makes the plugins of ``tests/toys`` visible in the processes that tests start, too."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from places import TOYS

# A shell starts what it puts into the background with signals ignored, and children inherit that.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(TOYS), os.environ.get("PYTHONPATH"))))


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep generated data out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["ATTN_BENCH_CACHE"] = str(folder)
    return folder
