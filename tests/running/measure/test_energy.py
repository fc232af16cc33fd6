"""Energy of a step, from counters that are made up: they jump, wrap, stand still or are not there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_results import Folder

from attn_bench.results.store import load
from attn_bench.running.device import meter as meters
from attn_bench.running.device.meter import Meter, Zone, nvml_meter, rapl
from attn_bench.running.device.select import device_of
from attn_bench.running.measure import energy
from attn_bench.running.measure.energy import measure_energy


class Machine:
    """A machine whose step takes ``step_s`` and that takes ``watts``; its counter jumps every ``tick_s``."""

    def __init__(self, *, step_s=0.03, watts=100.0, tick_s=0.1, unit_j=1e-6, wraps_at=None, begins=0):
        self.now, self.calls = 0.0, 0
        self.step_s, self.watts, self.tick_s = step_s, watts, tick_s
        self.unit_j, self.wraps_at, self.begins = unit_j, wraps_at, begins

    def step(self):
        self.now += self.step_s
        self.calls += 1

    def clock(self):
        return int(self.now * 1e9)

    def read(self):
        counted = self.begins + round(self.watts * self.tick_s * (self.now // self.tick_s) / self.unit_j)
        return counted % self.wraps_at if self.wraps_at else counted

    def measured(self, *others):
        zones = [Zone(each.read, each.unit_j, each.wraps_at) for each in (self, *others)]
        return measure_energy(self.step, Meter("rapl", zones), clock=self.clock)


@pytest.mark.parametrize("step_s", [1e-5, 0.0007, 0.03, 0.25, 3.0])
def test_a_counter_that_jumps_gives_the_energy_of_a_step(step_s):
    machine = Machine(step_s=step_s)
    found = machine.measured()
    # Between two jumps, give or take a round of calls.
    assert found.joules == pytest.approx(100 * step_s, rel=0.05)
    assert found.seconds >= 2.0
    assert found.calls == pytest.approx(found.seconds / step_s, abs=1)


def test_a_counter_that_wraps_gives_the_same():
    usual = Machine().measured()
    # 65 J: it wraps three times while the step is repeated, and wherever it begins.
    for begins in (0, 1, 64_999_999, 40_000_000):
        assert Machine(wraps_at=65_000_000, begins=begins).measured() == usual
    # Each of two packages wraps at its own time.
    one, other = Machine(wraps_at=65_000_000), Machine(wraps_at=30_000_000, begins=29_000_000)
    other.step_s = 0
    shared = one.step
    one.step = lambda: (shared(), setattr(other, "now", one.now))
    assert one.measured(other).joules == pytest.approx(2 * usual.joules)


def test_what_cannot_be_told_is_an_error_and_never_0():
    with pytest.raises(ValueError, match=r"^the energy counter \(rapl\) stands still$"):
        Machine(watts=0).measured()
    with pytest.raises(ValueError, match=r"^a call takes 90 s, too long for the energy counter$"):
        Machine(step_s=90).measured()
    back = iter([10, 20, 5])
    meter = Meter("nvml", [Zone(lambda: next(back), 1e-3)])
    assert meter.joules() == pytest.approx(0.01)
    with pytest.raises(ValueError, match="went back"):
        meter.joules()


def test_rapl_adds_up_packages_and_says_why_it_is_not_there(tmp_path, monkeypatch):
    assert rapl(tmp_path) == "no energy counter: this machine shows none of its processor (RAPL)"
    for name, kind, content in (("0", "package-0", 5), ("1", "package-1", 990), ("0:0", "core", 1), ("2", "psys", 1)):
        zone = tmp_path / f"intel-rapl:{name}"
        zone.mkdir()
        for file, text in (("name", kind), ("energy_uj", content), ("max_energy_range_uj", 999)):
            (zone / file).write_text(f"{text}\n")
    meter = rapl(tmp_path)
    assert isinstance(meter, Meter)
    assert [zone.wraps_at for zone in meter.zones] == [1000, 1000]
    (tmp_path / "intel-rapl:0/energy_uj").write_text("25\n")
    (tmp_path / "intel-rapl:1/energy_uj").write_text("10\n")
    assert meter.joules() == pytest.approx(40e-6)
    monkeypatch.setattr(meters.os, "access", lambda path, mode: "rapl:1" not in str(path))
    assert rapl(tmp_path) == "no energy counter: only root may read that of the processor (RAPL, energy_uj)"
    monkeypatch.undo()
    (tmp_path / "intel-rapl:1/max_energy_range_uj").write_text("much\n")
    assert str(rapl(tmp_path)).startswith("no energy counter: that of the processor cannot be read (RAPL: ")


def test_nvml_counts_millijoules_of_the_gpu_of_torch():
    said = iter([1_000, 4_000])
    nvml = SimpleNamespace(nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(said) if handle == 7 else 0)
    assert nvml_meter(nvml, 7).joules() == 3.0
    assert str(device_of("cuda:99").meter()).startswith("no energy counter: NVML has none of this GPU (")


def test_records_without_energy_are_read_and_those_with_it_are_in_the_table(tmp_path):
    folder = Folder(tmp_path)
    folder.add("mano", 16)
    (path,) = (tmp_path / "cells").iterdir()
    text = path.read_text(encoding="utf-8")
    values = json.loads(text)
    for name in ("energy", "energy_source"):
        del values[name]
    path.write_text(json.dumps(values), encoding="utf-8")
    (row,) = load(tmp_path).to_dict("records")
    assert row["energy_forward_j"] is None or row["energy_forward_j"] != row["energy_forward_j"]
    (record,) = folder.store.records()
    spent = {"forward": energy.Energy(0.5, 10, 2.0)}
    folder.store.write(dataclasses.replace(record, energy=spent, energy_source="nvml"))
    (row,) = load(tmp_path).to_dict("records")
    assert (row["energy_forward_j"], row["energy_source"]) == (0.5, "nvml")
    # What is 0 is no measurement.
    values["energy"] = {"forward": {"joules": 0.0, "calls": 1, "seconds": 1.0}}
    values["energy_source"] = "nvml"
    path.write_text(json.dumps(values), encoding="utf-8")
    assert folder.store.read(Path(path).stem) is None
