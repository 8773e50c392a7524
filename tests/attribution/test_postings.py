"""Packed postings: what goes in comes out, wherever it is put, and little more."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attribution.postings import FREQUENT, Postings, PostingsLayout, PostingsWriter, file_kinds, pack, unpack

PAIRS = st.lists(
    st.tuples(
        st.integers(0, 2**32 - 1) | st.integers(0, 40) | st.sampled_from([7, 2**31, 2**32 - 1]),
        st.integers(0, 99_999),
    ),
    max_size=400,
    unique=True,
)


def packed(pairs: list[tuple[int, int]], block: int, **packing: int) -> tuple[Postings, dict[str, bytes]]:
    """Pack pairs, given in blocks, and map them again."""
    files: dict[str, bytes] = defaultdict(bytes)

    def emit(kind: str, data: bytes) -> None:
        files[kind] += data

    chosen = {"bucket_postings": 4, "remainder_bits": 0, "cell_bits": 0} | packing
    writer = PostingsWriter(emit, "s", len(pairs), 100_000, **chosen)
    ordered = sorted(pairs)
    for at in range(0, len(ordered), block):
        part = ordered[at : at + block]
        writer.feed(np.array([key for key, _ in part], np.uint32), np.array([place for _, place in part], np.int64))
    layout = writer.finish()
    return mapped(layout, files), dict(files)


def mapped(layout: PostingsLayout, files: dict[str, bytes]) -> Postings:
    """Return postings on files in memory, and check that they fit."""
    kinds = file_kinds("s")

    def mapping(kind: str) -> Any:  # noqa: ANN401
        return np.frombuffer(files[kind], dtype=kinds[kind])

    postings = Postings.mapped(layout, "s", mapping)
    assert postings.problem() is None
    return postings


def places(postings: Postings, key: int) -> list[int]:
    """Return the first positions of the cells in which a key may stand."""
    wanted = np.array([key], dtype=np.uint32)
    low, count = postings.ranges(wanted)
    assert postings.range_of(key) == (low[0], count[0])
    index = np.arange(int(low[0]), int(low[0] + count[0]))
    found, same = postings.places(index, np.repeat(wanted, len(index)))
    return [int(place) for place in found[same]]


def whole(postings: Postings, key: int) -> bool:
    """Return whether the places of a key are said to be positions."""
    low, count = postings.ranges(np.array([key], dtype=np.uint32))
    return bool(postings.whole(np.arange(int(low[0]), int(low[0] + count[0]))).all())


@settings(deadline=None)  # a busy machine is no failure
@given(
    pairs=PAIRS,
    block=st.sampled_from([1, 3, 50, 1000]),
    bucket_postings=st.sampled_from([1, 4, 8]),
    remainder_bits=st.sampled_from([0, 6]),
    cell_bits=st.sampled_from([0, 3, 5]),
)
def test_every_pair_is_found(pairs: list[tuple[int, int]], block: int, **packing: int) -> None:
    """Each key gives the cells of all its positions; a frequent key, those and nothing else, exactly."""
    postings, _ = packed(pairs, block, **packing)
    held: dict[int, list[int]] = defaultdict(list)
    for key, place in sorted(pairs):
        held[key].append(place)
    for key, positions in held.items():
        found = places(postings, key)
        if len(positions) > FREQUENT:
            assert found == positions
            assert whole(postings, key)
        else:
            bits = 0 if whole(postings, key) else packing["cell_bits"]
            assert {place >> bits << bits for place in positions} <= set(found)
    assert postings.layout.postings == len(pairs)


@settings(deadline=None)
@given(pairs=PAIRS, block=st.sampled_from([1, 7, 100]))
def test_blocks_change_no_byte(pairs: list[tuple[int, int]], block: int) -> None:
    """However the pairs are dealt out into blocks, the files are the same."""
    assert packed(pairs, block)[1] == packed(pairs, 10_000)[1]


@pytest.mark.parametrize("bits", [1, 7, 8, 22, 31, 32, 33, 57])
def test_bits_come_out_as_they_went_in(bits: int) -> None:
    """Values of any width are where they were put."""
    values = np.random.default_rng(bits).integers(0, 1 << bits, 640, dtype=np.uint64)
    data = np.frombuffer(pack(values, bits).tobytes() + bytes(8), dtype=np.uint8)
    assert len(data) == 640 * bits // 8 + 8
    assert np.array_equal(unpack(data, np.arange(640), bits).view(np.uint64), values)


def test_a_crowded_bucket_stays_whole() -> None:
    """Hundreds of rare keys that fall into one bucket are all found, though a bucket counts to 255 only."""
    pairs = [(key, key * 3 + n) for key in range(300) for n in range(2)]
    postings, _ = packed(pairs, 1000)
    for key in range(300):
        assert places(postings, key) == [key * 3, key * 3 + 1]
    assert places(postings, 2**32 - 1) == []


def test_remainders_tell_keys_apart() -> None:
    """With six remainder bits a key that is not there meets a sixteenth of a posting, instead of four."""
    rng = np.random.default_rng(3)
    pairs = [(int(key), n) for n, key in enumerate(rng.integers(0, 2**32, 20_000))]
    strangers = rng.integers(0, 2**32, 3_000).tolist()
    coarse, fine = (packed(pairs, 20_000, remainder_bits=bits)[0] for bits in (0, 6))
    assert 3.8 < sum(len(places(coarse, key)) for key in strangers) / 3_000 < 4.2
    assert 0.04 < sum(len(places(fine, key)) for key in strangers) / 3_000 < 0.09
