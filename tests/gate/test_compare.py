"""Comparing results folders, in the library and on the command line."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from made_results import HOSTILE, METRICS, Folder, hostile

from attn_bench.cli import main
from attn_bench.errors import UserError
from attn_bench.gate.compare import Comparison, compare
from attn_bench.gate.comparison import headline, junit, markdown
from attn_bench.gate.confirm import compare_confirmed
from attn_bench.gate.thresholds import Thresholds, read_thresholds
from attn_bench.gate.verdicts import Finding
from attn_bench.plugin import Metric
from attn_bench.results.run_info import RunInfo
from attn_bench.results.store import Store

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = Folder(tmp_path / "base")
    for resolution in (16, 32):
        for seed in (0, 1, 2):
            folder.add("mano", resolution, seed)
            folder.add("fno", resolution, seed, scale=1.5)
    generator = np.random.default_rng(0)
    edit(tmp_path / "base", lambda record: sampled(record, generator))
    return tmp_path / "base"


def edit(folder: Path, change: Change, model: str | None = None) -> None:
    for path in folder.glob("cells/*.json"):
        record = json.loads(path.read_text())
        if model in (None, record["cell"]["model"]):
            change(record)
            path.write_text(json.dumps(record))


def sampled(record: dict[str, Any], generator: np.random.Generator) -> None:
    for latency in record["latency"].values():
        latency["samples_ms"] = list(latency["median_ms"] * np.exp(generator.normal(0, 0.01, 40)))


def changed(base: Path, change: Change = lambda record: None, model: str | None = "mano") -> Path:
    new = base.parent / "new"
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(base, new)
    edit(new, change, model)
    return new


def slower(by: float) -> Change:
    def change(record: dict[str, Any]) -> None:
        for latency in record["latency"].values():
            latency["median_ms"] *= by
            latency["samples_ms"] = [by * sample for sample in latency["samples_ms"]]

    return change


def judged(base: Path, new: Path, fail_on: str | None = None) -> Comparison:
    return compare(Store(base), Store(new), read_thresholds(fail_on))


def worse(comparison: Comparison) -> set[tuple[str, str]]:
    return {(finding.model, finding.metric) for finding in comparison.regressions}


def test_a_folder_does_not_differ_from_itself(base: Path) -> None:
    comparison = judged(base, base)
    assert comparison.status == 0
    assert {finding.verdict for finding in comparison.findings} == {"same"}
    metrics = {finding.metric for finding in comparison.findings if finding.model == "mano"}
    assert metrics == {
        "latency_forward", "latency_train_step", "peak_memory_forward", "peak_memory_train", "parameters", "flops",
        "rel_l2", "rel_mse",
    }  # fmt: skip


def test_a_slower_model_is_found_and_no_other(base: Path) -> None:
    comparison = judged(base, changed(base, slower(1.1)))
    assert worse(comparison) == {("mano", "latency_forward"), ("mano", "latency_train_step")}
    assert comparison.status == 1
    assert "mano" in headline(comparison)
    assert "fno" not in headline(comparison)
    assert judged(changed(base, slower(1.1)), base).status == 0
    assert judged(base, changed(base, slower(1.1)), "latency=20%").status == 0
    assert judged(base, changed(base, slower(1.1)), "latency=20%,mano.latency=5%").status == 1
    assert judged(base, changed(base, slower(1.1)), "rel_l2=3%").status == 0


def test_a_disturbed_measurement_proves_nothing(base: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        slower(2)(record)
        record["latency"]["forward"]["disturbed"] = True

    comparison = judged(base, changed(base, change))
    found = {f.metric: f for f in comparison.findings if f.model == "mano" and f.resolution == 16}
    assert found["latency_forward"].verdict == "unclear"
    assert "disturbed" in found["latency_forward"].note
    assert found["latency_train_step"].verdict == "worse"

    def once(record: dict[str, Any]) -> None:
        slower(1.5 if record["cell"]["seed"] else 1)(record)
        record["latency"]["forward"]["throttled"] = record["cell"]["seed"] == 0

    comparison = judged(base, changed(base, once))
    found = {f.metric: f for f in comparison.findings if f.model == "mano" and f.resolution == 16}
    assert found["latency_forward"].verdict == "worse"
    assert "1 of 3 runs left out" in found["latency_forward"].note
    assert found["latency_train_step"].verdict == "unclear"


def test_inconclusive_results_do_not_pass(base: Path) -> None:
    def disturb(record: dict[str, Any]) -> None:
        for latency in record["latency"].values():
            latency["disturbed"] = True

    disturbed = changed(base, disturb)
    assert judged(base, disturbed).status == 2  # as fast as before, but that proves nothing
    edit(disturbed, slower(2), "mano")
    comparison = judged(base, disturbed)
    assert comparison.status == 2
    assert headline(comparison).startswith("UNCLEAR: mano may have got worse")
    suite = ElementTree.fromstring(junit(comparison))
    assert suite.get("errors") == str(len(suite.findall("testcase/error"))) == "4"
    assert judged(base, disturbed, "rel_l2=3%").status == 0
    assert judged(disturbed, base).status == 2  # that it looks faster does not mean that it is
    passing = dataclasses.replace(comparison, allow_unclear=True)
    assert passing.status == 0
    assert headline(passing) == "UNCLEAR: mano may have got worse; allowed"
    assert ElementTree.fromstring(junit(passing)).get("errors") == "0"
    assert dataclasses.replace(passing, obstacles=("lost",)).status == 2

    def quick(record: dict[str, Any]) -> None:
        disturb(record)
        slower(0.5)(record)

    assert judged(base, changed(base, quick)).status == 0  # disturbed times are too high, and these are low

    def fail(status: str) -> Change:
        return lambda record: record.update(status=status, error="")

    edit(base, fail("oom"), "mano")
    assert judged(base, changed(base, fail("timeout"))).status == 2


def test_what_is_too_inexact_for_its_limit_is_not_the_same(base: Path) -> None:
    def noisy(record: dict[str, Any]) -> None:
        for latency in record["latency"].values():
            generator = np.random.default_rng(record["cell"]["seed"])
            latency["samples_ms"] = list(latency["median_ms"] * np.exp(generator.normal(0, 0.4, 40)))

    edit(base, noisy, "fno")
    for record in base.glob("cells/*.json"):
        if json.loads(record.read_text())["cell"]["seed"]:
            record.unlink()
    comparison = judged(base, base, "latency=5%")
    unclear = {f.model for f in comparison.findings if f.verdict == "unclear"}
    assert unclear == {"fno"}
    assert comparison.status == 2
    (note,) = {f.note for f in comparison.findings if f.model == "fno" and f.metric == "latency_forward"}
    assert re.fullmatch(
        r"known only to ±\d\d %, which cannot decide a limit of 5 %: measure again on a quiet machine", note
    )
    # Where it cannot fail, or where the limit is as wide, it is no obstacle.
    assert judged(base, base, "parameters=0").status == 0
    assert judged(base, base, "latency=90%").status == 0
    # One process of each side hides more than the limit; a line says so.
    assert any(
        "of mano at 16 and 3 more: within the limit, but" in line and "21 %" in line for line in comparison.notes
    )
    assert not [line for line in judged(base, base, "latency=50%").notes if "mano" in line]


def test_accuracy_that_varies_more_than_its_limit_is_unclear(base: Path) -> None:
    def vary(record: dict[str, Any]) -> None:
        for entry in record["evaluations"]:
            entry["metrics"]["rel_l2"] *= (0.9, 1.0, 1.1)[record["cell"]["seed"]]

    comparison = judged(base, changed(base, vary), "rel_l2=3%")
    assert comparison.status == 2
    notes = {f.note for f in comparison.findings if f.metric == "rel_l2" and f.model == "mano"}
    assert notes == {"known only to ±28 %, which cannot decide a limit of 3 %: use more seeds"}
    assert judged(base, changed(base, vary), "rel_l2=30%").status == 0


def test_allowed_changes_are_reported_as_allowed(base: Path) -> None:
    said = headline(judged(base, changed(base, slower(1.2)), "rel_l2=3%"))
    assert said.startswith("NO REGRESSION: 4 worse within the limit")


def test_a_machine_that_got_slower_is_named(base: Path) -> None:
    edit(base, lambda record: [latency.update(calibration_ms=1.0) for latency in record["latency"].values()])

    def twice(record: dict[str, Any]) -> None:
        slower(2)(record)
        for latency in record["latency"].values():
            latency["calibration_ms"] = 1.5

    findings = judged(base, changed(base, twice)).findings
    noted = [finding for finding in findings if "1.50x slower while measuring new" in finding.note]
    assert {finding.model for finding in noted} == {"mano"}
    # The table shows what was measured; the verdict leaves out half of the machine's share, and the note says so.
    assert all("judged as +63.3 %, after subtracting half of that" in finding.note for finding in noted)
    shown = markdown(judged(base, changed(base, twice)))
    assert shown.count("| +100.0 % \\[") == len(noted)

    def hardly(record: dict[str, Any]) -> None:
        for latency in record["latency"].values():
            latency["calibration_ms"] = 1.01

    assert {f.note for f in judged(base, changed(base, hardly)).findings if f.metric.startswith("latency")} == {""}


def test_exact_numbers_are_compared_exactly(base: Path) -> None:
    def grow(record: dict[str, Any]) -> None:
        record["memory"]["forward"]["peak_mib"] *= 1.01

    assert worse(judged(base, changed(base, grow))) == {("mano", "peak_memory_forward")}
    assert judged(base, changed(base, grow), "peak_memory=2%").status == 0

    def aligned(record: dict[str, Any]) -> None:
        record["memory"]["forward"]["peak_mib"] *= 1 + 2e-5  # 32 bytes in 1.5 MiB

    assert {finding.verdict for finding in judged(base, changed(base, aligned)).findings} == {"same"}
    exactly = judged(base, changed(base, aligned), "peak_memory=0")
    assert worse(exactly) == {("mano", "peak_memory_forward")}
    assert "| +0.002 % |" in markdown(exactly)
    count = changed(base, lambda record: record.update(parameters=record["parameters"] + 1))
    assert worse(judged(base, count)) == {("mano", "parameters")}
    uncounted = changed(base, lambda record: record["flops"].update(total=record["flops"]["total"] * 2))
    assert worse(judged(base, uncounted)) == {("mano", "flops")}
    edit(uncounted, lambda record: record["flops"].update(unknown=["my::kernel"]), "mano")
    findings = {f.verdict: f for f in judged(base, uncounted).findings if f.model == "mano" and f.metric == "flops"}
    assert set(findings) == {"unclear"}
    assert "my::kernel" in findings["unclear"].note


def test_accuracy_is_judged_over_seeds(base: Path) -> None:
    def wrong(record: dict[str, Any]) -> None:
        for entry in record["evaluations"]:
            entry["metrics"]["rel_l2"] *= 1.08 + 0.01 * record["cell"]["seed"]

    comparison = judged(base, changed(base, wrong))
    assert worse(comparison) == {("mano", "rel_l2")}
    assert judged(base, changed(base, wrong), "rel_l2=15%").status == 0


def test_what_explains_a_number_is_judged_only_if_it_is_named(base: Path) -> None:
    """A metric in detail gets worse, and a part of a training step that only one side has."""
    metrics = {**METRICS, "rel_max": Metric("lower", "largest error", detail=True)}
    Store(base).write_run_info(RunInfo({"darcy": metrics}))

    def largest(record: dict[str, Any], value: float = 0.1) -> None:
        for evaluation in record["evaluations"]:
            evaluation["metrics"]["rel_max"] = value

    def worsened(record: dict[str, Any]) -> None:
        largest(record, 0.5)
        record["latency"]["backward"] = record["latency"]["train_step"]

    edit(base, largest)
    new = changed(base, worsened)
    assert judged(base, new).status == 0
    named = judged(base, new, "rel_max=3%")
    assert worse(named) == {("mano", "rel_max")}
    with pytest.raises(UserError, match="latency_backward"):
        judged(base, new, "latency_backward=5%")


def test_every_seed_is_paired_with_itself(base: Path) -> None:
    def noisy(record: dict[str, Any]) -> None:
        for entry in record["evaluations"]:
            entry["metrics"]["rel_l2"] *= (0.8, 0.9, 1.35)[record["cell"]["seed"]]

    comparison = judged(base, changed(base, noisy), "latency=5%")
    assert comparison.status == 0
    found = next(f for f in comparison.findings if f.metric == "rel_l2" and f.model == "mano")
    assert found.ratio is not None
    assert found.ratio.low < 0.9 < found.ratio.value < 1.1 < found.ratio.high
    assert not found.ratio.agree


def test_a_metric_that_falls_to_zero_is_worse(base: Path) -> None:
    def score(value: float) -> Change:
        def change(record: dict[str, Any]) -> None:
            for entry in record["evaluations"]:
                entry["metrics"] = {"accuracy": value * (1 + record["cell"]["seed"] / 100)}

        return change

    edit(base, score(90.0))
    for folder in (base, changed(base)):
        info = json.loads((folder / "run.json").read_text())
        info["tasks"] = {"darcy": {"accuracy": {"direction": "higher", "summary": "", "unit": "%"}}}
        (folder / "run.json").write_text(json.dumps(info))
    new = changed(base, score(0.0))
    assert worse(judged(base, new)) == {("mano", "accuracy")}
    assert judged(new, base).status == 0
    assert {f.verdict for f in judged(new, base).findings if f.model == "mano" and f.metric == "accuracy"} == {"better"}


def test_a_test_elsewhere_that_newly_fails_never_passes(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "base")
    folder.add("mano", 16, tested=(32, 64))

    def fail(record: dict[str, Any]) -> None:
        record["evaluations"][2] |= {"status": "oom", "error": "none left", "metrics": {}}

    new = changed(tmp_path / "base", fail)
    comparison = judged(tmp_path / "base", new, "parameters=0")
    assert comparison.status == 1
    (finding,) = comparison.regressions
    assert (finding.resolution, finding.tested, finding.metric) == (16, 64, "status")
    assert finding.note == "ok -> oom: none left"
    assert judged(new, tmp_path / "base", "parameters=0").status == 0


def test_what_was_not_timed_needs_no_hardware(base: Path) -> None:
    edit(base, lambda record: record.update(latency={}, memory={}))
    assert judged(base, base).status == 0


def test_several_versions_of_the_code_in_one_folder_are_ambiguous(base: Path) -> None:
    new = changed(base)
    path = next(path for path in new.glob("cells/*") if json.loads(path.read_text())["cell"]["model"] == "mano")
    record = json.loads(path.read_text())
    record["cell"]["model_version"] = "2"
    record["id"] = "other"
    (new / "cells" / "other.json").write_text(json.dumps(record))
    comparison = judged(base, new)
    assert comparison.status == 2
    assert any("mano at" in line and "new has it from several versions" in line for line in comparison.obstacles)


def test_a_threshold_for_a_model_that_is_not_there_is_an_error(base: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'mano'"):
        judged(base, base, "mno.latency=5%")


def test_other_data_cannot_be_compared(base: Path) -> None:
    new = changed(base, lambda record: record["data"].update(recipe="neuralop"))
    comparison = judged(base, new)
    assert comparison.status == 2
    assert any("other data" in line and "mano" in line for line in comparison.obstacles)
    assert judged(base, new, "latency=5%").status == 0


def test_data_are_the_same_however_they_are_named(base: Path) -> None:
    new = changed(base, lambda record: record["data"].update(read="1200 samples of 16 x 16 generated"))
    assert judged(base, new).status == 0


def test_exact_numbers_are_compared_on_other_hardware(base: Path) -> None:
    new = changed(base)
    path = new / "environments" / "env.json"
    environment = json.loads(path.read_text())
    environment["cpu"]["model"] = "Another CPU"
    path.write_text(json.dumps(environment))
    edit(new, slower(2))
    comparison = judged(base, new)
    assert comparison.status == 2
    assert "different hardware" in comparison.obstacles[0]
    assert not [finding for finding in comparison.findings if finding.metric.startswith("latency")]
    assert judged(base, new, "peak_memory=1%,rel_l2=3%").status == 0
    path.unlink()
    assert "no record names" in judged(base, new).obstacles[0]


def test_times_compare_only_where_as_much_ran_beside_them(base: Path) -> None:
    assert judged(base, changed(base, lambda record: record.update(measured_under="alone"))).status == 0
    new = changed(base, lambda record: record.update(measured_under="shared node", trained_under="4 side by side"))
    comparison = judged(base, new)
    assert comparison.status == 2
    assert "measured: alone in base, shared node in new" in comparison.obstacles[0]
    assert judged(base, new, "peak_memory=1%,rel_l2=3%").status == 0


def test_what_seconds_of_training_are_worth_depends_on_what_else_runs(base: Path) -> None:
    edit(base, lambda record: record["cell"]["training"].update(epochs=None, seconds=60.0))
    assert judged(base, changed(base)).status == 0
    comparison = judged(base, changed(base, lambda record: record.update(trained_under="4 side by side")))
    assert comparison.status == 2
    assert "trained: alone in base, 4 side by side in new" in comparison.obstacles[0]


def test_missing_and_failing_cells_never_pass(base: Path) -> None:
    new = changed(base)
    lost = next(path for path in new.glob("cells/*") if json.loads(path.read_text())["cell"]["model"] == "fno")
    lost.unlink()
    comparison = judged(base, new)
    assert comparison.status == 2
    assert any("fno" in line and "not in new" in line for line in comparison.obstacles)

    def fail(record: dict[str, Any]) -> None:
        record.update(status="crashed", error="boom")

    comparison = judged(base, changed(base, fail))
    assert comparison.status == 1
    assert worse(comparison) == {("mano", "status")}
    assert judged(base, changed(base, fail), "latency=5%").status == 1
    assert judged(changed(base, fail), base).status == 0
    for path in new.glob("cells/*"):
        path.unlink()
    assert judged(base, new).status == 2
    assert judged(new, new).status == 2


def test_cells_with_other_settings_are_not_the_same_cells(base: Path) -> None:
    new = changed(base, lambda record: record["cell"]["options"].update(dim=128))
    comparison = judged(base, new)
    assert comparison.status == 2
    assert any("mano" in line and "not in new; there with other options" in line for line in comparison.obstacles)


def test_versions_of_the_code_do_not_tell_cells_apart_and_packages_are_noted(base: Path) -> None:
    new = changed(base, lambda record: record["cell"].update(model_version="2"))
    path = new / "environments" / "env.json"
    environment = json.loads(path.read_text())
    environment["versions"]["torch"] = "3.0"
    path.write_text(json.dumps(environment))
    comparison = judged(base, new)
    assert comparison.status == 0
    assert comparison.notes == ("torch: 2.15.0 -> 3.0",)


def test_another_task_cannot_be_compared(base: Path, tmp_path: Path) -> None:
    Folder(tmp_path / "digits", "digits").add("mano", 16)
    assert judged(base, tmp_path / "digits").status == 2


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    base, new = hostile(tmp_path / "base").store, hostile(tmp_path / "new").store
    for path in (tmp_path / "new").glob("cells/*.json"):
        record = json.loads(path.read_text())
        if record["status"] == "ok":
            record |= {"status": "crashed", "error": HOSTILE[0]}
            path.write_text(json.dumps(record))
    comparison = compare(base, new, Thresholds())
    assert len(comparison.regressions) == len(HOSTILE)
    text = markdown(comparison)
    assert "<script" not in text
    assert "x" * 500 not in text
    suite = ElementTree.fromstring(junit(comparison))
    assert suite.get("failures") == str(len(HOSTILE))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_junit_and_markdown_say_what_failed(base: Path) -> None:
    comparison = dataclasses.replace(judged(base, changed(base, slower(1.2))), obstacles=("vit at 32: not in new",))
    suite = ElementTree.fromstring(junit(comparison))
    failed = {case.get("classname") for case in suite if case.find("failure") is not None}
    assert failed == {"attn-bench.mano"}
    assert suite.get("errors") == "1"
    assert int(suite.get("tests", "0")) == len(comparison.findings) + 1
    text = markdown(comparison)
    assert text.startswith("### attn-bench: WORSE: 4 regressions in mano")
    assert "vit at 32" in text


def test_long_names_stay_apart() -> None:
    findings = [
        Finding(f"mano [{'x' * 40}{option}{'y' * 40}]", 16, 16, "parameters", "worse", 1.0, 2.0) for option in "12"
    ]
    rows = [line for line in markdown(Comparison(tuple(findings))).splitlines() if line.startswith("| mano")]
    assert len({row.split("|")[1] for row in rows}) == 2


def run(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["attn-bench", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_command(base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    new = changed(base, slower(1.2))
    out = base.parent / "out"
    written = ("--markdown", str(out / "c.md"), "--junit", str(out / "c.xml"))
    assert run("compare", str(base), str(new), *written, monkeypatch=monkeypatch) == 1
    assert "WORSE" in capsys.readouterr().out
    assert (out / "c.md").is_file()
    assert (out / "c.xml").is_file()
    assert run("compare", str(base), str(base), monkeypatch=monkeypatch) == 0
    edit(new, lambda record: [latency.update(disturbed=True) for latency in record["latency"].values()], "mano")
    assert run("compare", str(base), str(new), monkeypatch=monkeypatch) == 2
    assert run("compare", str(base), str(new), "--allow-unclear", monkeypatch=monkeypatch) == 0


def test_a_folder_without_results_gives_one_line_error(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, other, half, cut = (base.parent / name for name in ("empty", "other", "half", "cut"))
    empty.mkdir()
    for folder in (other, half, cut):
        shutil.copytree(base, folder)
    (other / "run.json").write_text('{"schema": 99}')
    (half / "run.json").write_text('{"schema"')
    next(cut.glob("cells/*")).write_text('{"schema": 1, "id"')
    lacking = changed(base)
    record = next(lacking.glob("cells/*"))
    record.write_text(json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "latency"}))
    for folder in (empty, other, half, cut, lacking, base.parent / "nowhere", Path(__file__)):
        assert run("compare", str(base), str(folder), monkeypatch=monkeypatch) == 2
        errors = capsys.readouterr().err.strip().splitlines()
        assert len(errors) == 1, errors
        assert errors[0].startswith("attn-bench: ")


def test_confirming_needs_the_code_and_the_machine(base: Path) -> None:
    new = changed(base, slower(1.2))
    with pytest.raises(UserError, match="another version of mano"):
        compare_confirmed(Store(base), Store(new), Thresholds())
    assert compare_confirmed(Store(base), Store(base), Thresholds()).status == 0


@pytest.mark.slow
def test_a_slow_measurement_is_confirmed_or_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "base"
    options = ["--models", "fno", "--task", "darcy", "--resolutions", "8", "--batch-size", "1"]
    assert run("measure", *options, "--out", str(folder), monkeypatch=monkeypatch) == 0
    said: list[str] = []
    monkeypatch.setattr("attn_bench.results.record.Latency.unquiet", False)
    # Whatever the machine does meanwhile: measured again, it is faster than base, as new was not.
    edit(folder, lambda record: sampled(record, np.random.default_rng(0)))
    edit(folder, slower(1000))
    new = changed(folder, slower(1000), "fno")
    assert judged(folder, new).status == 1
    confirmed = compare_confirmed(Store(folder), Store(new), Thresholds(), on_case=said.append)
    assert [line.split(":")[0] for line in said] == [f"measuring again, {i} of 3" for i in (1, 2, 3)]
    assert not confirmed.regressions
