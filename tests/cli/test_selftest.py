"""The self-test: what its lines find, what they call wrong, and that it resumes."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from command import attn_bench

from attn_bench.running.device.host import Host
from attn_bench.selftest import run
from attn_bench.selftest import selftest_lines as lines
from attn_bench.selftest.line_outcome import SIZES, Failed, Skip
from attn_bench.selftest.selftest_lines import LINES, Bench

BENCH = Bench("cpu", SIZES["smallest"])


@pytest.fixture
def few(monkeypatch):
    """Return what makes these the only lines, each a function of the bench."""

    def use(**found):
        monkeypatch.setattr(run, "LINES", found)

    return use


def raising(error):
    def line(bench):
        raise error

    return line


def test_the_table_says_what_passed_failed_and_was_skipped_and_resumes(few, tmp_path):
    seen = []
    few(
        good=lambda bench: seen.append("good") or "3 ms",
        bad=raising(Failed("twice as slow")),
        broken=raising(ZeroDivisionError("division by zero")),
        absent=raising(Skip("no such counter: pip install 'attn-bench[natten]'")),
    )
    command = ("selftest", "--device", "cpu", "--out", tmp_path, "--smallest")
    done = attn_bench(*command)
    assert done.returncode == 1
    for line in ("good", "pass", "3 ms", "twice as slow", "ZeroDivisionError: division by zero", "attn-bench[natten]"):
        assert line in done.stdout
    assert done.stderr.split() == ["good", "...", "bad", "...", "broken", "...", "absent", "..."]
    few(
        good=lambda bench: seen.append("again") or "4 ms",
        bad=lambda bench: "repaired",
        broken=lambda bench: "repaired",
        absent=raising(AssertionError("it is kept")),
    )
    done = attn_bench(*command, "--format", "json")
    found = json.loads(done.stdout)
    assert (done.returncode, seen) == (0, ["good"])
    assert [each["status"] for each in found] == ["pass", "pass", "pass", "skipped"]
    assert [each["number"] for each in found] == ["3 ms", "repaired", "repaired", ""]


def test_what_is_kept_counts_for_its_sizes_and_not_when_it_cannot_be_read(few, tmp_path):
    few(line=lambda bench: str(bench.sizes.grids))
    (first,) = run.selftest("cpu", tmp_path, "smallest")
    (other,) = run.selftest("cpu", tmp_path, "cpu")
    assert (first.number, other.number) == ("(16,)", "(32, 64)")
    for path in tmp_path.iterdir():
        path.write_text("{", encoding="utf-8")
    (again,) = run.selftest("cpu", tmp_path, "smallest")
    assert dataclasses.replace(again, seconds=first.seconds) == first


@pytest.mark.parametrize(
    "line", ["MANO's kernels against the reference", "memory counter", "out of memory", "share of copy bandwidth"]
)
def test_lines_pass_on_this_machine(line):
    assert LINES[line](BENCH)


def test_a_wrong_kernel_and_a_wrong_counter_are_noticed(monkeypatch):
    usual, calls = lines._with_gradient, []

    def wrong(steps):
        output, gradients = usual(steps)
        calls.append(1)
        return (output * 1.01 if len(calls) == 1 else output), gradients

    monkeypatch.setattr(lines, "_with_gradient", wrong)
    with pytest.raises(Failed, match=r"an output or a gradient is off by 1\.0e-02; at most 1e-03 is allowed"):
        LINES["MANO's kernels against the reference"](BENCH)
    monkeypatch.setattr(lines, "measure_memory", lambda step, device: type("Memory", (), {"peak_mib": 1.0}))
    with pytest.raises(Failed, match=r"peak memory is off by 7\.5e-01"):
        LINES["memory counter"](BENCH)


def test_what_the_cpu_cannot_do_is_skipped_with_a_reason(monkeypatch):
    monkeypatch.setattr(Host, "meter", lambda self: "no energy counter: none")
    for line, reason in (
        ("graphs", "no graphs of kernels"),
        ("latency against do_bench", "needs a GPU"),
        ("energy", "no energy counter: none"),
        ("natten", "CUDA|not installed"),
        ("flash-linear-attention", "CUDA|not installed"),
    ):
        with pytest.raises(Skip, match=reason):
            LINES[line](BENCH)


def test_an_error_that_is_no_lack_of_memory_is_not_taken_for_one(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "empty", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        LINES["out of memory"](BENCH)


@pytest.mark.slow
def test_no_line_fails_at_the_smallest_sizes(tmp_path):
    found = list(run.selftest("cpu", tmp_path, "smallest"))
    assert [each.line for each in found] == list(LINES)
    assert [each for each in found if each.status == "fail"] == []
