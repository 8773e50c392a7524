"""Text and its fingerprints in loops of plain arithmetic, compiled by numba (extra `fast`); `compiled` has the rest.

    normalised   UTF-8 ──▶ normalised bytes and line table, for builds
    fingerprint  normalised bytes ──▶ rolling hash, minimum, thinning ──▶ prints, for builds and questions
    look_up      bytes of a query ──▶ fingerprints, their periods and first windows, and which postings are theirs
    needed       windows and costs ──▶ the k-grams that are looked at

What they compute is defined by `normalise`, `fingerprint`, `postings`, `windows`. The signatures are fixed, so that
nothing is compiled while someone waits. Constants of those modules come as arguments: what is cached on disk would not
follow their changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit, types

_F = TypeVar("_F", bound=Callable[..., Any])

U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
U16 = npt.NDArray[np.uint16]
U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

DAMAGED = -1
"""What a look-up returns instead of a number when a posting leads out of its file."""

INT = types.int64
BYTES, WORDS = (
    types.Array(types.uint8, 1, "C", readonly=True),
    types.Array(types.uint64, 1, "A", readonly=True, aligned=False),
)
FLAGS, KEYS = types.Array(types.bool_, 1, "C", readonly=True), types.Array(types.uint32, 1, "C", readonly=True)
NUMBERS, HASHES = types.Array(types.int64, 1, "C", readonly=True), types.Array(types.uint64, 1, "C", readonly=True)
MARKS = types.Array(types.uint16, 1, "C", readonly=True)
TABLE, SPANS = types.Array(types.int64, 2, "C"), types.Array(types.int64, 2, "C", readonly=True)

_TWO_BYTES, _THREE_BYTES, _FOUR_BYTES = 0xC0, 0xE0, 0xF0  # the first byte of a character that has as many
_CONTINUATION = 0x80
_FEED, _RETURN = ord("\n"), ord("\r")
_WINDOW_MASK = 127
"""The last 128 hashes are kept: no window is longer."""
_GROUP_BUCKETS = 64
_KEY_BITS = 32


def entry(*signature: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:  # noqa: ANN401 - types of numba
    """Compile for just these types; where nothing can be cached, for this process alone."""

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            result: Callable[..., Any] = njit(signature, cache=True, nogil=True)(function)
        except (RuntimeError, OSError):
            result = njit(signature, nogil=True)(function)
        return result

    return compiled


def part(function: _F) -> _F:
    """Compile as a part of what calls it."""
    return cast("_F", njit(nogil=True)(function))


# --- documents -------------------------------------------------------------------------------------------------------


@entry(BYTES, FLAGS, BYTES, types.Array(types.uint8, 1, "C"), types.Array(types.uint32, 1, "C"))
def normalised(raw: U8, kept: Flags, folded: U8, data: U8, lines: U32) -> tuple[int, int]:
    """Fill data and lines, and return how much of them: see `normalise`."""
    size, count, i = 0, 1, 0
    lines[0] = 0
    while i < len(raw):
        byte = raw[i]
        point, width = int(byte), 1
        if byte >= _FOUR_BYTES:
            point, width = len(kept) - 1, 4
        elif byte >= _THREE_BYTES:
            point = int(byte & 15) << 12 | int(raw[i + 1] & 63) << 6 | int(raw[i + 2] & 63)
            width = 3
        elif byte >= _TWO_BYTES:
            point = int(byte & 31) << 6 | int(raw[i + 1] & 63)
            width = 2
        if kept[min(point, len(kept) - 1)]:
            for j in range(i, i + width):
                data[size] = folded[raw[j]]
                size += 1
        elif byte == _FEED or (byte == _RETURN and not (i + 1 < len(raw) and raw[i + 1] == _FEED)):
            lines[count] = size
            count += 1
        i += width
    return size, count


@entry(
    BYTES,
    INT,
    INT,
    HASHES,
    HASHES,
    types.Array(types.int64, 1, "C"),
    types.Array(types.uint32, 1, "C"),
    types.Array(types.int64, 1, "C"),
)
def fingerprint(  # noqa: C901, PLR0913, PLR0917 - one loop of plain arithmetic, compiled as a whole
    data: U8, k: int, w: int, table: U64, factors: U64, positions: I64, keys: U32, firsts: I64
) -> int:
    """Fill positions, keys and the first window that chose each, and return how many there are: see `fingerprint`."""
    recent = np.empty(_WINDOW_MASK + 1, dtype=np.uint64)
    base, inverse, highest = factors
    rolled, power = np.uint64(0), np.uint64(1)
    for t in range(k):
        rolled += table[data[t]] * power
        power *= base
    lowest, lowest_at, chosen, count = np.uint64(0), -1, -1, 0
    for i in range(len(data) - k + 1):
        if i:
            rolled = (rolled - table[data[i - 1]]) * inverse + table[data[i + k - 1]] * highest
        value = rolled
        value ^= value >> np.uint64(30)
        value *= np.uint64(0xBF58476D1CE4E5B9)
        value ^= value >> np.uint64(27)
        value *= np.uint64(0x94D049BB133111EB)
        value ^= value >> np.uint64(31)
        recent[i & _WINDOW_MASK] = value
        order = value >> np.uint64(32)
        if lowest_at < 0 or order <= lowest:
            lowest, lowest_at = order, i
        elif lowest_at <= i - w:  # the minimum has left the window: find the right-most of the others
            lowest, lowest_at = order, i
            for j in range(i - 1, i - w, -1):
                before = recent[j & _WINDOW_MASK] >> np.uint64(32)
                if before < lowest:
                    lowest, lowest_at = before, j
        if i < w - 1 or lowest_at == chosen:
            continue
        chosen, before_chosen = lowest_at, chosen
        key = np.uint32(recent[chosen & _WINDOW_MASK] & np.uint64(0xFFFFFFFF))
        same = before_chosen >= 0 and chosen - before_chosen <= k // 2
        if same:
            for t in range(k):
                if data[chosen + t] != data[before_chosen + t]:
                    same = False
                    break
        if not same:
            positions[count], keys[count], firsts[count] = chosen, key, i - w + 1
            count += 1
    return count


# --- which postings to look at ---------------------------------------------------------------------------------------


@part
def _period(data: U8, q: int, k: int) -> int:
    """Return the smallest period of at most k // 2 of the k-gram at q, or 0."""
    for period in range(1, k // 2 + 1):
        t = period
        while t < k and data[q + t] == data[q + t - period]:
            t += 1
        if t == k:
            return period
    return 0


@entry(
    BYTES, INT, INT, HASHES, HASHES,
    BYTES, NUMBERS, KEYS, NUMBERS, NUMBERS,
    TABLE, types.Array(types.uint32, 1, "C"),
)  # fmt: skip
def look_up(  # noqa: PLR0913, PLR0917 - a query and the arrays of an index
    data: U8,
    k: int,
    w: int,
    table: U64,
    factors: U64,
    counts: U8,
    bases: I64,
    frequent: U32,
    frequent_starts: I64,
    layout: I64,
    grams: I64,
    keys: U32,
) -> int:
    """Fill keys and the rows of grams: position, first window, period, first posting, how many; return the number."""
    buckets, slots = np.uint64(layout[0]), layout[6]
    number: int = fingerprint(data, k, w, table, factors, grams[0], keys, grams[1])
    for n in range(number):
        grams[2, n] = _period(data, grams[0, n], k)
        bucket = np.int64(np.uint64(keys[n]) * buckets >> np.uint64(_KEY_BITS))
        group = bucket // _GROUP_BUCKETS
        low, count = bases[group], np.int64(counts[bucket])
        for i in range(group * _GROUP_BUCKETS, bucket):
            low += counts[i]
        at = np.searchsorted(frequent, keys[n])
        if at < len(frequent) and frequent[at] == keys[n]:
            low, count = frequent_starts[at], frequent_starts[at + 1] - frequent_starts[at]
        if low < 0 or count < 0 or low + count > slots:
            return DAMAGED
        grams[3, n], grams[4, n] = low, count
    return number


@entry(NUMBERS, INT, INT, NUMBERS, INT, SPANS)
def needed(  # noqa: C901, PLR0912 - a dynamic programme, compiled as a whole
    firsts: I64, windows: int, guarantee: int, costs: I64, min_bytes: int, common: I64
) -> Flags:
    """Return which k-grams must be looked at: see `windows.Windows.needed`."""
    number = len(costs)
    which = np.empty(windows, dtype=np.int64)
    for n in range(number):
        which[firsts[n] : firsts[n + 1] if n + 1 < number else windows] = n
    bounds = np.zeros(number + 2, dtype=np.int64)
    for start in range(windows + guarantee - min_bytes):
        for span in range(len(common)):
            if start >= common[span, 0] and start + min_bytes <= common[span, 1]:
                break
        else:
            last = which[start + min_bytes - guarantee] + 2
            bounds[last] = max(bounds[last], which[start] + 1)
    for one in range(len(common)):
        for other in range(len(common)):
            before, behind = common[other, 0] - 1, common[one, 1] + 1
            if common[one, 0] < common[other, 0] and behind - before >= min_bytes:
                last = which[behind - guarantee] + 2
                bounds[last] = max(bounds[last], which[before] + 1)
    least, earlier_one = np.zeros(number + 2, dtype=np.int64), np.zeros(number + 2, dtype=np.int64)
    for n in range(1, number + 2):
        bounds[n] = max(bounds[n], bounds[n - 1])
        best, best_at = least[n - 1], n - 1
        for earlier in range(n - 2, bounds[n] - 1, -1):
            if not costs[earlier]:
                break
            if least[earlier] < best:
                best, best_at = least[earlier], earlier
        least[n] = best + (costs[n - 1] if n <= number else 0)
        earlier_one[n] = best_at
    kept: Flags = costs == 0
    n = earlier_one[number + 1]
    while n:
        kept[n - 1] = True
        n = earlier_one[n]
    return kept
