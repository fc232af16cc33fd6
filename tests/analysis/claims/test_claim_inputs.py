"""Degenerate claims and results give one line that names the claim, or a verdict that says what is wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_results import Folder

from attn_bench import cli
from attn_bench.analysis.claims.checks import Check
from attn_bench.analysis.claims.claim import read_claims
from attn_bench.analysis.claims.judges import check
from attn_bench.errors import UserError
from attn_bench.report import claims_table as shown
from attn_bench.results.store import Store

VALUE = {
    "id": "mine", "says": "as published", "certainty": "paper", "model": "mano", "metric": "rel_l2",
    "relation": "equals", "task": "darcy", "value": 0.1,
}  # fmt: skip
RATIO = {**VALUE, "id": "half", "relation": "at most times", "than": "vit", "value": 0.5}
GROWTH = {
    "id": "grows", "says": "linear", "certainty": "paper", "model": "mano", "metric": "latency_forward_ms",
    "relation": "grows as", "growth": "n",
}  # fmt: skip


def written(path: Path, *claims: Any) -> Path:
    file = path / "claims.yaml"
    file.write_text(yaml.safe_dump({"claims": list(claims)}))
    return file


def only(folder: Path, claim: Any) -> Check:
    (found,) = check(read_claims(written(folder, claim)), [Store(folder / "made")])
    return found


@pytest.fixture
def made(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "made")
    for seed in (0, 1):
        folder.add("mano", 16, seed)
        folder.add("vit", 16, seed)
    return folder


def put(folder: Folder, model: str, metric: str, *values: Any) -> None:
    for path in (folder.store.folder / "cells").glob("*.json"):
        record = json.loads(path.read_text())
        if record["cell"]["model"] == model:
            record["evaluations"][0]["metrics"][metric] = values[record["cell"]["seed"]]
            path.write_text(json.dumps(record))


@pytest.mark.parametrize("growth", ["n", "n log n", "n^2"])
@pytest.mark.parametrize("cost", ["latency_forward_ms", "peak_memory_train_mib"])
def test_equal_costs_tell_nothing_of_how_they_grow(tmp_path: Path, growth: str, cost: str) -> None:
    folder = Folder(tmp_path / "made")
    for resolution in (32, 64, 128, 256):
        folder.add("mano", resolution, scale=1 / resolution**2)
    found = only(tmp_path, {**GROWTH, "growth": growth, "metric": cost})
    assert found.verdict == "inconclusive"
    assert "the costs are equal" in found.note
    (row,) = shown.rows([found])
    assert (row.verdict, row.holds) == ("inconclusive", None)
    assert "nan" not in f"{row.ours} {shown.markdown([found])}"


@pytest.mark.parametrize("values", [(0.0, 0.0), (0.0, 0.2), (-0.1, 0.1), (-0.2, -0.1)])
@pytest.mark.parametrize("model", ["vit", "mano"])
def test_values_that_are_not_positive_have_no_ratio(tmp_path: Path, made: Folder, values: Any, model: str) -> None:
    put(made, model, "rel_l2", *values)
    found = only(tmp_path, RATIO)
    assert found.verdict == "not comparable"
    assert f"rel_l2 of {model} is not positive, so there is no ratio" in found.differences
    shown.markdown([found])


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"value": math.inf}, "claim mine: value must be a positive, finite number"),
        ({"value": math.nan}, "claim mine: value must be a positive, finite number"),
        ({"value": -1}, "claim mine: value must be a positive"),
        ({"value": 10**400}, "claim mine: value"),
        ({"value": True}, "claim mine: value: true is not a valid value"),
        ({"value": [1]}, "claim mine: value: Input should be a valid number"),
        ({"value": None}, "claim mine: relation 'equals' needs value"),
        ({"tolerance": math.inf}, "claim mine: tolerance must be a finite number >= 0"),
        ({"tolerance": -0.1}, "claim mine: tolerance must be a finite number >= 0"),
        ({"epochs": math.nan}, "claim mine: epochs must be"),
        ({"resolution": -16}, "claim mine: resolution must be"),
        ({"metric": "latency_forward_ms"}, "claim mine: relation 'equals' is for a metric of a task, such as rel_l2"),
        ({"metric": "peak_memory_train_mib"}, "is a cost, about which"),
        ({"relation": "improves with"}, "claim mine: relation 'improves with' needs option"),
        ({"relation": "equal"}, "claim mine: relation: Input should be 'equals'"),
        ({"vaule": 1}, "claim mine in .*'vaule'; did you mean 'value'"),
        ({3: 1}, "unknown key of claim mine in .* 'int'; "),
        ({"metric": {"a": 1}}, "claim mine: metric: Input should be a valid string"),
        ({"id": {"a": 1}}, "claim number 1: id: Input should be a valid string"),
        ({"id": "\x1b[31m" + "x" * 10**5}, None),
        ({"task": None}, "claim mine: relation 'equals' needs task"),
    ],
)
def test_an_invalid_claim_gives_one_line_with_its_name(tmp_path: Path, claim: Any, message: str) -> None:
    if message is None:
        message, claim = "claim x{70,90}", {**claim, "value": math.inf}
    with pytest.raises(UserError, match=message) as error:
        read_claims(written(tmp_path, {**VALUE, **claim}))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no claims"),
        ("claims: []", "contains no claims"),
        ("claims: " + "[" * 1500, "nested too deeply|not valid YAML"),
        (f"claims: [{{value: {'9' * 5000}}}]", "not valid YAML"),
        ("claims: [{id: 2020-13-45}]", "not valid YAML"),
        ("claims: \x00", "not valid YAML"),
        ("a: &a [x]\nb: &b [*a, *a]\nclaims: [{id: y, protocol: *b}]", "unknown protocol of claim y"),
        (yaml.safe_dump({"claims": [VALUE, VALUE]}), "claim mine is listed twice"),
    ],
)
def test_a_file_without_a_list_of_claims_gives_one_line_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_claims(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({**VALUE, "metric": "rel_l3"}, "unknown metric of darcy in claim mine 'rel_l3'; did you mean 'rel_l2'?"),
        ({**RATIO, "metric": "latency"}, "unknown metric of darcy in claim half 'latency'; there are: rel_"),
        ({**VALUE, "task": "darcyy"}, "unknown task of claim mine 'darcyy'; did you mean 'darcy'?"),
        ({**VALUE, "model": "manno"}, "unknown model of claim mine 'manno'; did you mean 'mano'?"),
        ({**RATIO, "than": "vitt"}, "unknown model of claim half 'vitt'; did you mean 'vit'?"),
        ({**VALUE, "model": "mano:papper"}, "unknown preset of mano in claim mine 'papper'; did you mean 'paper'?"),
        (
            {**GROWTH, "metric": "latency_foward_ms"},
            "is not a cost; did you mean 'latency_forward_ms'?",
        ),
    ],
)
def test_a_misspelt_name_is_refused_with_a_suggestion(
    tmp_path: Path, made: Folder, claim: Any, message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file = written(tmp_path, claim)
    monkeypatch.setattr("sys.argv", ["attn-bench", "claims", str(tmp_path / "made"), "--file", str(file)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    # A model that nobody has here may be one that is not installed.
    file = written(tmp_path, {**VALUE, "model": "hyperformer"})
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert "not installed: hyperformer" in capsys.readouterr().out


def test_a_metric_that_results_lack_is_inconclusive(tmp_path: Path, made: Folder) -> None:
    found = only(tmp_path, {**VALUE, "metric": "rel_l3"})
    assert found.verdict == "inconclusive"
    assert found.note == "unknown metric of darcy 'rel_l3'; did you mean 'rel_l2'?"


NUMBER = st.one_of(st.sampled_from([None, 0.0, -1.0, math.nan, math.inf, 1e300, 1e-300, 1e308]), st.floats(1e-3, 1e3))
FIELDS: dict[str, Any] = {
    "value": st.one_of(NUMBER, st.just("x"), st.just(10**400), st.booleans()),
    "tolerance": NUMBER,
    "epochs": NUMBER,
    "resolution": st.sampled_from([16, 0, -1, 10**30, 1.5, None, "16"]),
    "than": st.sampled_from(["vit", "mano", "", "nobody", "vit:", None]),
    "growth": st.sampled_from(["n", "n^2", "n!", None, 3]),
    "metric": st.sampled_from(["rel_l2", "rel_mse", "latency_forward_ms", "", "peak_memory_train_mib", None]),
    "relation": st.sampled_from(["equals", "at most times", "grows as", "less"]),
    "model": st.sampled_from(["mano", "mano:", ":", "", "mano:paper", "nobody"]),
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([VALUE, RATIO, GROWTH]),
    st.dictionaries(st.sampled_from(sorted(FIELDS)), st.none(), max_size=3).flatmap(
        lambda names: st.fixed_dictionaries({name: FIELDS[name] for name in names})
    ),
    st.lists(NUMBER, min_size=4, max_size=4),
)
def test_degenerate_claims_and_results_make_no_traceback(
    tmp_path_factory: pytest.TempPathFactory, base: Any, changed: Any, values: Any
) -> None:
    path = tmp_path_factory.mktemp("claims")
    folder = Folder(path / "made")
    for seed in (0, 1):
        for model in ("mano", "vit"):
            folder.add(model, 16, seed)
    for size in (32, 64, 128):
        folder.add("mano", size, scale=next((v for v in values if v and 1e-200 < v < 1e200), 1.0) / size**2)
    for model, both in (("mano", values[:2]), ("vit", values[2:])):
        put(folder, model, "rel_l2", *both)
    try:
        claims = read_claims(written(path, {**base, **changed}))
    except UserError:
        return
    found = check(claims, [Store(path / "made")])
    text = shown.markdown(found)
    shown.rows(found)
    for each in found:
        if each.verdict in ("reproduced", "better", "not reproduced"):
            assert each.estimate is not None
            assert math.isfinite(each.estimate.value)
    assert " nan" not in text
    assert "inf " not in text
