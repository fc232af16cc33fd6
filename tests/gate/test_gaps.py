"""A gate that cannot judge does not pass: anything not compared gives exit status 2 with its name and the reason."""

from __future__ import annotations

import copy
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import ENVIRONMENT, METRICS, Folder

from attn_bench.cli import main
from attn_bench.gate.compare import Comparison, compare
from attn_bench.gate.comparison import headline, junit, markdown
from attn_bench.gate.thresholds import Thresholds, read_thresholds
from attn_bench.results.environment import Environment
from attn_bench.results.record import Record
from attn_bench.results.run_info import RunInfo

Records = list[dict[str, Any]]
Change = Callable[[dict[str, Any]], Any]
TIMES = dict.fromkeys(("median_ms", "low_ms", "high_ms", "p10_ms", "p90_ms"), 3.0)
LATENCY = TIMES | {"samples_ms": [3.0, 3.01, 2.99, 3.02, 3.0, 2.98, 3.01, 3.0, 3.0, 3.0, 2.99, 3.01]}


class Made:
    """A results folder in memory."""

    def __init__(self, records: Records, environment: Any = ENVIRONMENT, task: str = "darcy") -> None:
        self._records = [_record(values) for values in records]
        self._environment, self._task = environment, task

    def run_info(self) -> RunInfo:
        return RunInfo({self._task: METRICS})

    def records(self) -> list[Record]:
        return [record for record in self._records if record is not None]

    def ids(self) -> list[str]:
        return list(map(str, range(len(self._records))))

    def each_by_id(self) -> dict[str, Record]:
        return {str(i): record for i, record in enumerate(self._records) if record is not None}

    def read(self, id: str) -> Record | None:
        return self._records[int(id)]

    def environment(self, name: str) -> Environment | None:
        try:
            return Environment.from_json(self._environment)
        except ValueError:
            return None


def _record(values: dict[str, Any]) -> Record | None:
    try:
        return Record.from_json(values)
    except ValueError:
        return None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """Two models at a resolution, of which one is tested elsewhere, two seeds."""
    folder = Folder(tmp_path_factory.mktemp("made") / "x")
    for seed in (0, 1):
        folder.add("mano", 16, seed, tested=(32,))
        folder.add("fno", 16, seed)
    records: Records = [record.to_json() for record in folder.store.records()]
    for record in records:
        record["latency"] = {step: copy.deepcopy(LATENCY) for step in ("forward", "train_step")}
    return records


def judged(
    base: Any, new: Any, fail_on: str | None = None, *, environments: tuple[Any, Any] | None = None
) -> Comparison:
    sides = environments or (ENVIRONMENT, ENVIRONMENT)
    return compare(Made(base, sides[0]), Made(new, sides[1]), read_thresholds(fail_on))  # type: ignore[arg-type]


def changed(records: Records, change: Change, model: str = "mano") -> Records:
    records = copy.deepcopy(records)
    for record in records:
        if record["cell"]["model"] == model:
            change(record)
    return records


def said(comparison: Comparison) -> str:
    """Return all that is said of a comparison, having checked that no form of it is green."""
    suite = ElementTree.fromstring(junit(comparison))
    assert comparison.status == 2
    assert int(suite.get("errors", "0")) == len(suite.findall("testcase/error")) >= 1
    assert headline(comparison).startswith("CANNOT BE COMPARED")
    text = markdown(comparison)
    assert text.startswith("### attn-bench: CANNOT BE COMPARED")
    return "\n".join((headline(comparison), *comparison.obstacles))


def set_to(path: str, value: Any) -> Change:
    def change(record: dict[str, Any]) -> None:
        *folders, last = path.split("/")
        at: Any = record
        for name in folders:
            at = at[int(name)] if isinstance(at, list) else at[name]
        if value is KeyError:
            del at[last]
        else:
            at[last] = value

    return change


def fail(status: str, error: str = "boom") -> Change:
    return lambda record: record.update(status=status, error=error, latency={}, memory={}, flops=None, evaluations=[])


