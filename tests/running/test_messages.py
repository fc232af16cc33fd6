"""What a child sends arrives as it was sent, and garbage is recognized."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_bench.running import messages
from attn_bench.running.messages import PROGRESS, RESULT, Receiver, Sender, decode, encode

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
def test_values_arrive_as_json_has_them(values):
    assert decode(encode(RESULT, values)[5:]) == json.loads(json.dumps(values))


def test_numbers_of_other_libraries_are_numbers():
    values = {"a": np.float32(0.5), "b": np.arange(2), "c": (1, float("inf")), "d": range}
    assert decode(encode(RESULT, values)[5:]) == {"a": 0.5, "b": [0, 1], "c": [1, float("inf")], "d": "<class 'range'>"}


def test_what_a_plugin_replaces_in_json_and_os_changes_nothing(pipe, monkeypatch):
    sender = Sender(pipe[1])
    with monkeypatch.context() as patch:
        for name in ("dumps", "loads", "dump", "load"):
            patch.setattr(json, name, lambda *_, **__: "{}")
        for name in ("encode", "iterencode", "default"):
            patch.setattr(json.JSONEncoder, name, lambda *_, **__: "{}")
        patch.setattr(json.encoder, "c_make_encoder", None)
        patch.setattr(json.encoder, "encode_basestring_ascii", lambda text: '""')
        for name in ("write", "read", "fstat", "getpid"):
            patch.setattr(os, name, lambda *_: 0)
        sent = sender.send(RESULT, {"a": [1.5, "b"]})
    assert sent
    (message,) = Receiver(pipe[0], RESULT).available(1)
    assert (message[0], decode(message[1])) == (RESULT, {"a": [1.5, "b"]})


def test_a_fork_sends_nothing_and_neither_does_a_descriptor_that_is_another_file(pipe, tmp_path):
    sender = Sender(pipe[1])
    child = os.fork()
    if child == 0:
        os._exit(sender.send(RESULT, {}))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with (tmp_path / "other").open("wb") as other:
        os.dup2(other.fileno(), pipe[1])
    assert not sender.send(RESULT, {})
    assert (tmp_path / "other").read_bytes() == b""
    assert Receiver(pipe[0], RESULT).available(0.1) == []


@pytest.mark.parametrize(
    "garbage", [b"hello, this is no message", b"r\xff\xff\xff\xff", b"x\0\0\0\2{}", b"\0" * 5000], ids=repr
)
def test_after_garbage_nothing_more_is_read(pipe, garbage):
    os.write(pipe[1], encode(PROGRESS, {"stage": "data"}) + garbage)
    receiver = Receiver(pipe[0], PROGRESS + RESULT)
    assert [kind for kind, _ in receiver.available(1)] == [PROGRESS]
    assert receiver.broken
    os.write(pipe[1], encode(RESULT, {"a": 1}))
    assert receiver.available(1) == []


def test_messages_arrive_in_pieces_and_a_truncated_one_does_not_arrive(pipe):
    message = encode(RESULT, {"text": "x" * 1000})
    receiver, got = Receiver(pipe[0], PROGRESS + RESULT), []
    for i in range(0, len(message), 100):
        os.write(pipe[1], message[i : i + 100])
        got += receiver.available(1)
    assert [decode(content) for _, content in got] == [{"text": "x" * 1000}]
    os.write(pipe[1], message[:500])
    os.close(pipe[1])
    assert [receiver.available(1), receiver.available(1)] == [[], []]
    assert receiver.ended
    assert not receiver.broken


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_anything_but_an_object_is_none(content):
    assert decode(content) is None


def test_limits_are_on_what_is_read():
    assert set(messages.LIMITS) >= {PROGRESS, RESULT}
    assert messages.LIMITS[PROGRESS] < 1 << 20
