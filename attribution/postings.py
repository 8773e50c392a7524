"""Sorted (key, position) pairs -> a packed table, and keys -> where they may stand.

    key        u32, uniform          bucket = key * buckets >> 32, on average a few postings each
    cell       position >> cell_bits (a cell holds 2**cell_bits positions; whoever asks compares the text with each)
    posting    remainder | cell      `bits` in all, at bit index * bits of the file, least bit first
                                     remainder: the `remainder_bits` of the key that follow those of the bucket
    frequent   a key with more than FREQUENT postings has a list of its own, and so has every key of a bucket of more
               than 255. So a bucket is short, and a query's own few keys meet a banner's thousands only by asking.
               Their postings are whole positions: of thousands, each is looked at in one place only.

    <stream>-counts            u8  (groups * 64,)  postings in each bucket
    <stream>-bases             u64 (groups,)       postings before each 64 buckets
    <stream>-postings          packed              those of the buckets, and zeros up to a multiple of 64
    <stream>-frequent          u32 (frequent,)     the frequent keys, ascending
    <stream>-frequent_starts   u64 (frequent + 1,) the number of each one's first posting
    <stream>-positions         packed              those of the frequent keys, and zeros up to a multiple of 64

Packed files have 8 bytes more, so that words can be read. Postings are numbered from those of the buckets on.

Costs, with four postings in a bucket, 2.3 bits a posting for the buckets. Of 27 bits of position, cells of 8 save 3:
looking at eight places of one cache line costs less than reading the line. A key that is not there meets about four
postings by accident; remainder bits would halve that each, and pay only where looking at a place is dear, because the
text is compressed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

FREQUENT = 16
GROUP_BUCKETS = 64
MAX_BUCKET = 255
MAX_BITS = 57
"""A posting of 57 bits at any bit of a byte still lies within eight bytes."""

_LANES = 64
_PAIRED_BUCKETS = GROUP_BUCKETS << 12
_PARTS: dict[str, np.dtype[Any]] = {
    "counts": np.dtype("u1"),
    "bases": np.dtype("<u8"),
    "postings": np.dtype("u1"),
    "frequent": np.dtype("<u4"),
    "frequent_starts": np.dtype("<u8"),
    "positions": np.dtype("u1"),
}


def file_kinds(stream: str) -> dict[str, np.dtype[Any]]:
    """Return the kinds of file that the postings of a stream take, with their number types."""
    return {f"{stream}-{part}": dtype for part, dtype in _PARTS.items()}


@dataclass(frozen=True, slots=True)
class PostingsLayout:
    """How postings are packed: how many in all and of frequent keys, buckets, and bits; of whole positions as well."""

    postings: int
    frequent_postings: int
    buckets: int
    bits: int
    remainder_bits: int
    cell_bits: int
    position_bits: int


def pack(values: U64, bits: int) -> U64:
    """Return values below 2**bits, a multiple of 64 of them, as a stream of bits in little-endian words."""
    lanes = values.reshape(-1, _LANES)
    words = np.zeros((len(lanes), bits), dtype="<u8")
    for lane in range(_LANES):
        word, shift = divmod(lane * bits, _LANES)
        words[:, word] |= lanes[:, lane] << np.uint64(shift)
        if shift + bits > _LANES:
            words[:, word + 1] |= lanes[:, lane] >> np.uint64(_LANES - shift)
    return words.reshape(-1)


def words_of(data: U8) -> U64:
    """Return the eight bytes from each byte on as one number, of shape (n - 7,), without a copy."""
    return np.ndarray((len(data) - 7,), dtype="<u8", buffer=data.data, strides=(1,))


def unpack(data: U8, index: I64, bits: int) -> I64:
    """Return the values at some places of a stream of bits that eight bytes follow."""
    bit = index * bits
    values: I64 = (words_of(data)[bit >> 3] >> (bit & 7).view(np.uint64)).view(np.int64) & ((1 << bits) - 1)
    return values


class PostingsWriter:
    """Packs pairs that come sorted by key and position, in blocks; holds one block and the frequent postings.

    `emit(kind, data)` is called with the bytes of each file, in order. `expected` is about how many pairs will come:
    the number of buckets follows from it, and with it the bytes of the files. `limit` is above all positions.
    """

    def __init__(  # noqa: PLR0913 - a layout and where it goes
        self,
        emit: Callable[[str, bytes], None],
        stream: str,
        expected: int,
        limit: int,
        *,
        bucket_postings: int,
        remainder_bits: int,
        cell_bits: int,
    ) -> None:
        """Begin the files of a stream."""
        self._emit, self._stream = emit, stream
        self._buckets = max(1, -(-expected // bucket_postings))
        self._cell_width = max(1, (max(0, limit - 1) >> cell_bits).bit_length())
        # With so many, bucket and remainder are the whole key.
        self._remainder_bits = min(remainder_bits, 33 - self._buckets.bit_length())
        self._remainder_bits = max(0, min(self._remainder_bits, MAX_BITS - self._cell_width))
        self._cell_bits = cell_bits
        self._bits = self._cell_width + self._remainder_bits
        self._position_bits = max(1, max(0, limit - 1).bit_length())
        self._keys: U32 = np.empty(0, dtype=np.uint32)
        self._positions: I64 = np.empty(0, dtype=np.int64)
        self._next_bucket, self._light, self._fed = 0, 0, 0
        self._waiting: dict[str, U64] = {}
        self._frequent: list[tuple[U32, I64, U64]] = []
        for part in _PARTS:  # each file is there, even if nothing is in it
            self._put(part, b"")

    def feed(self, keys: U32, positions: I64) -> None:
        """Take the next pairs."""
        self._fed += len(keys)
        self._keys = np.concatenate([self._keys, keys])
        self._positions = np.concatenate([self._positions, positions])
        if len(self._keys):
            bucket = _buckets(self._keys, self._buckets)
            last = int(bucket[-1]) // GROUP_BUCKETS * GROUP_BUCKETS
            self._take(bucket, int(np.searchsorted(bucket, last)), last)

    def finish(self) -> PostingsLayout:
        """Write what is left, and return how it is packed."""
        end = -(-self._buckets // GROUP_BUCKETS) * GROUP_BUCKETS
        self._take(_buckets(self._keys, self._buckets), len(self._keys), end)
        self._close("postings", self._bits)
        first = -(-self._light // _LANES) * _LANES
        lengths = np.concatenate([np.empty(0, np.int64), *(each[1] for each in self._frequent)])
        self._put("frequent", np.concatenate([np.empty(0, "<u4"), *(each[0] for each in self._frequent)]))
        self._put("frequent_starts", (first + np.concatenate([[0], np.cumsum(lengths)])).astype("<u8"))
        for _, _, positions in self._frequent:
            self._pack("positions", positions, self._position_bits)
        self._close("positions", self._position_bits)
        bits = self._bits, self._remainder_bits, self._cell_bits, self._position_bits
        return PostingsLayout(self._fed, int(lengths.sum()), self._buckets, *bits)

    def _take(self, bucket: I64, number: int, end: int) -> None:
        """Write the first pairs, which are those of the buckets before `end`."""
        bucket, keys, positions = bucket[:number], self._keys[:number], self._positions[:number]
        self._keys, self._positions = self._keys[number:], self._positions[number:]
        if end == self._next_bucket:
            return
        first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))[: len(keys)]
        lengths = np.diff(np.append(first, len(keys)))
        often = lengths > FREQUENT
        crowd = np.bincount(bucket[first[~often]] - self._next_bucket, lengths[~often], end - self._next_bucket)
        often |= crowd[bucket[first] - self._next_bucket] > MAX_BUCKET
        light = ~np.repeat(often, lengths)
        if often.any():
            self._frequent.append((keys[first[often]], lengths[often], positions[~light].view(np.uint64)))
        counts = np.bincount(bucket[light] - self._next_bucket, minlength=end - self._next_bucket)
        groups = counts.reshape(-1, GROUP_BUCKETS).sum(axis=1)
        self._put("counts", counts.astype(np.uint8))
        self._put("bases", (self._light + np.cumsum(groups) - groups).astype("<u8"))
        self._light += int(groups.sum())
        self._next_bucket = end
        self._pack("postings", self._values(keys[light], positions[light]), self._bits)

    def _values(self, keys: U32, positions: I64) -> U64:
        values = (positions >> self._cell_bits).view(np.uint64)
        if self._remainder_bits:
            remainder = _remainders(keys, self._buckets, self._remainder_bits).view(np.uint64)
            values |= remainder << np.uint64(self._cell_width)
        return values

    def _pack(self, part: str, values: U64, bits: int) -> None:
        waiting = np.concatenate([self._waiting.get(part, values[:0]), values])
        whole = len(waiting) // _LANES * _LANES
        self._put(part, pack(waiting[:whole], bits))
        self._waiting[part] = waiting[whole:]

    def _close(self, part: str, bits: int) -> None:
        waiting = self._waiting.get(part, np.empty(0, dtype=np.uint64))
        self._pack(part, np.zeros(-len(waiting) % _LANES, dtype=np.uint64), bits)
        self._put(part, bytes(8))

    def _put(self, part: str, data: npt.NDArray[Any] | bytes) -> None:
        self._emit(f"{self._stream}-{part}", data if isinstance(data, bytes) else data.tobytes())


class Arrays(NamedTuple):
    """The arrays of a stream as the compiled code takes them: those to look up keys in, and those of places.

    `layout` holds numbers: buckets, bits, remainder bits, cell bits, position bits, slots of the buckets, all slots.
    """

    look_up: tuple[U8, I64, U32, I64]
    places: tuple[U64, U64]
    layout: I64


@dataclass(frozen=True)
class Postings:
    """The mapped postings of a stream."""

    layout: PostingsLayout
    counts: U8
    bases: U64
    postings: U8
    frequent: U32
    frequent_starts: U64
    positions: U8

    @classmethod
    def mapped(cls, layout: PostingsLayout, stream: str, mapping: Callable[[str], npt.NDArray[Any]]) -> Postings:
        """Map the files of a stream; `mapping(kind)` returns one as an array."""
        return cls(layout, *(mapping(kind) for kind in file_kinds(stream)))

    @cached_property
    def arrays(self) -> Arrays:
        """The arrays as the compiled code takes them."""
        layout = self.layout
        bits = layout.bits, layout.remainder_bits, layout.cell_bits, layout.position_bits
        return Arrays(
            (self.counts, self.bases.view(np.int64), self.frequent, self.frequent_starts.view(np.int64)),
            (words_of(self.postings), words_of(self.positions)),
            np.array([layout.buckets, *bits, self._bucket_slots, self.slots]),
        )

    @property
    def slots(self) -> int:
        """How many postings the files have room for."""
        return self._bucket_slots + _slots(self.layout.frequent_postings)

    @property
    def _bucket_slots(self) -> int:
        return _slots(self.layout.postings - self.layout.frequent_postings)

    def problem(self) -> tuple[str, str] | None:
        """Return which part does not fit the layout, and how; `None` if look-ups cannot leave the arrays."""
        layout = self.layout
        groups = -(-layout.buckets // GROUP_BUCKETS)
        if len(self.counts) != groups * GROUP_BUCKETS or len(self.bases) != groups:
            return "counts", "its length is not the number of buckets"
        if not 0 < layout.bits <= MAX_BITS or len(self.postings) != self._bucket_slots * layout.bits // 8 + 8:
            return "postings", "its length is not the number of postings"
        if len(self.frequent_starts) != len(self.frequent) + 1:
            return "frequent_starts", "its length is not the number of frequent keys"
        if len(self.positions) != _slots(layout.frequent_postings) * layout.position_bits // 8 + 8:
            return "positions", "its length is not the number of postings"
        return None

    def ranges(self, keys: U32) -> tuple[I64, I64]:
        """Return the number of the first posting that may be of each key, and how many follow it."""
        bucket = _buckets(keys, self.layout.buckets)
        group, inside = np.divmod(bucket, GROUP_BUCKETS)
        counts = self.counts.reshape(-1, GROUP_BUCKETS)[group]
        row = np.arange(len(keys))
        length = counts[row, inside].astype(np.int64)
        low = self.bases[group].view(np.int64) + np.cumsum(counts, axis=1, dtype=np.int64)[row, inside] - length
        if len(self.frequent):
            at = np.minimum(np.searchsorted(self.frequent, keys), len(self.frequent) - 1)
            often = np.flatnonzero(self.frequent[at] == keys)
            starts = self.frequent_starts[at[often]].view(np.int64)
            low[often] = starts
            length[often] = self.frequent_starts[at[often] + 1].view(np.int64) - starts
        return low, length

    def range_of(self, key: int) -> tuple[int, int]:
        """Return what `ranges` does, for one key: 3 microseconds instead of 13."""
        group, inside = divmod(key * self.layout.buckets >> 32, GROUP_BUCKETS)
        if len(self.frequent):
            at = int(self.frequent.searchsorted(np.uint32(key)))
            if at < len(self.frequent) and self.frequent[at] == key:
                start, end = self.frequent_starts[at : at + 2].tolist()
                return start, end - start
        first = group * GROUP_BUCKETS
        counts = self.counts[first : first + inside + 1].tobytes()
        return int(self.bases[group]) + sum(counts[:-1]), counts[-1]

    def places(self, index: I64, keys: U32) -> tuple[I64, Flags]:
        """Return the first position of each posting's cell, and whether its remainder is that of the key."""
        layout = self.layout
        frequent = index >= self._bucket_slots
        values = unpack(self.postings, np.where(frequent, 0, index), layout.bits)
        width = layout.bits - layout.remainder_bits
        same = np.ones(len(index), dtype=np.bool_)
        if layout.remainder_bits:
            same = frequent | (values >> width == _remainders(keys, layout.buckets, layout.remainder_bits))
        places = (values & ((1 << width) - 1)) << layout.cell_bits
        if frequent.any():
            places[frequent] = unpack(self.positions, index[frequent] - self._bucket_slots, layout.position_bits)
        return places, same

    def pairs(self) -> Iterator[tuple[U32, I64]]:
        """Yield all keys and places, sorted by both, in blocks; of postings that keep the whole key and no cells."""
        layout = self.layout
        often = _buckets(self.frequent, layout.buckets)
        for first in range(0, layout.buckets, _PAIRED_BUCKETS):
            last = min(first + _PAIRED_BUCKETS, layout.buckets)
            counts = self.counts[first:last].astype(np.int64)
            low = int(self.bases[first // GROUP_BUCKETS])
            values = unpack(self.postings, np.arange(low, low + int(counts.sum())), layout.bits)
            width = layout.bits - layout.remainder_bits
            bucket = np.repeat(np.arange(first, last, dtype=np.uint64), counts)
            least = bucket << np.uint64(32) | (values >> width).view(np.uint64) << np.uint64(32 - layout.remainder_bits)
            # The one multiple of the buckets' number that begins so; at most 2**64 - 1, as a key is below 2**32.
            keys = (least + np.uint64(layout.buckets - 1)) // np.uint64(layout.buckets)
            begin, end = np.searchsorted(often, [first, last]).tolist()
            starts = self.frequent_starts[begin : end + 1].view(np.int64)
            index = np.arange(int(starts[0]), int(starts[-1])) - self._bucket_slots
            held = np.concatenate([keys.astype(np.uint32), np.repeat(self.frequent[begin:end], np.diff(starts))])
            places = np.concatenate([values & ((1 << width) - 1), unpack(self.positions, index, layout.position_bits)])
            order = np.lexsort((places, held))
            yield held[order], places[order]

    def whole(self, index: I64) -> Flags:
        """Return of which postings `places` are positions, not cells: of frequent keys, or where a cell is no more."""
        whole: Flags = (index >= self._bucket_slots) | (self.layout.cell_bits == 0)
        return whole


def _slots(postings: int) -> int:
    return -(-postings // _LANES) * _LANES


def _buckets(keys: U32, buckets: int) -> I64:
    return (keys.astype(np.uint64) * np.uint64(buckets) >> np.uint64(32)).view(np.int64)


def _remainders(keys: U32, buckets: int, bits: int) -> I64:
    fraction = (keys.astype(np.uint64) * np.uint64(buckets)).astype(np.uint32)
    return (fraction >> np.uint32(32 - bits)).astype(np.int64)