def test_cells_that_failed_on_both_sides_are_no_pass(whole: Records) -> None:
    base = changed(whole, fail("crashed"))
    text = said(judged(base, changed(base, fail("oom", "none left"))))
    assert "2 cells failed on both sides; mano at 16: seeds 0, 1 failed on both sides (crashed -> oom" in text
    everything = changed(base, fail("crashed"), "fno")
    assert "4 cells failed on both sides" in said(judged(everything, everything))
    # What is not named cannot fail.
    assert judged(base, base, "fno.latency=5%").status == 0
    assert "mano at 16" in said(judged(base, base, "latency=5%"))
    one = copy.deepcopy(whole)
    fail("timeout")(next(record for record in one if record["cell"]["model"] == "mano"))
    comparison = judged(one, one)
    assert "1 cell failed on both sides; mano at 16: seed 0 failed" in said(comparison)
    assert "latency_forward" in {finding.metric for finding in comparison.findings if finding.model == "mano"}


def test_an_unsupported_model_is_a_failure_only_if_it_is_named(whole: Records) -> None:
    base = changed(whole, fail("unsupported", "serves grids up to 8"))
    comparison = judged(base, base)
    assert comparison.status == 0
    assert "mano at 16: unsupported on both sides (serves grids up to 8)" in comparison.notes
    assert judged(base, base, "latency=5%").status == 0
    assert "mano at 16: unsupported on both sides" in said(judged(base, base, "mano.latency=5%"))
    everything = changed(base, fail("unsupported"), "fno")
    assert judged(everything, everything).status == 2  # nothing was compared


def test_a_cell_that_fails_now_is_worse_and_one_that_failed_before_is_not_compared(whole: Records) -> None:
    broken = changed(whole, fail("crashed"))
    comparison = judged(whole, broken)
    assert comparison.status == 1
    assert [finding.seeds for finding in comparison.regressions] == [(0,), (1,)]
    assert judged(broken, whole).status == 0
    assert "mano at 16: latency not compared: failed in base (seed 0: crashed)" in said(
        judged(broken, whole, "latency=5%")
    )
    assert judged(broken, whole, "fno.latency=5%").status == 0


@pytest.mark.parametrize(
    ("path", "named", "metric"),
    [
        ("latency/forward", "latency=5%", "latency_forward"),
        ("latency/train_step", "latency_train_step=5%", "latency_train_step"),
        ("memory/forward", "peak_memory=2%", "peak_memory_forward"),
        ("memory/train_step", "peak_memory=2%", "peak_memory_train"),
        ("flops", "flops=0", "flops"),
        ("evaluations/0/metrics/rel_l2", "rel_l2=3%", "rel_l2"),
        ("evaluations/1/metrics/rel_l2", "rel_l2=3%", "rel_l2"),
        ("evaluations/1", "rel_l2=3%", "rel_l2"),
        ("parameters", "parameters=0", "parameters"),
    ],
)
def test_a_number_that_one_folder_lacks_does_not_pass(whole: Records, path: str, named: str, metric: str) -> None:
    def lose(record: dict[str, Any]) -> None:
        if path == "evaluations/1":
            del record["evaluations"][1]
        else:
            set_to(path, None if path in ("flops", "parameters") else KeyError)(record)

    lacking = changed(whole, lose)
    # Base has it, so nobody has to name it.
    for fail_on in (None, named, f"mano.{named}"):
        text = said(judged(whole, lacking, fail_on))
        assert "mano at 16" in text
        assert metric in text
        assert " not compared: not " in text
        assert "in new" in text
    for sides in ((lacking, whole), (lacking, lacking)):
        assert judged(*sides).status == 0
        text = said(judged(*sides, named))
        assert "in base" in text or "on both sides" in text
        assert judged(*sides, "fno.latency=5%").status == 0
    assert judged(whole, lacking, "fno.latency=5%").status == 0


