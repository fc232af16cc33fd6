"""A site over results folders holds all of them, ranks what is comparable, and replaces an earlier one."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import command
import pandas as pd
import pytest
from made_results import ENVIRONMENT, HOSTILE, TRAINING, Folder

from attn_bench.errors import UserError
from attn_bench.publish import site
from attn_bench.publish.board import Board, board
from attn_bench.publish.gathered import gather
from attn_bench.publish.site import in_script, index_page, publish


def folder(path: Path, model: str = "vit", **environment: str) -> Path:
    """Make results of which no figure can be drawn, which is quick."""
    made = Folder(path, environment={**ENVIRONMENT, **environment})
    made.add(model, 16, status="oom", error="none left")
    return path


def ranked(of: Board) -> list[tuple[str, str, int | None]]:
    return [(place.key.run, place.name, place.rank) for place in of.places]


def files(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_a_site_has_every_run_and_one_table(tmp_path: Path) -> None:
    first, second = folder(tmp_path / "a" / "run"), folder(tmp_path / "b" / "run", "fno")
    done = publish([first, second], tmp_path / "site")
    out = tmp_path / "site"
    assert (done.runs, done.rows, done.repeated) == (2, 2, 0)
    table = pd.read_csv(out / "table.csv")
    assert list(zip(table["run"], table["model"])) == [("run", "vit"), ("run-2", "fno")]
    assert list(pd.read_parquet(out / "table.parquet")["cell"]) == list(table["cell"])
    page = (out / "index.html").read_text()
    links = re.findall(r'href="([^"#]+\.(?:html|csv|parquet))"', page)
    assert set(links) == {"runs/run/index.html", "runs/run-2/index.html", "table.csv", "table.parquet"}
    assert all((out / link).is_file() for link in links)
    assert '<a href="../../index.html">All runs</a>' in (out / "runs" / "run-2" / "index.html").read_text()
    assert not re.search(r"https?:|//[a-z]|@import|url\(", page)


def test_a_site_replaces_an_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    first, second, out = folder(tmp_path / "first"), folder(tmp_path / "second", "fno"), tmp_path / "site"
    publish([first, second], out)
    (out / "CNAME").write_text("example.org")
    (out / "runs" / "second" / "mine.txt").write_text("kept")
    before = files(out)
    publish([first], out)
    gone = before - files(out)
    assert {name.rpartition("/")[0] for name in gone} == {"runs/second"}
    assert files(out) == {name for name in before if not name.startswith("runs/second/")} | {"runs/second/mine.txt"}
    assert json.loads((out / "site.json").read_text())["files"] == sorted(
        files(out) - {"CNAME", "site.json", "runs/second/mine.txt"}
    )


def test_a_list_of_files_is_not_trusted(tmp_path: Path) -> None:
    run, out = folder(tmp_path / "run"), tmp_path / "site"
    publish([run], out)
    (tmp_path / "precious.txt").write_text("kept")
    (out / "mine.html").write_text("kept")
    names = [
        "../precious.txt",
        "mine.html",
        str(tmp_path / "precious.txt"),
        "runs/../mine.html",
        "runs/a/../../mine.html",
        3,
    ]
    (out / "site.json").write_text(json.dumps({"files": names}))
    publish([run], out)
    assert (tmp_path / "precious.txt").exists()
    assert (out / "mine.html").exists()


def test_a_site_that_cannot_be_built_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = folder(tmp_path / "run"), tmp_path / "site"
    publish([run], out)
    before = {name: (out / name).read_bytes() for name in files(out)}

    def fail(*_: object) -> str:
        raise RuntimeError("no page")

    monkeypatch.setattr(site, "index_page", fail)
    with pytest.raises(RuntimeError, match="no page"):
        publish([run, folder(tmp_path / "other")], out)
    assert {name: (out / name).read_bytes() for name in files(out)} == before


def test_wrong_input_is_said_in_a_line(tmp_path: Path) -> None:
    run, site_of_others = folder(tmp_path / "run"), tmp_path / "others"
    site_of_others.mkdir()
    (site_of_others / "index.html").write_text("mine")
    (tmp_path / "file").write_text("")
    for folders, out, said in (
        ([run], site_of_others, "did not write"),
        ([run], run, "is a results folder"),
        ([run], tmp_path / "file", "is a file"),
        ([run, tmp_path / "." / "run"], tmp_path / "site", "is named twice"),
        ([tmp_path / "nothing"], tmp_path / "site", "no such folder"),
        ([site_of_others], tmp_path / "site", "contains no results"),
    ):
        with pytest.raises(UserError, match=said):
            publish(folders, out)
    assert (site_of_others / "index.html").read_text() == "mine"
    assert not (tmp_path / "site").exists()


def test_the_command_takes_a_folder_of_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b", "a"):
        folder(tmp_path / "all" / name, device_name=f"machine {name}")
    assert command.attn_bench("publish", tmp_path / "all", "--out", tmp_path / "site").returncode == 0
    assert sorted(path.name for path in (tmp_path / "site" / "runs").iterdir()) == ["a", "b"]


def test_models_are_ranked_among_what_is_comparable(tmp_path: Path) -> None:
    """By mean over seeds at a resolution; other data and budgets have ranks of their own; constants have none."""
    first, second = Folder(tmp_path / "first"), Folder(tmp_path / "second")
    for seed in (0, 1):
        first.add("good", 16, seed, rel_l2=0.1)
        first.add("bad", 16, seed, rel_l2=0.3)
    first.add("good", 32, rel_l2=0.5)
    first.add("broken", 16, status="oom", error="none left")
    second.add("between", 16, rel_l2=0.2)
    second.add("same", 16, rel_l2=0.20001)
    second.add("alone", 16, rel_l2=0.9, changed={"training": replace(TRAINING, epochs=20.0)})
    found = board(gather([tmp_path / "first", tmp_path / "second"]))
    places = {(place.name, place.key.resolution): place for place in found.places}
    ranks = {key: place.rank for key, place in places.items()}
    assert ranks == {
        ("good", 16): 1, ("between", 16): 2, ("same", 16): 2, ("bad", 16): 4, ("broken", 16): None, ("good", 32): 1,
        ("alone", 16): 1,
    }  # fmt: skip
    assert {place.key.setting for place in found.places} == {"10 epochs", "20 epochs"}
    assert places["good", 16].seeds == 2
    assert places["broken", 16].status == "oom"
    value = places["good", 16].values[0]
    assert value is not None
    assert value[0] == pytest.approx(0.1)


def test_a_cell_is_taken_once_per_machine(tmp_path: Path) -> None:
    copy = Folder(tmp_path / "one")
    copy.add("vit", 16, status="oom", error="none left")
    for name, device in (("again", "Some CPU"), ("elsewhere", "Other CPU")):
        Folder(tmp_path / name, environment=ENVIRONMENT | {"device_name": device}).add("vit", 16)
    found = gather([tmp_path / name for name in ("one", "again", "elsewhere")])
    assert found.repeated == 1
    # The one that is ok.
    assert list(zip(found.table["run"], found.table["device_name"])) == [
        ("again", "Some CPU"), ("elsewhere", "Other CPU"),
    ]  # fmt: skip


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    for i, text in enumerate(HOSTILE):
        made = Folder(tmp_path / f"{i}", text, ENVIRONMENT | {"device_name": text})
        made.add(text, 16, options={text: text}, status="crashed", error=text)
    found = gather(sorted(tmp_path.iterdir()))
    page = index_page(found, board(found))
    assert page.count("<script") == 2
    assert "<img" not in page
    payload = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert payload is not None
    assert len(json.loads(payload[1])["rows"]) == len(HOSTILE)
    assert json.loads(in_script({"</script><!--": "<&>"})) == {"</script><!--": "<&>"}
    assert not set("<>&") & set(in_script({"</script><!--": "<&>"}))


def test_equal_results_make_equal_pages(tmp_path: Path) -> None:
    run = folder(tmp_path / "run")
    found = gather([run])
    assert index_page(found, board(found)) == index_page(gather([run]), board(gather([run])))
    empty = replace(board(found), places=[])
    assert "rows" in index_page(found, empty)
