"""What `normalise` and `fingerprint` do with a document, one pass each, compiled by numba (extra `fast`): for builds.

    UTF-8 ──▶ normalised bytes and line table        normalised bytes ──▶ rolling hash, minimum, thinning ──▶ prints

The results are bit for bit those of the numpy code, which is the definition, and serves where numba is not installed.
Questions are always answered by numpy: for 400 characters it is as fast, and loading numba takes half a second. What is
compiled is cached on disk. A document is still in the processor's cache when the second pass begins.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attribution import normalise
from attribution.fingerprint import Fingerprints, fingerprints, rolling

if TYPE_CHECKING:
    from collections.abc import Callable

U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

_TWO_BYTES, _THREE_BYTES, _FOUR_BYTES = 0xC0, 0xE0, 0xF0  # the first byte of a character that has as many
_FEED, _RETURN = ord("\n"), ord("\r")
_WINDOW_MASK = 127
"""The last 128 hashes are kept: no window is longer."""


def normalised(raw: bytes) -> tuple[U8, U32]:
    """Return the normalised bytes of UTF-8, and how many of them stand before each of its lines."""
    compiled = _compiled()
    if compiled is None:
        text = raw.decode("utf-8", "surrogatepass")
        plain = normalise.text(text)
        return plain.data, np.searchsorted(plain.offsets, normalise.line_starts(text)).astype(np.uint32)
    source = np.frombuffer(raw, dtype=np.uint8)
    data, lines = np.empty(len(raw), dtype=np.uint8), np.empty(len(raw) + 1, dtype=np.uint32)
    size, count = compiled[0](source, *normalise.tables(), data, lines)
    return data[:size].copy(), lines[:count].copy()


def prints(data: U8, k: int, w: int) -> Fingerprints:
    """Return what `fingerprint.fingerprints` returns."""
    compiled = _compiled()
    if compiled is None or len(data) < k + w - 1:
        return fingerprints(data, k, w)
    positions, keys = np.empty(len(data), dtype=np.int64), np.empty(len(data), dtype=np.uint32)
    number = compiled[1](data, k, w, *rolling(k), positions, keys)
    return Fingerprints(positions[:number].copy(), keys[:number].copy())


@cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """Return `_normalise` and `_fingerprint`, compiled; None where numba is not installed."""
    try:
        from numba import njit  # noqa: PLC0415 - see the module
    except ImportError:
        return None
    compiler = njit(cache=True, nogil=True)
    return compiler(_normalise), compiler(_fingerprint)


def _normalise(raw: U8, kept: npt.NDArray[np.bool_], folded: U8, data: U8, lines: U32) -> tuple[int, int]:
    """Fill data and lines, and return how much of them."""
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


def _fingerprint(  # noqa: C901, PLR0913, PLR0917 - one loop of plain arithmetic, compiled as a whole
    data: U8, k: int, w: int, table: U64, factors: U64, positions: I64, keys: U32
) -> int:
    """Fill positions and keys, and return how many there are: see `fingerprint`."""
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
            positions[count], keys[count] = chosen, key
            count += 1
    return count