def test_folders_without_measurements_or_training_do_not_pass(whole: Records) -> None:
    def unmeasured(record: dict[str, Any]) -> None:
        record |= {"latency": {}, "memory": {}, "flops": None}
        record["cell"]["measuring"]["measure"] = False

    def untrained(record: dict[str, Any]) -> None:
        record |= {"evaluations": [], "training": None, "data": {}}
        record["cell"]["training"] = None

    base = [changed(changed(whole, change), change, "fno") for change in (unmeasured, untrained)]
    assert judged(base[0], base[0]).status == judged(base[0], base[0], "rel_l2=3%").status == 0
    text = said(judged(base[0], base[0], "latency=5%,peak_memory=2%"))
    for name in ("latency", "peak_memory"):
        assert f"{name} not compared: named in --fail-on, but no cell has it on both sides" in text
    assert judged(base[1], base[1]).status == judged(base[1], base[1], "latency=5%").status == 0
    assert "rel_l2 not compared: named in --fail-on" in said(judged(base[1], base[1], "rel_l2=3%"))
    # Measured in base, and not in new: the same cell, and it has lost something.
    text = said(judged(whole, base[0]))
    assert "mano at 16, fno at 16" in text or "fno at 16, mano at 16" in text
    assert "latency, flops not compared" in text or "not compared: not measured (--no-measure) in new" in text
    # Some cells measured and others not: what is named is compared where it is asked for.
    mixed = changed(whole, unmeasured, "fno")
    assert judged(mixed, mixed, "latency=5%").status == 0
    assert "fno: latency not compared" in said(judged(mixed, mixed, "fno.latency=5%"))


def test_a_model_with_nothing_to_train_has_no_training_step(whole: Records) -> None:
    def constant(record: dict[str, Any]) -> None:
        record["parameters"] = 0
        for name in ("latency", "memory"):
            del record[name]["train_step"]

    base = changed(whole, constant)
    assert judged(base, base, "latency=5%,peak_memory=1%").status == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "fast", [], True])
@pytest.mark.parametrize("broken", ["base", "new", "both"])
def test_values_that_are_not_numbers_give_no_verdict(whole: Records, value: Any, broken: str) -> None:
    for path, named in (
        ("evaluations/0/metrics/rel_l2", "rel_l2=3%"),
        ("latency/forward/samples_ms", "latency=5%"),
        ("memory/forward/peak_mib", "peak_memory=1%"),
        ("flops/total", "flops=0"),
        ("parameters", "parameters=0"),
    ):
        given = [value, 3.0] if path.endswith("samples_ms") and value is not None else value
        odd = changed(whole, set_to(path, given))
        sides = {"base": (odd, whole), "new": (whole, odd), "both": (odd, odd)}[broken]
        comparison = judged(*sides, named)
        text = said(comparison)
        assert "mano at 16" in text or "cannot be read, so its cell is not compared" in text
        name = named.partition("=")[0]
        metric = {"latency": "latency_forward", "peak_memory": "peak_memory_forward"}.get(name, name)
        judged_here = {(f.model, f.metric) for f in comparison.findings if f.tested == 16}
        assert ("mano", metric) not in judged_here
        assert ("fno", metric) in judged_here


@pytest.mark.parametrize(
    ("sample", "reason"),
    [(0.0, "some times are not positive numbers in new"), (-1.0, "cannot be read, so its cell is not compared")],
)
def test_times_that_cannot_be_are_no_times(whole: Records, sample: float, reason: str) -> None:
    odd = changed(whole, set_to("latency/forward/samples_ms", [sample, 3.0]))
    assert reason in said(judged(whole, odd))


def test_vanished_and_new_cells_are_reported(whole: Records) -> None:
    less = [record for record in whole if record["cell"]["model"] == "fno"]
    assert "mano at 16: not in new" in said(judged(whole, less))
    more = judged(less, whole)
    assert more.status == 0
    assert more.notes[0] == "mano at 16: not in base, so there is nothing to compare it with"
    assert "mano: named in --fail-on, but in only one folder" in said(judged(less, whole, "mano.latency=5%"))
    nothing = changed(less, lambda record: record["cell"].update(model="vit", plugin="vit"), "fno")
    text = said(judged(less, nothing, "latency=5%"))
    assert "fno at 16: not in new" in text
    assert "there is nothing to compare" in headline(judged([], [], None)) or judged([], []).status == 2
    other = compare(Made(whole), Made(whole, task="digits"), Thresholds())  # type: ignore[arg-type]
    assert "other task: darcy in base, digits in new" in said(other)


