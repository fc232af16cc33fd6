"""neuraloperator's archives, served from here in their true format, whole and damaged in every way."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from attn_bench.plugin import DataError, OptionError, PrepareContext
from attn_bench.tasks.darcy.task import Darcy

OPTIONS = {"source": "zenodo", "recipe": "neuralop"}


def pt(count, seed):
    generator = torch.Generator().manual_seed(seed)
    buffer = io.BytesIO()
    x = torch.rand(count, 16, 16, generator=generator) > 0.5
    torch.save({"x": x, "y": torch.rand(count, 16, 16, generator=generator) + 1}, buffer)
    return buffer.getvalue()


def tgz(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class Zenodo(ThreadingHTTPServer):
    """Answers as Zenodo's interface does, as far as it is used."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.checksum, self.cut, self.requests, self.ranges = {}, None, None, [], []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(self.path)
        if self.path.startswith("/records/"):
            entries = [
                {
                    "key": name,
                    "size": len(content),
                    "checksum": server.checksum or f"md5:{hashlib.md5(content).hexdigest()}",
                    "links": {"self": f"{server.address}/files/{name}"},
                }
                for name, content in server.files.items()
            ]
            content = json.dumps({"files": entries}).encode()
        else:
            content = server.files[self.path.rpartition("/")[2]]
            server.ranges.append(given := self.headers.get("Range"))
            first = int(given.removeprefix("bytes=").removesuffix("-")) if given else 0
            content = content[first:]
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: server.cut] if self.path.startswith("/files") else content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    with Zenodo() as running:
        running.files["darcy_16.tgz"] = tgz({"darcy/darcy_train_16.pt": pt(12, 0), "darcy/darcy_test_16.pt": pt(5, 1)})
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setenv("ATTN_BENCH_ZENODO", running.address)
        monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path / "cache"))
        yield running
        running.shutdown()


def test_downloads_once_and_reads_both_splits(server):
    progress = []
    made = Darcy().prepare(
        (16,), Darcy.options(**OPTIONS), PrepareContext(lambda done, total: progress.append((done, total)))
    )
    assert [file.state for file in made.files] == ["made", "made"]
    assert progress[-1] == (len(server.files["darcy_16.tgz"]),) * 2
    splits = Darcy().splits(16, Darcy.options(**OPTIONS))
    assert (len(splits.train), len(splits.test)) == (12, 5)
    inputs, targets = splits.train[0]
    assert inputs.shape == targets.shape == (1, 16, 16)
    assert set(np.unique(inputs.numpy())) == {0.0, 1.0}
    assert splits.identity["record"] == "12784353"
    requests = len(server.requests)
    assert [file.state for file in Darcy().prepare((16,), Darcy.options(**OPTIONS), PrepareContext()).files] == [
        "cached",
        "cached",
    ]
    assert len(server.requests) == requests
    Darcy().prepare((16,), Darcy.options(**OPTIONS), PrepareContext(refresh=True))
    assert len(server.requests) > requests


def failure(message):
    with pytest.raises(DataError, match=message) as error:
        Darcy().prepare((16,), Darcy.options(**OPTIONS), PrepareContext())
    assert "\n" not in str(error.value)
    return str(error.value)


def left_behind(tmp_path):
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    server.checksum = "md5:" + "0" * 32
    assert "without a network" in failure("has md5 [0-9a-f]{32}, but 0{32} is expected").lower()
    assert left_behind(tmp_path) == []


def test_a_connection_that_breaks_leaves_what_arrived_to_resume_from(server, tmp_path):
    server.cut = 100
    failure("stopped after 100 of .* bytes; rerun the same command to resume")
    (part,) = left_behind(tmp_path)
    assert (part.name, part.stat().st_size) == ("darcy_16.tgz.part", 100)
    server.cut = None
    Darcy().prepare((16,), Darcy.options(**OPTIONS), PrepareContext())
    assert server.ranges == [None, "bytes=100-"]
    assert sorted(path.name for path in left_behind(tmp_path)) == [
        "darcy_16.json", "darcy_test_16.pt", "darcy_train_16.pt",
    ]  # fmt: skip


def test_a_member_that_wants_out_of_the_folder_is_written_inside(server, tmp_path):
    server.files["darcy_16.tgz"] = tgz({"../../darcy_train_16.pt": pt(3, 0), "/darcy_test_16.pt": pt(3, 1)})
    Darcy().prepare((16,), Darcy.options(**OPTIONS), PrepareContext())
    assert {path.parent.name for path in left_behind(tmp_path)} == {"zenodo-12784353"}
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"darcy_16.tgz": tgz({"darcy_train_16.pt": pt(3, 0)})}, "does not contain darcy_test_16.pt"),
        ({"darcy_16.tgz": b"no archive"}, "cannot be unpacked"),
        ({"other.tgz": b""}, "has no file darcy_16.tgz; it has other.tgz"),
    ],
)
def test_archives_that_are_not_what_they_should_be(server, files, message):
    server.files = files
    failure(message)


def test_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ATTN_BENCH_ZENODO", "http://127.0.0.1:9")
    assert "darcy.source=generate" in failure("cannot reach http://127.0.0.1:9/records/12784353")


def test_a_damaged_cache_is_one_line_and_refresh_repairs_it(server, tmp_path):
    Darcy().prepare((16,), Darcy.options(**OPTIONS), PrepareContext())
    path = next(path for path in left_behind(tmp_path) if path.suffix == ".pt")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"downloaded data are damaged: .* --refresh"):
        Darcy().splits(16, Darcy.options(**OPTIONS))
    Darcy().prepare((16,), Darcy.options(**OPTIONS), PrepareContext(refresh=True))
    Darcy().splits(16, Darcy.options(**OPTIONS))


@pytest.mark.parametrize(
    ("options", "resolution", "message"),
    [
        (OPTIONS, 17, "has resolutions 16, 32, 64, 128, 421"),
        ({"source": "zenodo"}, 16, "requires darcy.recipe=neuralop"),
        (OPTIONS | {"fine": 64}, 16, "darcy.fine has no effect"),
        (OPTIONS | {"n_train": 13}, 16, "the published set has only 12"),
    ],
)
def test_options_that_cannot_work(server, options, resolution, message):
    with pytest.raises(OptionError, match=message):
        Darcy().splits(resolution, Darcy().resolve((resolution,), Darcy.options(**options)))
