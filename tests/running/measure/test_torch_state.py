"""Whatever can be set for the process is read, told apart and put back, and every stage draws its own numbers."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from attn_bench.running.measure.torch_state import Keeper, TorchState, seed_generators, stage_seed

BACKENDS = torch.backends
CHANGES = {
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "default_dtype": lambda: torch.set_default_dtype(torch.float64),
    "default_device": lambda: torch.set_default_device("meta"),
    "grad_mode": lambda: torch.set_grad_enabled(False),
    "anomaly_mode": lambda: torch.autograd.set_detect_anomaly(True),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "deterministic": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "matmul_precision": lambda: torch.set_float32_matmul_precision("medium"),
    "cudnn_allow_tf32": lambda: setattr(BACKENDS.cudnn, "allow_tf32", True),
    "fp32_precision": lambda: setattr(BACKENDS.mkldnn.matmul, "fp32_precision", "bf16"),
    "cudnn_enabled": lambda: setattr(BACKENDS.cudnn, "enabled", False),
    "cudnn_benchmark": lambda: setattr(BACKENDS.cudnn, "benchmark", True),
    "cudnn_deterministic": lambda: setattr(BACKENDS.cudnn, "deterministic", True),
    "mkldnn_enabled": lambda: setattr(BACKENDS.mkldnn, "enabled", False),
    "mha_fastpath": lambda: BACKENDS.mha.set_fastpath_enabled(False),
    "attention": lambda: BACKENDS.cuda.enable_flash_sdp(False),
    "flush_denormal": lambda: torch.set_flush_denormal(True),
}


@pytest.fixture(autouse=True)
def as_before():
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    state = TorchState.read()
    yield
    assert not state.difference(state.apply())


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_found_named_and_undone(name):
    before = TorchState.read()
    keeper = Keeper(0)
    with keeper.stage("build"):
        CHANGES[name]()
        wanted, found = before.difference(TorchState.read())[name]
    assert wanted != found
    assert TorchState.read() == before
    assert torch.get_float32_matmul_precision() == "highest"  # torch refuses to read what is set inconsistently
    assert torch.backends.cudnn.allow_tf32 is False
    assert any(text.startswith(f"{name} ") and text.endswith(": build") for text in keeper.changed_by_model())
    assert keeper.in_force()[name] == wanted


def test_changes_while_measuring_are_recorded():
    keeper = Keeper(0)
    for name, measures in (("training", False), ("measuring", True)):
        with keeper.stage(name, measures=measures):
            torch.set_default_dtype(torch.float64)
        assert keeper.in_force()["default_dtype"] == ("float64" if measures else "float32")
    assert keeper.in_force()["changed_by_model"] == ["default_dtype float64 (not float32): training, measuring"]


def test_changes_of_a_failed_stage_are_undone():
    keeper = Keeper(0)
    with pytest.raises(ZeroDivisionError), keeper.stage("training"):
        torch.set_grad_enabled(False)
        raise ZeroDivisionError
    assert torch.is_grad_enabled()


def test_settings_that_cannot_be_restored_are_reported_once():
    code = """if True:
        import json, torch
        from attn_bench.running.measure.torch_state import Keeper
        keeper = Keeper(0)
        with keeper.stage("import"):
            torch.set_num_interop_threads(7)
        with keeper.stage("build"):
            pass
        print(json.dumps(keeper.in_force()))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True)
    in_force = json.loads(done.stdout)
    assert in_force["interop_threads"] == 7
    (changed,) = in_force["changed_by_model"]
    assert changed.startswith("interop_threads 7 (not ")
    assert changed.endswith(", which cannot be restored: import")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not pin processes")
def test_a_process_that_is_pinned_to_a_core_is_freed_again():
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("one core")
    keeper = Keeper(0)
    with keeper.stage("build"):
        os.sched_setaffinity(0, {min(cores)})
    assert os.sched_getaffinity(0) == cores
    assert any(text.startswith("cores ") for text in keeper.changed_by_model())


def drawn():
    return torch.rand(1).item(), float(np.random.rand()), random.random()  # noqa: NPY002


def test_every_stage_has_its_own_random_numbers():
    first = {}
    for seed in (0, 1, -1, 2**40 + 5):
        for stage in ("build", "training"):
            with Keeper(seed).stage(stage):
                first[seed, stage] = drawn()
            seed_generators(99)
            drawn()
            with Keeper(seed).stage(stage):
                assert drawn() == first[seed, stage]
    for column in zip(*first.values()):
        assert len(set(column)) == len(first)
    torch.manual_seed(1)
    assert first[1, "build"][0] == torch.rand(1).item()  # weights are those that the seed of the cell gives
    assert stage_seed(0, "training") != stage_seed(0, "evaluation at 8")