CONDITIONS = [
    ("threads", 1, 2, "threads: 1 in base, 2 in new"),
    ("threads", None, 2, "threads: the default in base, 2 in new"),
    ("compile", False, True, "compile: False in base, True in new"),
    ("device", "cpu", "cuda", "device: cpu in base, cuda in new"),
]


@pytest.mark.parametrize(("setting", "before", "after", "text"), CONDITIONS)
def test_times_taken_in_other_ways_do_not_compare(
    whole: Records, setting: str, before: Any, after: Any, text: str
) -> None:
    unknown = {**ENVIRONMENT, "torch": {}}

    def put(value: Any) -> Change:
        def change(record: dict[str, Any]) -> None:
            record["cell"]["execution"][setting] = value
            record["latency"]["forward"]["samples_ms"] = [5.0 if value == after else 3.0] * 9

        return change

    sides = changed(whole, put(before)), changed(whole, put(after))
    for fail_on in (None, "latency=5%", "mano.latency=5%"):
        comparison = judged(*sides, fail_on, environments=(unknown, unknown))
        assert f"not compared: {text}" in said(comparison)
        # Not WORSE, and not another model that vanished.
        assert not any("mano [" in line or "not in new" in line for line in comparison.obstacles)
    accuracy = judged(*sides, "rel_l2=3%,parameters=0,flops=0", environments=(unknown, unknown))
    assert accuracy.status == 0
    assert {"rel_l2", "parameters"} <= {f.metric for f in accuracy.findings if f.model == "mano"}


@pytest.mark.parametrize("setting", ["precision", "batch_size"])
def test_what_changes_the_training_too_leaves_only_counts(whole: Records, setting: str) -> None:
    def put(record: dict[str, Any]) -> None:
        record["cell"]["execution"][setting] = {"precision": "bf16", "batch_size": 16}[setting]

    other = changed(whole, put)
    text = said(judged(whole, other, "latency=5%,rel_l2=3%"))
    assert "latency, rel_l2 not compared" in text or "rel_l2 not compared" in text
    assert setting.replace("_", " ") in text
    assert judged(whole, other, "parameters=0").status == 0


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("threads", 2, 1),
        ("interop_threads", 1, 4),
        ("deterministic", False, True),
        ("matmul_precision", "highest", "high"),
        ("default_dtype", "torch.float32", "torch.float64"),
        ("cudnn_benchmark", False, True),
    ],
)
def test_what_was_in_force_counts_and_not_what_was_asked_for(
    whole: Records, name: str, before: Any, after: Any
) -> None:
    sides = [changed(whole, lambda r, v=v: r.update(in_force={name: v})) for v in (before, after)]
    assert f"{name.replace('_', ' ')}: {before} in base, {after} in new" in said(judged(*sides))
    # An older record has none: its environment says the same.
    called = "float32_matmul_precision" if name == "matmul_precision" else name
    environment = {**ENVIRONMENT, "torch": {"threads": 2, called: after}}
    if name != "default_dtype":
        older = judged(sides[0], whole, environments=(ENVIRONMENT, environment))
        assert f"{before} in base, {after} in new" in said(older)
    # Asked for by name or not, it is the same two threads.
    asked = changed(whole, lambda record: record["cell"]["execution"].update(threads=2))
    assert judged(whole, asked).status == 0


def test_variables_that_change_times_are_compared_and_counts_of_threads_are_not(whole: Records) -> None:
    for variables, status in (({"OMP_NUM_THREADS": "2"}, 0), ({"OMP_WAIT_POLICY": "active"}, 2)):
        comparison = judged(whole, whole, environments=(ENVIRONMENT, {**ENVIRONMENT, "variables": variables}))
        assert comparison.status == status
    assert "OMP_WAIT_POLICY: not set in base, active in new" in said(comparison)


