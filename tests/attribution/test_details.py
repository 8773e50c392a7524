"""Sizes, paths and line tables of some documents, packed together."""

from __future__ import annotations

import itertools
import random
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attribution.details import block_starts, packed, packed_lines, unpacked, unpacked_lines

U32 = st.integers(0, 2**32 - 1)
LINES = st.lists(st.integers(0, 600), max_size=50)
DOCUMENT = st.tuples(U32, U32, st.binary(max_size=20), LINES)


@given(st.lists(DOCUMENT, min_size=1, max_size=8))
def test_what_is_packed_is_unpacked(documents: list[tuple[int, int, bytes, list[int]]]) -> None:
    """Every document gets back its size, its path, its line table, and where its original stands."""
    tables = [np.concatenate([[0], np.cumsum(steps)]).astype(np.uint32) for *_, steps in documents]
    sizes, originals, paths, _ = zip(*documents, strict=True)
    data = packed([*sizes], [*originals], [*paths], [packed_lines(table) for table in tables])
    held = unpacked(data, len(documents))
    end = 0
    for which, (size, original, path, _) in enumerate(documents):
        assert held.source_bytes(which) == size
        assert held.original(which) == slice(end, end + original)
        assert held.path(which) == path
        assert unpacked_lines(held.lines(which)).tolist() == tables[which].tolist()
        end += original


def everything(data: bytes, documents: int) -> tuple[tuple[int, ...], bytes, list[bytes]]:
    """Return all that is kept of some documents."""
    held = unpacked(data, documents)
    return held.sizes, held.paths, [held.lines(which) for which in range(documents)]


def test_damage_is_an_error() -> None:
    """Bytes that are cut, changed, or of another number of documents are refused, never read beyond their end."""
    data = packed([1, 2], [3, 4], [b"a", b"bc"], [b"\1\2", b"\3"])
    rng = random.Random(0)  # noqa: S311
    raw = zlib.decompress(data)
    for damaged in (b"", data[:-1], zlib.compress(raw[:-1]), zlib.compress(raw[:7]), zlib.compress(raw + b"x")):
        with pytest.raises(ValueError, match=r"."):
            everything(damaged, 2)
    for _ in range(200):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            assert everything(bytes(flipped), 2) == everything(data, 2)
        except ValueError:
            continue
    with pytest.raises(ValueError, match="differ"):
        everything(data, 1)


@given(st.lists(st.integers(0, 5000), max_size=60))
def test_blocks_are_of_few_documents_and_lines(counts: list[int]) -> None:
    """Every document is in one block, of at most sixteen; only one that is alone has more than 4,096 lines."""
    starts = block_starts(np.array(counts, dtype=np.int64))
    assert starts[0] == 0
    assert starts[-1] == len(counts)
    for first, last in itertools.pairwise(starts):
        assert 1 <= last - first <= 16
        assert last - first == 1 or sum(counts[first:last]) <= 4096
