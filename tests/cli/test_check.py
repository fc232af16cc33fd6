"""``attn-bench check`` prints a line per promise, and its exit status says whether all hold."""

from __future__ import annotations

import sys

import pytest

from attn_bench import cli
from attn_bench.gate.outcome import Outcome


@pytest.fixture
def attn_bench(monkeypatch, capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["attn-bench", "check", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return call


def test_a_broken_promise_is_a_line_and_the_exit_status(attn_bench):
    status, output, _ = attn_bench("toy-leaks", "--set", "toy-leaks.dim=16", "--set", "toy-leaks.depth=1")
    assert status == 1
    (failed,) = (line for line in output.splitlines() if not line.startswith("ok"))
    assert failed == "FAIL causality: token 1 of 96 changes the earlier output 0"


@pytest.mark.slow
def test_what_an_import_changes_is_a_broken_promise(attn_bench):
    status, output, _ = attn_bench("toy-imports-setter")
    assert status == 1
    assert "FAIL global state: default_dtype float64 (not float32): import\n" in output


def test_a_model_that_keeps_its_promises_ends_well(attn_bench):
    status, output, _ = attn_bench("toy:wide")
    assert status == 0
    assert "ok   shapes: field 16 x 16\n" in output
    assert "-    causality: the model does not support causal text\n" in output


def test_options_and_device_are_handed_on(attn_bench, monkeypatch):
    def check(*arguments, **options):
        asked.append((arguments, options))
        yield Outcome("shapes", None, "no problem is supported on this device")

    asked: list[object] = []
    monkeypatch.setattr("attn_bench.gate.check.check", check)
    assert attn_bench("toy:wide", "--set", "toy.act=tanh", "--compile")[0] == 0
    assert asked == [(("toy", {"width": 16, "act": "tanh"}), {"device": "cpu", "compiled": True, "timeout_s": 600})]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("toi",), "unknown model 'toi'; did you mean 'toy'?"),
        (("toy:wider",), "unknown preset of toy 'wider'; did you mean 'wide'?"),
        (("toy-import",), "needs a library that is not there"),
        (("toy", "--set", "toy.width=x"), "option toy.width must be a valid integer"),
        (("toy", "--set", "fno.norm=none"), "--set fno"),
        (("toy", "--timeout", "0"), "--timeout: must be > 0 (given: '0')"),
        (("toy", "--timeout", "soon"), "--timeout: must be a valid number (given: 'soon')"),
        (("toy", "--device", "tpu"), "--device: must be 'auto', 'cpu' or 'cuda' (given: 'tpu')"),
    ],
)
def test_wrong_input_is_one_line(attn_bench, arguments, message):
    status, output, error = attn_bench(*arguments)
    assert (status, output, error.count("\n")) == (2, "", 1)
    assert message in error