@pytest.mark.parametrize("environment", [None, [], {}, {"cpu": 3, "gpus": {}}, {"torch": [], "versions": 3}])
def test_a_missing_environment_gives_no_traceback(whole: Records, environment: Any) -> None:
    assert "no record names the hardware" in said(judged(whole, whole, environments=(environment, ENVIRONMENT)))


def test_base_new_and_change_agree_or_say_why(whole: Records) -> None:
    def errors(*values: float) -> Change:
        return lambda record: [
            entry["metrics"].update(rel_l2=values[record["cell"]["seed"]]) for entry in record["evaluations"]
        ]

    # The mean of new is lower than that of base, and yet the error of most seeds grew.
    comparison = judged(changed(whole, errors(1.0, 0.1)), changed(whole, errors(0.9, 0.13)), "rel_l2=100%")
    found = next(f for f in comparison.findings if (f.model, f.metric) == ("mano", "rel_l2"))
    assert found.ratio is not None
    assert found.base is not None
    assert found.new is not None
    assert found.new / found.base == pytest.approx(found.ratio.value)
    three = [*whole, *(dict(copy.deepcopy(r), cell=r["cell"] | {"seed": 2}) for r in whole if r["cell"]["seed"] == 0)]

    def times(*values: float) -> Change:
        return lambda r: r["latency"]["forward"].update(samples_ms=[values[r["cell"]["seed"]]] * 9)

    comparison = judged(changed(three, times(1, 2, 3)), changed(three, times(1.5, 3.0, 2.0)), "latency=5%")
    found = next(f for f in comparison.findings if (f.model, f.metric) == ("mano", "latency_forward"))
    assert found.ratio is not None
    assert (found.base, found.new) == (2, 2)
    assert found.ratio.value == pytest.approx(1.5)
    assert "the change is computed within 3 pairs of runs" in found.note
    assert "differ by +0.0 %" in markdown(comparison).replace("\\", "")
    assert found.seeds == (0, 1, 2)
    row = next(line for line in markdown(comparison).replace("\\", "").splitlines() if "latency_forward" in line)
    assert "| 0, 1, 2 |" in row


def test_a_better_seed_does_not_hide_a_worse_one(whole: Records) -> None:
    def memory(record: dict[str, Any]) -> None:
        record["memory"]["forward"]["peak_mib"] *= (0.9, 1.2)[record["cell"]["seed"]]

    (found,) = judged(whole, changed(whole, memory)).regressions
    assert (found.metric, found.seeds) == ("peak_memory_forward", (1,))


def test_measured_again_and_always_disturbed_is_unclear(whole: Records) -> None:
    slow = changed(whole, lambda r: r["latency"]["forward"].update(samples_ms=[9.0 + i / 100 for i in range(12)]))
    assert judged(whole, slow).status == 1
    case = next(r for r in slow if r["cell"]["model"] == "mano")
    noisy = copy.deepcopy(case)
    noisy["latency"]["forward"]["disturbed"] = True
    quiet = copy.deepcopy(case)
    slower_threads = dict(quiet, in_force={"threads": 1})
    for again, status in (([noisy] * 3, 2), ([dict(case, latency={})] * 3, 2), ([quiet] * 3, 1)):
        comparison = confirmed(whole, slow, again)
        assert comparison.status == status
        found = next(f for f in comparison.findings if (f.model, f.metric) == ("mano", "latency_forward"))
        assert (found.verdict == "unclear") == ("measured again 3 times, but never" in found.note) == (status == 2)
    here = changed(slow, lambda r: r.update(in_force={"threads": 2}))
    assert confirmed(whole, here, [slower_threads] * 3).status == 2


def confirmed(base: Records, new: Records, again: Records) -> Comparison:
    from attn_bench.analysis.pairing import pair

    sides = Made(base), Made(new)
    key = next(case.key for case in pair(sides[0].records(), sides[1].records()) if case.label == "mano")
    return compare(*sides, Thresholds(), {key: Made(again).records()})  # type: ignore[arg-type]


LABELS = [
    *("mano [depth=2, dim=64]", "timm:vit.v1 [x=50%]", "x=1", "a.b:c [p='1, 2']"),
    *("a, b", "it's", 'quo"te', "half ["),
]


