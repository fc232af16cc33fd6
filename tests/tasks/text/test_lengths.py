"""Texts that are too short or not text are refused before training, and a run describes what it read."""

from __future__ import annotations

import gzip
import subprocess
import sys

import numpy as np
import pytest

from attn_bench.plugin import DataError, PrepareContext
from attn_bench.tasks.text.task import MaskedText, Text

WHOLE = {"corpus": "wikitext-103", "train_bytes": None, "test_bytes": None}


def put(root, train, test):
    folder = root / "wikitext-103-raw"
    folder.mkdir(exist_ok=True)
    for part, content in (("train", train), ("test", test)):
        (folder / f"wiki.{part}.raw").write_bytes(content)
    return folder


def refused(root, match, task=Text, resolutions=(64,), **options):
    given = {**WHOLE, "root": str(root), **options}
    for ask in (
        lambda: task().prepare(resolutions, task.options(**given), PrepareContext()),
        lambda: [task().splits(resolution, task.options(**given)) for resolution in resolutions],
    ):
        with pytest.raises(DataError, match=match) as error:
            ask()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("task", [Text, MaskedText])
@pytest.mark.parametrize(("train", "test"), [(4000, 64), (64, 4000), (1, 1)])
def test_a_text_shorter_than_a_context_is_refused_with_both_lengths(tmp_path, task, train, test):
    put(tmp_path, bytes(train), bytes(test))
    refused(tmp_path, f"context of 64 bytes .* {train - 1} training bytes, {test - 1} test bytes", task)


def test_one_window_is_enough(tmp_path):
    put(tmp_path, bytes(65), bytes(65))
    splits = Text().splits(64, Text.options(root=str(tmp_path), **WHOLE))
    assert (len(splits.train), len(splits.test)) == (1, 1)


def test_of_several_contexts_the_one_that_is_too_long_is_named(tmp_path):
    put(tmp_path, bytes(4000), bytes(1000))
    refused(tmp_path, "a context of 1024 bytes is longer than the text", resolutions=(64, 1024))
    Text().prepare((64, 512), Text.options(root=str(tmp_path), **WHOLE), PrepareContext())


def test_bytes_of_any_kind_and_one_long_line_are_a_text(tmp_path):
    put(tmp_path, bytes(range(256)) * 8, b"x" * 500)
    assert len(Text().splits(64, Text.options(root=str(tmp_path), **WHOLE)).test) == 7


def test_a_mask_without_a_byte_is_refused(tmp_path):
    put(tmp_path, bytes(4000), bytes(100))
    refused(
        tmp_path, r"none of the 3968 bytes for training is masked at a mask_rate of 1e-09", MaskedText, mask_rate=1e-9
    )
    rate = 0.01
    seeds = [s for s in range(50) if not (np.random.default_rng((s, 1)).random(99) < rate)[:64].any()]
    refused(tmp_path, "none of the 64 bytes for testing is masked", MaskedText, mask_rate=rate, seed=seeds[0])


def test_files_that_are_not_text_are_named(tmp_path):
    folder = put(tmp_path, bytes(4000), b"")
    refused(tmp_path, r"wiki\.test\.raw is empty")
    (folder / "wiki.test.raw").write_bytes(gzip.compress(bytes(4000)))
    refused(tmp_path, r"wiki\.test\.raw is an archive")
    (folder / "wiki.test.raw").unlink()
    refused(tmp_path, r"does not contain wikitext-103-raw/wiki\.test\.raw \(missing\)")
    (folder / "wiki.test.raw").mkdir()
    refused(tmp_path, r"does not contain wikitext-103-raw/wiki\.test\.raw \(a folder in its place\)")
    refused(folder / "wiki.train.raw", r"wiki\.train\.raw is a file; set text\.root to its folder")


def test_the_folder_that_an_archive_unpacks_may_be_named_itself(tmp_path):
    folder = put(tmp_path, bytes(4000), bytes(1000))
    assert len(Text().splits(64, Text.options(root=str(folder), **WHOLE)).train) == 62


@pytest.mark.parametrize("task", [Text, MaskedText])
def test_the_data_that_were_read_are_described(tmp_path, task):
    put(tmp_path, bytes(4001), bytes(1001))
    lines = task().prepare((64, 128), task.options(root=str(tmp_path), **WHOLE), PrepareContext()).read
    assert lines == (
        f"5000 bytes of wikitext-103 from {tmp_path}: 4000 train, 1000 test; "
        "62 train and 15 test windows of 64, 31 train and 7 test windows of 128",
    )


def test_nothing_is_trained_on_a_text_that_is_too_short(tmp_path):
    put(tmp_path, bytes(4000), bytes(100))
    command = [sys.executable, "-m", "attn_bench", "run", "--models", "mean", "--task", "text", "--resolutions", "512"]
    for option in ("corpus=wikitext-103", "train_bytes=null", "test_bytes=null", f"root={tmp_path}"):
        command += ["--set", f"text.{option}"]
    ended = subprocess.run([*command, "--out", "x"], cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert ended.returncode == 2
    assert ended.stderr.strip().splitlines()[-1].startswith("attn-bench: text: a context of 512 bytes is longer")
    assert not (tmp_path / "x").exists()
