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

K = 25
GUARANTEES = {50: 26, 100: 76}
"""Guarantee in bytes -> window length w in k-grams, with k = 25."""

_BASE = 0x9E3779B97F4A7C15
_MODULUS = 1 << 64
_CHUNK_BYTES = 1 << 15  # all temporaries of a chunk stay in the second-level cache (2**14 134 MB/s, 2**15 165)


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Chosen k-grams: `positions` int64 (n,), ascending starts in the data; `keys` uint32 (n,)."""

    positions: I64
    keys: U32


class _Scratch(threading.local):
    """Temporaries of one chunk, one set per thread.

    Fresh arrays of this size are handed back to the system after every chunk, and the page faults that follow cost
    more than the arithmetic: 19 ns per byte with fresh arrays, 7 with these.
    """

    def __init__(self) -> None:
        self.prefix = np.zeros(_CHUNK_BYTES + 1, dtype=np.uint64)
        self.hashes = np.empty(_CHUNK_BYTES, dtype=np.uint64)
        self.shifted = np.empty(_CHUNK_BYTES, dtype=np.uint64)
        self.lowest = np.empty((2, _CHUNK_BYTES), dtype=np.uint32)
        self.argument = np.empty((2, _CHUNK_BYTES), dtype=np.uint8)
        self.mask = np.empty(_CHUNK_BYTES, dtype=np.uint8)


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


def _winnow(data: U8, k: int, w: int) -> tuple[I64, U32]:
    """Return positions and keys of the right-most minima of all windows of at most a chunk of bytes."""
    hashes = _gram_hashes(data, k)
    count = len(hashes)
    lowest, spare = _scratch.lowest
    argument, spare_argument = _scratch.argument
    lowest[:count] = hashes.view(np.uint32)[1::2]  # the high halves on a little-endian machine
    argument[:count] = 0
    width = 1
    while width < w:  # minima of 2, 4, 8 ... and at last w k-grams, each with the offset of the right-most one
        step = min(width, w - width)
        count -= step
        left, right = lowest[:count], lowest[step : step + count]
        # argument = where(right <= left, argument[step:] + step, argument), three times faster in bit operations
        mask = _scratch.mask[:count]
        np.less_equal(right, left, out=mask.view(np.bool_))
        np.negative(mask, out=mask)
        chosen = spare_argument[:count]
        np.add(argument[step : step + count], np.uint8(step), out=chosen)
        np.bitwise_xor(chosen, argument[:count], out=chosen)
        np.bitwise_and(chosen, mask, out=chosen)
        np.bitwise_xor(chosen, argument[:count], out=chosen)
        np.minimum(left, right, out=spare[:count])
        lowest, spare = spare, lowest
        argument, spare_argument = spare_argument, argument
        width += step
    return _distinct(argument[:count], hashes)


def _distinct(argument: U8, hashes: U64) -> tuple[I64, U32]:
    """Return the positions chosen by windows 0, 1, 2 ..., each once, and their keys."""
    # A window keeps its neighbour's choice exactly if the offset fell by one.
    changed = np.flatnonzero(argument[1:] != argument[:-1] - np.uint8(1)) + 1
    windows = np.concatenate([np.zeros(1, dtype=np.int64), changed])
    positions = windows + argument[windows]
    return positions, hashes[positions].astype(np.uint32)


def _gram_hashes(data: U8, k: int) -> U64:
    """Return the 64-bit hash of each k-gram, uint64 of shape (len(data) - k + 1,), valid until the next call."""
    table, powers, inverses = _tables()
    size, count = len(data), len(data) - k + 1
    prefix, hashes, shifted = _scratch.prefix, _scratch.hashes[:count], _scratch.shifted
    terms = table.take(data, out=_scratch.hashes[:size], mode="clip")  # "clip" spares numpy a buffer
    np.multiply(terms, powers[:size], out=terms)
    np.cumsum(terms, out=prefix[1 : size + 1])
    np.subtract(prefix[k : size + 1], prefix[:count], out=hashes)
    np.multiply(hashes, inverses[:count], out=hashes)
    return _mix(hashes, shifted[:count])


def _thinned(data: U8, positions: I64, keys: U32, k: int) -> npt.NDArray[np.bool_]:
    """Return which positions stay: not those that repeat the k-gram chosen at most k // 2 bytes before."""
    kept = np.ones(len(positions), dtype=np.bool_)
    repeats = np.flatnonzero((np.diff(positions) <= k // 2) & (keys[1:] == keys[:-1])) + 1
    if len(repeats):
        grams = np.lib.stride_tricks.sliding_window_view(data, k)
        same = grams[positions[repeats]] == grams[positions[repeats - 1]]
        kept[repeats[same.all(axis=1)]] = False
    return kept


def _mix(values: U64, shifted: U64) -> U64:
    """Return splitmix64's finaliser of each value, in place: a polynomial mod 2**64 has weak low bits."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        np.right_shift(values, np.uint64(shift), out=shifted)
        np.bitwise_xor(values, shifted, out=values)
        np.multiply(values, np.uint64(factor), out=values)
    np.right_shift(values, np.uint64(31), out=shifted)
    return np.bitwise_xor(values, shifted, out=values)


@cache
def _tables() -> tuple[U64, U64, U64]:
    """Return a fixed random value for each byte, the powers of the base, and those of its inverse."""
    table = np.arange(1, 257, dtype=np.uint64) * np.uint64(_BASE)
    return _mix(table, np.empty_like(table)), _powers(_BASE), _powers(pow(_BASE, -1, _MODULUS))


def _powers(base: int) -> U64:
    factors = np.full(_CHUNK_BYTES, base, dtype=np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)
