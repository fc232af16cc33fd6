"""What a user asks Slurm for reaches the cells that it is for, or is refused in one line."""

from __future__ import annotations

import pytest

from attn_bench.errors import UserError
from attn_bench.running.executors.slurm.resources import check, device_of, minutes, normal, parameters_of
from attn_bench.running.runner import separated
from attn_bench.sweep.settings import Sweep

GENERAL = {"partition": "gpu", "time": "60", "gres": "gpu:1"}


def cells():
    given = {"models": ["toy", "toy:wide"], "task": "toy-task", "resolutions": [8, 12], "device": "cpu"}
    return Sweep.from_settings(given).cells()


def test_rules_are_for_models_and_resolutions_and_later_ones_win():
    rules = [
        {"model": "toy", "time": "2:00:00"},
        {"resolution": 12, "mem": "8G", "time": 90},
        {"models": ["toy:wide"], "resolutions": [12], "gres": False, "cpus-per-task": 4},
    ]
    check(cells(), GENERAL, rules)
    found = {(cell.model, cell.resolution): parameters_of(cell, GENERAL, rules) for cell in cells()}
    # The second rule for both models: a preset is of the plugin "toy" too.
    assert found["toy", 8] == found["toy:wide", 8] == {"partition": "gpu", "time": 120, "gres": "gpu:1"}
    assert found["toy", 12] == {"partition": "gpu", "time": 90, "gres": "gpu:1", "mem": "8G"}
    assert found["toy:wide", 12] == {"partition": "gpu", "time": 90, "gres": None, "mem": "8G", "cpus_per_task": 4}


@pytest.mark.parametrize(
    ("general", "rules", "message"),
    [
        ({"partition": "gpu"}, [], "set the time limit of a job, e.g. --slurm time=60"),
        ({"time": "soon"}, [], "--slurm time=soon: is not a time limit"),
        ({"time": 60, "array": "0-3"}, [], "--slurm array: cannot be set"),
        ({"time": 60, "--nodes": 2}, [], "--slurm nodes: cannot be set .a cell runs as one process"),
        ({"time": 60, "a b": 2}, [], "is not a parameter of sbatch"),
        (
            {"time": 60},
            [{"model": "toi", "time": 5}],
            "model of this sweep in resources 'toi'; did you mean 'toy'",
        ),
        ({"time": 60}, [{"resolution": 16, "time": 5}], "unknown resolution of this sweep in resources '16'"),
        ({"time": 60}, [{"time": 5}], "needs one of model, task, resolution"),
        ({"time": 60}, [{"model": "toy"}], "and parameters of sbatch"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(general, rules, message):
    with pytest.raises(UserError, match=message):
        check(cells(), general, rules)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(60, 60), ("60", 60), ("90:01", 91), ("2:30:00", 150), ("1-12", 2160), ("1-0:30", 1470), ("0-0:0:30", 1)],
)
def test_time_limits_are_those_of_sbatch(given, expected):
    assert minutes(given) == expected


def test_values_are_read_as_typed():
    assert normal({"cpus-per-task": "4", "exclusive": "true", "mem": "16G"}) == {
        "cpus_per_task": 4, "exclusive": True, "mem": "16G",
    }  # fmt: skip
    _, running = separated(
        {"models": "toy", "task": "toy-task", "executor": "slurm", "slurm": "nodelist=n1,n2,time=60"}
    )
    assert running.slurm == {"nodelist": "n1,n2", "time": "60"}
    with pytest.raises(UserError, match="setting slurm: 'gpu' is not NAME=VALUE"):
        separated({"models": "toy", "task": "toy-task", "slurm": "gpu"})


def test_jobs_with_gpus_run_on_them_wherever_they_are_submitted():
    assert device_of("auto", GENERAL, []) == device_of("auto", {}, [{"model": "toy", "gpus-per-node": 1}]) == "cuda"
    assert device_of("auto", {"partition": "gpu", "time": 60}, []) == "cpu"
    assert device_of("cpu", GENERAL, []) == "cpu"
