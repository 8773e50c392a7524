"""Normalised bytes + an index -> every maximal run that the two share.

    fingerprints of the query ── binary search in the keys ──▶ candidates (q, d): the same k-gram, perhaps
    candidates whose k-gram repeats itself ── periodic regions ──▶ all alignments of the regions that matter
    candidates on one diagonal d - q ── compare bytes, leftwards and rightwards ──▶ runs (start, length, d)

Every run is confirmed byte by byte within one document. All steps are exhaustive: nothing is sampled or cut off,
however common a k-gram is; only blocks of candidates are treated at a time, so that memory stays bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attribution.errors import QueryError
from attribution.fingerprint import fingerprints

if TYPE_CHECKING:
    from attribution.format import Reader

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

MAX_QUERY_BYTES = 1 << 22

_BLOCK_CANDIDATES = 1 << 18
_ROWS = 1 << 13
_WORD = 8


@dataclass(frozen=True, slots=True)
class Runs:
    """Maximal runs: `starts` in the query, `lengths` in bytes, `positions` in the index's text; int64 of shape (n,)."""

    starts: I64
    lengths: I64
    positions: I64


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
    periods = _periods(query, q, reader.k)
    blocks = np.cumsum(counts) // _BLOCK_CANDIDATES
    parts = []
    for block in range(int(blocks[-1]) + 1):
        chosen = slice(*np.searchsorted(blocks, [block, block + 1]))
        pairs = _candidates(reader, q[chosen], low[chosen], counts[chosen])
        period = np.repeat(periods[chosen], counts[chosen])
        parts.append(_runs_of(query, reader, pairs, period, min_bytes))
    return Runs(*np.unique(np.concatenate(parts, axis=1), axis=1)) if len(parts) > 1 else Runs(*parts[0])


def _candidates(reader: Reader, q: I64, low: I64, counts: I64) -> _Pairs:
    first = np.cumsum(counts) - counts
    index = np.arange(int(counts.sum())) + np.repeat(low - first, counts)
    d = reader.positions[index].astype(np.int64)
    if len(d) and (d.min() < 0 or d.max() > len(reader.text) - reader.k):
        raise reader.damaged("positions", "a position lies outside the text")
    return _Pairs(np.repeat(q, counts), d)


def _runs_of(query: U8, reader: Reader, pairs: _Pairs, period: I64, min_bytes: int) -> I64:
    """Return the runs of some candidates as rows (start, length, position), int64 of shape (3, n)."""
    periodic = period > 0
    if periodic.any():
        realigned = _realigned(query, reader, pairs.where(periodic), period[periodic])
        pairs = pairs.where(~periodic)
        pairs = _Pairs(np.concatenate([pairs.q, realigned.q]), np.concatenate([pairs.d, realigned.d]))
    runs = _extended(query, reader, pairs.where(_promising(query, reader, pairs)))
    return runs[:, runs[1] >= min_bytes]


def _promising(query: U8, reader: Reader, pairs: _Pairs) -> npt.NDArray[np.bool_]:
    """Return which candidates agree in the word before or the word after their k-gram.

    A run of at least k + w - 1 >= k + 15 bytes around the k-gram reaches 8 bytes beyond it on one side or the other.
    Words that would leave the text are read elsewhere: there the run cannot reach them, and the other side decides.
    """
    padded = np.zeros(len(query) + 2 * _WORD, dtype=np.uint8)
    padded[_WORD : len(query) + _WORD] = query
    ours, theirs = _words(padded), _words(reader.text)
    after = np.minimum(pairs.d + reader.k, len(theirs) - 1)
    before = np.maximum(pairs.d - _WORD, 0)
    same: npt.NDArray[np.bool_] = ours[pairs.q + _WORD + reader.k] == theirs[after]
    same |= ours[pairs.q] == theirs[before]
    return same


def _words(data: U8) -> npt.NDArray[np.uint64]:
    """Return the eight bytes from each position on as one number, without a copy."""
    return np.ndarray(shape=(len(data) - _WORD + 1,), dtype=np.uint64, buffer=data.data, strides=(1,))


def _extended(query: U8, reader: Reader, pairs: _Pairs) -> I64:
    """Return the maximal run around each pair as rows (start, length, position); each run once.

    On each diagonal the first candidate is extended; those inside its run are done, those beyond wait for the next
    round. There are as many rounds as one diagonal has runs.
    """
    bits = len(query).bit_length()
    ordered = np.unique((pairs.d - pairs.q + len(query) << bits) | pairs.q)
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


def _extend(query: U8, reader: Reader, q: I64, d: I64) -> I64:
    document = reader.document_of(d)
    lower, upper = reader.starts[document], reader.starts[document + 1]
    left = _common(query, q - 1, reader.text, d - 1, np.minimum(q, d - lower), -1)
    right = _common(query, q, reader.text, d, np.minimum(len(query) - q, upper - d), 1)
    return np.stack([q - left, left + right, d - left])


def _common(a: U8, i: I64, b: U8, j: I64, limit: I64, direction: int) -> I64:
    """Return how many t < limit in a row have a[i + direction * t] == b[j + direction * t], for each i, j, limit."""
    length = np.zeros(len(i), dtype=np.int64)
    for row in range(0, len(i), _ROWS):
        active = row + np.flatnonzero(limit[row : row + _ROWS] > 0)
        width = 64
        while len(active):
            t = length[active, None] + np.arange(width)
            inside = t < limit[active, None]
            t *= inside * direction  # what lies outside is read at t = 0
            same = (a[i[active, None] + t] == b[j[active, None] + t]) & inside
            matched = np.where(same.all(axis=1), width, same.argmin(axis=1))
            length[active] += matched
            active = active[matched == width]
            width = max(64, min(2 * width, (1 << 20) // max(1, len(active))))
    return length


# --- periodic text ---------------------------------------------------------------------------------------------------


def _periods(query: U8, q: I64, k: int) -> I64:
    """Return the smallest period of at most k // 2 of the k-gram at each q, or 0."""
    grams = query[q[:, None] + np.arange(k)]
    period = np.arange(1, k // 2 + 1)[:, None]
    shifted = np.arange(k) + period
    shifted = np.where(shifted < k, shifted, np.arange(k))  # what has no counterpart is compared with itself
    repeats = (grams[:, shifted] == grams[:, None, :]).all(axis=2)
    return np.where(repeats.any(axis=1), repeats.argmax(axis=1) + 1, 0)


def _realigned(query: U8, reader: Reader, pairs: _Pairs, period: I64) -> _Pairs:
    """Return the alignments of the periodic regions around q and d that any run through both can have.

    A run that goes on beyond the start (or end) of one region goes on beyond that of the other: there the regions'
    starts (ends) coincide. Any other run is the overlap of the two regions under a shift that keeps the phase: the
    shifts nearest to coinciding starts and ends, and steps of the document's region along the query's, cover the
    longest such overlaps and every character of them.
    """
    real = _common(query, pairs.q, reader.text, pairs.d, np.full(len(period), reader.k), 1) == reader.k
    pairs, period = pairs.where(real), period[real]
    ours = _region(query, pairs.q, period, (np.zeros_like(pairs.q), np.full_like(pairs.q, len(query))), reader.k)
    document = reader.document_of(pairs.d)
    bounds = reader.starts[document], reader.starts[document + 1]
    theirs = _region(reader.text, pairs.d, period, bounds, reader.k)
    regions = np.stack([*ours, *theirs, period, (pairs.d - pairs.q) % period])
    return _alignments(np.unique(regions, axis=1), reader.k)


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
