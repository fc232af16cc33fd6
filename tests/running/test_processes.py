"""The processes that run cells: what they import, how they end, and what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from attn_bench.running import client, libraries
from attn_bench.running.client import ForkServer, Share
from attn_bench.running.runner import run_sweep
from attn_bench.sweep.settings import Sweep

RUN = [sys.executable, "-m", "attn_bench", "run", "--task", "toy-task", "--resolutions", "8", "--steps", "2"]
RUN += ["--device", "cpu", "--jobs", "1", "--no-measure", "--no-plots"]


def sweep(*models: str) -> Sweep:
    settings = {"resolutions": [8], "steps": 2, "measure": False, "device": "cpu"}
    return Sweep.from_settings({"models": models, "task": "toy-task", **settings})


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_server_has_one_thread_no_plugin_and_everything_as_it_was_before_it_forks():
    names = ["torch", "torchvision", "timm", "neuralop", "toy_plugins", "mano", "baselines.fno", "wave"]
    found = json.loads(
        python(
            "import json, sys, warnings\n"
            "import torch, attn_bench.running.run_cell\n"
            "from attn_bench.running.libraries import preload, threads\n"
            "def state():\n"
            "    rng, flags = torch.get_rng_state().sum().item(), torch.get_float32_matmul_precision()\n"
            "    dtype, grad = str(torch.get_default_dtype()), torch.is_grad_enabled()\n"
            "    deterministic = torch.are_deterministic_algorithms_enabled()\n"
            "    return [torch.get_num_threads(), dtype, grad, rng, flags, deterministic, str(warnings.filters)]\n"
            "before = state()\n"
            f"preload({names!r})\n"
            "here = [name for name in ('timm', 'neuralop', 'toy_plugins', 'mano', 'baselines', 'wave')"
            " if name in sys.modules]\n"
            "print(json.dumps([threads(), here, before == state(), torch.cuda.is_initialized()]))"
        )
    )
    assert found == [1, ["timm", "neuralop"], True, False]


@pytest.mark.slow
def test_the_server_that_runs_cells_has_one_thread(tmp_path):
    with ForkServer(tmp_path, ["timm", "toy_plugins"]) as server:
        assert server.libraries == ("timm",)
        started = server._started()
        started.wait_until_ready()
        assert len(os.listdir(f"/proc/{server.pid()}/task")) == 1


def test_a_folder_called_like_a_library_is_not_the_library(tmp_path):
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text("raise SystemExit('imported')")
    code = "from attn_bench.running import libraries\nlibraries.ALWAYS = ()\n"
    code += "libraries.preload(['timm'])\nprint('survived')"
    assert python(code, PYTHONPATH=str(tmp_path)) == "survived\n"


@pytest.mark.slow
def test_a_library_that_starts_threads_is_left_to_the_cells(tmp_path, monkeypatch):
    """As a release might that we do not know."""
    package = tmp_path / "timm"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    (tmp_path / "timm-1.dist-info").mkdir()
    (tmp_path / "timm-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: timm\nVersion: 1\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with ForkServer(tmp_path, ["timm"]) as server:
        started = server._started()
        started.wait_until_ready()
        assert len(os.listdir(f"/proc/{server.pid()}/task")) == 1
        assert "timm" not in psutil.Process(server.pid()).cmdline()


def test_modules_of_the_current_folder_are_not_imported(tmp_path):
    for package in ("torch", "attn_bench", "toy_plugins", "numpy"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise ImportError('not this one')")
    (tmp_path / "signal.py").write_text("# helpers for signal processing")
    code = (
        "from attn_bench.cli import main\nimport sys\n"
        f"sys.argv = ['attn-bench', *{RUN[3:]!r}, '--models', 'toy', '--out', 'r']\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert ":  ok" in done.stderr


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'no room' >&2; exit 3", "the worker process: exit code 3: no room"),
        ("kill -9 $$", "the worker process: ended by SIGKILL"),
        ("yes; exec sleep 600", "the worker process: it sent something that is not a message"),
        ("printf 'r\\0\\0\\0\\5{'; exit 0", "the worker process: exit code 0"),
    ],
)
def test_a_server_that_fails_is_reported_with_its_last_output(tmp_path, monkeypatch, script, reason):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(client, "sys", type("Other", (), {"executable": str(program)}))
    table = run_sweep(sweep("toy"), tmp_path / "r")
    assert [(row.status, row.error) for row in table.itertuples()] == [("crashed", reason)]


def test_a_server_that_never_starts_ends(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr(client, "sys", type("Other", (), {"executable": str(program)}))
    monkeypatch.setattr(client, "START_S", 0.5)
    table = run_sweep(sweep("toy"), tmp_path / "r")
    assert table.error.tolist() == ["the worker process: not ready within 0.5 s"]


@pytest.mark.parametrize(
    "event",
    [
        {"stage": 3},
        {"stage": "training"},
        {"stage": "training", "fraction": "1", "epoch": [], "loss": 1, "seconds": 0},
        {"stage": "training", "fraction": float("nan"), "epoch": 1, "loss": 1, "seconds": 0},
        {"stage": "training", "fraction": 10**400, "epoch": 1, "loss": 1, "seconds": 0},
        {"fraction": 1},
    ],
)
def test_invalid_progress_is_not_shown(event):
    assert client._progress(event) is None


def test_progress_is_cleaned():
    sent = {"stage": "training", "fraction": 0.5, "epoch": 1, "loss": 2.5, "seconds": 2}
    assert client._progress(sent | {"more": [1]}) == {"event": "progress", **sent}
    assert client._progress({"stage": "\x1b[31mdata"}) == {"event": "progress", "stage": "data"}
    assert len(client._progress({"stage": "x" * 1000})["stage"]) == 40


@pytest.fixture
def started(tmp_path):
    """Start a run whose model stops the fork server, or sleeps, and return it when it has come to that."""
    runs: list[subprocess.Popen[str]] = []

    def start(model: str, *options: str) -> subprocess.Popen[str]:
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        command = [*RUN, "--models", model, "--out", str(tmp_path / "r"), *options]
        runs.append(
            subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(temporary)})
        )
        deadline = time.monotonic() + 60
        while not list((tmp_path / "r" / "logs").glob("*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        return runs[-1]

    yield start
    for run in runs:
        run.kill()
        run.communicate()


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_a_terminated_run_ends_soon_and_leaves_nothing(tmp_path, started, number, status):
    run = started("rogue:stop-server")
    family = psutil.Process(run.pid).children(recursive=True)
    assert len(family) >= 2
    run.send_signal(number)
    # Well below what a stopped server was waited for before.
    _, errors = run.communicate(timeout=15)
    assert run.returncode == status
    assert "rerun the same command to resume" in errors
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    assert [path.name for path in (tmp_path / "temporary").iterdir() if not path.name.startswith("torchind")] == []
    assert not (tmp_path / "r" / "leases").exists()


def test_known_libraries_are_a_list_of_the_harness():
    assert libraries.known(["timm.layers", "toy_plugins", "torch", "mano.vision", "torch"]) == ("timm.layers", "torch")


def test_runs_that_need_the_same_server_share_it_while_it_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "_idle", None)
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nprintf 'y\\0\\0\\0\\2{}'; exec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr(client, "sys", type("Other", (), {"executable": str(program)}))

    def pid(**variables: str) -> int:
        with ForkServer(tmp_path, [], Share(variables=variables)) as server:
            return server.pid()

    with client.warm():
        with client.warm():
            first = pid()
        assert pid() == first != pid(TEST_SHARE="1")
        with ForkServer(tmp_path, []) as one, ForkServer(tmp_path, []) as other:
            assert (one.pid() == first) != (other.pid() == first)
        with pytest.raises(KeyboardInterrupt), ForkServer(tmp_path, []) as server:
            interrupted = server.pid()
            raise KeyboardInterrupt
        assert not psutil.pid_exists(interrupted)
    assert not psutil.pid_exists(first)
    assert pid() != pid()


def test_the_warning_of_slurm_before_a_time_limit_ends_no_server(tmp_path):
    with ForkServer(tmp_path, []) as server:
        server._started().wait_until_ready()
        pid = server.pid()
        os.kill(pid, signal.SIGUSR2)
        _, alive = psutil.wait_procs([psutil.Process(pid)], timeout=0.5)
        assert alive
        assert server.pid() == pid