@pytest.mark.parametrize("label", LABELS)
def test_the_label_that_is_printed_is_parsed(label: str, tmp_path: Path) -> None:
    quote = '"' if "'" in label else "'"
    spellings = [f"{quote}{label}{quote}.latency=5%"]
    if label in LABELS[:4]:
        spellings += [f"{label}.latency=5%", f"'{label}.latency=5%'" if "'" not in label else f"{label}.latency = 5 %"]
    for spelling in spellings:
        found = read_thresholds(f"{spelling}, rel_l2=3%") if spelling[-1] != "'" else read_thresholds(spelling)
        assert found.by_model == {label: {"latency": 0.05}}
    toml, yaml = tmp_path / "gate.toml", tmp_path / "gate.yaml"
    toml.write_text(f"[models.{json.dumps(label)}]\nlatency = '5%'\n")
    yaml.write_text(f"models:\n  {json.dumps(label)}: {{latency: 5%}}\n")
    flat = tmp_path / "flat.yaml"
    flat.write_text(f"{json.dumps(label + '.latency')}: 5%\n")
    for path in (toml, yaml, flat):
        assert read_thresholds(str(path)).by_model == {label: {"latency": 0.05}}


def test_a_label_is_found_in_full_or_as_a_table_shortens_it(whole: Records) -> None:
    variants = []
    for dim in (32, 64):
        variants += changed(whole, lambda r, dim=dim: r["cell"]["options"].update(dim=dim, note="x" * 40 + str(dim)))
    slow = copy.deepcopy(variants)
    for record in slow:
        if record["cell"]["options"].get("dim") == 64:
            record["latency"]["forward"]["samples_ms"] = [9.0 + i / 100 for i in range(12)]
    label = f"mano [dim=64, note={'x' * 40}64]"
    for name in (label, f"mano [dim=64…{'x' * 4}64]"):
        comparison = judged(variants, slow, f"{name}.latency=5%")
        assert comparison.status == 1
        assert label in headline(comparison)
    assert judged(variants, slow, label.replace("64", "32") + ".latency=5%").status == 0
    assert judged(variants, slow, "mano.latency=5%").status == 1


