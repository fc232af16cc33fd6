"""Messages between the processes that run cells: a kind (one byte), a length (four) and as many bytes of JSON.

The writer is bound here, before a plugin is imported, and uses nothing that a plugin may have replaced in ``json`` or
``os``. The reader trusts nothing: after a message of an unknown kind, or one that is too long, it stops reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from json import loads
from json.encoder import c_make_encoder, encode_basestring_ascii  # type: ignore[attr-defined]
from os import fstat, getpid, read, write
from select import select
from time import sleep
from typing import Any

CELL, READY, PROGRESS, RESULT, DISK, EXIT = b"c", b"y", b"p", b"r", b"d", b"x"
# The most that a message of each kind may hold, in bytes. Raw samples of all timings take less than a MiB.
LIMITS = {CELL: 16 << 20, READY: 1 << 10, PROGRESS: 1 << 16, RESULT: 64 << 20, DISK: 1 << 16, EXIT: 1 << 10}
# Exit code of a process that could not send its result; EX_IOERR in sysexits.h.
UNSENT = 74
_HEADER, _CHUNK = 5, 1 << 18


def _plain(value: Any) -> Any:
    """Return a JSON value for one that JSON lacks: a number for a NumPy scalar, the text of anything else."""
    if isinstance(value, Mapping):
        return dict(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)


# JSONEncoder.encode would look methods up in its class.
chunks = c_make_encoder(None, _plain, encode_basestring_ascii, None, ":", ",", False, False, True)


def encode(kind: bytes, values: Mapping[str, Any]) -> bytes:
    """Return a message; raises TypeError or ValueError for what JSON cannot hold."""
    content = "".join(chunks(dict(values), 0)).encode()
    return kind + len(content).to_bytes(_HEADER - 1, "big") + content


def decode(content: bytes) -> dict[str, Any] | None:
    """Return the values of a message, or None if they are not a JSON object."""
    try:
        values = loads(content)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


class Sender:
    """Writes messages to a descriptor, only in the process that created it and while that is the same pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._owner = descriptor, (getpid(), fstat(descriptor).st_ino)

    def send(self, kind: bytes, values: Mapping[str, Any]) -> bool:
        """Write a message and tell whether all of it was written."""
        return self._write(encode(kind, values))

    def forward(self, kind: bytes, content: bytes) -> bool:
        """Write a message with content as received."""
        return self._write(kind + len(content).to_bytes(_HEADER - 1, "big") + content)

    def _write(self, message: bytes) -> bool:
        rest = memoryview(message)
        try:
            # A fork of this process writes nothing, and a file opened in place of the pipe receives nothing.
            if (getpid(), fstat(self._descriptor).st_ino) != self._owner:
                return False
            while rest:
                rest = rest[write(self._descriptor, rest) :]
        except OSError:
            return False
        return True


class Receiver:
    """Reads messages from a descriptor without waiting for the other end.

    Attributes:
        ended: the other end has been closed.
        broken: something arrived that is not a message; everything after it is dropped.
    """

    def __init__(self, descriptor: int, kinds: bytes) -> None:
        self.ended = self.broken = False
        self._descriptor, self._kinds, self._buffer = descriptor, kinds, bytearray()

    def available(self, timeout_s: float) -> list[tuple[bytes, bytes]]:
        """Return the kinds and contents of what has arrived, waiting up to ``timeout_s`` for something."""
        if self.ended:
            sleep(timeout_s)
        elif self.ready(timeout_s):
            chunk = read(self._descriptor, _CHUNK)
            self.ended = not chunk
            if not self.broken:
                self._buffer += chunk
        return list(self._messages())

    def ready(self, timeout_s: float = 0) -> bool:
        """Tell whether there is something to read; the end of the channel counts until it was read."""
        return not self.ended and bool(select([self._descriptor], [], [], max(timeout_s, 0))[0])

    def closed(self) -> bool:
        """Tell whether the other end, which sends nothing now, has been closed."""
        self.available(0)
        return self.ended

    def _messages(self) -> Iterator[tuple[bytes, bytes]]:
        buffer = self._buffer
        while len(buffer) >= _HEADER:
            kind, length = bytes(buffer[:1]), int.from_bytes(buffer[1:_HEADER], "big")
            if kind not in self._kinds or length > LIMITS[kind]:
                self.broken = True
                buffer.clear()
            if len(buffer) < _HEADER + length:
                return
            yield kind, bytes(buffer[_HEADER : _HEADER + length])
            del buffer[: _HEADER + length]
