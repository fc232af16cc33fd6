"""What a plugin does when it is imported breaks that plugin at most, and reaches nothing else of the process."""

from __future__ import annotations

import builtins
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import pytest
from command import attn_bench
from example_plugin import install, model_code

from attn_bench.cli.listing import details
from attn_bench.errors import UserError
from attn_bench.plugins import trial
from attn_bench.plugins.registry import MODELS
from attn_bench.plugins.undo import undone
from attn_bench.sweep.settings import Sweep
from attn_bench.sweep.variants import BROKEN


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Install a model whose module starts with the given code; return the folder."""

    def make(top: str, module: str) -> str:
        code = model_code("made", top=textwrap.dedent(top))
        install(tmp_path, "made", module, {module: code}, monkeypatch)
        return str(tmp_path)

    return make


ENDS = {
    "exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "sys_exit": ("import sys; sys.exit('no license')", "SystemExit: no license"),
    "os_exit": ("import os; print('last words', flush=True); os._exit(0)", "exit status 0): last words"),
    "abort": ("import os; os.abort()", "its import ends the process (SIGABRT)"),
    "interrupt": ("raise KeyboardInterrupt('mine')", "KeyboardInterrupt: mine"),
    "generator": ("raise GeneratorExit", "GeneratorExit"),
    "hang": ("import time; time.sleep(999)", "its import takes longer than 3 s"),
    "spin": ("while True: pass", "its import takes longer than 3 s"),
    "flood": ("while True: print('x' * 10000)", "its import takes longer than 3 s: xxx"),
    "descriptors": ("import os; os.closerange(0, 256)", "its import ends the process (exit status"),
    "thread": ("import threading, time; threading.Thread(target=time.sleep, args=(99,)).start()", "leaves a thread"),
    "escape": ("raise ValueError('\\x1b[31mred\\ntwo lines \\ud800')", "ValueError: red two lines"),
    "syntax": ("def (", "SyntaxError"),
    "message": ("class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E()", "E"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in ("spin", "flood") else []) for name in ENDS]
)
def test_an_import_that_ends_or_hangs_makes_one_broken_plugin(made, monkeypatch, capfd, name):
    code, why = ENDS[name]
    monkeypatch.setattr(trial, "LIMIT_S", 3.0)
    made(code, f"ends_{name}")
    began = time.monotonic()
    with pytest.raises(UserError) as error:
        list(details(MODELS.entry("made")))
    assert time.monotonic() - began < 30
    assert str(error.value).startswith("plugin 'made' (made 1.0) is broken: ")
    assert why in str(error.value)
    assert len(str(error.value)) < 700
    assert "\x1b" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("after", "why"),
    [
        ("Example.presets = None", "its presets is of type NoneType, not Mapping"),
        ("Example.summary = 3", "its summary is of type int, not str"),
        ("def build(self, problem, *, act=1): pass\nExample.build = build", "its build() takes options as keywords"),
        ("Example.Options = type('O', (), {'__annotations__': {'act': 'Nowhere'}, 'act': 1})", "is not a dataclass"),
        ("Example.__init__ = lambda self: 1 / 0", "ZeroDivisionError"),
        ("Example = property(lambda self: 1 / 0)", "is not a subclass of attn_bench.plugin.Model"),
    ],
)
def test_a_plugin_that_does_not_keep_the_contract_is_broken_and_says_how(made, tmp_path, after, why):
    made("", name := f"contract_{abs(hash(after))}")
    with (tmp_path / f"{name}.py").open("a", encoding="utf-8") as file:
        file.write(f"\n{after}\n")
    with pytest.raises(UserError, match=r"plugin 'made' \(made 1.0\) is broken: ") as error:
        MODELS.load("made")
    assert why in str(error.value)


def test_damaged_metadata_of_another_distribution_hide_nothing(made, tmp_path):
    made("", "beside_damage")
    for name, text in {"damaged": "[attn_bench.models]\nno equals sign\n", "empty": ""}.items():
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
        (tmp_path / f"{name}-1.0.dist-info/entry_points.txt").write_text(text, encoding="utf-8")
    assert {"made", "toy", "mano"} <= MODELS.entries().keys()
    assert MODELS.entry("made").origin == "made 1.0"


def test_the_rest_of_a_sweep_is_planned_and_a_sweep_of_broken_models_is_refused(made):
    made("raise SystemExit", "ends_here")
    settings = {"task": "toy-task", "resolutions": [8], "device": "cpu", "options": {"made": {"width": 3}}}
    toy, broken = Sweep.from_settings({"models": ["toy", "made:wide"], **settings}).cells()
    assert toy.broken is None
    assert (broken.model, broken.model_version, broken.options) == ("made:wide", BROKEN, {"width": 3})
    assert broken.broken.endswith("is broken: SystemExit")
    assert "sources" not in broken.to_json()
    assert "broken" not in broken.to_json()
    with pytest.raises(UserError, match=r"plugin 'made' .* is broken: SystemExit"):
        Sweep.from_settings({"models": ["made"], **settings}).cells()


def test_a_broken_model_has_a_row_and_the_good_one_runs(made, tmp_path):
    made("import os; os._exit(7)", "ends_midway")
    command = ["run", "--models", "made,toy", "--task", "toy-task", "--resolutions", "8", "--steps", "1"]
    command += ["--no-measure", "--no-plots", "--out", str(tmp_path / "out")]

    def run() -> tuple[int, list[str]]:
        done = attn_bench(*command)
        records = [json.loads(file.read_text()) for file in (tmp_path / "out/cells").glob("*.json")]
        return done.returncode, sorted(f"{record['cell']['model']} {record['status']}" for record in records)

    assert run() == (0, ["made crashed", "toy ok"])
    made("", "ends_midway")
    # Repaired, it has one row, not one more.
    assert run() == (0, ["made ok", "toy ok"])


CHANGES = """
import builtins, gc, hashlib, io, json, logging, os, signal, sys, tempfile, threading, time, warnings
import torch
json.dumps = json.loads = lambda *a, **k: "{}"
hashlib.sha256 = hashlib.md5
os.replace = os.rename = os.fsync = lambda *a, **k: None
mine = lambda function: lambda *a, **k: function(*a, **k)
builtins.open, io.open, builtins.print, time.monotonic = mine(open), mine(open), mine(print), mine(time.monotonic)
import attn_bench.sweep.settings
attn_bench.sweep.settings.sha256 = hashlib.md5
os.environ["MADE"] = "1"
os.environ.pop("PATH")
os.environ["HOME"] = "/nowhere"
os.chdir("/")
os.umask(0o077)
sys.path.insert(0, "/nowhere")
sys.argv[:] = ["mine"]
sys.excepthook = sys.exit = print
sys.stdout = sys.stderr = None
sys.setrecursionlimit(555)
gc.disable()
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.setitimer(signal.ITIMER_REAL, 1000)
warnings.simplefilter("error")
logging.basicConfig(level=1)
logging.disable(50)
os.write(1, b"flood" * 1000)
os.write(2, b"flood" * 1000)
torch.set_default_dtype(torch.float64)
torch.set_grad_enabled(False)
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
sys.modules["subprocess"] = None
"""


def state() -> dict[str, object]:
    import torch

    return {
        "functions": [
            json.dumps,
            json.loads,
            hashlib.sha256,
            os.replace,
            builtins.open,
            builtins.print,
            time.monotonic,
        ],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "mask": _mask(),
        "path": list(sys.path),
        "argv": list(sys.argv),
        "streams": (sys.stdout, sys.stderr, sys.excepthook, sys.exit),
        "modules": sys.modules["subprocess"],
        "limits": (sys.getrecursionlimit(), signal.getitimer(signal.ITIMER_REAL)),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "warnings": list(warnings.filters),
        "logging": (list(logging.root.handlers), logging.root.level, logging.root.manager.disable),
        "torch": (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _mask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def test_changes_of_the_process_by_an_import_are_undone(made, capfd):
    made(CHANGES, "changes_all")
    before = state()
    assert MODELS.load("made").name == "made"
    assert "changes_all" in sys.modules
    assert state() == before
    assert capfd.readouterr() == ("", "")


def test_writing_and_hashing_use_the_original_functions(monkeypatch, tmp_path):
    """Where they are not put back either: the process of a cell, a thread that the plugin has started."""
    from attn_bench.files import write_json

    (cell,) = Sweep.from_settings({"models": ["toy"], "task": "toy-task", "resolutions": [8], "device": "cpu"}).cells()
    version, id = MODELS.entry("toy").fingerprint(), cell.id
    monkeypatch.setattr(json, "dumps", lambda *_, **__: "{}")
    monkeypatch.setattr(json, "loads", lambda *_, **__: {})
    monkeypatch.setattr(json, "JSONEncoder", None)
    monkeypatch.setattr(hashlib, "sha256", hashlib.md5)
    monkeypatch.setattr(os, "replace", lambda *_: None)
    assert (cell.id, MODELS.entry("toy").fingerprint()) == (id, version)
    write_json(tmp_path / "x.json", {"a": 1})
    monkeypatch.undo()
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}


def test_a_cell_s_process_has_bound_what_its_task_hashes_and_writes_with_before_the_model_is_imported(made):
    made("import hashlib, json; json.dumps = lambda *a, **k: '{}'; hashlib.sha256 = hashlib.md5", "patches_json")
    code = """
