"""Normalised bytes + an index -> every maximal run that the two share.

    fingerprints of the query ── buckets of postings ──▶ cells, in each of which the same k-gram may start
    cells ── compare eight bytes at each place, then all that a run must agree in ──▶ candidates (q, d)
    candidates whose k-gram repeats itself ── periodic regions ──▶ all alignments of the regions that can be in a run:
                                              such an overlap is long enough, or the same byte stands beside both
    candidates on one diagonal d - q ── compare bytes, leftwards and rightwards ──▶ runs (start, length, d)

Every run is confirmed byte by byte within one document. All steps are exhaustive: nothing is cut off, however common a
k-gram is; only blocks of candidates are treated at a time, so that memory stays bounded. One thing is not counted to
its end, for who asks for the spans only: in how many documents a common run stands.

    a run is known in more documents than make it common, or in all that hold it
                                          ── no run inside it can be a span that is not known
    another run holds the byte before it, or that behind it
                                          ── only the k-grams that such runs need, and of their places those where
                                             that byte stands, are looked at

`alignment` has the steps that read text. Where `kernels` are ready and an index keeps its text, compiled loops take
their place, and of a k-gram in over a thousand places it is remembered, in 16 bits each, what stands beside them: a run
has the 16 bytes before or those behind as well, so that of the places that have neither none is read again. The runs
are the same. Beside a k-gram that repeats itself it is the bytes beside its region.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attribution import kernels, normalise
from attribution.alignment import Cells, Text, periods_of, reaching_out, runs_of
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
Flags = npt.NDArray[np.bool_]

MAX_QUERY_BYTES = 1 << 22

COMMON_DOCUMENTS = 50
COMMON_SOURCES = 20
"""Text that stands in more documents, or in those of more sources, is common."""

_BLOCK_CANDIDATES = 1 << 16
_MANY_CANDIDATES = 500
_MANY_PLACES = 256
_SAMPLED_PLACES = 64
_MARKED_PLACES = 1024
_STAGED_PLACES = 4096


@dataclass(frozen=True, slots=True)
class Runs:
    """Maximal runs: `starts` in the query, `lengths` in bytes, `positions` in the index's text; int64 of shape (n,).

    Those that are the same stretch of the query are in the order of their positions.
    """

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
    found in over COMMON_DOCUMENTS documents or COMMON_SOURCES sources; and of those inside a span all of whose
    documents are found. Which spans lie in no other stays the same.

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
    return _in_stages(lookup, grams, windows, needed & ~many, needed)


def _in_stages(lookup: _Lookup, grams: _Grams, windows: Windows, seen: Flags, needed: Flags) -> Runs:
    """Return what `find_runs` does of spans only: what is found in one stage tells what the next one can leave out.

    `seen` are the k-grams of those needed of which all places are looked at in the first stage, in which the others are
    sampled. After it one is looked at in each, that with the fewest places, until all are few.
    """
    found = lookup.runs(grams.where(needed).sampled(_SAMPLED_PLACES))
    while True:
        complete = lookup.complete(found, windows, seen & (grams.period == 0))
        known = _outermost(np.concatenate([lookup.common(found), complete]))
        if (known == [0, len(lookup.query)]).all(axis=1).any():
            return found
        costs = np.where(seen, 0, grams.counts)
        left = np.flatnonzero(windows.needed(costs, lookup.min_bytes, known) & (costs > 0))
        telling = left[grams.period[left] == 0]
        if len(left) < 2 or not len(telling) or costs[left].sum() <= _STAGED_PLACES:  # noqa: PLR2004 - the last stage
            return _united([found, lookup.runs(grams.where(left), known)])
        stage = telling[costs[telling].argmin(keepdims=True)]
        found = _united([found, lookup.runs(grams.where(stage), known)])
        seen = seen.copy()
        seen[stage] = True


def _outermost(spans: I64) -> I64:
    """Return the spans (start, end) that lie in no other, each once, by their starts."""
    spans = spans[np.lexsort((-spans[:, 1], spans[:, 0]))]
    farthest = np.maximum.accumulate(spans[:, 1])
    new = np.ones(len(spans), dtype=np.bool_)
    new[1:] = spans[1:, 1] > farthest[:-1]
    return spans[new]


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
        period = periods_of(self.framed, self.query, prints.positions, K)
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
            self.framed,
            words,
            *text,
            *arrays.places,
            arrays.layout,
            grams.keys,
            *places,
            *self._marks(compiled, view, grams),
            common,
            min_bytes,
            K,
            TEXT_MARGIN_BYTES,
        )
        if number == compiled.DAMAGED:
            raise self.reader.damaged("verbatim-positions", "a position lies outside the text")
        pairs = pairs[:number]
        pairs.sort()
        return Runs(*compiled.extended(words, len(self.query), *text[1:], pairs, min_bytes, TEXT_MARGIN_BYTES))

    def _marks(self, compiled: Any, view: View, grams: _Grams) -> tuple[I64, npt.NDArray[np.uint16]]:  # noqa: ANN401
        """Return where the marks of each k-gram start, -1 where it has none, and the marks."""
        at, marks, count = np.full(len(grams.q), -1), [_NO_MARKS], 0
        arrays = self.reader.postings.arrays
        frequent = (grams.counts > _MARKED_PLACES) & (grams.low >= arrays.layout[5])
        for n in np.flatnonzero(frequent & (grams.taken == grams.counts)).tolist():
            key, low, places = int(grams.keys[n]), int(grams.low[n]), int(grams.counts[n])
            if (held := self.reader.marks.get(key)) is None:
                limit = max(1, int(view.starts[-1]))
                held = compiled.marks_of(
                    view.words, len(view.padded) - 2 * TEXT_MARGIN_BYTES, arrays.places[1], arrays.layout,
                    low, places, int(grams.period[n]), limit, K, TEXT_MARGIN_BYTES,
                )  # fmt: skip
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
            text = Text(view, 1 << self.reader.postings.layout.cell_bits)
            at = which[held]
            found = Cells(grams.q[at], places, whole[held], grams.period[at])
            if len(common):
                found = found.where(reaching_out(self.framed, text, found, common))
            runs = runs_of(self.framed, text, found, self.min_bytes, common)
            runs[2] = view.placed(runs[2])
            yield Runs(*runs[:, np.argsort(runs[2])])

    def common(self, runs: Runs) -> I64:
        """Return the spans of the query that are common by these runs alone, as (start, end)."""
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
        return np.array(held, dtype=np.int64).reshape(-1, 2)

    def complete(self, runs: Runs, windows: Windows, seen: Flags) -> I64:
        """Return the spans of these runs, as (start, end), of which all documents are known: `seen` k-grams tell.

        Every document that holds the span chose the k-gram that a window inside it chose; all its places were seen. A
        span that begins or ends inside a character is shown as a shorter one, which may stand elsewhere: not that one.
        """
        bits = MAX_QUERY_BYTES.bit_length()
        starts, lengths = np.divmod(np.unique(runs.starts << bits | runs.lengths), 1 << bits)
        ends = starts + lengths
        last = np.append(windows.firsts[1:], windows.count) - 1
        inside = np.maximum(windows.firsts, starts[:, None]) <= np.minimum(last, ends[:, None] - windows.guarantee)
        whole = np.append(normalise.starts_character(self.query), True)
        found: I64 = np.stack([starts, ends], axis=1)[(inside & seen).any(axis=1) & whole[starts] & whole[ends]]
        return found


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


# --- periodic text ---------------------------------------------------------------------------------------------------
