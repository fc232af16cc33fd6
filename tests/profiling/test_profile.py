"""Profiles: what is spent where, against models whose costs are known, and against events of a GPU that are made up."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from command import attn_bench

from attn_bench.errors import UserError
from attn_bench.profiling import breakdown, flame, ncu
from attn_bench.profiling.recorded import Allocation, Frame, Recording, Spent, attributed, record
from attn_bench.running.prepare import open_steps
from attn_bench.running.reuse import expansion_of
from attn_bench.running.runner import separated

MIB = 2**20


def cells(models="toy", **settings):
    sweep, running = separated(
        {"models": models, "task": "toy-task", "resolutions": 8, "device": "cpu", "train": False, **settings}
    )
    return expansion_of(sweep, running).cells


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Both steps of a model of two convolutions around an activation, by step."""
    folder = tmp_path_factory.mktemp("traces")
    steps = open_steps(cells(batch_size=4)[0])
    hooks = [len(module._forward_hooks) for module in steps.module.modules()]
    found = {name: record(steps, name, 3, folder / f"{name}.json") for name in steps.names}
    assert [len(module._forward_hooks) for module in steps.module.modules()] == hooks
    assert {event["name"] for event in json.loads((folder / "train_step.json").read_text())["traceEvents"]} >= {
        "aten::convolution", "attn_bench.backward", "attn_bench.0:Conv2d"
    }  # fmt: skip
    return found


def test_every_microsecond_is_in_one_row_of_both_tables(recordings):
    for recording in recordings.values():
        operators, modules = breakdown.operators(recording), breakdown.modules(recording)
        assert sum(row.time_ms for row in operators) == pytest.approx(recording.total_ms)
        assert sum(row.own_ms for row in modules) == pytest.approx(recording.total_ms)
        assert sum(row.share for row in operators) == pytest.approx(1)
        whole = {row.module: row for row in modules}
        inner = sum(whole[name].forward_ms for name in "012") + whole[breakdown.WHOLE].own_ms
        assert recording.step == "train_step" or whole[breakdown.WHOLE].forward_ms == pytest.approx(inner)
        assert [row.calls for row in modules if row.of] == [1, 1, 1, 1]


def test_backward_passes_are_of_the_module_whose_call_they_undo(recordings):
    of = {row.module: row for row in breakdown.modules(recordings["train_step"])}
    stacks = recordings["train_step"].spent
    nodes = {
        stack[-1].name.rpartition(" ")[2]: [frame.name for frame in stack if frame.kind == "module"]
        for stack in stacks
        if stack[0].name == "backward" and "evaluate_function: " in stack[-1].name
        and "AccumulateGrad" not in stack[-1].name
    }  # fmt: skip
    assert nodes["ReluBackward0"] == ["", "1"]
    backward = {stack[2].name for stack in stacks if "ConvolutionBackward0" in stack[-1].name and len(stack) == 4}
    assert backward == {"0", "2"}
    assert all(of[name].backward_ms > 0 for name in "012")
    assert all(row.backward_ms == 0 for row in breakdown.modules(recordings["forward"]))
    assert {stack[0].name for stack in stacks} == {"forward", "backward", "optimizer"}


def test_allocations_are_those_of_the_tensors(recordings):
    (row,) = (row for row in breakdown.operators(recordings["forward"]) if row.operator == "aten::relu")
    below = [
        row for row in breakdown.operators(recordings["forward"]) if row.operator in ("aten::relu", "aten::clamp_min")
    ]
    assert row.calls == 1
    # 4 samples of 4 channels of 8 x 8 in float32.
    assert sum(each.allocated_mib for each in below) * MIB == 4 * 4 * 64 * 4
    of = {row.module: row for row in breakdown.modules(recordings["forward"])}
    assert of["1"].allocated_mib * MIB == 4 * 4 * 64 * 4
    assert of[breakdown.WHOLE].allocated_mib >= sum(of[name].allocated_mib for name in "012")


def test_flame_graphs_nest_and_fill_the_step(recordings):
    drawn = flame.frames(recordings["train_step"])
    assert (drawn[0].text, drawn[0].x, drawn[0].width) == ("train step", 0, pytest.approx(100))
    rows: dict[int, list[flame.Drawn]] = {}
    for frame in drawn:
        rows.setdefault(frame.y, []).append(frame)
    for y, row in rows.items():
        for one, other in itertools.pairwise(row):
            assert one.x + one.width <= other.x + 1e-3
        for frame in row if y else ():
            above = rows[y - flame.HEIGHT]
            assert any(f.x <= frame.x + 1e-3 and frame.x + frame.width <= f.x + f.width + 1e-3 for f in above)
    assert [frame.text for frame in flame.frames(recordings["forward"])][:2] == ["forward", "model (Sequential)"]


def event(name, start, end, parent=None, *, thread=1, number=-1, kernel=0.0):
    made = SimpleNamespace(
        name=name, time_range=SimpleNamespace(start=start, end=end), cpu_parent=parent, cpu_children=[], thread=thread,
        sequence_nr=number, kernels=[SimpleNamespace(duration=kernel)] if kernel else [],
        device_type=SimpleNamespace(name="CPU"),
    )  # fmt: skip
    if parent is not None:
        parent.cpu_children.append(made)
    return made


