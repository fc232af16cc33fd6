"""A stopped training ends where it would have ended, or begins again as if it had never begun."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import SETTINGS, fresh, run
from torch import Tensor, nn

from attn_bench.running.train.loop import Every


class Stop(Exception):
    pass


class Rows(nn.Module):
    """It keeps what follows the batch, and what was drawn for it, in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Dropout(0.1))
        self.register_buffer("rows", torch.zeros(1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if len(self.rows) != len(x):
            self.rows = torch.randn(len(x), 1, 1, 1)
        return self.inner(x) * (1 + self.rows)


def stopped(path: Path, module: nn.Module, at: int = 7, **options: Any) -> None:
    """Train until step ``at``, with a checkpoint after every step."""

    def stop(progress: Any) -> None:
        if progress.epoch * 4 > at:
            raise Stop

    with pytest.raises(Stop):
        run(module, checkpoint=path, every=Every(0, 0), report=stop, **options)


def equal(ours: nn.Module, theirs: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))


@pytest.mark.parametrize("stop_at", [1, 4, 7])
@pytest.mark.parametrize("make", [fresh, Rows])
def test_a_stopped_run_ends_where_it_would_have_ended(tmp_path, stop_at, make):
    whole = make()
    run(whole)
    checkpoint = tmp_path / "c.pt"
    stopped(checkpoint, make(), stop_at)
    resumed = make()
    with torch.no_grad():
        next(resumed.parameters()).zero_()
    result = run(resumed, checkpoint=checkpoint, every=Every(checkpoint=1e9))
    assert result.steps == 24
    assert result.warning is None
    assert equal(resumed, whole)


def change(path: Path, how: str) -> None:
    """Make a checkpoint unusable."""
    content = torch.load(path, weights_only=True)
    first = next(iter(content["module"]))
    match how:
        case "half":
            path.write_bytes(path.read_bytes()[:1000])
        case "text":
            path.write_bytes(b"half a file")
        case "empty":
            path.write_bytes(b"")
        case "pipe":
            path.unlink()
            os.mkfifo(path)
        case "directory":
            path.unlink()
            path.mkdir()
        case "dangling":
            path.unlink()
            path.symlink_to("nowhere")
        case "other content":
            torch.save([1, 2], path)
        case "lacks a weight":
            del content["module"][first]
        case "another weight":
            content["module"]["further"] = torch.zeros(1)
        case "shape":
            content["module"][list(content["module"])[-1]] = torch.zeros(7)
        case "not finite":
            content["module"][first][0] = torch.nan
        case "moments":
            content["optimizer"]["0"]["state"][0]["exp_avg"] = torch.zeros(7)
        case "moments not finite":
            content["optimizer"]["0"]["state"][0]["exp_avg"][:] = torch.inf
        case "groups":
            content["optimizer"]["0"]["param_groups"] = []
        case "generator":
            content["generators"]["cpu"] = torch.zeros(3, dtype=torch.uint8)
        case "no generator":
            del content["generators"]
        case "step":
            content["step"] = -1
        case "losses":
            content["losses"] = [float("nan")]
        case "curve":
            content["loss"]["values"].pop()
        case "best without a step":
            content["best"] = content["module"]
        case "best of another module":
            content["best"], content["best_step"] = {"weight": torch.zeros(1)}, 1
        case "best of another shape":
            content["best"], content["best_step"] = {**content["module"], first: torch.zeros(7)}, 1
    if how not in ("half", "text", "empty", "pipe", "directory", "dangling", "other content"):
        torch.save(content, path)


UNUSABLE = ["half", "text", "empty", "pipe", "directory", "dangling", "other content", "lacks a weight"]
UNUSABLE += ["another weight", "shape", "not finite", "moments", "moments not finite", "groups", "generator"]
UNUSABLE += ["no generator", "step", "losses", "curve"]
UNUSABLE += ["best without a step", "best of another module", "best of another shape"]


@pytest.mark.parametrize("how", UNUSABLE)
def test_a_checkpoint_that_cannot_be_used_is_set_aside_and_changes_nothing(tmp_path, capsys, how):
    def dropping() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Dropout(0.5), nn.Conv2d(2, 1, 3, padding=1))

    checkpoint = tmp_path / "c.pt"
    stopped(checkpoint, dropping())
    change(checkpoint, how)
    whole, again = dropping(), dropping()
    torch.manual_seed(1)
    run(whole)
    torch.manual_seed(1)
    result = run(again, checkpoint=checkpoint, every=Every(checkpoint=1e9))
    assert equal(again, whole)
    assert result.steps == 24
    assert result.warning is not None
    assert result.warning.startswith("its checkpoint could not be used and is set aside as c.pt.unusable; started over")
    assert result.warning in capsys.readouterr().err
    assert os.path.lexists(tmp_path / "c.pt.unusable")
    assert not os.path.lexists(checkpoint)


def test_a_running_mean_is_restored_with_the_rest_or_not_at_all(tmp_path):
    settings = dataclasses.replace(SETTINGS, ema=0.9)
    whole = fresh()
    run(whole, settings)
    checkpoint = tmp_path / "c.pt"
    for broken in (False, True):
        stopped(checkpoint, fresh(), settings=settings)
        if broken:
            content = torch.load(checkpoint, weights_only=True)
            content["average"] = None
            torch.save(content, checkpoint)
        module = fresh()
        result = run(module, settings, checkpoint=checkpoint, every=Every(checkpoint=1e9))
        assert bool(result.warning) == broken
        assert equal(module, whole)


def test_a_checkpoint_that_cannot_be_written_stops_nothing(tmp_path):
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = fresh()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

        def get_extra_state(self) -> Any:
            return lambda: None

        def set_extra_state(self, state: Any) -> None:
            pass

    settings = dataclasses.replace(SETTINGS, epochs=1)
    (tmp_path / "file").write_text("")
    for module, path in ((fresh(), tmp_path / "file" / "c.pt"), (Odd(), tmp_path / "c.pt")):
        assert run(module, settings, checkpoint=path, every=Every(0, 0)).steps == 4
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_mode_of_a_checkpoint_is_what_the_umask_leaves(tmp_path):
    before = os.umask(0o077)
    try:
        stopped(tmp_path / "c.pt", fresh(), at=1)
    finally:
        os.umask(before)
    assert (tmp_path / "c.pt").stat().st_mode & 0o777 == 0o600
