"""A cell: models with habits run as in a script, each number fails by itself, and what a model sets stays its own."""

from __future__ import annotations

import functools

import pytest
import torch
from toy_habits import Habit

from attn_bench.errors import OptionError
from attn_bench.gate.ab import worker
from attn_bench.results.store import Store
from attn_bench.results.table import column_values, in_brief
from attn_bench.running import prepare
from attn_bench.running.device.host import Host
from attn_bench.running.device.meter import Meter, Zone
from attn_bench.running.measure import steps
from attn_bench.running.measure.latency import Sampling, measure_latency
from attn_bench.running.measure.parts import measure_parts
from attn_bench.running.measure.torch_state import Keeper, TorchState
from attn_bench.running.run_cell import Files, run_cell
from attn_bench.sweep.settings import Sweep

MEASURED = {"train": False}
TRAINED = {"measure": False, "steps": 3}
STEPS = ["forward", "train_step"]
PARTS = ["train_forward", "backward", "optimizer"]


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Measure for a moment, and leave the process as it was."""
    sampling = Sampling(min_samples=2, min_seconds=0, max_seconds=0, warmup_seconds=0)
    for measure in (measure_latency, measure_parts):
        short = functools.partial(measure, sampling=sampling)
        monkeypatch.setattr(f"attn_bench.running.measure.steps.{measure.__name__}", short)
    monkeypatch.setattr("attn_bench.running.measure.steps.calibration_ms", lambda step: 1.0)
    state = TorchState.read()
    yield
    assert not state.difference(state.apply())


def cell_of(model, **settings):
    settings = {"resolutions": [8], "batch_size": 4, "task": "toy-task", "device": "cpu", "threads": 1, **settings}
    (cell,) = Sweep.from_settings({"models": [model], **settings}).cells()
    return cell


@pytest.fixture
def ran(tmp_path):
    def run(how, **settings):
        cell = cell_of(f"habit:{how}", **settings)
        record, _ = run_cell(cell, Files.of(cell, Store(tmp_path)))
        return record

    return run


def hook(monkeypatch, function):
    """Register a forward hook with every module that is built."""
    build = Habit.build

    @functools.wraps(build)
    def hooked(self, problem, options):
        module = build(self, problem, options)
        module.register_forward_hook(function)
        return module

    monkeypatch.setattr(Habit, "build", hooked)


WORKING = [
    "plain", "cached", "lazy", "lazy-in-training", "batch-buffer", "running-mean", "scripted", "in-place",
    "flags-in-build", "flags-in-forward", "double",
]  # fmt: skip


@pytest.mark.parametrize("how", WORKING)
def test_what_works_in_a_script_is_measured_trained_and_compared(ran, how):
    measured = ran(how, **MEASURED)
    assert (measured.status, measured.error, measured.errors) == ("ok", None, {})
    assert list(measured.memory) == STEPS
    assert list(measured.latency) == [*STEPS, *PARTS]
    trained = ran(how, eval_resolutions=[12], **TRAINED)
    assert (trained.status, trained.error, trained.errors) == ("ok", None, {})
    assert [entry.status for entry in trained.evaluations] == ["ok", "ok"]
    steps = worker._open(cell_of(f"habit:{how}", **MEASURED).to_json())
    exact = worker._answer(steps, {"exact": True})
    for name in STEPS:
        assert worker._answer(steps, {"step": name, "calls": 1, "lead": 0})["ms"] > 0
    assert exact["parameters"] == measured.parameters == trained.parameters > 0
    assert exact["flops"] == measured.flops.total > 0
    assert exact["peak_memory"] == {name: memory.peak_mib for name, memory in measured.memory.items()}


@pytest.mark.parametrize(
    ("how", "settings", "missing", "reason"),
    [
        ("norm-of-samples", {"batch_size": 1}, STEPS[1:], "ValueError: Expected more than 1 value per channel"),
        ("fails-in-training", {}, STEPS[1:], "RuntimeError: no way back"),
        ("detached", {}, STEPS[1:], "in training mode no gradient reaches the parameters"),
        ("tuple-in-training", {}, STEPS[1:], "returned a tuple of 2 ((2, 1, 8, 8) of float32, () of float32) in train"),
        ("shape-in-training", {}, STEPS[1:], "the model returned (2, 1, 1, 1) in training mode"),
    ],
)
def test_a_train_step_that_fails_takes_no_other_number_with_it(ran, how, settings, missing, reason):
    record = ran(how, **MEASURED, **settings)
    assert (record.status, record.error) == ("ok", None)
    assert list(record.latency) == list(record.memory) == ["forward"]
    assert record.flops.total > 0
    assert list(record.errors) == ["latency_train_step", "peak_memory_train"]
    assert all(reason in text for text in record.errors.values())
    (missing,) = column_values(in_brief([record]), {}, {})["missing"]
    assert missing.startswith("latency_train_step, peak_memory_train: ")
    assert reason in missing
    trained = ran(how, steps=2, **settings)
    assert trained.status == "crashed"
    assert reason in trained.error
    assert list(trained.latency) == ["forward"]
    assert trained.flops == record.flops


def test_each_quantity_fails_separately(ran, monkeypatch):
    def fail(*_):
        raise RuntimeError("not today")

    for broken, quantity in (("measure_memory", "peak_memory"), ("count_flops", "flops"), ("measure_parts", "latency")):
        with monkeypatch.context() as patch:
            patch.setattr(f"attn_bench.running.measure.steps.{broken}", fail)
            record = ran("plain", **MEASURED)
        assert record.status == "ok"
        assert list(record.latency) == [*STEPS, *(PARTS if quantity != "latency" else [])]
        assert all(name.startswith(quantity) for name in record.errors)
        assert set(record.errors.values()) == {"RuntimeError: not today"}
        assert (record.flops is None) == (quantity == "flops")


def test_a_forward_pass_that_cannot_be_timed_is_the_status_of_the_cell(ran, monkeypatch):
    def fail(step, device):
        raise torch.OutOfMemoryError("tried to allocate 12 GiB")

    monkeypatch.setattr("attn_bench.running.measure.steps.measure_latency", fail)
    record = ran("plain", **MEASURED)
    assert (record.status, record.error) == ("oom", "OutOfMemoryError: tried to allocate 12 GiB")
    assert list(record.memory) == STEPS
    assert record.flops.total > 0


def test_an_out_of_memory_in_the_train_step_keeps_the_forward_pass(ran, monkeypatch):
    def fail(self, inputs, targets):
        raise torch.OutOfMemoryError("tried to allocate 12 GiB")

    monkeypatch.setattr("attn_bench.running.train.step.Step.__call__", fail)
    record = ran("plain", **MEASURED)
    assert record.status == "oom"
    assert list(record.latency) == list(record.memory) == ["forward"]


def test_questions_about_a_module_fail_separately(ran, monkeypatch):
    monkeypatch.setattr(Habit, "effective", lambda self, module, problem: 1 / 0)
    monkeypatch.setattr(Habit, "growth", lambda self, options: 1 / 0)
    monkeypatch.setattr("attn_bench.running.evaluation._Shown.arrays", lambda self: 1 / 0)
    record = ran("plain", **TRAINED)
    assert record.status == "ok"
    assert record.errors == dict.fromkeys(
        ("complexity", "effective", "predictions"), "ZeroDivisionError: division by zero"
    )


def test_work_in_the_models_own_threads_is_not_counted_as_zero(ran):
    record = ran("own-threads", **MEASURED)
    assert list(record.latency) == [*STEPS, *PARTS]
    assert record.flops is None
    assert record.memory == {}
    assert list(record.errors) == ["peak_memory_forward", "peak_memory_train", "flops"]
    assert all("the model's own threads" in reason for reason in record.errors.values())
    assert ran("own-threads", **TRAINED).errors == {}


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("complex", "(2, 1, 8, 8) of complex64"),
        ("integer", "(2, 1, 8, 8) of int64"),
        ("boolean", "(2, 1, 8, 8) of bool"),
        ("sparse", "(2, 1, 8, 8) of float32 (sparse_coo)"),
        ("nested", "a nested tensor"),
        ("named", "a dict with 'logits': (2, 1, 8, 8) of float32, 'loss': () of float32"),
        ("several", "a tuple of 2 ((2, 1, 8, 8) of float32, a list of 2 ((2, 1, 8, 8) of float32, int))"),
        ("constant", "(1, 1, 8, 8)"),
        ("numpy", "ndarray"),
    ],
)
def test_an_output_that_no_loss_takes_is_refused_by_what_it_is(ran, how, found):
    for settings in (MEASURED, TRAINED):
        record = ran(how, **settings)
        assert record.status == "crashed"
        assert record.error.startswith(
            f"ValueError: the model returned {found} for an input (2, 1, 8, 8); field requires (2, 1, 8, 8)"
        )


def test_an_output_is_checked_at_other_resolutions_too(ran, monkeypatch):
    hook(monkeypatch, lambda module, inputs, output: output[..., :8])
    record = ran("plain", eval_resolutions=[12], **TRAINED)
    assert record.status == "ok"
    assert "returned (4, 1, 12, 8) for an input (4, 1, 12, 12)" in record.evaluations[1].error


def test_an_unexpected_dtype_is_reported(ran):
    assert ran("double", **TRAINED).effective == {"output_dtype": "float64"}
    assert ran("plain", precision="bf16", **TRAINED).effective == {}


@pytest.mark.parametrize(
    ("how", "status", "reason"),
    [
        ("refuses-heads", "unsupported", "AssertionError: embed_dim must be divisible by num_heads (raised by torch)"),
        ("asserts", "crashed", "AssertionError: an assertion of its own"),
        (
            "misses-forward",
            "crashed",
            'NotImplementedError: Module [Module] is missing the required "forward" function',
        ),
        ("frozen", "crashed", "ValueError: nothing to train: no parameter requires a gradient"),
    ],
)
def test_what_a_library_refuses_is_unsupported_and_what_the_model_does_wrong_is_not(ran, capfd, how, status, reason):
    record = ran(how, **TRAINED)
    assert record.status == status
    assert record.error.startswith(reason)
    assert "Traceback" in capfd.readouterr().err


def test_a_size_that_a_library_refuses_is_reported_for_that_size(ran):
    record = ran("refuses-size", eval_resolutions=[12], **TRAINED)
    assert record.status == "ok"
    assert record.evaluations[1].status == "unsupported"
    assert "Input height (12) doesn't match model (8). (raised by timm)" in record.evaluations[1].error
    other = ran("one-size", eval_resolutions=[12], **TRAINED)
    assert other.evaluations[1].status == "crashed"


def test_a_failed_evaluation_keeps_the_others(ran, monkeypatch):
    from toy_plugins import ToyTask

    evaluate = ToyTask.evaluate

    def failing(self, batches):
        first = next(batches)
        return 1 / 0 if first[0].shape[-1] == 8 else evaluate(self, [first, *batches])

    monkeypatch.setattr(ToyTask, "evaluate", failing)
    record = ran("plain", eval_resolutions=[12], **TRAINED)
    assert (record.status, record.error) == ("crashed", "ZeroDivisionError: division by zero")
    assert [entry.status for entry in record.evaluations] == ["crashed", "ok"]
    assert record.evaluations[1].metrics["rel_l2"] > 0


def test_random_numbers_of_one_stage_do_not_depend_on_another(ran):
    """Dropout draws in training: whatever was drawn before must not change it."""
    plain = ran("plain", **TRAINED)
    others = [ran(how, **TRAINED) for how in ("draws-in-build", "reseeds", "plain")] + [ran("plain", steps=3)]
    for other in others:
        assert other.training.loss == plain.training.loss
        assert other.evaluations == plain.evaluations
    further = ran("plain", eval_resolutions=[12], **TRAINED)
    assert further.evaluations[0] == plain.evaluations[0]
    assert ran("plain", seeds=[1], **TRAINED).training.loss != plain.training.loss


def test_settings_that_a_model_changes_are_restored_and_reported(ran):
    plain = ran("plain", **TRAINED)
    flags = ran("flags-in-build", **TRAINED)
    assert plain.effective == {}
    assert plain.in_force["changed_by_model"] == []
    assert flags.training.loss == plain.training.loss
    changed = flags.in_force.pop("changed_by_model")
    plain.in_force.pop("changed_by_model")
    assert flags.in_force == plain.in_force
    assert flags.effective == {"changed_by_model": changed}
    threads = plain.in_force["threads"]
    for text in (
        f"threads {threads + 1} (not {threads}): build",
        "default_dtype float64 (not float32): build",
        "grad_mode False (not True): build",
        "deterministic 2 (not 0): build",
        "cudnn_benchmark True (not False): build",
        "matmul_precision medium (not highest): build",
    ):
        assert text in changed


def test_what_is_set_in_a_measured_step_is_what_was_in_force(ran):
    record = ran("flags-in-forward", threads=1, **MEASURED)
    assert record.in_force["threads"] == 3
    (changed,) = record.in_force["changed_by_model"]
    assert changed.startswith("threads 3 (not 1): first call, ")
    assert "measuring latency_forward" in changed
    trained = ran("flags-in-forward", threads=1, **TRAINED)
    assert trained.in_force["threads"] == 1
    assert "training" in trained.in_force["changed_by_model"][0]


def test_the_reference_workload_runs_as_it_is_set(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "attn_bench.running.measure.steps.calibration_ms", lambda step: seen.append(torch.get_num_threads()) or 1.0
    )
    prepare.open_steps(cell_of("habit:flags-in-forward", threads=1, **MEASURED)).latency("forward")
    assert seen == [1, 1]


def test_first_calls_leave_buffers_and_modes_as_they_were():
    cell = cell_of("habit:running-mean", **MEASURED)
    keeper = Keeper(cell.seed)
    prepared = prepare.prepare(cell, prepare.pose(cell, keeper), keeper)
    norm = prepared.module[0]
    assert (norm.running_mean.tolist(), norm.running_var.tolist(), int(norm.num_batches_tracked)) == ([0], [1], 0)
    assert not prepared.module.training


def test_no_inference_mode_is_around_a_module(ran, monkeypatch):
    seen = set()
    hook(monkeypatch, lambda module, *_: seen.add((torch.is_inference_mode_enabled(), module.training)))
    ran("plain", steps=2, eval_resolutions=[12])
    assert seen == {(False, False), (False, True)}


def test_a_task_that_refuses_an_option_is_named(ran, monkeypatch):
    def splits(task, resolution, options):
        raise OptionError("n is 400; it must be <= 64")

    monkeypatch.setattr("toy_plugins.ToyTask.splits", splits)
    record = ran("plain", **TRAINED)
    assert (record.status, record.error) == ("unsupported", "task toy-task: n is 400; it must be <= 64")


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_causal_text_is_measured_token_by_token_where_the_mixer_can(tmp_path, compile):
    for model, can in (("full", not compile), ("fma", not compile), ("htransformer", False)):
        cell = cell_of(model, task="text", resolutions=[16], compile=compile, **MEASURED)
        record, _ = run_cell(cell, Files.of(cell, Store(tmp_path)))
        assert record.status == "ok", record.error
        assert not record.errors
        assert ("token" in record.latency, "state" in record.memory) == (can, can)
    if not compile:
        cell = cell_of("full", task="text", resolutions=[16], options={"full": {"depth": 2, "dim": 8}}, **MEASURED)
        record, _ = run_cell(cell, Files.of(cell, Store(tmp_path)))
        # Keys and values of 15 tokens in two blocks, and the last three tokens, of 4 texts.
        assert record.memory["state"].peak_mib == pytest.approx(4 * (2 * 2 * 15 + 3) * 8 * 4 / 2**20)


def test_energy_is_measured_after_all_that_is_timed_or_the_record_says_why_not(tmp_path, monkeypatch):
    order, spent = [], iter(range(1, 10**9))
    for name in ("measure_latency", "measure_parts", "measure_energy", "count_flops"):
        short = {"seconds": 0.0} if name == "measure_energy" else {}
        usual = functools.partial(getattr(steps, name), **short)
        monkeypatch.setattr(steps, name, lambda *a, name=name, usual=usual: order.append(name) or usual(*a))
    cell = cell_of("toy", **MEASURED)
    for meter in (Meter("rapl", [Zone(lambda: next(spent), 1e-6)]), "no energy counter: none"):
        monkeypatch.setattr(Host, "meter", lambda self, meter=meter: meter)
        order.clear()
        record, _ = run_cell(cell, Files.of(cell, Store(tmp_path)))
        assert (record.status, record.errors) == ("ok", {})
        if isinstance(meter, str):
            assert (record.energy, record.energy_source) == ({}, meter)
            continue
        assert (list(record.energy), record.energy_source) == (STEPS, "rapl")
        assert all(each.joules > 0 for each in record.energy.values())
        assert order == [*["measure_latency"] * 2, "measure_parts", *["measure_energy"] * 2, "count_flops"]
    still = Meter("rapl", [Zone(lambda: 5, 1e-6)])
    monkeypatch.setattr("attn_bench.running.measure.energy.STILL_S", 0.01)
    monkeypatch.setattr(Host, "meter", lambda self: still)
    record, _ = run_cell(cell, Files.of(cell, Store(tmp_path)))
    assert (record.status, record.energy) == ("ok", {})
    assert record.errors["energy_forward"] == "ValueError: the energy counter (rapl) stands still"
    assert record.latency.keys() >= set(STEPS)
