"""The text tasks: what is predicted from what, the same bytes at every length, corpora in their published form."""

from __future__ import annotations

import hashlib
import io
import math
import sysconfig
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_bench.plugin import DataError, OptionError, PrepareContext, Problem
from attn_bench.plugins.registry import MODELS
from attn_bench.tasks.shared.fetch import unzip
from attn_bench.tasks.text import corpora
from attn_bench.tasks.text.byte_scores import NOT_COUNTED, byte_cross_entropy, byte_scores
from attn_bench.tasks.text.corpora import Archive, standard_library
from attn_bench.tasks.text.task import MaskedText, Text
from attn_bench.tasks.text.text_windows import MaskedBytes, NextByte

SMALL = {"train_bytes": 4096, "test_bytes": 2048}


def bytes_of(count):
    return np.random.default_rng(0).integers(0, 256, count).astype(np.uint8)


@given(count=st.integers(2, 200), length=st.integers(1, 60))
def test_every_byte_is_a_target_once_with_the_bytes_before_it(count, length):
    stretch = bytes_of(count)
    data = NextByte(stretch, length)
    windows = [data[i] for i in range(len(data))]
    targets = [int(b) for _, target in windows for b in target]
    assert targets == stretch[1 : 1 + len(targets)].tolist()
    assert count - 1 - len(targets) < length
    for inputs, target in windows:
        assert inputs[1:].tolist() == target[:-1].tolist()
    if windows:
        assert [int(b) for inputs, _ in windows for b in inputs] == stretch[: len(targets)].tolist()


@given(length=st.integers(1, 60), rate=st.floats(0.05, 0.9))
def test_a_masked_byte_is_hidden_and_to_be_predicted_and_no_other(length, rate):
    stretch = bytes_of(500)
    data = MaskedBytes(stretch, length, rate, (3,))
    inputs, targets = (torch.cat([data[i][part] for i in range(len(data))]) for part in (0, 1))
    original = torch.from_numpy(stretch[: len(inputs)].astype(np.int64))
    masked = inputs == 256
    assert torch.equal(targets[masked], original[masked])
    assert torch.equal(inputs[~masked], original[~masked])
    assert (targets[~masked] == NOT_COUNTED).all()
    assert float(masked.float().mean()) == pytest.approx(rate, abs=0.12)


@pytest.mark.parametrize("task", [Text(), MaskedText()])
def test_every_length_trains_on_the_same_bytes(task):
    seen = []
    for length in (64, 256, 1024):
        splits = task.splits(length, task.options(**SMALL))
        assert len(splits.train) * length == 4096
        assert len(splits.test) * length == 2048
        inputs, targets = (torch.cat([splits.train[i][part] for i in range(len(splits.train))]) for part in (0, 1))
        seen.append((inputs.tolist(), targets.tolist(), splits.identity["train_sha256"]))
        assert all(tensor.shape == (length,) and tensor.dtype == torch.int64 for tensor in splits.test[0])
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("task", [Text(), MaskedText()])
def test_validation_is_the_end_of_the_training_bytes_the_same_at_every_length(task):
    options = task.options(**SMALL)
    parts = []
    for length in (64, 128):
        whole = task.splits(length, options)
        found = task.hold_out(whole, 0.25)
        both = [*found.train, *found.validation]
        assert len(both) == len(whole.train)
        # Masks stay where they are.
        assert all(torch.equal(*pair) for one, other in zip(both, whole.train) for pair in zip(one, other))
        assert found.test is whole.test
        parts.append(torch.cat([target for _, target in found.validation]))
    assert torch.equal(*parts)
    assert len(parts[0]) == 1024


def test_a_validation_part_shorter_than_a_context_is_refused():
    task = Text()
    with pytest.raises(DataError, match="3686 bytes to train on, 410 for validation; choose shorter contexts"):
        task.hold_out(task.splits(512, task.options(**SMALL)), 0.1)
    task = MaskedText()
    with pytest.raises(DataError, match="none of the 64 bytes for validation is masked"):
        task.hold_out(task.splits(64, task.options(**SMALL, mask_rate=0.002, seed=2)), 1 / 64)


def test_the_seed_moves_only_the_training_stretch():
    first, again, other = (Text().splits(64, Text.options(seed=seed, **SMALL)).identity for seed in (0, 0, 1))
    assert first == again
    assert first["train_sha256"] != other["train_sha256"]
    assert first["test_sha256"] == other["test_sha256"]


def test_all_bytes_of_a_corpus_can_be_used():
    splits = Text().splits(512, Text.options(train_bytes=None, test_bytes=None))
    found = standard_library(Path(sysconfig.get_path("stdlib")))
    assert splits.identity["train_bytes"] == len(found.train) - 1
    assert splits.identity["test_sha256"] == hashlib.sha256(found.test).hexdigest()


