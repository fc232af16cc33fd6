"""Whatever surrounds a command, it ends with one line and a status of its own, and what it made is on disk."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from made_results import Folder, usual
from rich.console import Console

from attn_bench import cli
from attn_bench.cli import error_messages, reporting
from attn_bench.cli.progress import Screen
from attn_bench.cli.surroundings import Output, standard_streams, warnings_are_no_errors
from attn_bench.running.processes import surroundings, without_errors

Call = Callable[..., int]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and two seeds: their table holds a plus-minus sign."""
    folder = Folder(tmp_path_factory.mktemp("made") / "results")
    for seed in (0, 1):
        for model in ("mano", "fno …"):
            folder.add(model, 16, seed, disturbed=True)
    return folder.store.folder


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call the command line in this process and return its exit status."""

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["attn-bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code  # type: ignore[return-value]

    return call


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even a message")


UNFORESEEN = [
    OverflowError("math range error"),
    RecursionError("maximum recursion depth exceeded"),
    MemoryError(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("several\nlines \x1b[31m and \ud800 what no terminal shows" + 10_000 * "x"),
    Unprintable(),
    type("Odd", (BaseException,), {})("neither an Exception nor an interruption"),
]


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_an_unforeseen_error_is_one_line_and_a_log(
    call: Call, results: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("attn_bench.report.write_report", fail)
    assert call("report", results) == error_messages.FAULT == 70
    output, errors = capsys.readouterr()
    assert "mano" in output  # the table is shown all the same
    assert errors.count("\n") == 1
    assert len(errors) < 1500
    assert type(error).__name__ in errors
    assert "--debug shows it" in errors
    log = Path(re.search(r"traceback is in (\S+\.txt)", errors)[1])  # type: ignore[index]
    assert "Traceback (most recent call last)" in log.read_text(encoding="utf-8")
    if isinstance(error, Exception):
        assert log.parent == results / "logs"


def test_debug_shows_the_traceback_of_the_error_itself(
    call: Call, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attn_bench.report.write_report", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["attn-bench", "--debug", "report", str(results)])
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.parametrize("command", [("list", "models"), ("data", "toy-task"), ("compare", "a", "b"), ("claims", "a")])
def test_every_command_ends_so(
    call: Call, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    cache: Path,
) -> None:  # fmt: skip
    def fail(*_: object, **__: object) -> None:
        raise RecursionError("too deep")

    places = ("cli.listing.overview", "plugins.registry.TASKS.load", "results.store.Store.open")
    for name in (*places, "analysis.claims.claim.read_claims"):
        monkeypatch.setattr(f"attn_bench.{name}", fail)
    assert call(*command) == 70
    output, errors = capsys.readouterr()
    assert (output, errors.count("\n")) == ("", 1)
    assert f"RecursionError: too deep; its traceback is in {cache / 'logs'}" in errors


def test_where_no_log_can_be_written_the_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(error_messages, "_log_folders", lambda: iter([Path("/proc/nowhere"), Path("~/nowhere")]))
    error_messages.report_fault(ValueError("lost"))
    assert "ValueError: lost; its traceback could not be written anywhere" in capsys.readouterr().err


def as_a_library_hides_it() -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise ImportError("cannot load the extension")  # noqa: B904


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("cause", [interrupt, as_a_library_hides_it])
def test_an_interruption_anywhere_ends_quietly(
    call: Call, results: Path, cause: Callable[[], None], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("attn_bench.report.write_report", lambda *_, **__: cause())
    assert call("report", results) == 130
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(sys.modules, "attn_bench.cli.app", None)
    monkeypatch.setattr("attn_bench.cli._run", lambda *_: cause())
    if cause is interrupt:
        assert call("report", results) == 130


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_any_encoding_of_the_terminal_serves(
    call: Call, results: Path, encoding: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    raw = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    assert call("compare", results, results, "--markdown", tmp_path / "a.md") in (0, 2)
    assert call("report", tmp_path / "lost ±…") == 2
    for name in ("draw", "markdown_page", "html_page"):
        monkeypatch.setattr(f"attn_bench.report.write.{name}", lambda *_: interrupt())
    assert call("report", results) == 130
    text = raw.getvalue().decode(encoding)
    narrow = encoding == "ascii"
    assert ("fno ..." if encoding != "cp1252" else "fno …") in text
    assert ("0.126+-0.0007" if narrow else "0.126±0.0007") in text
    assert f"lost {'+-' if narrow else '±'}{'…' if encoding == 'cp1252' else '...'}: no such folder" in text


def test_text_that_no_encoding_has_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream := io.TextIOWrapper(raw, encoding="utf-8"))
        with standard_streams():
            print("a\ud800b")
    assert raw.getvalue() == b"a?b\n"
    assert not stream.closed


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device_costs_nothing_but_the_output(
    call: Call, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = results / "report" / "index.html"
    page.unlink(missing_ok=True)
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert call("report", results) == 74
    assert page.exists()
    assert "cannot write to standard output (No space left on device)" in capsys.readouterr().err


def test_a_reader_that_closes_early_is_not_an_error(
    call: Call, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", encoding="utf-8") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        assert call("report", results) == 0
    assert capsys.readouterr().err == ""


def test_writers_to_a_closed_output_see_no_error() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

    output = Output(Full())
    assert output.write("text") == 4
    output.writelines(["a", "b"])
    output.flush()
    assert output.failure == "Input/output error"


@pytest.mark.slow
def test_closed_descriptors_are_not_given_to_files(results: Path, tmp_path: Path) -> None:
    """Standard output is closed before Python starts: nothing that is printed lands in a file opened later."""
    command = f"exec {sys.executable} -m attn_bench report {results} --out {tmp_path / 'out'} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], timeout=120, check=False).returncode == 0
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) > 5
    assert not [file for file in files if b"Report: " in file.read_bytes()]


def test_warnings_are_errors_only_where_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error,ignore::UserWarning")
    # In a script that asks for errors, the processes of its cells have none either.
    assert surroundings()["PYTHONWARNINGS"] == "ignore::UserWarning"
    assert surroundings()["PYTHONIOENCODING"].startswith("utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with warnings_are_no_errors():
            assert os.environ["PYTHONWARNINGS"] == "ignore::UserWarning"
            warnings.warn("old", DeprecationWarning, stacklevel=1)
        assert os.environ["PYTHONWARNINGS"] == "error,ignore::UserWarning"
        with pytest.raises(DeprecationWarning):
            warnings.warn("old", DeprecationWarning, stacklevel=1)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("error", ""), ("e", ""), ("error::UserWarning, default", "default"), ("once", "once"), ("", ""), (",", "")],
)
def test_only_errors_are_taken_out(given: str, kept: str) -> None:
    assert without_errors(given) == kept


@pytest.mark.parametrize("columns", ["0", "20", "7", "80", "nonsense"])
@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_no_terminal_is_too_narrow_for_a_number(
    results: Path, columns: str, term: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from attn_bench.results.store import Store

    for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", columns), ("TERM", term), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    reporting.conclude(Store(results), Store(results).table(), report=False)
    shown = capsys.readouterr().out
    for number in ("0.126±0.0007", "0.0158", "4.04‡", "12.1", "16.2"):
        assert number in shown
    assert "\x1b[3" not in shown


def test_names_are_no_markup_in_the_live_display(tmp_path: Path) -> None:
    screen = Screen(tmp_path)
    console = Console(file=io.StringIO(), width=200)
    for task in (screen.making, screen.all):
        screen.progress.update(task, description="[/red] [link=x]", detail="[/bold]", visible=True)
    console.print(screen.progress.get_renderable())
    assert "[/red] [link=x]" in console.file.getvalue()  # type: ignore[attr-defined]


def test_failures_are_printed_last_with_the_place_of_the_logs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = usual(tmp_path).store
    folder.path("logs", "x").parent.mkdir()
    reporting.conclude(folder, folder.table(), report=False)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"3 of 22 cells are not ok: 1 crashed, 1 oom, 1 timeout; logs: {tmp_path / 'logs'}"


@pytest.mark.parametrize("drawn", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_under_warnings_as_errors_and_ascii_is_clean(tmp_path: Path, drawn: bool) -> None:
    environment = {**os.environ, "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "ascii"}
    options = f"--models toy --task toy-task --resolutions 8 --steps 1 --seeds 2 --no-measure --out {tmp_path / 'r'}"
    command = [sys.executable, "-m", "attn_bench", "run", *options.split(), *([] if drawn else ["--no-plots"])]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False)
    output, errors = done.stdout.decode("ascii"), done.stderr.decode("ascii")
    assert done.returncode == 0, errors
    assert "+-" in output
    assert "Warning" not in errors
    assert "Traceback" not in errors
    assert (tmp_path / "r" / "report" / "index.html").exists() == drawn
    logs = [log.read_text(encoding="utf-8") for log in (tmp_path / "r" / "logs").iterdir()]
    assert not [log for log in logs if "Warning" in log or "Traceback" in log]
