"""Makes the plugins of ``tests/plugins`` visible, here and in the processes that tests start."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

# A shell starts what it puts into the background with signals ignored, and children inherit that.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)
PLUGINS = Path(__file__).parent / "plugins"
sys.path[:0] = [str(PLUGINS), str(Path(__file__).parent / "report")]  # toy plugins; results that nobody ran
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PLUGINS), os.environ.get("PYTHONPATH"))))


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep generated data out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["ATTN_BENCH_CACHE"] = str(folder)
    return folder
