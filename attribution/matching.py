"""Normalised bytes + an index -> every maximal run that the two share.

    fingerprints of the query ── binary search in the keys ──▶ candidates (q, d): the same k-gram, perhaps
    candidates whose k-gram repeats itself ── periodic regions ──▶ all alignments of the regions that matter
    candidates on one diagonal d - q ── compare bytes, leftwards and rightwards ──▶ runs (start, length, d)

Every run is confirmed byte by byte within one document. All steps are exhaustive: nothing is sampled or cut off,
however common a k-gram is; only blocks of candidates are treated at a time, so that memory stays bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attribution.errors import QueryError
from attribution.fingerprint import fingerprints
from attribution.format import TEXT_MARGIN_BYTES, padded

if TYPE_CHECKING:
    from attribution.format import Reader

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

MAX_QUERY_BYTES = 1 << 22

_BLOCK_CANDIDATES = 1 << 18
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Runs:
    """Maximal runs: `starts` in the query, `lengths` in bytes, `positions` in the index's text; int64 of shape (n,)."""

    starts: I64
    lengths: I64
    positions: I64

    def where(self, chosen: npt.NDArray[Any]) -> Runs:
        """Return some of the runs."""
        return Runs(self.starts[chosen], self.lengths[chosen], self.positions[chosen])


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Alignments to try: query[q] stands opposite text[d]; int64 of shape (n,)."""

    q: I64
    d: I64

    def where(self, chosen: npt.NDArray[Any]) -> _Pairs:
        return _Pairs(self.q[chosen], self.d[chosen])


def find_runs(query: U8, reader: Reader, min_bytes: int) -> Runs:
    """Return all maximal runs of at least `min_bytes` (not below the guarantee) that the query shares with a document.

    Of two texts that are periodic with a period of at most k // 2 there are as many maximal runs as shifts: enough of
    them are returned to cover all their characters, among them the longest. Raises `QueryError` for a query beyond
    MAX_QUERY_BYTES and `IndexFormatError` where the index is found to be damaged.
    """
    if len(query) > MAX_QUERY_BYTES:
        raise QueryError(f"The text has over {MAX_QUERY_BYTES >> 20} MiB of characters; check it in smaller pieces.")
    prints = fingerprints(query, reader.k, reader.w)
    low = np.searchsorted(reader.keys, prints.keys, side="left")
    counts = np.searchsorted(reader.keys, prints.keys, side="right") - low
    hit = np.flatnonzero(counts)
    if not len(hit):
        return Runs(*np.empty((3, 0), dtype=np.int64))
    if counts.min() < 0:
        raise reader.damaged("keys", "they are not in order")
    q, low, counts = prints.positions[hit], low[hit], counts[hit]
    framed = padded(query)
    blocks = np.cumsum(counts) // _BLOCK_CANDIDATES
    parts = []
    for block in range(int(blocks[-1]) + 1):
        chosen = slice(*np.searchsorted(blocks, [block, block + 1]))
        pairs = _candidates(reader, q[chosen], low[chosen], counts[chosen])
        period = np.repeat(_periods(query, q[chosen], reader.k), counts[chosen])
        parts.append(_runs_of(framed, reader, pairs, period, min_bytes))
    return Runs(*np.unique(np.concatenate(parts, axis=1), axis=1)) if len(parts) > 1 else Runs(*parts[0])


def _candidates(reader: Reader, q: I64, low: I64, counts: I64) -> _Pairs:
    first = np.cumsum(counts) - counts
    index = np.arange(int(counts.sum())) + np.repeat(low - first, counts)
    d = reader.positions[index].astype(np.int64)
    if len(d) and (d.min() < 0 or d.max() > len(reader.text) - reader.k):
        raise reader.damaged("positions", "a position lies outside the text")
    return _Pairs(np.repeat(q, counts), d)


def _runs_of(query: U8, reader: Reader, pairs: _Pairs, period: I64, min_bytes: int) -> I64:
    """Return the runs of some candidates as rows (start, length, position), int64 of shape (3, n).

    Here and below `query` is padded; positions in it are counted from behind the margin.
    """
    periodic = period > 0
    if periodic.any():
        realigned = _realigned(query, reader, pairs.where(periodic), period[periodic], min_bytes)
        pairs = pairs.where(~periodic)
        pairs = _Pairs(np.concatenate([pairs.q, realigned.q]), np.concatenate([pairs.d, realigned.d]))
    runs = _extended(query, reader, pairs.where(_promising(query, reader, pairs)))
    return runs[:, runs[1] >= min_bytes]


def _promising(query: U8, reader: Reader, pairs: _Pairs) -> npt.NDArray[np.bool_]:
    """Return which candidates agree in the eight bytes before or the eight bytes after their k-gram.

    A run of at least k + w - 1 >= k + 15 bytes around the k-gram reaches that far on one side or the other. What lies
    beyond a text's end is a margin, which a run does not reach: there the other side decides.
    """
    same: npt.NDArray[np.bool_] = _words(query, pairs.q + reader.k) == _words(reader.padded_text, pairs.d + reader.k)
    same |= _words(query, pairs.q - 8) == _words(reader.padded_text, pairs.d - 8)
    return same


def _words(padded: U8, positions: I64) -> npt.NDArray[np.uint64]:
    """Return the eight bytes from each position on as one number."""
    shape = (len(padded) - 7,)
    return np.ndarray(shape, dtype=np.uint64, buffer=padded.data, strides=(1,))[positions + TEXT_MARGIN_BYTES]


def _blocks(padded: U8, positions: I64, width: int) -> U8:
    """Return the `width` bytes from each position on, uint8 of shape (len(positions), width)."""
    shape = (len(padded) - width + 1, width)
    return np.ndarray(shape, dtype=np.uint8, buffer=padded.data, strides=(1, 1))[positions + TEXT_MARGIN_BYTES]


def _extended(query: U8, reader: Reader, pairs: _Pairs) -> I64:
    """Return the maximal run around each pair as rows (start, length, position); each run once.

    On each diagonal the first candidate is extended; those inside its run are done, those beyond wait for the next
    round. There are as many rounds as one diagonal has runs.
    """
    bits = len(query).bit_length()  # of any q; d - q + len(query) is positive
    ordered = np.sort((pairs.d - pairs.q + len(query) << bits) | pairs.q)
    q, diagonal = ordered & ((1 << bits) - 1), (ordered >> bits) - len(query)
    found = []
    while len(q):
        first = np.ones(len(q), dtype=np.bool_)
        np.not_equal(diagonal[1:], diagonal[:-1], out=first[1:])
        runs = _extend(query, reader, q[first], q[first] + diagonal[first])
        found.append(runs)
        end = (runs[0] + runs[1])[np.cumsum(first) - 1]
        waiting = ~first & (q >= end)
        q, diagonal = q[waiting], diagonal[waiting]
    return np.concatenate(found, axis=1) if found else np.empty((3, 0), dtype=np.int64)


def _size(padded_bytes: U8) -> int:
    return len(padded_bytes) - 2 * TEXT_MARGIN_BYTES


def _extend(query: U8, reader: Reader, q: I64, d: I64) -> I64:
    document = reader.document_of(d)
    lower, upper = reader.starts[document], reader.starts[document + 1]
    left = _common(query, q - 1, reader.padded_text, d - 1, np.minimum(q, d - lower), -1)
    right = _common(query, q, reader.padded_text, d, np.minimum(_size(query) - q, upper - d), 1)
    return np.stack([q - left, left + right, d - left])


def _common(a: U8, i: I64, b: U8, j: I64, limit: I64, direction: int) -> I64:
    """Return how many t < limit in a row have a[i + direction * t] == b[j + direction * t], for each i, j, limit.

    `a` and `b` are padded: position 0 is behind the margin. Rows of bytes are copied and compared as a whole, which
    takes a quarter of the time of gathering single bytes.
    """
    length = np.zeros(len(i), dtype=np.int64)
    active = np.flatnonzero(limit > 0)
    while len(active):
        width = max(64, min(TEXT_MARGIN_BYTES, (1 << 12) // len(active)))
        back = 0 if direction > 0 else width - 1
        reached = []
        step = _BLOCK_BYTES // width
        for rows in (active[first : first + step] for first in range(0, len(active), step)):
            at = direction * length[rows] - back
            same = _blocks(a, i[rows] + at, width) == _blocks(b, j[rows] + at, width)
            same = same[:, ::direction]
            reached.append(np.where(same.all(axis=1), width, same.argmin(axis=1)))
        matched = np.concatenate(reached)
        room = (limit - length)[active]
        length[active] += np.minimum(matched, room)
        active = active[(matched == width) & (room > width)]
    return length


# --- periodic text ---------------------------------------------------------------------------------------------------


def _periods(query: U8, q: I64, k: int) -> I64:
    """Return the smallest period of at most k // 2 of the k-gram at each q, or 0."""
    grams = query[q[:, None] + np.arange(k)]
    repeats = (grams[:, _shifted(k)] == grams[:, None, :]).all(axis=2)
    return np.where(repeats.any(axis=1), repeats.argmax(axis=1) + 1, 0)


