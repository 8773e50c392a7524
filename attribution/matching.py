"""Normalised bytes + an index -> every maximal run that the two share.

    fingerprints of the query ── buckets of postings ──▶ cells, in each of which the same k-gram may start
    cells ── compare eight bytes at each place, then all that a run must agree in ──▶ candidates (q, d)
    candidates whose k-gram repeats itself ── periodic regions ──▶ all alignments of the regions that matter
    candidates on one diagonal d - q ── compare bytes, leftwards and rightwards ──▶ runs (start, length, d)

Every run is confirmed byte by byte within one document. All steps are exhaustive: nothing is cut off, however common a
k-gram is; only blocks of candidates are treated at a time, so that memory stays bounded. One thing is not counted to
its end, for who asks for the spans only: in how many documents a common run stands.

    a run is known in more documents than make it common ── no run inside it can be a span that is not known
    another run holds the byte before it, or that behind it ── only the k-grams that such runs need, and of their
                                                               places those where that byte stands, are looked at
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attribution import kernels
from attribution.errors import QueryError
from attribution.fingerprint import MAX_PIECE_BYTES, K, fingerprints, rolling
from attribution.format import TEXT_MARGIN_BYTES, View, padded
from attribution.postings import words_of
from attribution.windows import NO_SPANS, Windows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attribution.format import Reader

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

MAX_QUERY_BYTES = 1 << 22

COMMON_DOCUMENTS = 50
COMMON_SOURCES = 20
"""Text that stands in more documents, or in those of more sources, is common."""

_BLOCK_CANDIDATES = 1 << 16
_BLOCK_BYTES = 1 << 20
_MANY_CANDIDATES = 500
_MANY_PLACES = 256
_SAMPLED_PLACES = 64
_MARKED_PLACES = 1024
_ONE_BYTES = 256
_FEW = 6  # pairs that are faster looked at one by one
_WORDS_BESIDE = 4
_GRAM = slice(_WORDS_BESIDE, _WORDS_BESIDE + K // 8)


@dataclass(frozen=True, slots=True)
class Runs:
    """Maximal runs: `starts` in the query, `lengths` in bytes, `positions` in the index's text; int64 of shape (n,)."""

    starts: I64
    lengths: I64
    positions: I64

    @property
    def columns(self) -> tuple[I64, I64, I64]:
        """The three arrays."""
        return self.starts, self.lengths, self.positions

    def where(self, chosen: npt.NDArray[Any]) -> Runs:
        """Return some of the runs."""
        return Runs(self.starts[chosen], self.lengths[chosen], self.positions[chosen])


_NO_MARKS = np.empty(0, dtype=np.uint16)
_NO_RUNS = Runs(*np.empty((3, 0), dtype=np.int64))


@dataclass(frozen=True, slots=True)
class _Text:
    """Indexed text to compare with: the view, and the number of positions in a cell."""

    view: View
    cell: int

    @property
    def padded(self) -> U8:
        return self.view.padded

    def bounds_of(self, positions: I64) -> tuple[I64, I64]:
        """Return start and end of the document that each position lies in."""
        which = self.view.document_of(positions)
        return self.view.starts[which], self.view.starts[which + 1]


