"""Lexemes of a text + an index -> stretches that are perhaps copies: other names, other comments, other literals.

    all grams of the query ── postings of the lexeme stream ──▶ documents, by how many grams they share
    the source text around those grams ── lexed again ──▶ diagonals, in lexemes
    a diagonal ── the same symbols, the names one to one ──▶ maximal stretches
    stretches that weigh 36, or have the same spelling for `min_run` characters ──▶ found

Nothing is shown that the two texts do not bear out. But this is no guarantee: grams that stand in many places are
passed over, and so are documents beyond the most promising.

The weight of a stretch is its pairs of neighbouring lexemes, each different one counted three times at most: 37 lexemes
in a row, or more where they repeat themselves. Lists are long, and loops and getters varied; a copy is both. Flagged of
snippets of 15 lines and 60 lexemes, the verbatim ones among them, per cent, means of five languages, in each half of
the packages:
                                       10 MB indexed             60 MB indexed
    unrelated packages, verbatim       0.8 / 1.6                 2.0 / 1.0
    20 different pairs, as before      4.9 / 6.3                 9.1 / 6.5
    weight 36                          0.9 / 1.6                 2.5 / 2.8
    all names replaced, weight 36      95.7 / 95.9               97.3 / 96.2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from attribution import normalise
from attribution.lexemes import K, Lexemes, chosen_grams, common_runs, every_gram, lex, weight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attribution.format import Reader
    from attribution.postings import Postings

I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]

MIN_WEIGHT = 36
MAX_POSTINGS = 64
"""A gram in more places than these is no trace of a copy."""
MIN_DOCUMENTS = 8
LEXEMES_PER_DOCUMENT = 64
"""So many documents are looked at, and one more for every so many lexemes of the query."""
MAX_ASKED_WHOLE = 4096
"""Of a text of more lexemes only the chosen grams are looked up: their places have to fit into memory."""
CONTEXT_CHARS = 1000


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of the query, code points [start, end), and where it stands: normalised bytes of the index's text."""

    start: int
    end: int
    lexemes: int
    document: int
    position: int
    stop: int


def find_stretches(text: str, reader: Reader, min_run: int) -> list[Stretch]:
    """Return the stretches of a text that are perhaps copied, each with each document that was looked at and has it.

    Raises `IndexFormatError` where the index is found to be damaged.
    """
    postings = reader.lexemes
    if postings is None:
        return []
    ours = lex(text)
    first, keys = every_gram(ours) if len(ours) <= MAX_ASKED_WHOLE else chosen_grams(ours)
    if not len(keys):
        return []
    which, places = _hits(reader, postings, keys)
    limit = MIN_DOCUMENTS + len(ours) // LEXEMES_PER_DOCUMENT
    found: list[Stretch] = []
    for document, chosen in _documents(reader, places, which, limit):
        grams = first[which[chosen]], places[chosen] - reader.starts[document]
        found += _confirmed(text, ours, reader, document, grams, min_run)
    return found


def _hits(reader: Reader, postings: Postings, keys: U32) -> tuple[I64, I64]:
    """Return which keys stand where in the index's text."""
    low, counts = postings.ranges(keys)
    if min(low.min(), counts.min()) < 0 or (low + counts).max() > postings.slots:
        raise reader.damaged("renamed-bases", "a posting lies outside its file")
    counts[counts > MAX_POSTINGS] = 0
    which = np.repeat(np.arange(len(keys)), counts)
    index = np.arange(len(which)) + (low - np.cumsum(counts) + counts)[which]
    places, same = postings.places(index, keys[which])
    if len(places) and places.max() >= reader.starts[-1]:
        raise reader.damaged("renamed-positions", "a position lies outside the text")
    return which[same], places[same]


def _documents(reader: Reader, places: I64, which: I64, limit: int) -> Iterator[tuple[int, I64]]:
    """Yield the documents that share most grams with the query, at most `limit`, and their hits."""
    documents = reader.document_of(places)
    if reader.forgotten is not None:
        documents = np.where(reader.forgotten[reader.source_of(documents)], -1, documents)
    shared, grams = np.unique(np.unique(np.stack([documents, which]), axis=1)[0], return_counts=True)
    order = np.argsort(-grams, kind="stable")
    for document in [each for each in shared[order].tolist() if each >= 0][:limit]:
        yield document, np.flatnonzero(documents == document)


@dataclass(frozen=True, slots=True)
class _Pair:
    """The query and a window of a document, with their lexemes."""

    text: str
    ours: Lexemes
    window: str
    theirs: Lexemes

    def telling_runs(self, diagonal: int, min_run: int) -> Iterator[tuple[int, int]]:
        """Yield the runs, as lexemes [start, end) of ours, that look the same because they were copied."""
        lengths = self.ours.ends - self.ours.starts
        for start, end in common_runs(self.ours, self.theirs, diagonal, K):
            if weight(self.ours, start, end) >= MIN_WEIGHT:
                yield start, end
                continue
            alike = self.ours.spellings[start:end] == self.theirs.spellings[start + diagonal : end + diagonal]
            edges = np.flatnonzero(np.diff(np.concatenate([[False], alike, [False]]))) + start
            for low, high in edges.reshape(-1, 2).tolist():
                if lengths[low:high].sum() < min_run:
                    continue
                mine = _characters(self.text, self.ours, low, high)
                its = _characters(self.window, self.theirs, low + diagonal, high + diagonal)
                if np.array_equal(mine, its) and normalise.starts_character(mine).sum() >= min_run:
                    yield low, high


def _characters(text: str, lexemes: Lexemes, low: int, high: int) -> npt.NDArray[np.uint8]:
    """Return the normalised bytes of some lexemes, without the comments between them."""
    spans = zip(lexemes.starts[low:high].tolist(), lexemes.ends[low:high].tolist(), strict=True)
    return normalise.text("".join(text[start:end] for start, end in spans)).data


def _confirmed(
    text: str, ours: Lexemes, reader: Reader, document: int, grams: tuple[I64, I64], min_run: int
) -> Iterator[Stretch]:
    """Yield the stretches that a text shares with a document; `grams`: lexemes of ours, bytes of the document."""
    original = reader.original(document)
    normalised = normalise.text(original)
    first, places = grams
    if places.max() >= len(normalised.offsets):
        raise reader.damaged("starts", "a document has another length than its text")
    offsets = normalised.offsets[places]
    margin = len(text) + CONTEXT_CHARS
    base = original.rfind("\n", 0, max(0, int(offsets.min()) - margin)) + 1
    window = original[base : int(offsets.max()) + margin]
    theirs = lex(window)
    pair = _Pair(text, ours, window, theirs)
    opposite = np.searchsorted(theirs.starts, offsets - base)
    seen = set()
    for diagonal in np.unique(opposite - first).tolist():
        for low, high in pair.telling_runs(diagonal, min_run):
            there = base + theirs.starts[low + diagonal], base + theirs.ends[high - 1 + diagonal]
            position, end = np.searchsorted(normalised.offsets, there) + reader.starts[document]
            start, stop = int(ours.starts[low]), int(ours.ends[high - 1])
            if (start, stop) not in seen:
                seen.add((start, stop))
                yield Stretch(start, stop, high - low, document, int(position), int(end))
