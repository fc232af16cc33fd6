"""What all tests need: plugins that child processes see, usual signals, a cache of their own, lengths of fuzzing."""

from __future__ import annotations

import gc
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from places import TOYS

# A shell starts what it puts into the background with signals ignored, and children inherit that.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)
# ``--hypothesis-profile=slow`` searches for long; without it a search shows only that nothing is broken outright.
settings.register_profile("ci", max_examples=10, deadline=None)
settings.register_profile("slow", max_examples=500, deadline=None)
settings.load_profile("ci")
# Workers of pytest-xdist share the cores: more threads in each would only wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(TOYS), os.environ.get("PYTHONPATH"))))


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep generated data and compiled kernels out of the user's cache; all workers of one run share them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    os.environ["ATTN_BENCH_CACHE"] = str(folder)
    return folder


@pytest.fixture(autouse=True, scope="module")
def frozen() -> None:
    """Leave what was imported so far out of every garbage collection, as the process of a cell does."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def servers() -> Iterator[None]:
    """Let all runs in this process share the servers that fork their cells, and measure briefly, one cell at a time."""
    from attn_bench.running import client
    from attn_bench.running.executors import shares

    usual = client.surroundings

    def surroundings() -> dict[str, str]:
        """Add what else servers inherit, the umask, and leave out the name of the test."""
        kept = {name: value for name, value in usual().items() if name != "PYTEST_CURRENT_TEST"}
        os.umask(umask := os.umask(0o022))
        return {**kept, "TEST_UMASK": oct(umask)}

    with pytest.MonkeyPatch.context() as patch, client.warm():
        patch.setattr(client, "surroundings", surroundings)
        patch.setattr(client, "IDLE_AT_MOST", 2)
        patch.setattr(client, "SERVER", "quick_server")
        # Cells train side by side only in tests of that.
        patch.setattr(shares, "MEMORY_EACH_MIB", math.inf)
        yield
