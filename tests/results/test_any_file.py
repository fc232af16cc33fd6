"""Any file of a results folder may be anything: it is read, or skipped with one line, or refused with one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import METRICS, Folder

from attn_bench.analysis.claims.claim import read_claims
from attn_bench.analysis.claims.judges import check
from attn_bench.errors import UserError
from attn_bench.gate.compare import compare
from attn_bench.gate.thresholds import Thresholds
from attn_bench.report.origin import read_origin
from attn_bench.report.panels import read_samples
from attn_bench.report.summary import summarise
from attn_bench.results.store import Store

CLAIMS = read_claims()
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Folder(tmp_path_factory.mktemp("any") / "r")
    folder.add("mano", 16, tested=(32,), fields=True)
    folder.add("fno", 16, fields=True)
    return folder.store.folder


def kinds(folder: Path) -> dict[str, Path]:
    """Return a file of each kind."""
    return {
        "record": next(iter(sorted(folder.glob("cells/*.json")))),
        "environment": folder / "environments" / "env.json",
        "run": folder / "run.json",
        "artifact": next(iter(sorted(folder.glob("artifacts/*.npz")))),
    }


def everything(folder: Path) -> None:
    """Read all that is read of a results folder; only a UserError of one line may come out."""
    try:
        store = Store.open(folder)
        table = store.table()
        read_origin(Store(folder))
        compare(store, store, Thresholds())
        check(CLAIMS, [Store(folder)])
        _, said = read_samples(folder, summarise(table, METRICS), 16)
    except UserError as error:
        said = [str(error)]
    assert all("\n" not in line and len(line) < 1000 for line in said)


def inside(values: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place in JSON: the container and the key."""
    for key in list(values) if isinstance(values, dict) else range(len(values)):
        yield values, key
        if isinstance(values[key], dict | list):
            yield from inside(values[key])


@st.composite
def changes(draw: Any) -> tuple[str, Callable[[Path], None]]:
    """Return a kind of file and what is done to one."""
    kind = draw(st.sampled_from(["record", "environment", "run", "artifact"]))
    how = draw(st.sampled_from(["place", "json", "bytes", "cut"]))
    number, value, content = draw(st.integers(0, 10**6)), draw(ANY_JSON), draw(st.binary(max_size=60))

    def change(path: Path) -> None:
        whole = path.read_bytes()
        if how == "place" and kind != "artifact":
            values = json.loads(whole)
            places = list(inside(values))
            holder, key = places[number % len(places)]
            holder[key] = value
            path.write_text(json.dumps(values), encoding="utf-8", errors="surrogatepass")
        elif how == "json":
            path.write_text(json.dumps(value), encoding="utf-8", errors="surrogatepass")
        elif how == "cut":
            path.write_bytes(whole[: number % len(whole)])
        else:
            at = number % len(whole)
            path.write_bytes(whole[:at] + content + whole[at + len(content) :])

    return kind, change


@given(changes())
def test_any_file_is_read_skipped_or_refused_in_one_line(made: Path, drawn: tuple[str, Callable[[Path], None]]) -> None:
    kind, change = drawn
    path = kinds(made)[kind]
    whole = path.read_bytes()
    try:
        change(path)
        everything(made)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("kind", ["record", "environment", "run", "artifact"])
@pytest.mark.parametrize("other", ["directory", "pipe", "dangling", "loop", "huge", "device"])
def test_pipes_do_not_block(made: Path, tmp_path: Path, kind: str, other: str) -> None:
    folder = tmp_path / "r"
    shutil.copytree(made, folder)
    path = kinds(folder)[kind]
    path.unlink()
    match other:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "dangling":
            path.symlink_to("nothing")
        case "loop":
            path.symlink_to(path.name)
        case "device":
            path.symlink_to("/dev/zero")
        case "huge":
            with path.open("wb") as file:
                file.truncate(1 << 31)
    everything(folder)


def test_fields_that_unpack_to_too_much_are_not_unpacked(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "r"
    shutil.copytree(made, folder)
    field = np.zeros((1, 1, 300, 300))
    np.savez_compressed(kinds(folder)["artifact"], input=field, target=field, prediction=field)
    monkeypatch.setattr("attn_bench.report.panels.LARGEST_UNPACKED", 2 * field.nbytes)
    samples, notes = read_samples(folder, summarise(Store.open(folder).table(), METRICS), 16)
    assert len(samples) == 1
    assert len(notes) == 1
    assert "its fields cannot be read (ValueError)" in notes[0]
