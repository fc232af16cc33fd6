"""Whatever becomes of a job, its cells have a row that says why, once."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from attn_bench.errors import UserError
from attn_bench.results.record import Record
from attn_bench.results.run_info import RunInfo
from attn_bench.results.store import Store
from attn_bench.running.attempt import lease_of
from attn_bench.running.executors.slurm import cluster
from attn_bench.running.executors.slurm.follow import VANISHED_S, follow
from attn_bench.running.executors.slurm.states import State, cancel, states
from attn_bench.running.executors.slurm.submissions import Submission, submissions
from attn_bench.running.processes import out_of_memory_reason
from attn_bench.running.work import Work
from attn_bench.sweep.execution import Running
from attn_bench.sweep.settings import Sweep


@pytest.fixture
def store(tmp_path):
    found = Store.create(tmp_path / "r")
    found.write_run_info(RunInfo({"toy-task": {}}))
    return found


def cells(count):
    given = {"models": ["toy"], "task": "toy-task", "resolutions": [8], "seeds": count, "device": "cpu"}
    return Sweep.from_settings(given).cells()


def submitted(store, chunks, job="12", age=0.0):
    work = Work.of([cell for chunk in chunks for cell in chunk], store, Running(executor="slurm"))
    submission = replace(Submission.of(work, chunks, time.time() - age), job=job)
    submission.write(store)
    return submission


def test_a_submission_is_read_as_it_was_written(store):
    chunks = [cells(4)[:3], cells(4)[3:]]
    written = submitted(store, chunks)
    (found,) = submissions(store)
    assert [found.cell(id) for id in found.tasks[0]] == chunks[0]
    assert found.cell(chunks[0][0].id).sources == chunks[0][0].sources
    assert len(found.sources) == 1
    assert [found.task_id(index) for index in (0, 1)] == ["12_0", "12_1"]
    assert found.work(store, found.tasks[1]).running == Running(executor="slurm")
    written.path(store).write_text("{}")
    with pytest.raises(UserError, match=r"slurm/.*json: cannot be read .*; remove it"):
        list(submissions(store))


@pytest.mark.parametrize(
    ("state", "exit", "status", "reason"),
    [
        ("TIMEOUT", "0:0", "timeout", "Slurm job 12 on n1 reached its time limit (--slurm time=...)"),
        ("OUT_OF_MEMORY", "0:125", "oom", "Slurm job 12 on n1 exceeded its memory (--slurm mem=...)"),
        ("NODE_FAIL", "1:0", "crashed", "Slurm job 12 on n1 ended because its node failed"),
        ("FAILED", "0:9", "crashed", "Slurm job 12 on n1 failed (signal 9)"),
        ("FAILED", "3:0", "crashed", "Slurm job 12 on n1 failed (exit code 3)"),
        ("PREEMPTED", "0:0", "crashed", "Slurm job 12 on n1 was preempted and not requeued"),
        ("COMPLETED", "0:0", "crashed", "Slurm job 12 on n1 ended without a record of this cell"),
    ],
)
def test_each_end_of_a_job_is_a_row_with_its_own_reason(store, says, state, exit, status, reason):
    (cell,) = cells(1)
    name = submitted(store, [[cell]]).name
    says("squeue", "")
    says("sacct", f"12|{name}|{state}|{exit}|n1\n11|other|FAILED|0:9|n1")
    (task,) = follow(store)
    assert not task.live
    record = store.read(cell.id)
    assert (record.status, record.error) == (status, reason)
    assert task.written == [(cell, record)]
    # Nothing is left of it, and looking again changes nothing.
    assert follow(store) == []
    assert not (store.folder / "slurm").exists()


def test_a_cancelled_job_leaves_its_cells_to_be_run_again(store, says):
    (cell,) = cells(1)
    name = submitted(store, [[cell]]).name
    says("squeue", "")
    says("sacct", f"12|{name}|CANCELLED by 0|0:15|n1")
    (task,) = follow(store)
    assert (task.live, task.left) == (False, [cell])
    assert store.read(cell.id) is None


def test_a_job_that_vanished_is_noticed_and_a_silent_slurm_is_not_taken_for_it(store, says):
    (cell,) = cells(1)
    submitted(store, [[cell]], age=2 * VANISHED_S)
    (task,) = follow(store)  # no program answers
    assert task.live
    # There is no accounting, and the number is that of another job by now.
    says("squeue", "12|another|RUNNING|n1")
    (task,) = follow(store)
    assert not task.live
    assert store.read(cell.id).error == "Slurm job 12 is not known to Slurm any more"
    submitted(store, [[cell]])


def test_of_a_job_with_several_cells_the_one_that_it_was_at_is_to_blame(store, says):
    three = cells(3)
    name = submitted(store, [three, cells(4)[3:]]).name
    store.write(Record(three[0], "ok"))
    lease = lease_of(store, three[1].id)
    lease.parent.mkdir()
    lease.write_text(json.dumps({"host": "n1", "token": "ab", "processes": [[1, "1"]], "job": "12_0"}))
    says("squeue", f"12_1|{name}|PENDING|")
    says("sacct", f"12_0|{name}|TIMEOUT|0:0|n1")
    ended, pending = follow(store)
    assert [cell.seed for cell, _ in ended.written] == [1]
    assert [cell.seed for cell in ended.left] == [2]
    assert store.read(three[2].id) is None
    assert not lease.exists()
    assert pending.live
    assert pending.state == State("PENDING")


def test_who_submits_again_waits_for_jobs_that_are_there(store, says, monkeypatch):
    """Two runs of one sweep: the second submits nothing that a job of the first has."""
    both = cells(2)
    name = submitted(store, [[both[0]]]).name
    given = []
    monkeypatch.setattr(cluster, "submit", lambda work, due: given.append([cell.seed for cell in due]) or [])
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: None)
    says("squeue", f"12|{name}|RUNNING|n1")
    work = Work.of(both, store, Running(executor="slurm", detach=True))
    assert "1 Slurm job for 2 cells" in cluster.run(work)
    assert given == [[1]]
    # A cancelled cell is run again, too. Jobs that end before they begin a cell are its row after some tries.
    says("squeue", "")
    says("sacct", f"12|{name}|CANCELLED|0:0|n1")
    assert cluster.run(replace(work, running=Running(executor="slurm"))) is None
    assert given[1] == [0, 1]
    assert [store.read(cell.id).error for cell in both] == ["3 Slurm jobs ended before they began this cell"] * 2


def test_a_cell_that_the_cgroup_of_its_job_killed_says_so(monkeypatch):
    assert out_of_memory_reason() == "killed by the operating system, which ran out of memory"
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert out_of_memory_reason().startswith("killed by the operating system: Slurm job 12 exceeded its memory")


def test_without_accounting_the_controller_is_asked(says):
    says("squeue", "")
    says("scontrol", "JobId=14 ArrayJobId=12 ArrayTaskId=3 JobName=a JobState=NODE_FAIL ExitCode=0:0 NodeList=n2")
    assert states(["a"], ["12"]) == {"12_3": State("NODE_FAIL", "n2", "0:0")}


def test_only_jobs_of_the_folder_are_cancelled(says, tmp_path):
    says("scancel", "")
    cancel(["attn-bench-ab"])
    assert (tmp_path / "programs" / "calls").read_text().split()[1:] == ["--name=attn-bench-ab"]
    says("scancel", None)
    with pytest.raises(UserError, match="scancel: "):
        cancel(["attn-bench-ab"])
