"""Cells of an index's text -> the runs through them, compared by numpy: the part of `matching` that reads text.

    cells ── compare eight bytes at each place, then all that a run must agree in ──▶ candidates (q, d)
    candidates whose k-gram repeats itself ── periodic regions ──▶ all alignments of the regions that can be in a run
    candidates on one diagonal d - q ── compare bytes, leftwards and rightwards ──▶ runs (start, length, d)

Queries are padded here as texts are; positions in both are counted from behind the margin.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attribution.fingerprint import K
from attribution.format import TEXT_MARGIN_BYTES
from attribution.postings import words_of

if TYPE_CHECKING:
    from attribution.format import View

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

_BLOCK_BYTES = 1 << 20
_ONE_BYTES = 256
_FEW = 6  # pairs that are faster looked at one by one
_WORDS_BESIDE = 4
_GRAM = slice(_WORDS_BESIDE, _WORDS_BESIDE + K // 8)


@dataclass(frozen=True, slots=True)
class Text:
    """Indexed text to compare with: the view, and the number of positions in a cell."""

    view: View
    cell: int

    @property
    def padded(self) -> U8:
        """The view's bytes between margins."""
        return self.view.padded

    def bounds_of(self, positions: I64) -> tuple[I64, I64]:
        """Return start and end of the document that each position lies in."""
        which = self.view.document_of(positions)
        return self.view.starts[which], self.view.starts[which + 1]


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells of the text in which the k-gram at query[q] may stand: `whole` says that it is at `start` or nowhere.

    `period` is that of the k-gram, or 0. All of shape (n,).
    """

    q: I64
    start: I64
    whole: npt.NDArray[np.bool_]
    period: I64

    def where(self, chosen: npt.NDArray[Any]) -> Cells:
        """Return some of the cells."""
        return Cells(self.q[chosen], self.start[chosen], self.whole[chosen], self.period[chosen])


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Alignments to try: query[q] stands opposite text[d]; int64 of shape (n,)."""

    q: I64
    d: I64

    def where(self, chosen: npt.NDArray[Any]) -> _Pairs:
        return _Pairs(self.q[chosen], self.d[chosen])


def reaching_out(query: U8, text: Text, cells: Cells, common: I64) -> npt.NDArray[np.bool_]:
    """Return through which cells a run may go that lies in none of the common spans."""
    reaching = np.ones(len(cells.q), dtype=np.bool_)
    for start, end in common.tolist():
        inside = cells.whole & (cells.period == 0) & (cells.q >= start) & (cells.q + K <= end)
        reaching &= ~inside | _goes_beside(query, text, cells.start - cells.q, (start, end))
    return reaching


