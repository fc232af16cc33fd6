"""Makes the plugins of ``tests/plugins`` visible, here and in the processes that tests start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parent / "plugins"
sys.path[:0] = [str(PLUGINS), str(Path(__file__).parent / "report")]  # toy plugins; results that nobody ran
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PLUGINS), os.environ.get("PYTHONPATH"))))


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep generated data out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["ATTN_BENCH_CACHE"] = str(folder)
    return folder