def test_the_standard_library_is_split_by_file(tmp_path):
    files = {f"package/module{i}.py": b"%d\n" % i for i in range(300)}
    files |= {"site-packages/a.py": b"X", "test/b.py": b"X", "_sysconfigdata_x.py": b"X", "notes.txt": b"X"}
    files |= {"sitecustomize.py": b"X"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "dangling.py").symlink_to(tmp_path / "nowhere.py")
    found = standard_library(tmp_path)
    parts = [found.train.tobytes().split(), found.test.tobytes().split()]
    assert sorted(map(int, parts[0] + parts[1])) == list(range(300))
    assert found.identity["files"] == {"train": len(parts[0]), "test": len(parts[1])}
    assert 0.04 < len(parts[1]) / 300 < 0.2
    (tmp_path / "package/new.py").write_bytes(b"1000\n")
    again = standard_library(tmp_path)
    for before, after in zip(parts, (again.train, again.test)):
        assert [name for name in after.tobytes().split() if name != b"1000"] == before
    with pytest.raises(DataError, match="does not contain the source code"):
        standard_library(tmp_path / "test")


def test_scores_are_those_of_the_definitions():
    scores, targets = torch.randn(3, 5, 256), torch.randint(256, (3, 5))
    targets[0, :3] = NOT_COUNTED
    bits = [
        -math.log2(float(scores[b, i].softmax(0)[targets[b, i]]))
        for b in range(3)
        for i in range(5)
        if targets[b, i] != NOT_COUNTED
    ]
    mean = sum(bits) / 12
    assert float(byte_cross_entropy(scores, targets)) / math.log(2) == pytest.approx(mean, rel=1e-5)
    targets[1, 0] = int(scores[1, 0].argmax())
    found = byte_scores([(scores[:1], targets[:1]), (scores[1:], targets[1:])])
    assert found["perplexity"] == pytest.approx(2 ** found["bits_per_byte"])
    right = sum(int(scores[b, i].argmax()) == int(targets[b, i]) for b in range(3) for i in range(5))
    assert found["accuracy"] == pytest.approx(100 * right / 12)
    assert byte_scores([(10_000 * scores, targets)])["perplexity"] == math.inf
    nothing = torch.full((3, 5), NOT_COUNTED)
    assert float(byte_cross_entropy(scores, nothing)) == 0
    with pytest.raises(ValueError, match="no byte"):
        byte_scores([(scores, nothing)])


@pytest.mark.parametrize("task", [Text(), MaskedText()])
def test_the_mean_row_is_the_unigram_entropy(task):
    splits = task.splits(256, task.options(train_bytes=1 << 16, test_bytes=1 << 16))
    problem, model = task.problem(256, task.options()), MODELS.load("mean")
    module = model.make(problem)
    assert model.fit(module, splits.train)
    targets = [target[target >= 0].tolist() for _, target in (splits.train[i] for i in range(len(splits.train)))]
    counts = Counter(byte for target in targets for byte in target)
    total = counts.total()
    entropy = -sum(count / total * math.log2(count / total) for count in counts.values())
    batches = ((module(inputs[None]), target[None]) for inputs, target in splits.train)
    # Smoothing costs a little: 256 counts more among ten thousand masked bytes.
    assert task.evaluate(batches)["bits_per_byte"] == pytest.approx(entropy, abs=0.03)


def test_problems():
    assert Text().problem(512, Text.options()) == Problem("causal-text", 256, 256, (512,))
    assert MaskedText().problem(64, MaskedText.options()) == Problem("masked-text", 257, 256, (64,))
    assert Text().problem(1 << 20, Text.options()).tokens == 1 << 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_bytes": 100}, "train_bytes is 100; a context of 512"),
        ({"test_bytes": 0}, "test_bytes is 0"),
        ({"seed": -1}, r"seed must be >= 0 \(given: -1\)"),
        ({"mask_rate": 1.5}, r"mask_rate must be < 1 \(given: 1.5\)"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(OptionError, match=message):
        MaskedText().resolve((64, 512), MaskedText.options(**options))


def test_lengths_and_counts_that_cannot_work():
    with pytest.raises(OptionError, match=">= 8"):
        Text().problem(4, Text.options())
    with pytest.raises(DataError, match=r"test_bytes is 1000000000; the corpus has only \d+"):
        Text().splits(512, Text.options(test_bytes=10**9))


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


ENWIK8 = bytes_of(2000).tobytes()
WIKITEXT = {
    f"wikitext-103-raw/wiki.{part}.raw": f" = {part} = \n".encode() * 100 for part in ("train", "valid", "test")
}


@pytest.fixture
def published(monkeypatch, tmp_path, server):
    """Small corpora in their true form, served from here, in the place of the published ones."""
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path / "cache"))
    for name, value in (("ENWIK8_BYTES", 2000), ("ENWIK8_TRAIN", 1800), ("ENWIK8_TEST", 100)):
        monkeypatch.setattr(corpora, name, value)
    archives = {"enwik8": zipped({"enwik8": ENWIK8}), "wikitext-103": zipped(WIKITEXT)}
    for name, content in archives.items():
        file = f"{name}.zip"
        server.files[file] = content
        replaced = Archive(
            f"{server.address}/{file}", hashlib.sha256(content).hexdigest(), corpora.ARCHIVES[name].files
        )
        monkeypatch.setitem(corpora.ARCHIVES, name, replaced)
    return server