def _goes_beside(query: U8, text: Text, shift: I64, span: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return whether text[i + shift] is query[i] for the byte before or the byte behind a span of the query.

    A run that holds a byte of the span, but does not lie in it, has one of them.
    """
    beside = np.zeros(len(shift), dtype=np.bool_)
    for at in (span[0] - 1, span[1]):
        if 0 <= at < _size(query):
            beside |= text.padded.take(shift + (at + TEXT_MARGIN_BYTES), mode="clip") == query[at + TEXT_MARGIN_BYTES]
    return beside


def runs_of(query: U8, text: Text, cells: Cells, min_bytes: int, common: I64) -> I64:
    """Return the runs of some candidates as rows (start, length, position), int64 of shape (3, n).

    Those inside a common span may be left out. Here and below `query` is padded; positions in it are counted from
    behind the margin.
    """
    row, pairs = _candidates(query, text, cells)
    same = _around(query, pairs.q) == _around(text.padded, pairs.d)
    gram = _all(same, _GRAM.start, _GRAM.stop) & (pairs.d <= _size(text.padded) - K)
    period = cells.period[row]
    periodic = period > 0
    plain = pairs.where(gram & ~periodic & _promising(same, min_bytes))
    if periodic.any():
        chosen = np.flatnonzero(gram & periodic)
        # Of a line of dashes all places of a cell are met: the first and the last stand for those between, and the
        # first may lie across the end of a document, of which the last holds no more than its start.
        edge = np.diff(row[chosen], prepend=-1) != 0
        first, last = chosen[edge], chosen[np.append(edge[1:], [True] * (len(edge) > 0))]
        pairs = _realigned(query, text, pairs.where(first), pairs.d[last], period[first], min_bytes, common)
        plain = _Pairs(np.concatenate([plain.q, pairs.q]), np.concatenate([plain.d, pairs.d]))
    runs = _extended(query, text, plain)
    return runs[:, runs[1] >= min_bytes]


def _candidates(query: U8, text: Text, cells: Cells) -> tuple[I64, _Pairs]:
    """Return the places in the cells where the first half of a k-gram of the query stands: in which cell, the pairs.

    Of cells that are one place, that is left to be looked at.
    """
    wide = np.flatnonzero(~cells.whole)
    places = cells.start[wide][:, None] + np.arange(text.cell)
    row, column = np.nonzero(words_at(text.padded, places) == words_at(query, cells.q[wide])[:, None])
    whole = np.flatnonzero(cells.whole)
    which = np.concatenate([wide[row], whole])
    return which, _Pairs(cells.q[which], np.concatenate([places[row, column], cells.start[whole]]))


def _promising(same: npt.NDArray[np.bool_], min_bytes: int) -> npt.NDArray[np.bool_]:
    """Return which candidates agree in as many bytes before or after their k-gram as a run of `min_bytes` must.

    Such a run reaches beyond the k-gram by half of what it is longer, on one side or the other: by 16 bytes if it has
    50, by 32 if it has 80. What lies beyond a text's end is a margin, which a run does not reach: there the other side
    decides. `same` says which words `_around` a k-gram are equal.
    """
    words = min((min_bytes - K + 1) // 2 // 8, _WORDS_BESIDE)
    return _all(same, _GRAM.start - words, _GRAM.start) | _all(same, _GRAM.stop, _GRAM.stop + words)


def _all(same: npt.NDArray[np.bool_], first: int, last: int) -> npt.NDArray[np.bool_]:
    """Return whether columns first .. last - 1 all hold; a reduction of so short rows takes five times as long."""
    held = same[:, first].copy()
    for column in range(first + 1, last):
        held &= same[:, column]
    return held


def words_at(padded: U8, positions: I64) -> npt.NDArray[np.uint64]:
    """Return the eight bytes from each position on as one number."""
    return words_of(padded)[positions + TEXT_MARGIN_BYTES]


def _around(padded: U8, positions: I64) -> npt.NDArray[np.uint64]:
    """Return the k-gram at each position with what stands beside it, eight bytes as one number; of shape (n, 10)."""
    count = 2 * _WORDS_BESIDE + K // 8
    shape = (len(padded) - 8 * count + 1, count)
    words: npt.NDArray[np.uint64] = np.ndarray(shape, dtype=np.uint64, buffer=padded.data, strides=(1, 8))
    return words[positions + (TEXT_MARGIN_BYTES - 8 * _WORDS_BESIDE)]


def _blocks(padded: U8, positions: I64, width: int) -> U8:
    """Return the `width` bytes from each position on, uint8 of shape (len(positions), width)."""
    shape = (len(padded) - width + 1, width)
    return np.ndarray(shape, dtype=np.uint8, buffer=padded.data, strides=(1, 1))[positions + TEXT_MARGIN_BYTES]


def _extended(query: U8, text: Text, pairs: _Pairs) -> I64:
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
        runs = _extend(query, text, q[first], q[first] + diagonal[first])
        found.append(runs)
        end = (runs[0] + runs[1])[np.cumsum(first) - 1]
        waiting = ~first & (q >= end)
        q, diagonal = q[waiting], diagonal[waiting]
    return np.concatenate(found, axis=1) if found else np.empty((3, 0), dtype=np.int64)


def _size(padded_bytes: U8) -> int:
    return len(padded_bytes) - 2 * TEXT_MARGIN_BYTES


def _extend(query: U8, text: Text, q: I64, d: I64) -> I64:
    lower, upper = text.bounds_of(d)
    left = _common(query, q - 1, text.padded, d - 1, np.minimum(q, d - lower), -1)
    right = _common(query, q, text.padded, d, np.minimum(_size(query) - q, upper - d), 1)
    return np.stack([q - left, left + right, d - left])


def _common_one(a: U8, i: int, b: U8, j: int, limit: int, direction: int) -> int:
    """Return what `_common` does, for one pair in a fifth of the time: most questions have no more."""
    i, j = i + TEXT_MARGIN_BYTES, j + TEXT_MARGIN_BYTES
    length, width = 0, _ONE_BYTES
    while length < limit:
        width = min(width, limit - length)
        if direction > 0:
            same = a[i + length : i + length + width] == b[j + length : j + length + width]
        else:
            ends = i - length + 1, j - length + 1
            same = (a[ends[0] - width : ends[0]] == b[ends[1] - width : ends[1]])[::-1]
        reached = int(same.argmin())
        if not same[reached]:
            return length + reached
        length, width = length + width, width * 8
    return length


def _common(a: U8, i: I64, b: U8, j: I64, limit: I64, direction: int) -> I64:
    """Return how many t < limit in a row have a[i + direction * t] == b[j + direction * t], for each i, j, limit.

    `a` and `b` are padded: position 0 is behind the margin. Rows of bytes are copied and compared as a whole, which
    takes a quarter of the time of gathering single bytes.
    """
    if len(i) <= _FEW:
        pairs = zip(i.tolist(), j.tolist(), limit.tolist(), strict=True)
        return np.array([_common_one(a, p, b, q, bound, direction) for p, q, bound in pairs], dtype=np.int64)
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


def periods_of(framed: U8, query: U8, q: I64, k: int) -> I64:
    """Return the smallest period of at most k // 2 of the k-gram at each q, or 0."""
    # Such a gram holds its first eight bytes once more. Hardly any does, and this costs a third of the look at all.
    if not (words_at(framed, q[:, None] + np.arange(1, k // 2 + 1)) == words_at(framed, q)[:, None]).any():
        return np.zeros(len(q), dtype=np.int64)
    grams = query[q[:, None] + np.arange(k)]
    repeats = (grams[:, _shifted(k)] == grams[:, None, :]).all(axis=2)
    return np.where(repeats.any(axis=1), repeats.argmax(axis=1) + 1, 0)


@cache
def _shifted(k: int) -> I64:
    """Return, for each period of at most k // 2 and each byte of a k-gram, the byte a period on; int64 (k // 2, k)."""
    index = np.arange(k)
    shifted = index + np.arange(1, k // 2 + 1)[:, None]
    return np.where(shifted < k, shifted, index)  # what has no counterpart is compared with itself


def _realigned(  # noqa: PLR0913, PLR0917 - two regions, and what is asked of them
    query: U8, text: Text, pairs: _Pairs, last: I64, period: I64, min_bytes: int, common: I64
) -> _Pairs:
    """Return the alignments of the periodic regions around q and d that a run of `min_bytes` through both can have.

    `last` is a place behind d in the same region, maybe in the next document.

    A run that goes on beyond the start (or end) of one region goes on beyond that of the other: there the regions'
    starts (ends) coincide. Any other run is the overlap of the two regions under a shift that keeps the phase: the
    shifts nearest to coinciding starts and ends, and steps of the document's region along the query's, cover the
    longest such overlaps and every character of them. A region that goes on from one document to the next is first
    taken as one, which finds it where one of its parts is to be found, and then cut.

    Where the query's region lies in a common span, such an overlap does as well, and any other run is in it unless it
    has a byte beside the span where the regions' starts or ends coincide.
    """
    q, first, which = np.unique(pairs.q, return_index=True, return_inverse=True)
    start, end = _region(query, q, period[first], K)
    ours, theirs = (start[which], end[which]), _region(text.padded, pairs.d, period, K)
    # Nearly all lines of dashes in a corpus end here; a text that holds one is checked in 0.9 ms instead of 2.5.
    before, behind = _same_beside(query, text, ours, theirs)
    possible = before | behind
    possible |= np.minimum(ours[1] - ours[0], theirs[1] - theirs[0]) >= min_bytes
    chosen = np.tile(np.flatnonzero(possible), 2)
    d = np.concatenate([pairs.d[possible], last[possible]])
    bounds = text.bounds_of(d)
    inside = d + K <= bounds[1]  # not so where a cell reaches into the next document
    chosen, d, bounds = chosen[inside], d[inside], (bounds[0][inside], bounds[1][inside])
    ours = ours[0][chosen], ours[1][chosen]
    theirs = np.maximum(theirs[0][chosen], bounds[0]), np.minimum(theirs[1][chosen], bounds[1])
    regions = np.stack([*ours, *theirs, period[chosen], (d - pairs.q[chosen]) % period[chosen]])
    apart = np.ones(len(chosen), dtype=np.bool_)
    for span in common.tolist():
        beside = _goes_beside(query, text, theirs[0] - ours[0], span) | _goes_beside(
            query, text, theirs[1] - ours[1], span
        )
        apart &= beside | (ours[0] < span[0]) | (ours[1] > span[1])
    return _alignments(query, text, np.unique(regions[:, apart], axis=1), min_bytes)


def _same_beside(
    query: U8, text: Text, ours: tuple[I64, I64], theirs: tuple[I64, I64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return whether the bytes before two regions are the same, and those behind them: a run may go on there."""
    before = query[ours[0] + TEXT_MARGIN_BYTES - 1] == text.padded[theirs[0] + TEXT_MARGIN_BYTES - 1]
    behind = query[ours[1] + TEXT_MARGIN_BYTES] == text.padded[theirs[1] + TEXT_MARGIN_BYTES]
    return before, behind


def _region(data: U8, start: I64, period: I64, k: int) -> tuple[I64, I64]:
    """Return start and end of the longest stretch around each k-gram that keeps its period, whatever it is part of."""
    end = start + k
    left = _common(data, start - 1, data, start - 1 + period, start, -1)
    right = _common(data, end, data, end - period, _size(data) - end, 1)
    return start - left, end + right


def _alignments(query: U8, text: Text, regions: I64, min_bytes: int) -> _Pairs:
    """Return starts of overlaps of regions, rows (ours, end, theirs, end, period, phase), that may be in a long run.

    That an overlap is itself, or it begins or ends where both regions do, and the byte beside is the same as well.
    """
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
    low = np.maximum(ours[which], theirs[which] - shift)
    high = np.minimum(our_end[which], their_end[which] - shift)
    before, behind = _same_beside(query, text, (low, high), (low + shift, high + shift))
    goes_on = (before & (shift == at_start[which])) | (behind & (shift == at_end[which]))
    return _Pairs(low, low + shift).where(high - low >= np.where(goes_on, K, min_bytes))
