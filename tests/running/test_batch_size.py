"""``--batch-size auto``: the largest batch that fits, found once for a cell, and the rows of a number otherwise."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
import torch
from toy_plugins import Toy

import attn_bench
from attn_bench.errors import UserError
from attn_bench.gate.ab.revisions import Plan
from attn_bench.gate.conditions import unlike
from attn_bench.gate.thresholds import read_thresholds
from attn_bench.results.record import Record
from attn_bench.results.store import Store
from attn_bench.results.table import column_values, in_brief
from attn_bench.running import batch_size
from attn_bench.running.attempt import Attempt
from attn_bench.running.client import End, Share
from attn_bench.running.prepare import open_steps
from attn_bench.running.room import ALL_OF_IT, Room, size_in, stage_of
from attn_bench.running.run_cell import Files, run_cell
from attn_bench.running.work import Work
from attn_bench.sweep.settings import Sweep

OWN_MIB = 100.0


def cell_of(size="auto", model="toy", **settings):
    settings = {"task": "toy-task", "resolutions": [8], "device": "cpu", "threads": 1, "measure": False, **settings}
    (cell,) = Sweep.from_settings({"models": [model], "batch_size": size, "steps": 4, **settings}).cells()
    return cell


@pytest.fixture
def room(monkeypatch):
    """Return what sets how many MiB there are besides those that the process takes."""
    monkeypatch.setattr(batch_size, "_own_mib", lambda: OWN_MIB)

    def there_are(mib):
        monkeypatch.setattr("attn_bench.running.device.host.host_room_mib", lambda own, limit, share: own + mib)

    there_are(1000.0)
    return there_are


@pytest.fixture
def ran(tmp_path):
    def run(cell, room=ALL_OF_IT):
        return run_cell(cell, Files.of(cell, Store(tmp_path)), room=room)[0]

    return run


@pytest.fixture
def refused(monkeypatch):
    """Return what has the model fail with some batches of a training step; it returns the sizes that were tried."""

    def refuse(fails, error):
        tried, build = [], Toy.build

        def built(self, problem, options):
            def look(module, inputs):
                if module.training and torch.is_grad_enabled():
                    tried.append(len(inputs[0]))
                    if fails(len(inputs[0])):
                        raise error

            module = build(self, problem, options)
            module.register_forward_pre_hook(look)
            return module

        monkeypatch.setattr(Toy, "build", built)
        return tried

    return refuse


def test_the_next_size_would_not_fit_and_this_one_does(room, ran) -> None:
    # Two convolutions: 4 channels of 32 x 32 floats are 16 KiB a sample, which are held a few times.
    cell = cell_of(options={"toy-task": {"n": 2000}}, resolutions=[32])
    room(20.0)
    small = ran(cell)
    room(40.0)
    large = ran(cell)
    # Twice; but the scratch memory of a convolution depends on the processor, and is no multiple of the samples.
    assert large.batch_size in (2 * small.batch_size, 4 * small.batch_size)
    assert 0 < small.batch_size < 2000 * 0.9
    assert small.status == large.status == "ok"
    assert small.effective["batch_size_found_for_mib"] == OWN_MIB + 20
    assert small.batch_size.bit_count() == 1


def test_no_batch_exceeds_the_training_set(room, ran) -> None:
    record = ran(cell_of(options={"toy-task": {"n": 30}}, validation=0.1))
    assert record.batch_size == 27
    assert record.training.steps == record.training.epochs == 4


def test_a_cell_is_what_it_would_be_with_the_number(room, ran) -> None:
    found, given = ran(cell_of(options={"toy-task": {"n": 16}}, validation=0)), ran(cell_of(16, validation=0))
    assert found.batch_size == given.batch_size == 16
    assert found.evaluations == given.evaluations
    assert found.training.loss == given.training.loss
    assert found.id != given.id


@pytest.mark.parametrize("message", ["[enforce fail] DefaultCPUAllocator: can't allocate memory", "index too large"])
def test_the_last_size_that_worked_is_used(room, ran, refused, message) -> None:
    tried = refused(lambda size: size > 4, RuntimeError(message))
    record = ran(cell_of())
    assert (record.status, record.batch_size) == ("ok", 4)
    assert set(tried) == {1, 2, 4, 8}


def test_a_model_may_refuse_a_single_sample(room, ran, refused) -> None:
    refused(lambda size: size == 1, ValueError("Expected more than 1 value per channel"))
    assert ran(cell_of(validation=0)).batch_size == 16


def test_a_cell_of_which_no_sample_fits_is_out_of_memory(room, ran) -> None:
    room(0.001)
    record = ran(cell_of())
    assert (record.status, record.batch_size) == ("oom", None)
    assert record.error == "MemoryError: a batch of 1 takes 100 MiB, and 100 MiB can be used"


def test_only_smaller_sizes_than_one_that_ended_the_process_are_tried(room, ran, refused) -> None:
    tried = refused(lambda size: False, None)
    assert ran(cell_of(validation=0), Room(below=8)).batch_size == 4
    assert max(tried) == 4


@pytest.mark.slow
def test_what_is_measured_later_has_the_batch_size_of_the_training(room, ran, refused) -> None:
    tried = refused(lambda size: False, None)
    record = ran(cell_of(train=False, steps=None, measure=True), Room(known=3))
    assert record.batch_size == 3
    assert record.latency["forward"].median_ms
    (throughput,) = column_values(in_brief([record]), {}, {})["throughput_forward_per_s"]
    assert throughput == pytest.approx(3000 / record.latency["forward"].median_ms)
    assert set(tried) == {2, 3}


def test_a_training_that_resumes_keeps_its_batch_size(room, tmp_path, monkeypatch, refused) -> None:
    cell, store = cell_of(validation=0, steps=6), Store(tmp_path)
    files = Files.of(cell, store)
    whole, _ = run_cell(cell, files)

    class Stopped(Exception):
        pass

    from attn_bench.running.train import loop

    every, advance = loop.Every(checkpoint=0), loop._Loop.advance
    monkeypatch.setattr(loop.train, "__kwdefaults__", {**loop.train.__kwdefaults__, "every": every})

    def stop_at_three(self, *batch):
        if self.state.step == 3:
            raise Stopped
        advance(self, *batch)

    monkeypatch.setattr(loop._Loop, "advance", stop_at_three)
    stopped, _ = run_cell(cell, files, room=Room(below=16))
    assert (stopped.status, stopped.batch_size) == ("crashed", 8)
    monkeypatch.setattr(loop._Loop, "advance", advance)
    resumed, _ = run_cell(cell, files)
    assert (whole.batch_size, resumed.batch_size) == (16, 8)
    assert resumed.training.steps == 6


class Server:
    """Answers like a fork server whose cells end while they try a batch of 64."""

    share = Share(memory=0.5)

    def __init__(self, record, ends):
        self.record, self.ends, self.rooms = record, ends, []

    def pid(self):
        return 1

    def run(self, request, listen):
        self.rooms.append(request["room"])
        listen({"event": "progress", "stage": stage_of(64)})
        if self.ends:
            return End(ended_by=self.ends.pop())
        listen({"event": "progress", "stage": "training"})
        return End({"record": self.record.to_json(), "environment": {}})


@pytest.mark.parametrize("ended_by", ["memory", "system"])
def test_a_process_that_ends_while_it_searches_is_no_failure(tmp_path, ended_by) -> None:
    cell, store = cell_of(), Store.create(tmp_path / "r")
    server = Server(Record(cell, "ok", effective={"batch_size": 32}), [ended_by])
    attempt = Attempt(Work([cell], store, dataclasses.replace(Work([], store).running, memory_limit=700)), server, None)
    end = attempt._end(cell, cell)
    assert end.result is not None
    assert [room["below"] for room in server.rooms] == [None, 64]
    assert {(room["limit_mib"], room["share"]) for room in server.rooms} == {(700, 0.5)}


def test_memory_that_ends_later_is_a_failure(tmp_path) -> None:
    cell, store = cell_of(), Store.create(tmp_path / "r")
    server = Server(Record(cell, "ok"), ["timeout"])
    assert Attempt(Work([cell], store), server, None)._end(cell, cell).ended_by == "timeout"
    assert len(server.rooms) == 1


def test_the_stage_says_the_size() -> None:
    assert size_in(stage_of(128)) == 128
    assert size_in("training") is None


def test_it_is_an_axis_in_every_notation() -> None:
    for given in ("8,auto", [8, "auto"]):
        sweep = Sweep.from_settings({"models": "toy", "task": "toy-task", "batch_size": given, "resolutions": 8})
        cells = sweep.cells()
        assert [cell.execution.batch_size for cell in cells] == [8, "auto"]
        assert [cell.variant for cell in cells] == ["batch 8", "batch auto"]
        assert len({cell.id for cell in cells}) == 2
    (cell,) = Sweep.from_settings(
        {"models": "toy", "task": "toy-task", "batch_size": "8,auto", "resolutions": 8, "exclude": "batch_size=auto"}
    ).cells()
    assert cell.execution.batch_size == 8


def test_in_tokens_a_batch_has_as_many_samples_as_have_so_many_at_each_resolution(tmp_path) -> None:
    asked = {"resolutions": [8, 16], "batch_size": "0600 tokens ", "steps": 2, "validation": 0, "device": "cpu"}
    cells = Sweep.from_settings({"models": "toy", "task": "toy-task", **asked}).cells()
    # One kind: tables show them as one model at two resolutions.
    assert {cell.execution.batch_size for cell in cells} == {"600 tokens"}
    assert len({cell.kind for cell in cells}) == 1
    table = attn_bench.run("toy", "toy-task", out=str(tmp_path / "r"), **asked)
    assert dict(zip(table.resolution, table.batch_size)) == {8: 600 // 64, 16: 600 // 256}
    assert set(table.model) == {"toy"}
    assert open_steps(cells[0].only_measured()).cell.execution.batch_size == 9
    with pytest.raises(
        UserError, match="setting batch_size: 200 tokens are less than a sample: toy-task has 256 at 16"
    ):
        Sweep.from_settings({"models": "toy", "task": "toy-task", **asked, "batch_size": "200 tokens"}).cells()
    tuned = {"tune": {"learning_rate": [1e-3, 2e-3]}, "tune_resolution": 16, "resolutions": 8}
    with pytest.raises(UserError, match="toy-task has 256 at 16"):
        Sweep.from_settings({"models": "toy", "task": "toy-task", **asked, **tuned, "batch_size": "200 tokens"}).cells()


@pytest.mark.parametrize("given", ["otto", "0 tokens", "-8 tokens", "8 token", "0", "", "2.5", "true"])
def test_anything_else_is_refused_in_one_line(given) -> None:
    with pytest.raises(UserError, match=r"setting batch_size: must be .* or 'auto'") as told:
        Sweep.from_settings({"models": "toy", "task": "toy-task", "batch_size": given})
    assert "\n" not in str(told.value)


def test_ab_needs_a_number() -> None:
    sweep = Sweep.from_settings({"models": "toy", "task": "toy-task", "batch_size": "auto", "train": False})
    with pytest.raises(UserError, match="--batch-size auto: two revisions are compared with the same batch size"):
        Plan.of(sweep, read_thresholds(None))


def test_the_table_has_the_size_and_the_label_says_that_it_was_found() -> None:
    found = Record(cell_of(), "ok", effective={"batch_size": 64, "batch_size_found_for_mib": 900})
    given, failed = Record(cell_of(64), "ok"), Record(cell_of(seeds=[1]), "oom")
    columns = column_values(in_brief([found, given, failed]), {}, {})
    at = [columns["cell"].index(record.id) for record in (found, given, failed)]
    assert [columns["batch_size"][i] for i in at] == [64, 64, None]
    assert [columns["model"][i] for i in at[:2]] == ["toy [batch auto]", "toy [batch 64]"]
    assert '"batch_size_found_for_mib": 900' in columns["effective"][at[0]]
    other = replace(found, effective={"batch_size": 32})
    assert unlike(found, other, (None, None)).trained == ("batch size: 64 in base, 32 in new",)
    assert not unlike(found, found, (None, None)).trained


def test_a_sweep_finds_it_in_the_process_of_each_cell(tmp_path) -> None:
    out = tmp_path / "r"
    table = attn_bench.run(
        "toy", "toy-task", resolutions=[8], batch_size=[4, "auto"], steps=2, validation=0, device="cpu", out=str(out)
    )
    assert list(table.status) == ["ok", "ok"]
    assert sorted(table.batch_size) == [4, 16]
    again = attn_bench.run(
        "toy", "toy-task", resolutions=[8], batch_size=[4, "auto"], steps=2, validation=0, device="cpu", out=str(out)
    )
    assert again.equals(table)
