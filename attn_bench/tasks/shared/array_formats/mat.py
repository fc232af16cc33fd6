"""Variables of MATLAB files of version 5 to 7.2; fields of a scalar struct have names like ``data/coeff``.

scipy is not used, as its reader trusts sizes and types in the file, so that a damaged file can crash the process. The
format is "MAT-File Format" by MathWorks, level 5: a file is a sequence of elements, each a tag
(type, bytes) and its data, padded to 8 bytes; an element of type 15 is another element compressed by zlib.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from attn_bench.tasks.shared.array_formats.contents import DEEPEST, Contents, Named, StoredArray, Unusable

HEADER, BLOCK = 128, 1 << 20
LONGEST_NAME, LONGEST_NAMES = 1024, 1 << 20
MATRIX, PACKED = 14, 15
STRUCT, OPAQUE = 2, 17
NUMBERS, COMPLEX = range(6, 16), 0x800
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {1: "a cell array", STRUCT: "a struct array", 4: "text", 5: "a sparse matrix", 16: "a function"}
PLAIN = "save plain arrays: save('FILE.mat', 'x', 'y', '-v7.3')"


def open_mat(path: Path) -> Contents:
    """Return the variables of a file and the fields of its structs, without reading the data.

    Raises:
        ValueError, EOFError: the file is damaged.
    """
    contents = Contents(path, matlab=True)
    size = path.stat().st_size
    with path.open("rb") as file:
        order = "<" if file.read(HEADER).endswith(b"IM") else ">"
        offset = HEADER
        while offset < size:
            file.seek(offset)
            kind, count = struct.unpack(f"{order}II", file.read(8))
            offset += 8 + count
            if kind not in (MATRIX, PACKED) or offset > size:
                raise ValueError("a variable is missing")
            variable = _Variable(path, order, offset - count, count, kind == PACKED)
            for name, item in variable.items():
                if name:  # MATLAB's internal data have none
                    contents.add(name, item)
    return contents


class _Stream:
    """Bytes of a file, decompressed if ``packed``; ``at`` counts the bytes read."""

    def __init__(self, file: IO[bytes], count: int, packed: bool) -> None:
        self.file, self.left, self.at = file, count, 0
        self.unpacker = zlib.decompressobj() if packed else None

    def read(self, count: int) -> bytes:
        parts, missing = [], count
        while missing > 0:
            part = self.some(missing)
            if not part:
                raise EOFError("a variable ends early")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def skip(self, count: int) -> None:
        if count < 0:
            raise ValueError("an element is longer than its container")
        while count:
            count -= len(self.read(min(count, BLOCK)))

    def some(self, most: int) -> bytes:
        """Return at least one byte, or none at the end."""
        part = b""
        while not part:
            waiting = self.unpacker.unconsumed_tail if self.unpacker else b""
            chunk = waiting or self.file.read(min(BLOCK, self.left, BLOCK if self.unpacker else most))
            self.left -= 0 if waiting else len(chunk)
            part = self.unpacker.decompress(chunk, most) if self.unpacker else chunk
            if not chunk:
                break
        self.at += len(part)
        return part


@dataclass(frozen=True)
class _Variable:
    """One element of a file: the position of its data, and whether they are compressed."""

    path: Path
    order: str
    start: int
    count: int
    packed: bool

    def items(self) -> Iterator[Named]:
        """Yield the variable, or the fields of a scalar struct, with their names."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            stream = _Stream(file, self.count, self.packed)
            kind, count = struct.unpack(f"{self.order}II", stream.read(8)) if self.packed else (MATRIX, self.count)
            if kind == MATRIX:
                yield from self._matrix(stream, count, None, 0)

    def _matrix(self, stream: _Stream, count: int, field: str | None, depth: int) -> Iterator[Named]:
        if count == 0:
            yield field or "", Unusable("empty", "it must contain real numbers")
            return
        end = stream.at + count
        (flags,) = struct.unpack(f"{self.order}I", self._small(stream, 8)[:4])
        kind = flags & 0xFF
        shape = () if kind == OPAQUE else self._integers(stream)
        own = self._small(stream, LONGEST_NAME).decode("utf-8", "replace")
        name = own if field is None else field
        if kind in NUMBERS:
            yield (
                name,
                Unusable("complex", "it must contain real numbers") if flags & COMPLEX else self._array(stream, shape),
            )
        elif kind == STRUCT and math.prod(shape) == 1 and depth < DEEPEST:
            yield from self._fields(stream, name, depth)
        else:
            yield name, Unusable(_CLASSES.get(kind, "a MATLAB object"), PLAIN)
        if depth:
            stream.skip(end - stream.at)

    def _fields(self, stream: _Stream, name: str, depth: int) -> Iterator[Named]:
        (length,) = self._integers(stream)
        names = self._small(stream, LONGEST_NAMES)
        for i in range(0, len(names), max(length, 1)):
            field = names[i : i + max(length, 1)].partition(b"\0")[0].decode("utf-8", "replace")
            kind, count, _ = self._tag(stream)
            if kind != MATRIX:
                raise ValueError("a field that is not a variable")
            yield from self._matrix(stream, count, f"{name}/{field}", depth + 1)

    def _array(self, stream: _Stream, shape: tuple[int, ...]) -> StoredArray:
        kind, count, inline = self._tag(stream)
        dtype = np.dtype(self.order + _TYPES[kind])
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != count:
            raise ValueError(f"an array of shape {shape} in {count} bytes")
        at = stream.at

        def read() -> np.ndarray:
            raw = inline if inline is not None else self._bytes(at, count)
            return np.frombuffer(raw, dtype).reshape(shape, order="F")

        return StoredArray(shape, count, read)

    def _bytes(self, at: int, count: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.start)
            stream = _Stream(file, self.count, self.packed)
            stream.skip(at)
            found = stream.read(count)
            while stream.some(BLOCK):  # to the end, which has zlib's checksum
                pass
            return found

    def _tag(self, stream: _Stream) -> tuple[int, int, bytes | None]:
        """Return type and bytes of an element, and its data if they are in the tag."""
        raw = stream.read(8)
        kind, count = struct.unpack(f"{self.order}II", raw)
        if kind >> 16:
            return kind & 0xFFFF, kind >> 16, raw[4 : 4 + (kind >> 16)]
        return kind, count, None

    def _small(self, stream: _Stream, most: int) -> bytes:
        _, count, inline = self._tag(stream)
        if inline is not None:
            return inline
        if count > most:
            raise ValueError(f"{count} bytes, but at most {most} are expected")
        data = stream.read(count)
        stream.skip(-count % 8)
        return data

    def _integers(self, stream: _Stream) -> tuple[int, ...]:
        return tuple(np.frombuffer(self._small(stream, LONGEST_NAME), f"{self.order}i4").tolist())
