"""Normalised bytes -> the fingerprints that are stored and looked up: the one definition, for build and query.

    bytes     b[0] b[1] b[2] ...
    k-grams   h[i] = mix(sum of table[b[i + t]] * BASE**t, t < k)  mod 2**64       one for every start i
                      high 32 bits: the order that chooses · low 32 bits: the key that is stored
    windows   w consecutive k-grams = k + w - 1 bytes = the guarantee
    chosen    the right-most minimum of each window (winnowing: Schleimer, Wilkerson and Aiken 2003)

The choice is purely local: whether a position is chosen depends on nothing but the `guarantee` bytes of some window
around it. So two texts that share a run of at least `guarantee` bytes choose the same relative positions inside the
run, and the run's exact alignment is always among the candidates. The key is taken from the bits that the choice does
not look at, because minima would crowd the low end of the range.

Thinning: in a line of a million dashes every window chooses its own position. A chosen position is dropped if the one
chosen before it holds the same k-gram and lies d <= k // 2 bytes before it. Then the bytes from the former to the
latter's end repeat with period d, and of a chain of dropped positions each two neighbouring stretches share k >= d + d'
bytes, so that by Fine and Wilf's theorem the whole chain repeats with the period gcd(d, d'), at most k // 2: what was
dropped stands in one periodic region around what was kept, and `matching` tries every alignment of such regions.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

K = 16
GUARANTEES = {50: 35, 100: 85}
"""Guarantee in bytes -> window length w in k-grams, with k = 16.

With a smaller k fewer are chosen, 2 / (w + 1) a byte: 0.056 for 50, where k = 25 took 0.074. What it brings in more,
equal k-grams in unlike places, costs a comparison each and is never shown.
"""

_BASE = 0x9E3779B97F4A7C15
_MODULUS = 1 << 64
_HIGH_HALF = np.uint64(0xFFFFFFFF00000000)
_LOW_BITS = 0xFFFFFFFF
_LOW_HALF = np.uint64(_LOW_BITS)
MAX_PIECE_BYTES = 1 << 12
_CHUNK_BYTES = 1 << 15  # all temporaries of a chunk stay in the second-level cache (2**13: 142 MB/s, 2**15: 194)


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Chosen k-grams: `positions` int64 (n,), ascending starts in the data; `keys` uint32 (n,)."""

    positions: I64
    keys: U32


class _Scratch(threading.local):
    """Temporaries of one chunk, one set per thread.

    Fresh arrays of this size are handed back to the system after every chunk, and the page faults that follow cost
    more than the arithmetic: 19 ns per byte with fresh arrays, 5 with these.
    """

    def __init__(self) -> None:
        self.prefix = np.zeros(_CHUNK_BYTES + 1, dtype=np.uint64)
        self.hashes = np.empty(_CHUNK_BYTES, dtype=np.uint64)
        self.spare = np.empty(_CHUNK_BYTES, dtype=np.uint64)


_scratch = _Scratch()


def fingerprints(data: U8, k: int, w: int) -> Fingerprints:
    """Return the winnowed and thinned fingerprints of normalised bytes; none if they are shorter than k + w - 1."""
    guarantee = k + w - 1
    step = _CHUNK_BYTES - guarantee + 1
    starts = range(0, len(data) - guarantee + 1, step)
    if not starts:
        return Fingerprints(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint32))
    parts = [_winnow(data[start : start + _CHUNK_BYTES], k, w) for start in starts]
    positions = np.concatenate([part[0] + start for part, start in zip(parts, starts, strict=True)])
    keys = np.concatenate([part[1] for part in parts])
    kept = _thinned(data, positions, keys, k)  # also where two chunks chose the same position at their seam
    return Fingerprints(positions[kept], keys[kept])


def first_windows(data: U8, k: int, w: int) -> tuple[I64, I64]:
    """Return the positions chosen of at most a chunk of bytes, not thinned, and the first window that chose each."""
    hashes = _gram_hashes(data, k)
    positions = _lowest(hashes, w)
    order = hashes[positions] & _HIGH_HALF
    # The next is chosen as soon as a window reaches it, if it is not greater; otherwise when the former has been left.
    entered, left = positions[1:] - w + 1, positions[:-1] + 1
    return positions, np.concatenate([[0], np.where(order[1:] <= order[:-1], entered, left)])


def chosen_windows(data: U8, k: int, w: int) -> tuple[I64, I64]:
    """Return what `first_windows` does, for a text of any length."""
    step = _CHUNK_BYTES - k - w + 2
    starts = range(0, len(data) - k - w + 2, step)
    if not starts:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    parts = [first_windows(data[start : start + _CHUNK_BYTES], k, w) for start in starts]
    positions, firsts = (
        np.concatenate([part[which] + start for part, start in zip(parts, starts, strict=True)]) for which in (0, 1)
    )
    fresh = np.diff(positions, prepend=-1) > 0  # two chunks may choose the same position at their seam
    return positions[fresh], firsts[fresh]


def stretch_hashes(data: U8, starts: I64, ends: I64) -> U64:
    """Return the 64-bit hash of each stretch data[start:end] of at most half a chunk; `starts` are ascending."""
    tables, half = _tables(), _CHUNK_BYTES // 2
    hashes = np.empty(len(starts), dtype=np.uint64)
    for base in range(0, len(data), half):
        low, high = np.searchsorted(starts, [base, base + half]).tolist()
        if low == high:
            continue
        piece = data[base : base + _CHUNK_BYTES]
        sums = np.zeros(len(piece) + 1, dtype=np.uint64)
        np.cumsum(tables.bytes[piece] * tables.powers[: len(piece)], out=sums[1:])
        first = starts[low:high] - base
        hashes[low:high] = (sums[ends[low:high] - base] - sums[first]) * tables.inverses[first]
    return mixed(hashes)


