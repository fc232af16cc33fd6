"""A run describes the data it read before it trains, and stores the description."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from attn_bench import cli
from attn_bench.plugin import PreparedData, PreparedFile
from attn_bench.plugins.registry import TASKS
from attn_bench.running.runner import Watcher, prepare_data
from attn_bench.sweep.settings import Sweep

TOY = {"models": ["toy"], "task": "toy-task", "device": "cpu", "resolutions": [8]}


@pytest.mark.slow
def test_the_terminal_the_records_and_the_page_say_what_was_read(tmp_path, monkeypatch, capfd):
    fields = np.random.default_rng(0).random((2, 40, 8, 32)) + 1
    np.savez(tmp_path / "rect.npz", x=fields[0], y=fields[1])
    monkeypatch.chdir(tmp_path)
    command = (
        "attn-bench run --task darcy --models mean --resolutions 8 --eval-resolutions 4 --data rect.npz --no-measure"
    )
    monkeypatch.setattr(sys, "argv", [*command.split(), "--out", "out"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    said = "40 samples of 8 x 32 from rect.npz: 32 train, 8 test"
    lines = capfd.readouterr().err.splitlines()
    (shown,) = [i for i, line in enumerate(lines) if line.startswith(f"{said}; restricted to 4 x 16")]
    (done,) = [i for i, line in enumerate(lines) if line.startswith("[1/1]")]
    assert shown < done
    (record,) = [json.loads(path.read_text()) for path in (tmp_path / "out/cells").glob("*.json")]
    assert record["data"]["read"].startswith(said)
    assert f"<summary>The data: {said}" in (tmp_path / "out/report/index.html").read_text()


@pytest.fixture
def told(monkeypatch):
    """Return what a run says of data that a task describes so."""

    def prepare(described):
        task = TASKS.load("toy-task")
        monkeypatch.setattr(type(task), "prepare", lambda self, resolutions, options, context: described)
        read, warned = [], []
        watcher = Watcher(on_warning=warned.append, on_read=read.append)
        lines = prepare_data(Sweep.from_settings(TOY).cells(), watcher)
        assert lines == read
        return read, warned

    return prepare


def test_a_task_says_it_in_its_descriptions(told):
    described = PreparedData(
        read=("40 images\x1b[31m from a\nfolder", "two"),
        warnings=("a part of them",),
        files=(PreparedFile(Path("x"), "train", "made"),),
    )
    assert told(described) == (["40 images from a folder", "two"], ["a part of them"])
    assert told(PreparedData()) == ([], [])


def test_the_table_of_the_python_interface_says_it(monkeypatch, tmp_path):
    import pandas as pd

    from attn_bench.running import runner

    monkeypatch.setattr(runner, "prepare_data", lambda *_: ["40 samples"])
    monkeypatch.setattr("attn_bench.running.executors.sequential.run", lambda *_, **__: None)
    monkeypatch.setattr("attn_bench.results.store.Store.write_table", lambda self: pd.DataFrame({"status": ["ok"]}))
    assert runner.run(**TOY, out=tmp_path / "out").attrs["data"] == ["40 samples"]
