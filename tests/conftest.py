"""What all tests need: plugins that child processes see, usual signals, a cache of their own, lengths of fuzzing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings
from places import TOYS

# A shell starts what it puts into the background with signals ignored, and children inherit that.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)
# ``--hypothesis-profile=slow`` searches for long; without it a search shows only that nothing is broken outright.
settings.register_profile("ci", max_examples=25, deadline=None)
settings.register_profile("slow", max_examples=500, deadline=None)
settings.load_profile("ci")
# Workers of pytest-xdist share the cores: more threads in each would only wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(TOYS), os.environ.get("PYTHONPATH"))))


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep generated data out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["ATTN_BENCH_CACHE"] = str(folder)
    return folder