def test_kernels_and_the_thread_of_a_backward_pass_on_a_gpu():
    forward = event("attn_bench.forward", 0, 10)
    module = event("attn_bench.layer:Linear", 1, 9, forward)
    linear = event("aten::linear", 2, 8, module, number=7, kernel=50)
    backward = event("attn_bench.backward", 10, 30)
    node = event("autograd::engine::evaluate_function: MmBackward0", 12, 28, thread=2, number=7)
    mm = event("aten::mm", 13, 27, node, thread=2, kernel=80)
    stray = event("aten::item", 40, 41)
    on_gpu = event("ampere_sgemm", 5, 55)
    on_gpu.device_type.name = "CUDA"
    events = [forward, module, linear, backward, node, mm, stray, on_gpu]
    found = attributed(events, [Allocation(14, 2, 100), Allocation(14, 1, 1), Allocation(50, 1, 1)])
    layer = Frame("module", "layer", "Linear")
    of_mm = (Frame("part", "backward"), layer, Frame("operator", node.name), Frame("operator", "aten::mm"))
    assert found[of_mm] == Spent(1, 14, 80, 100)
    assert found[(Frame("part", "forward"), layer, Frame("operator", "aten::linear"))] == Spent(1, 6, 50, 0)
    # While the other thread works, this one waits; the allocation of one byte happened here.
    assert found[(Frame("part", "backward"),)] == Spent(1, 4, 0, 1)
    assert sum(each.cpu_us for each in found.values()) == 30
    (cell,) = cells()
    recording = Recording(cell, "train_step", 1, 1.0, found, on_device=True)
    (row,) = (row for row in breakdown.modules(recording) if row.module == "layer")
    assert (row.forward_ms, row.backward_ms, row.share) == (0.05, 0.08, 1)


def test_the_command_writes_tables_traces_and_a_page_and_says_what_failed(tmp_path):
    out = tmp_path / "p"
    arguments = ("--task", "toy-task", "--resolutions", "8", "--device", "cpu", "--calls", "1", "--out", out)
    done = attn_bench("profile", "--models", "toy,toy-raises", *arguments, "--format", "json")
    assert done.returncode == 0
    assert "attn-bench: toy-raises at 8, seed 0: crashed, RuntimeError: boom in two lines\n" in done.stderr
    forward, step = json.loads(done.stdout)
    assert [(each["model"], each["step"], each["calls"]) for each in (forward, step)] == [
        ("toy", "forward", 1), ("toy", "train_step", 1)
    ]  # fmt: skip
    assert forward["operators"][0].keys() >= {"operator", "time_ms", "share", "allocated_mib"}
    table = pd.read_csv(out / "operators.csv")
    assert table.query("step == 'forward'")["time_ms"].tolist() == pytest.approx(
        [row["time_ms"] for row in forward["operators"]]
    )
    assert set(pd.read_csv(out / "modules.csv")["module"]) >= {"0", "1", "2", breakdown.WHOLE}
    assert len(list(out.glob("toy-8-*.trace.json"))) == 2
    page = (out / "index.html").read_text()
    assert "boom in two lines" in page
    assert "http" not in page.replace("http-equiv", "")

    assert attn_bench("profile", "--models", "toy-raises", *arguments).returncode == 1
    assert attn_bench("profile", "--models", "toy", "--calls", "0").stderr == (
        "attn-bench: --calls: must be between 1 and 1000 (given: 0)\n"
    )


@pytest.mark.slow
def test_the_profiler_says_nothing_itself_without_a_gpu(tmp_path):
    """What it writes comes from C++, so only a process of its own shows it."""
    arguments = ("--models", "toy", "--task", "toy-task", "--resolutions", "8", "--device", "cpu", "--calls", "1")
    command = [sys.executable, "-m", "attn_bench", "profile", *arguments, "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "attn-bench: profiling toy at 8, seed 0\n"


def test_names_of_models_are_escaped_on_the_page(recordings):
    hostile = dataclasses.replace(
        recordings["forward"], cell=dataclasses.replace(recordings["forward"].cell, model="<script>x</script>"),
        spent={(Frame("part", "forward"), Frame("module", "<b>", "</svg>"), Frame("operator", "<i>")): Spent(1, 5.0)},
    )  # fmt: skip
    page = flame.html_page([hostile], ["<u>"])
    assert not any(text in page for text in ("<script>x", "<b>", "<i>", "<u>"))
    assert page.count("</svg>") == page.count("<svg")


def test_ncu_is_asked_for_the_kernels_of_recorded_calls_only(tmp_path, monkeypatch):
    monkeypatch.setattr(ncu.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"^--ncu: ncu was not found; install NVIDIA Nsight Compute"):
        ncu.run_under_ncu(cells(), tmp_path, 1)
    monkeypatch.setattr(ncu.shutil, "which", lambda name: "/opt/ncu")
    with pytest.raises(UserError, match="none on the CPU; use --device cuda"):
        ncu.run_under_ncu(cells(), tmp_path, 1)

    (cell,) = cells()
    cell = dataclasses.replace(cell, execution=dataclasses.replace(cell.execution, device="cuda"))
    asked = []

    def run(command):
        asked.append((command, json.loads(Path(command[-1]).read_text(encoding="utf-8"))))
        return SimpleNamespace(returncode=3)

    monkeypatch.setattr(subprocess, "run", run)
    assert ncu.run_under_ncu([cell], tmp_path, 2) == 3
    command, request = asked[0]
    assert command[:3] == ["/opt/ncu", "--profile-from-start", "off"]
    assert command[command.index("--export") + 1] == str(tmp_path / f"{cell.id}-forward")
    assert (request["step"], request["calls"], request["cell"]["model"]) == ("forward", 2, "toy")
