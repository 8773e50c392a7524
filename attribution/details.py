"""What an index keeps of its documents to show a match: sizes, paths, line tables; sixteen documents in one piece.

    sizes      u32 (4, documents)  bytes of source text, of the compressed original, of the path, of the line table;
               the first bytes of all numbers, then the second ones, and so on: the zeros of small numbers together
    paths      UTF-8, one after the other
    lines      of each document: normalised bytes from each source line's start to the next one's, a byte each, after
               a byte of 255 for every 255 of them
    all of it as one zlib stream

Neighbours have folders and the habits of an author in common, and one code for the lengths of lines serves many small
files: 0.021 bytes per byte of source, where a stream of lines for each document took 0.022 and all else 0.017 more. A
piece ends before it has over 4,096 lines, lest a small file's neighbours be large, and a path is read without the lines
behind it: to name ten sources in 1 GB took 1.2 ms before.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_MOST_DOCUMENTS = 16
_MANY_LINES = 4096

_LONG = 255
_LEVEL = 9

U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Details:
    """What is kept of some documents: `sizes` and `paths` as drawn above, and the `stream` that holds the lines too."""

    sizes: tuple[int, ...]
    paths: bytes
    stream: bytes

    @property
    def _count(self) -> int:
        return len(self.sizes) // 4

    def source_bytes(self, which: int) -> int:
        """Return the bytes of a document's source text in UTF-8."""
        return self.sizes[which]

    def original(self, which: int) -> slice:
        """Return where a document's compressed original stands among those of these documents."""
        return self._part(self._count, which)

    def path(self, which: int) -> bytes:
        """Return a document's path in UTF-8."""
        return self.paths[self._part(2 * self._count, which)]

    def lines(self, which: int) -> bytes:
        """Return a document's `packed_lines`. Raises `ValueError` for a stream that does not hold them."""
        raw = _inflated(zlib.decompressobj(), self.stream)
        head = 4 * len(self.sizes) + len(self.paths)
        if head + sum(self.sizes[3 * self._count :]) != len(raw):
            raise ValueError("sizes and bytes differ")
        return raw[head:][self._part(3 * self._count, which)]

    def _part(self, column: int, which: int) -> slice:
        start = sum(self.sizes[column : column + which])
        return slice(start, start + self.sizes[column + which])


def block_starts(line_counts: I64) -> list[int]:
    """Return the first document of each block, and the number of all documents, given how many lines each has."""
    starts, lines = [0], 0
    for document, count in enumerate(line_counts.tolist()):
        lines += count
        if document - starts[-1] == _MOST_DOCUMENTS or (document > starts[-1] and lines > _MANY_LINES):
            starts.append(document)
            lines = count
    return [*starts, len(line_counts)] if len(line_counts) else starts


def packed(source_bytes: list[int], original_bytes: list[int], paths: list[bytes], lines: list[bytes]) -> bytes:
    """Return the bytes in which an index keeps the details of some documents, whose lines are `packed_lines`."""
    sizes = [*source_bytes, *original_bytes, *map(len, paths), *map(len, lines)]
    numbers = struct.pack(f"<{len(sizes)}I", *sizes)
    return zlib.compress(b"".join([*(numbers[byte::4] for byte in range(4)), *paths, *lines]), _LEVEL)


def unpacked(stream: bytes, documents: int) -> Details:
    """Return the details of so many documents. Raises `ValueError` for bytes that are not theirs."""
    count = 4 * documents
    numbers = bytearray(4 * count)
    inflater = zlib.decompressobj()
    raw = _inflated(inflater, stream, 4 * count)
    if len(raw) != len(numbers):
        raise ValueError("the sizes are cut")
    for byte in range(4):
        numbers[byte::4] = raw[byte * count : (byte + 1) * count]
    sizes = struct.unpack(f"<{count}I", numbers)
    size = sum(sizes[2 * documents : 3 * documents])
    paths = _inflated(inflater, inflater.unconsumed_tail, size) if size else b""
    if len(paths) != size:
        raise ValueError("sizes and bytes differ")
    return Details(sizes, paths, stream)


def _inflated(inflater: zlib._Decompress, data: bytes, limit: int = 0) -> bytes:
    """Return the next bytes of a zlib stream, at most `limit` if that is not 0, else all, and check its checksum."""
    try:
        raw = inflater.decompress(data, limit)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not limit and (not inflater.eof or inflater.unused_data):
        raise ValueError("the stream has another end")
    return raw


def packed_lines(table: U32) -> bytes:
    """Return a document's line table, the normalised bytes before each of its lines, as it is kept."""
    steps = np.diff(table.astype(np.int64))
    longs = steps // _LONG
    data = np.full(int(longs.sum()) + len(steps), _LONG, dtype=np.uint8)
    data[np.cumsum(longs + 1) - 1] = steps - longs * _LONG
    return data.tobytes()


def unpacked_lines(data: bytes) -> U32:
    """Return the line table that `packed_lines` was given."""
    steps = np.frombuffer(data, dtype=np.uint8)
    ends = np.cumsum(steps, dtype=np.uint32)[steps != _LONG]
    return np.concatenate([np.zeros(1, dtype=np.uint32), ends])
