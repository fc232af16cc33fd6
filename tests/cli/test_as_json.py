"""What commands print for other programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from attn_bench import cli
from attn_bench.plugins.registry import MODELS, TASKS
from attn_bench.sweep.training_recipes import recipes

RESULTS = str(Path(__file__).parents[2] / "results" / "default")


@pytest.fixture
def called(monkeypatch, capsys):
    """Return the exit status, what is printed and the error of a command."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["attn-bench", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


@pytest.fixture
def parsed(called):
    def run(*arguments):
        _, out, _ = called(*arguments, "--format", "json")
        return json.loads(out)

    return run


def test_lists(parsed):
    assert {each["name"] for each in parsed("list", "models")} == set(MODELS.entries())
    assert {each["name"] for each in parsed("list", "tasks", "--kind", "image")} < set(TASKS.entries())
    assert [each["name"] for each in parsed("list", "recipes")] == list(recipes())
    (mano,) = parsed("list", "models", "mano")
    assert mano["citation"] == "arXiv:2507.02748"
    assert "field" in mano["kinds"]
    assert mano["complexity"] == "n"
    assert {"name": "window_size", "type": "int", "default": 2}.items() <= next(
        option for option in mano["options"] if option["name"] == "window_size"
    ).items()
    (darcy,) = parsed("list", "tasks", "darcy")
    assert darcy["metrics"]["rel_l2"]["direction"] == "lower"
    assert darcy["defaults"]["batch_size"] > 0


def test_a_comparison_has_its_outcome(parsed, called):
    # How exactly the latencies that ship are known is not what is tested.
    found = parsed("compare", RESULTS, RESULTS, "--allow-unclear")
    assert found["status"] == 0
    assert {each["verdict"] for each in found["findings"]} <= {"same", "unclear"}
    assert "same" in {each["verdict"] for each in found["findings"]}
    assert not any(each["fails"] for each in found["findings"])
    assert called("compare", RESULTS, RESULTS, "--allow-unclear", "--format", "json")[0] == 0


def test_claims_and_status(parsed):
    checks = parsed("claims", RESULTS, "--all")
    assert {"reproduced", "not yet run"} & {each["verdict"] for each in checks}
    assert all(each["claim"]["says"] for each in checks)
    assert parsed("status", RESULTS)["cells"] == {"ok": 6}


def test_an_unknown_format_is_an_error(called):
    status, out, err = called("list", "models", "--format", "xml")
    assert status == 2
    assert not out
    assert err == "attn-bench: Invalid value for '--format': 'xml' is not one of text, json\n"


@pytest.mark.parametrize(
    ("words", "proposed"),
    [
        (("run", "--task", "da"), ["darcy"]),
        (("run", "--models", "mano,fn"), ["mano,fno"]),
        (("run", "--optimizer", "l"), ["lion"]),
        (("list", "models", "--format", ""), ["text", "json"]),
        (("comp",), ["compare"]),
        (("list", "t"), ["tasks"]),
        (("list", "models", "trans"), ["transolver"]),
        (("list", "recipes", "fno-2020"), ["fno-2020"]),
        (("check", "trans"), ["transolver"]),
        (("data", "dar"), ["darcy"]),
        (("run", "--recipe", "fno-2020"), ["fno-2020"]),
    ],
)
def test_a_shell_completes_what_is_known(called, monkeypatch, words, proposed):
    monkeypatch.setenv("_ATTN_BENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"attn-bench {' '.join(words)}")
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    assert called(*words)[1].split() == proposed