@dataclass(frozen=True, slots=True)
class _Cells:
    """Cells of the text in which the k-gram at query[q] may stand: `whole` says that it is at `start` or nowhere.

    `period` is that of the k-gram, or 0. All of shape (n,).
    """

    q: I64
    start: I64
    whole: npt.NDArray[np.bool_]
    period: I64

    def where(self, chosen: npt.NDArray[Any]) -> _Cells:
        return _Cells(self.q[chosen], self.start[chosen], self.whole[chosen], self.period[chosen])


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Alignments to try: query[q] stands opposite text[d]; int64 of shape (n,)."""

    q: I64
    d: I64

    def where(self, chosen: npt.NDArray[Any]) -> _Pairs:
        return _Pairs(self.q[chosen], self.d[chosen])


@dataclass(frozen=True, slots=True)
class _Grams:
    """The k-grams to look up: where in the query, by which key and period (or 0), the first posting and how many.

    `taken` of these are looked at, spread evenly; `phase` is which of each stretch of them.
    """

    q: I64
    keys: npt.NDArray[np.uint32]
    period: I64
    low: I64
    counts: I64
    taken: I64
    phase: I64

    def where(self, chosen: npt.NDArray[Any] | slice) -> _Grams:
        every = self.q, self.keys, self.period, self.low, self.counts, self.taken, self.phase
        return _Grams(*(each[chosen] for each in every))  # type: ignore[arg-type]

    def sampled(self, places: int) -> _Grams:
        """Return the k-grams, of which those with over _MANY_PLACES are looked at in so many only."""
        taken = np.where(self.counts > _MANY_PLACES, np.minimum(self.counts, places), self.counts)
        # So that each k-gram shows other documents.
        phase = np.arange(len(taken)) * self.counts // max(1, len(taken))
        return replace(self, taken=taken, phase=phase)


def find_runs(query: U8, reader: Reader, min_bytes: int, *, spans_only: bool = False) -> Runs:
    """Return all maximal runs of at least `min_bytes` (not below the guarantee) that the query shares with a document.

    A document of a source that is forgotten does not count: also a run inside one of its runs is maximal. Of two texts
    that are periodic with a period of at most k // 2 there are as many maximal runs as shifts: enough of them are
    returned to cover all their characters, among them the longest.

    `spans_only`: of runs that are the same span of the query, and of those inside it, some may be left out once it is
    found in over COMMON_DOCUMENTS documents or COMMON_SOURCES sources. Which spans lie in no other stays the same.

    Raises `QueryError` for a query beyond MAX_QUERY_BYTES and `IndexFormatError` where the index is found damaged.
    """
    if len(query) > MAX_QUERY_BYTES:
        raise QueryError(f"The text has over {MAX_QUERY_BYTES >> 20} MiB of characters; check it in smaller pieces.")
    lookup = _Lookup(query, padded(query), reader, min_bytes, reader.forgotten)
    grams, windows = lookup.grams()
    if not len(grams.q):
        return _NO_RUNS
    counts = grams.counts
    if counts.sum() <= _MANY_CANDIDATES or len(query) > MAX_PIECE_BYTES:
        return lookup.runs(grams)
    windows = windows or Windows.of(query, reader.w, grams.q)
    needed = windows.needed(counts, min_bytes)
    many = counts > _MANY_PLACES
    if not spans_only or not many[needed].any():
        return lookup.runs(grams.where(needed))
    first = lookup.runs(grams.where(needed).sampled(_SAMPLED_PLACES))
    common = lookup.common(first)
    if (common == [0, len(query)]).all(axis=1).any():
        return first
    seen = needed & ~many
    needed = windows.needed(np.where(seen, 0, counts), min_bytes, common)
    return _united([first, lookup.runs(grams.where(needed & ~seen & (counts > 0)), common)])


def _united(parts: list[Runs]) -> Runs:
    """Return the runs of all parts, each once."""
    parts = [part for part in parts if len(part.starts)]
    if len(parts) <= 1:
        return parts[0] if parts else _NO_RUNS
    every = Runs(*(np.concatenate(each) for each in zip(*(part.columns for part in parts), strict=True)))
    bits = MAX_QUERY_BYTES.bit_length()
    return every.where(np.unique(every.positions << bits | every.starts, return_index=True)[1])


@dataclass(frozen=True, slots=True)
class _Lookup:
    """What stays the same while the k-grams of a query are looked up in an index."""

    query: U8
    framed: U8
    reader: Reader
    min_bytes: int
    forgotten: npt.NDArray[np.bool_] | None

    def grams(self) -> tuple[_Grams, Windows | None]:
        """Return all k-grams that were chosen of the query, and the windows that chose them, if that costs nothing."""
        if (compiled := kernels.ready()) is not None:
            return self._looked_up(compiled)
        prints = fingerprints(self.query, K, self.reader.w)
        low, counts = self.reader.postings.ranges(prints.keys)
        if len(counts) and (min(low.min(), counts.min()) < 0 or (low + counts).max() > self.reader.postings.slots):
            raise self.reader.damaged("verbatim-bases", "a posting lies outside its file")
        period = _periods(self.framed, self.query, prints.positions, K)
        return _Grams(prints.positions, prints.keys, period, low, counts, counts, low), None

    def _looked_up(self, compiled: Any) -> tuple[_Grams, Windows]:  # noqa: ANN401 - a module
        """Return what `grams` does, in one step."""
        w, arrays = self.reader.w, self.reader.postings.arrays
        windows = max(0, len(self.query) - K - w + 2)
        table, keys = np.empty((5, windows), dtype=np.int64), np.empty(windows, dtype=np.uint32)
        number = 0
        if windows:
            number = compiled.look_up(self.query, K, w, *rolling(K), *arrays.look_up, arrays.layout, table, keys)
        if number == compiled.DAMAGED:
            raise self.reader.damaged("verbatim-bases", "a posting lies outside its file")
        q, firsts, period, low, counts = table[:, :number]
        grams = _Grams(q, keys[:number], period, low, counts, counts, low)
        return grams, Windows(firsts, windows, K + w - 1)

    def runs(self, grams: _Grams, common: I64 = NO_SPANS) -> Runs:
        """Return the runs through some k-grams, in documents that are not forgotten.

        Runs inside a `common` span may be left out.
        """
        blocks = np.cumsum(grams.taken) // _BLOCK_CANDIDATES
        parts: list[Runs] = []
        for block in range(int(blocks[-1]) + 1 if len(blocks) else 0):
            chosen = grams.where(slice(*np.searchsorted(blocks, [block, block + 1])))
            if (compiled := kernels.ready()) is not None and self.reader.whole is not None:
                parts.append(self._aligned(compiled, self.reader.whole, chosen, common))
            else:
                parts += self._compared(chosen, common)
        found = _united(parts)
        if self.forgotten is None or not len(found.starts):
            return found
        return found.where(~self.forgotten[self.reader.source_of(self.reader.document_of(found.positions))])

    def _aligned(self, compiled: Any, view: View, grams: _Grams, common: I64) -> Runs:  # noqa: ANN401 - a module
        """Return the runs through some k-grams in an index that keeps its text."""
        words, arrays, min_bytes = words_of(self.framed), self.reader.postings.arrays, self.min_bytes
        text = view.padded, view.words, view.starts
        places = grams.q, grams.period, grams.low, grams.counts, grams.taken, grams.phase
        pairs, number, _ = compiled.alignments(
            self.framed, words, *text, *arrays.places, arrays.layout, grams.keys, *places, *self._marks(compiled, view, grams), common, min_bytes, K, TEXT_MARGIN_BYTES
        )
        if number == compiled.DAMAGED:
            raise self.reader.damaged("verbatim-positions", "a position lies outside the text")
        pairs = pairs[:number]
        pairs.sort()
        return Runs(*compiled.extended(words, len(self.query), *text[1:], pairs, min_bytes, TEXT_MARGIN_BYTES))

    def _marks(self, compiled: Any, view: View, grams: _Grams) -> tuple[I64, npt.NDArray[np.uint16]]:  # noqa: ANN401
        """Return where the marks of each k-gram start, -1 where it has none, and the marks."""
        at, marks, count = np.full(len(grams.q), -1), [_NO_MARKS], 0
        frequent = (grams.counts > _MARKED_PLACES) & (grams.taken == grams.counts) & (grams.period == 0)
        for n in np.flatnonzero(frequent).tolist():
            key, low, places = int(grams.keys[n]), int(grams.low[n]), int(grams.counts[n])
            if (held := self.reader.marks.get(key)) is None:
                arrays = self.reader.postings.arrays
                limit = max(1, int(view.starts[-1]))
                held = compiled.marks_of(view.words, arrays.places[1], arrays.layout, low, places, limit, K, TEXT_MARGIN_BYTES)
                if not len(held):
                    raise self.reader.damaged("verbatim-positions", "a position lies outside the text")
                self.reader.marks.put(key, held)
            at[n] = count
            marks.append(held)
            count += places
        return at, np.concatenate(marks) if count else _NO_MARKS

    def _compared(self, grams: _Grams, common: I64) -> Iterator[Runs]:
        """Yield the runs through some k-grams, in one text after the other."""
        which, cells, whole = _cells(self.reader, grams)
        for view, held, places in self.reader.views(cells):
            text = _Text(view, 1 << self.reader.postings.layout.cell_bits)
            at = which[held]
            found = _Cells(grams.q[at], places, whole[held], grams.period[at])
            if len(common):
                found = found.where(_reaching_out(self.framed, text, found, common))
            runs = _runs_of(self.framed, text, found, self.min_bytes, common)
            runs[2] = view.placed(runs[2])
            yield Runs(*runs)

    def common(self, runs: Runs) -> I64:
        """Return the spans of the query that are common by these runs alone and lie in no other, as (start, end)."""
        bits = MAX_QUERY_BYTES.bit_length()
        every = runs.starts << bits | runs.lengths
        spans, counts = np.unique(every, return_counts=True)
        held = []
        for span in spans[counts > min(COMMON_DOCUMENTS, COMMON_SOURCES)].tolist():
            documents = np.unique(self.reader.document_of(runs.positions[every == span]))
            sources = len(np.unique(self.reader.source_of(documents)))
            if len(documents) > COMMON_DOCUMENTS or sources > COMMON_SOURCES:
                start, length = divmod(span, 1 << bits)
                held.append((start, start + length))
        if not held:
            return NO_SPANS
        found: I64 = np.array(held, dtype=np.int64).reshape(-1, 2)
        inside = (found[:, None, 0] >= found[:, 0]) & (found[:, None, 1] <= found[:, 1])
        outermost: I64 = found[inside.sum(axis=1) == 1]
        return outermost


def _cells(reader: Reader, grams: _Grams) -> tuple[I64, I64, npt.NDArray[np.bool_]]:
    """Return cells of the text in which some k-grams may stand: which k-gram, the first position, if it is that."""
    which = np.repeat(np.arange(len(grams.taken)), grams.taken)
    index = np.arange(len(which)) - (np.cumsum(grams.taken) - grams.taken)[which]
    if (grams.taken < grams.counts).any():
        spread = (index * grams.counts[which] + grams.phase[which]) // grams.taken[which]
        index = np.where((grams.taken < grams.counts)[which], spread, index)
    index += grams.low[which]
    places, same = reader.postings.places(index, grams.keys[which])
    whole = reader.postings.whole(index)
    if len(places) and places.max() >= max(1, int(reader.starts[-1])):
        raise reader.damaged("verbatim-positions", "a position lies outside the text")
    return (which, places, whole) if same.all() else (which[same], places[same], whole[same])


def _reaching_out(query: U8, text: _Text, cells: _Cells, common: I64) -> npt.NDArray[np.bool_]:
    """Return through which cells a run may go that lies in none of the common spans."""
    reaching = np.ones(len(cells.q), dtype=np.bool_)
    for start, end in common.tolist():
        inside = cells.whole & (cells.period == 0) & (cells.q >= start) & (cells.q + K <= end)
        reaching &= ~inside | _goes_beside(query, text, cells.start - cells.q, (start, end))
    return reaching


def _goes_beside(query: U8, text: _Text, shift: I64, span: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return whether text[i + shift] is query[i] for the byte before or the byte behind a span of the query.

    A run that holds a byte of the span, but does not lie in it, has one of them.
    """
    beside = np.zeros(len(shift), dtype=np.bool_)
    for at in (span[0] - 1, span[1]):
        if 0 <= at < _size(query):
            beside |= text.padded.take(shift + (at + TEXT_MARGIN_BYTES), mode="clip") == query[at + TEXT_MARGIN_BYTES]
    return beside


def _runs_of(query: U8, text: _Text, cells: _Cells, min_bytes: int, common: I64) -> I64:
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


def _candidates(query: U8, text: _Text, cells: _Cells) -> tuple[I64, _Pairs]:
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


def _extended(query: U8, text: _Text, pairs: _Pairs) -> I64:
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


def _extend(query: U8, text: _Text, q: I64, d: I64) -> I64:
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


def _periods(framed: U8, query: U8, q: I64, k: int) -> I64:
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
    query: U8, text: _Text, pairs: _Pairs, last: I64, period: I64, min_bytes: int, common: I64
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
    query: U8, text: _Text, ours: tuple[I64, I64], theirs: tuple[I64, I64]
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


def _alignments(query: U8, text: _Text, regions: I64, min_bytes: int) -> _Pairs:
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