import json, sys
from pathlib import Path
from attn_bench.running.measure.torch_state import Keeper
from attn_bench.running.prepare import pose
from attn_bench.sweep.settings import Cell
pose(Cell.from_json(json.loads(sys.stdin.read())), Keeper(0))
assert json.dumps(1) == "{}"
from attn_bench.tasks.shared.cache import Entry
print(Entry(Path(), "x", {"a": 1}, "").name)
"""
    settings = {"models": ["made"], "task": "darcy", "resolutions": [16], "device": "cpu"}
    (cell,) = Sweep.from_settings(settings).cells()
    request = json.dumps(cell.to_request())
    done = subprocess.run([sys.executable, "-P", "-c", code], input=request, capture_output=True, text=True)
    assert done.stdout.split() == ["x-" + hashlib.sha256(b'{"a":1}').hexdigest()[:12]], done.stderr


def test_a_process_that_an_import_forks_does_not_go_on_as_the_command(tmp_path):
    code = (
        "import os\nfrom attn_bench.plugins.undo import undone\n"
        "with undone():\n    os.fork()\n"
        f"os.write(os.open({str(tmp_path / 'seen')!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND), b'x')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "seen").read_text() == "x"


def test_a_real_interrupt_of_an_import_ends_the_command(made):
    made("import time; time.sleep(99)", "sleeps_long")
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        MODELS.load("made")


def test_closed_streams_are_no_reason_to_fail():
    code = (
        "import os\nos.close(1)\nos.close(2)\n"
        "from attn_bench.plugins.undo import undone\nwith undone():\n    print('x')\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_stream_of_a_notebook_is_silent_too(monkeypatch):
    class Stream:
        text = ""

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    monkeypatch.setattr(sys, "stdout", stream := Stream())
    with undone():
        print("during")
    print("after")
    assert stream.text == "after\n"


def test_a_current_folder_with_packages_of_these_names_breaks_nothing(tmp_path):
    for folder in ("mano", "baselines", "typer", "torch", "attn_bench_results"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("raise ImportError('never built')")
    (tmp_path / "signal.py").write_text("# signal processing")
    command = [sys.executable, "-m", "attn_bench", "list", "models"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stdout.splitlines() if "BROKEN" in line and not line.startswith("toy-")]