def chosen_of_window(data: U8, k: int) -> tuple[int, int]:
    """Return position and key of the one k-gram chosen of k + w - 1 bytes: a third of what `fingerprints` costs."""
    hashes = _gram_hashes(data, k)
    lowest = np.bitwise_and(hashes, _HIGH_HALF, out=_scratch.spare[: len(hashes)])
    lowest |= _tables().from_end[: len(hashes)]
    position = int(lowest.argmin())
    return position, int(hashes[position]) & _LOW_BITS


def winnowed(hashes: U64, w: int) -> I64:
    """Return the right-most of the least, by their high halves, of each w hashes in a row: ascending, each once."""
    starts = range(0, len(hashes) - w + 1, _CHUNK_BYTES - w + 1)
    if not starts:
        return np.empty(0, dtype=np.int64)
    parts = [_lowest(hashes[start : start + _CHUNK_BYTES], w) + start for start in starts]
    return np.unique(np.concatenate(parts)) if len(parts) > 1 else parts[0]


def rolling(k: int) -> tuple[U64, U64]:
    """Return the random value of each byte, and the base, its inverse and its power of k - 1: for `kernels`."""
    tables = _tables()
    return tables.bytes, np.array([tables.powers[1], tables.inverses[1], tables.powers[k - 1]])


def _winnow(data: U8, k: int, w: int) -> tuple[I64, U32]:
    """Return positions and keys of the right-most minima of all windows of at most a chunk of bytes, each once."""
    hashes = _gram_hashes(data, k)
    positions = _lowest(hashes, w)
    return positions, hashes[positions].astype(np.uint32)


def _lowest(hashes: U64, w: int) -> I64:
    """Return the positions of the right-most minima of all windows of at most a chunk of hashes."""
    count = len(hashes)
    from_end = _tables().from_end
    lowest, spare = _scratch.prefix[1:], _scratch.spare
    # High half: the order. Low half: the position from the end, so that of equal k-grams the right-most is the least.
    np.bitwise_and(hashes, _HIGH_HALF, out=lowest[:count])
    np.bitwise_or(lowest[:count], from_end[:count], out=lowest[:count])
    width = 1
    while width < w:  # minima of 2, 4, 8 ... and at last w k-grams
        step = min(width, w - width)
        count -= step
        np.minimum(lowest[:count], lowest[step : step + count], out=spare[:count])
        lowest, spare = spare, lowest
        width += step
    changed = np.flatnonzero(lowest[1:count] != lowest[: count - 1])
    chosen = lowest[np.concatenate((changed, [count - 1]))] & _LOW_HALF
    return len(from_end) - 1 - chosen.astype(np.int64)


def _gram_hashes(data: U8, k: int) -> U64:
    """Return the 64-bit hash of each k-gram, uint64 of shape (len(data) - k + 1,), valid until the next call."""
    tables = _tables()
    size, count = len(data), len(data) - k + 1
    prefix, hashes = _scratch.prefix, _scratch.hashes[:count]
    terms = tables.bytes.take(data, out=_scratch.hashes[:size], mode="clip")  # "clip" spares numpy a buffer
    np.multiply(terms, tables.powers[:size], out=terms)
    np.cumsum(terms, out=prefix[1 : size + 1])
    np.subtract(prefix[k : size + 1], prefix[:count], out=hashes)
    np.multiply(hashes, tables.inverses[:count], out=hashes)
    return _mix(hashes, _scratch.spare[:count])


def _thinned(data: U8, positions: I64, keys: U32, k: int) -> npt.NDArray[np.bool_]:
    """Return which positions stay: not those that repeat the k-gram chosen at most k // 2 bytes before."""
    kept = np.ones(len(positions), dtype=np.bool_)
    repeats = np.flatnonzero((np.diff(positions) <= k // 2) & (keys[1:] == keys[:-1])) + 1
    if len(repeats):
        grams = np.lib.stride_tricks.sliding_window_view(data, k)
        same = grams[positions[repeats]] == grams[positions[repeats - 1]]
        kept[repeats[same.all(axis=1)]] = False
    return kept


def mixed(values: U64) -> U64:
    """Return splitmix64's finaliser of each value, in place."""
    return _mix(values, np.empty_like(values))


def _mix(values: U64, shifted: U64) -> U64:
    """Return splitmix64's finaliser of each value, in place: a polynomial mod 2**64 has weak low bits."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        np.right_shift(values, np.uint64(shift), out=shifted)
        np.bitwise_xor(values, shifted, out=values)
        np.multiply(values, np.uint64(factor), out=values)
    np.right_shift(values, np.uint64(31), out=shifted)
    return np.bitwise_xor(values, shifted, out=values)


@dataclass(frozen=True, slots=True)
class _Tables:
    """A fixed random value for each byte, the powers of the base and of its inverse, and positions from the end."""

    bytes: U64
    powers: U64
    inverses: U64
    from_end: U64


@cache
def _tables() -> _Tables:
    values = np.arange(1, 257, dtype=np.uint64) * np.uint64(_BASE)
    return _Tables(
        bytes=_mix(values, np.empty_like(values)),
        powers=_powers(_BASE),
        inverses=_powers(pow(_BASE, -1, _MODULUS)),
        from_end=np.arange(_CHUNK_BYTES, dtype=np.uint64)[::-1].copy(),
    )


def _powers(base: int) -> U64:
    factors = np.full(_CHUNK_BYTES, base, dtype=np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)