@pytest.mark.parametrize(
    ("fail_on", "text"),
    [
        ("latncy=5%", "did you mean 'latency'"),
        ("mno.latency=5%", "did you mean 'mano'"),
        ("mano=5%", "is a model; name one of its metrics, e.g. mano.latency=5%"),
        ("mano.rel_l3=5%", "did you mean 'rel_l2'"),
        ("mano [dim=64].latency", "'64].latency' is not a valid limit"),
    ],
)
def test_misspelled_names_are_refused(
    whole: Records, fail_on: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = Folder(tmp_path / "x")
    folder.add("mano", 16)
    where = str(tmp_path / "x")
    monkeypatch.setattr("sys.argv", ["attn-bench", "compare", where, where, "--fail-on", fail_on])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert text in error
    assert len(error.splitlines()) == 1


def test_the_last_line_names_the_model_in_full(whole: Records) -> None:
    names = [f"timm:vit_{'x' * 30}{size}_{'y' * 30}" for size in ("small", "large")]
    records = []
    for name in names:
        records += [dict(copy.deepcopy(r), cell=r["cell"] | {"model": name, "plugin": "timm"}) for r in whole[:1]]
    slow = changed(
        records, lambda r: r["latency"]["forward"].update(samples_ms=[9.0 + i / 10 for i in range(12)]), names[1]
    )
    assert names[1] in headline(judged(records, slow))
    assert names[0] not in headline(judged(records, slow))


ODD = st.sampled_from([None, 0, 0.0, -1.0, math.nan, math.inf, -math.inf, 1e308, 1e-308, 10**400, "x", [], {}, True])
NUMBER = st.one_of(ODD, st.floats(0.1, 10.0))
PATHS = (
    "latency", "latency/forward", "latency/forward/samples_ms", "latency/train_step", "memory", "memory/forward",
    "memory/forward/peak_mib", "flops", "flops/total", "parameters", "evaluations/0/metrics",
    "evaluations/0/metrics/rel_l2", "evaluations/0/metrics/rel_mse", "latency/forward/calibration_ms", "in_force",
    "in_force/threads", "environment", "data", "error",
)  # fmt: skip
KINDS = {"latency": dict, "memory": dict, "evaluations/0/metrics": dict, "in_force": dict, "data": dict}


@st.composite
def odd_folders(draw: Any) -> list[tuple[int, int, str, Any]]:
    """Return what is changed: side, index of the record, path, value."""
    changes = []
    for _ in range(draw(st.integers(1, 5))):
        path = draw(st.sampled_from(PATHS))
        if path.endswith("samples_ms"):
            value: Any = draw(st.lists(NUMBER, max_size=3))
        elif path in KINDS:
            value = {}
        elif path == "environment":
            value = draw(st.sampled_from([None, "env"]))
        else:
            value = draw(NUMBER)
        changes.append((draw(st.integers(0, 1)), draw(st.integers(0, 3)), path, value))
    return changes


@given(odd_folders(), st.sampled_from([None, "latency=5%,rel_l2=3%", "mano.flops=0,parameters=0,peak_memory=1%"]))
def test_degenerate_records_make_no_traceback_and_no_pass(whole: Records, odd: Any, fail_on: str | None) -> None:
    sides = copy.deepcopy(whole), copy.deepcopy(whole)
    for side, index, path, value in odd:
        try:
            set_to(path, value)(sides[side][index])
        except (KeyError, TypeError):  # an earlier change took it away
            continue
    comparison = judged(*sides, fail_on)
    junit(comparison)
    assert "nan" not in markdown(comparison)
    headline(comparison)
    wanted = thresholds_wanted(fail_on)
    for finding in comparison.findings:
        for value in (finding.base, finding.new, *([finding.ratio.value] if finding.ratio else [])):
            assert value is None or math.isfinite(float(value))
    compared = {(f.model, f.metric) for f in comparison.findings}
    had = {(r["cell"]["model"]) for r in whole}
    if comparison.status == 0:
        for model in had:
            for metric in wanted.get(model, ()):
                assert (model, metric) in compared, (model, metric)


def thresholds_wanted(fail_on: str | None) -> dict[str, list[str]]:
    """Return what must have been compared, by model, for a comparison to pass."""
    if fail_on is None:
        return {}
    if "rel_l2" in fail_on:
        trained = ["latency_forward", "latency_train_step", "rel_l2"]
        return {"mano": trained, "fno": trained}
    common = ["parameters", "peak_memory_forward", "peak_memory_train"]
    return {"mano": [*common, "flops"], "fno": common}


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=2), st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=2))
def test_the_trained_metric_shown_is_the_one_judged(whole: Records, base: Any, new: Any) -> None:
    def put(values: list[float]) -> Change:
        return lambda r: r["evaluations"][0]["metrics"].update(rel_l2=values[r["cell"]["seed"]])

    comparison = judged(changed(whole, put(base)), changed(whole, put(new)), "rel_l2=3%")
    found = next(f for f in comparison.findings if (f.model, f.metric, f.tested) == ("mano", "rel_l2", 16))
    assert found.base is not None
    assert found.new is not None
    assert found.base == pytest.approx(math.exp(statistics.fmean(map(math.log, base))))
    if found.ratio is not None:
        assert found.new / found.base == pytest.approx(found.ratio.value, rel=1e-6)


@pytest.mark.parametrize("side", ["base", "new"])
def test_an_unreadable_record_does_not_pass(tmp_path: Path, side: str) -> None:
    for name in ("base", "new"):
        folder = Folder(tmp_path / name)
        folder.add("mano", 16)
        folder.add("fno", 16)
    broken = next((tmp_path / side / "cells").glob("*.json"))
    broken.write_text("{")
    stores = [Folder(tmp_path / name).store for name in ("base", "new")]
    text = said(compare(stores[0], stores[1], Thresholds()))
    assert f"cells/{broken.name} of {side}: cannot be read" in text
