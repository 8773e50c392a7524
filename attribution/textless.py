"""Normalised bytes + an index that keeps no text -> the runs that their chains confirm: see `chains`.

    fingerprints of the query ── buckets of postings, whole keys ──▶ places with the same key
    a place whose symbol, or the one before it, is the query's too ──▶ candidates
    candidates on one diagonal ── compare symbols, leftwards and rightwards ──▶ chains of equal symbols
    a chain ── from its first fingerprint to the end of its last one's k-gram ──▶ what is shown: equal text
            ── with all windows that may have chosen these two ──▶ how far the run may reach: long enough to be told of?

What is shown is confirmed, by 61 bits at least, and is less than the whole run: at each end as much is missing as lies
between the run's end and its first or last fingerprint, on average half a window. Told of is every chain whose run may
have `min_run` characters, so that no run that has them is left out for want of a few bytes. A run with one fingerprint
only has no symbol and is not found. One of guarantee + w bytes has two; unless it repeats itself: of lines of dashes
most fingerprints are not stored. So a run is surely told of if it holds `surely_found` bytes in a row of which no 16
repeat a unit of at most 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from attribution import normalise
from attribution.chains import Chain, chain
from attribution.errors import QueryError
from attribution.fingerprint import GUARANTEES, Fingerprints, K, chosen_windows, fingerprints
from attribution.matching import MAX_QUERY_BYTES, Runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attribution.chains import Chains
    from attribution.format import Reader

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]

_BLOCK_CANDIDATES = 1 << 14
_COMPARED_SYMBOLS = 32


def surely_found(guarantee: int) -> int:
    """Return the least length of a run that is found for sure, in bytes (see the module)."""
    return guarantee + GUARANTEES[guarantee]


def find_confirmed(query: U8, reader: Reader, min_run: int) -> Runs:
    """Return the stretches that chains confirm, of all runs that may have `min_run` characters.

    A document of a source that is forgotten does not count. Raises as `matching.find_runs` does.
    """
    if len(query) > MAX_QUERY_BYTES:
        raise QueryError(f"The text has over {MAX_QUERY_BYTES >> 20} MiB of characters; check it in smaller pieces.")
    prints = fingerprints(query, K, reader.w)
    assert reader.chains is not None  # noqa: S101 - the caller's business
    if len(prints.keys) < 2:  # noqa: PLR2004 - a chain has two ends
        return Runs(*np.empty((3, 0), dtype=np.int64))
    own = chain(query, prints.positions)
    heads = np.searchsorted(own.positions, prints.positions)
    found = [_chains(own, reader.chains, heads[which], places) for which, places in _candidates(reader, prints)]
    first, last, positions = np.unique(np.concatenate(found, axis=1), axis=1)
    if reader.forgotten is not None:
        kept = ~reader.forgotten[reader.source_of(reader.document_of(positions))]
        first, last, positions = first[kept], last[kept], positions[kept]
    starts, ends = own.positions[first], own.positions[last] + K
    reach = _Reach.of(query, prints.positions, reader.w)
    low, high = reach.around(*(np.searchsorted(heads, each, side="right") - 1 for each in (first, last)))
    document = reader.document_of(positions)
    low = np.maximum(low, starts - (positions - reader.starts[document]))
    high = np.minimum(high, starts + (reader.starts[document + 1] - positions))
    characters = np.concatenate([[0], np.cumsum(normalise.starts_character(query))])
    told = characters[high] - characters[low] >= min_run
    return Runs(starts[told], (ends - starts)[told], positions[told])


def _candidates(reader: Reader, prints: Fingerprints) -> Iterator[tuple[I64, I64]]:
    """Yield fingerprints of the query, by number, and places in the text with the same key, block by block."""
    low, counts = reader.postings.ranges(prints.keys)
    if min(low.min(), counts.min()) < 0 or (low + counts).max() > reader.postings.slots:
        raise reader.damaged("verbatim-bases", "a posting lies outside its file")
    needed = _cover(counts)
    blocks = np.cumsum(counts[needed]) // _BLOCK_CANDIDATES
    for block in range(int(blocks[-1]) + 1):
        chosen = needed[slice(*np.searchsorted(blocks, [block, block + 1]))]
        which = np.repeat(chosen, counts[chosen])
        index = np.arange(len(which)) + np.repeat(
            low[chosen] - np.cumsum(counts[chosen]) + counts[chosen], counts[chosen]
        )
        places, same = reader.postings.places(index, prints.keys[which])
        if len(places) and places.max() >= max(1, int(reader.starts[-1])):
            raise reader.damaged("verbatim-positions", "a position lies outside the text")
        yield which[same], places[same]


def _cover(costs: I64) -> I64:
    """Return which of some in a row to look up so that of each two neighbours one is: those that cost least."""
    with_last, without_last = [0], [0]
    for cost in costs.tolist():
        before = min(with_last[-1], without_last[-1])
        without_last.append(with_last[-1])
        with_last.append(before + cost)
    kept, number, must = [], len(costs), False
    while number:
        take = must or with_last[number] <= without_last[number]
        if take:
            kept.append(number - 1)
        must = not take
        number -= 1
    return np.array(kept[::-1], dtype=np.int64)


def _chains(own: Chain, theirs: Chains, entry: I64, places: I64) -> I64:
    """Return the chains through some candidates as rows (first entry, last entry, position in the text).

    A candidate is an entry of the query and a place in the text. On each diagonal the first is extended, and those
    inside its chain are done.
    """
    there = theirs.entries_at(places)
    held = there >= 0
    entry, there, places = entry[held], there[held], places[held]
    order = np.lexsort((entry, there - entry))
    entry, there, places = entry[order], there[order], places[order]
    found = [np.empty((3, 0), dtype=np.int64)]
    while len(entry):
        diagonal = there - entry
        first = np.concatenate([[True], diagonal[1:] != diagonal[:-1]])
        left = _equal(own, theirs, entry[first] - 1, there[first] - 1, -1)
        right = _equal(own, theirs, entry[first], there[first], 1)
        low, high = entry[first] - left, entry[first] + right
        begin = places[first] - (own.positions[entry[first]] - own.positions[low])
        found.append(np.stack([low, high, begin])[:, (high > low) & (begin >= 0)])
        waiting = ~first & (entry > high[np.cumsum(first) - 1])
        entry, there, places = entry[waiting], there[waiting], places[waiting]
    return np.concatenate(found, axis=1)


def _equal(own: Chain, theirs: Chains, i: I64, j: I64, direction: int) -> I64:
    """Return how many symbols with a hash, from own i and their j on, are equal one after the other."""
    limit = np.minimum(own.last - i, len(theirs.symbols) - j) if direction > 0 else np.minimum(i - own.first, j) + 1
    limit = np.where((i >= own.first) & (i < own.last), np.maximum(limit, 0), 0)
    count = np.zeros(len(i), dtype=np.int64)
    active = np.flatnonzero(limit > 0)
    step = direction * np.arange(_COMPARED_SYMBOLS)
    while len(active):
        at = direction * count[active, None] + step
        same = own.symbols.take(i[active, None] + at, mode="clip") == theirs.symbols.take(
            j[active, None] + at, mode="clip"
        )
        reached = np.where(same.all(axis=1), _COMPARED_SYMBOLS, same.argmin(axis=1))
        count[active] = np.minimum(count[active] + reached, limit[active])
        active = active[(reached == _COMPARED_SYMBOLS) & (count[active] < limit[active])]
    return count


@dataclass(frozen=True, slots=True)
class _Reach:
    """For each stored fingerprint of a query, how far to the left and to the right a run that ends with it may go."""

    low: I64
    high: I64

    @classmethod
    def of(cls, query: U8, prints: I64, w: int) -> _Reach:
        """Find the windows that chose each fingerprint.

        A run's first window chose its first fingerprint; but of those in text that repeats itself the document may have
        stored another one. Behind the last one stored stand those that repeat it and are not stored.
        """
        chosen, firsts = chosen_windows(query, K, w)
        lasts = np.append(firsts[1:], len(query) - K - w + 2) - 1
        at = np.searchsorted(chosen, prints)
        periodic = _periodic(query, chosen)
        number = np.arange(len(chosen))
        begin = np.maximum.accumulate(np.where(periodic & np.concatenate([[False], periodic[:-1]]), 0, number))
        before = np.maximum(at - 1, 0)
        low = firsts[np.where((at > 0) & periodic[before], begin[before], at)]
        stored = np.append(at[1:], len(chosen)) - 1  # the last chosen before the next one that is stored
        return cls(low, lasts[stored] + K + w - 1)

    def around(self, first: I64, last: I64) -> tuple[I64, I64]:
        """Return start and end of what a run may be whose first and last fingerprints these are."""
        return self.low[first], self.high[last]


def _periodic(query: U8, positions: I64) -> Flags:
    """Return which k-grams have a period of at most k // 2."""
    grams = np.lib.stride_tricks.sliding_window_view(query, K)[positions]
    found = np.zeros(len(positions), dtype=np.bool_)
    for period in range(1, K // 2 + 1):
        found |= (grams[:, period:] == grams[:, :-period]).all(axis=1)
    return found