@cache
def _shifted(k: int) -> I64:
    """Return, for each period of at most k // 2 and each byte of a k-gram, the byte a period on; int64 (k // 2, k)."""
    index = np.arange(k)
    shifted = index + np.arange(1, k // 2 + 1)[:, None]
    return np.where(shifted < k, shifted, index)  # what has no counterpart is compared with itself


def _realigned(query: U8, reader: Reader, pairs: _Pairs, period: I64, min_bytes: int) -> _Pairs:
    """Return the alignments of the periodic regions around q and d that a run of `min_bytes` through both can have.

    A run that goes on beyond the start (or end) of one region goes on beyond that of the other: there the regions'
    starts (ends) coincide. Any other run is the overlap of the two regions under a shift that keeps the phase: the
    shifts nearest to coinciding starts and ends, and steps of the document's region along the query's, cover the
    longest such overlaps and every character of them.
    """
    real = _common(query, pairs.q, reader.padded_text, pairs.d, np.full(len(period), reader.k), 1) == reader.k
    pairs, period = pairs.where(real), period[real]
    q, first, which = np.unique(pairs.q, return_index=True, return_inverse=True)
    bounds = np.zeros_like(q), np.full_like(q, _size(query))
    start, end = _region(query, q, period[first], bounds, reader.k)
    ours = start[which], end[which]
    document = reader.document_of(pairs.d)
    bounds = reader.starts[document], reader.starts[document + 1]
    theirs = _region(reader.padded_text, pairs.d, period, bounds, reader.k)
    regions = np.stack([*ours, *theirs, period, (pairs.d - pairs.q) % period])
    # Nearly all lines of dashes in a corpus end here; a text that holds one is checked in 0.9 ms instead of 2.5.
    possible = _goes_on(query, reader, ours, theirs)
    possible |= np.minimum(ours[1] - ours[0], theirs[1] - theirs[0]) >= min_bytes
    return _alignments(np.unique(regions[:, possible], axis=1), reader.k)


def _goes_on(query: U8, reader: Reader, ours: tuple[I64, I64], theirs: tuple[I64, I64]) -> npt.NDArray[np.bool_]:
    """Return whether the bytes before two regions, or those behind them, are the same: a run may go on there."""
    text = reader.padded_text
    same: npt.NDArray[np.bool_] = query[ours[0] + TEXT_MARGIN_BYTES - 1] == text[theirs[0] + TEXT_MARGIN_BYTES - 1]
    same |= query[ours[1] + TEXT_MARGIN_BYTES] == text[theirs[1] + TEXT_MARGIN_BYTES]
    return same


def _region(data: U8, start: I64, period: I64, bounds: tuple[I64, I64], k: int) -> tuple[I64, I64]:
    """Return start and end of the longest stretch around each k-gram that keeps its period."""
    left = _common(data, start - 1, data, start - 1 + period, start - bounds[0], -1)
    right = _common(data, start + k, data, start + k - period, bounds[1] - start - k, 1)
    return start - left, start + k + right


def _alignments(regions: I64, k: int) -> _Pairs:
    ours, our_end, theirs, their_end, period, phase = regions
    at_start, at_end = theirs - ours, their_end - our_end
    below_start = at_start - (at_start - phase) % period
    below_end = at_end - (at_end - phase) % period
    step = (their_end - theirs) // period * period
    steps = np.maximum(0, (at_start - at_end) // step)
    which = np.repeat(np.arange(len(step)), steps)
    number = np.arange(len(which)) - np.repeat(np.cumsum(steps) - steps, steps) + 1
    nearest = [below_start, below_start + period, below_end, below_end + period]
    shift = np.concatenate([*nearest, below_start[which] - number * step[which]])
    which = np.concatenate([*[np.arange(len(step))] * len(nearest), which])
    q = np.maximum(ours[which], theirs[which] - shift)
    overlap = np.minimum(our_end[which], their_end[which] - shift) - q
    return _Pairs(q, q + shift).where(overlap >= k)