PARTS = {
    "enwik8": (ENWIK8[:1800], ENWIK8[-100:]),
    "wikitext-103": (WIKITEXT["wikitext-103-raw/wiki.train.raw"], WIKITEXT["wikitext-103-raw/wiki.test.raw"]),
}
WHOLE = {"train_bytes": None, "test_bytes": None}


@pytest.mark.parametrize("name", list(PARTS))
def test_published_corpora_are_downloaded_once_with_their_splits(published, name):
    published.cut = 50
    with pytest.raises(DataError, match="rerun the same command to resume"):
        Text().prepare((16,), Text.options(corpus=name, **WHOLE), PrepareContext())
    described = Text().prepare((16,), Text.options(corpus=name, **WHOLE), PrepareContext())
    assert published.ranges == [None, "bytes=50-"]
    Text().prepare((16,), Text.options(corpus=name, **WHOLE), PrepareContext())
    assert len(published.ranges) == 2
    assert [file.split for file in described.files] == ["train", "test"]
    train, test = (len(part) - 1 for part in PARTS[name])
    assert f"{train} train, {test} test" in described.read[0]
    identity = Text().splits(16, Text.options(corpus=name, **WHOLE)).identity
    assert identity["train_sha256"] == hashlib.sha256(PARTS[name][0]).hexdigest()
    assert identity["test_sha256"] == hashlib.sha256(PARTS[name][1]).hexdigest()


def test_published_corpora_from_a_folder_of_the_user(published, tmp_path):
    (tmp_path / "enwik8").write_bytes(ENWIK8)
    splits = Text().splits(16, Text.options(corpus="enwik8", root=str(tmp_path), train_bytes=160, test_bytes=64))
    assert published.ranges == []
    assert len(splits.train) == 10
    (tmp_path / "enwik8").write_bytes(ENWIK8[:-1])
    with pytest.raises(DataError, match="has 1999 bytes; enwik8 has 2000"):
        Text().splits(16, Text.options(corpus="enwik8", root=str(tmp_path)))


def test_a_folder_of_the_user_is_never_downloaded_into(published, tmp_path):
    missing = tmp_path / "nowhere"
    with pytest.raises(DataError, match="nowhere does not contain enwik8"):
        Text().prepare((16,), Text.options(corpus="enwik8", root=str(missing)), PrepareContext())
    with pytest.raises(OptionError, match="--refresh cannot be used with it"):
        Text().prepare((16,), Text.options(corpus="enwik8", root=str(missing)), PrepareContext(refresh=True))
    assert published.ranges == []
    assert not missing.exists()
    with pytest.raises(OptionError, match="no effect on corpus stdlib"):
        Text().resolve((16,), Text.options(root=str(missing)))


def test_the_place_of_the_corpus_is_described():
    described = Text().prepare((64,), Text.options(train_bytes=64, test_bytes=64), PrepareContext())
    assert {file.path for file in described.files} == {Path(sysconfig.get_path("stdlib"))}


def test_without_the_files_the_error_says_what_to_do(published, tmp_path):
    with pytest.raises(DataError, match=r"does not contain wikitext.*attn-bench data text --set text\.corpus=wiki"):
        Text().splits(16, Text.options(corpus="wikitext-103", root=str(tmp_path)))
    published.files["enwik8.zip"] = b"something else"
    with pytest.raises(DataError, match=r"has sha256 [0-9a-f]{64}, but [0-9a-f]{64} is expected; try again"):
        Text().prepare((16,), Text.options(corpus="enwik8"), PrepareContext())


def test_damaged_archives_are_one_line_and_leave_nothing(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"a": b"x"}))
    with pytest.raises(DataError, match="cannot be unpacked"):
        unzip(tmp_path / "a.zip", ["missing"], tmp_path / "folder")
    (tmp_path / "b.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be unpacked"):
        unzip(tmp_path / "b.zip", ["a"], tmp_path / "folder")
    assert not list((tmp_path / "folder").rglob("*"))
