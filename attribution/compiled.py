"""The search for runs in few long steps, compiled by numba (extra `fast`): what `matching` and `index` do with numpy.

    marks_of     a frequent k-gram's postings ──▶ a few bits of what stands beside each place, to be kept
    alignments   postings ──▶ (q, d) that may lie in a run, one after the other, without tables in between
    extended     (q, d) by diagonals ──▶ maximal runs
    held         runs ──▶ spans of whole characters that lie in no other, by the documents that hold them

`kernels` says when this is used; what it is made of, and what comes before: `compiled_text`. Positions are counted from
behind the margin of padded bytes; `words` are the eight bytes from each of their bytes on as one number.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import types

from attribution.compiled_text import (
    BYTES,
    DAMAGED,
    INT,
    KEYS,
    MARKS,
    NUMBERS,
    SPANS,
    WORDS,
    entry,
    fingerprint,
    look_up,
    needed,
    normalised,
    part,
)

__all__ = ["DAMAGED", "alignments", "extended", "fingerprint", "held", "look_up", "marks_of", "needed", "normalised"]

U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
U16 = npt.NDArray[np.uint16]
U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

_WORD = 8
_KEY_BITS = 32
_BATCH = 256
_MARK_BITS, _LOW_MARK = 8, 255
_MARKER, _CONTINUATION = 0xC0, 0x80
_Q_BITS = 23
"""Of a packed pair, those of the place in the query: no query is longer."""


# --- places and alignments -------------------------------------------------------------------------------------------


@part
def _unpacked(data: U64, index: int, bits: int) -> np.int64:
    bit = index * bits
    return np.int64(data[bit >> 3] >> np.uint64(bit & 7)) & ((1 << bits) - 1)


@part
def _place(postings: U64, positions: U64, layout: I64, key: int, index: int) -> np.int64:
    """Return the first position of a posting's cell; -1 if the remainder is not that of the key."""
    bits, remainder_bits = layout[1], layout[2]
    if index >= layout[5]:
        return _unpacked(positions, index - layout[5], layout[4])
    value, width = _unpacked(postings, index, bits), bits - remainder_bits
    if remainder_bits:
        fraction = np.uint64(key) * np.uint64(layout[0]) & np.uint64((1 << _KEY_BITS) - 1)
        if value >> width != np.int64(fraction >> np.uint64(_KEY_BITS - remainder_bits)):
            return np.int64(-1)
    return np.int64((value & ((1 << width) - 1)) << layout[3])


@part
def _is_known(keys: U32, taken: I64, counts: I64, marked: I64, n: int) -> bool:
    """Return whether the places of a k-gram were looked at with those of an earlier one that is the same."""
    for other in range(n):  # noqa: SIM110 - numba compiles loops best
        if keys[other] == keys[n] and taken[other] == counts[other] and marked[other] < 0:
            return True
    return False


@part
def _mark(words: U64, at: np.int64, k: int) -> np.int64:
    """Return eight bits of the 16 bytes before the k-gram at a word, and, higher, eight of the 16 behind it."""
    first, second = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
    before = (words[at - _WORD] * first ^ words[at - 2 * _WORD] * second) >> np.uint64(56)
    behind = (words[at + k] * first ^ words[at + k + _WORD] * second) >> np.uint64(56)
    return np.int64(before | behind << np.uint64(_MARK_BITS))


@part
def _appended(pairs: I64, number: int, q: int, d: int, base: int) -> tuple[I64, int]:
    if number == len(pairs):
        longer = np.empty(2 * number, dtype=np.int64)
        longer[:number] = pairs
        pairs = longer
    pairs[number] = (d - q + base) << _Q_BITS | q
    return pairs, number + 1


@part
def _promising(  # noqa: PLR0913, PLR0917 - two places
    words: U64, q: int, text_words: U64, d: int, min_bytes: int, k: int, margin: int
) -> bool:
    """Return whether as many bytes beside two equal k-grams are the same as in a run: see `matching`."""
    count = min((min_bytes - k + 1) // 2 // _WORD, 4)
    before, behind = True, True
    for n in range(count):
        before &= words[q + margin - _WORD * (n + 1)] == text_words[d + margin - _WORD * (n + 1)]
        behind &= words[q + margin + k + _WORD * n] == text_words[d + margin + k + _WORD * n]
    return before or behind


@part
def _common_before(a: U64, i: int, b: U64, j: int, limit: int) -> int:
    """Return how many bytes before places i and j are the same, at most the limit."""
    common = 0
    while common + _WORD <= limit and a[i - common - _WORD] == b[j - common - _WORD]:
        common += _WORD
    while common < limit and (a[i - common - 1] ^ b[j - common - 1]) & np.uint64(255) == 0:
        common += 1
    return common


@part
def _common_from(a: U64, i: int, b: U64, j: int, limit: int) -> int:
    """Return how many bytes from places i and j on are the same, at most the limit."""
    common = 0
    while common + _WORD <= limit and a[i + common] == b[j + common]:
        common += _WORD
    while common < limit and (a[i + common] ^ b[j + common]) & np.uint64(255) == 0:
        common += 1
    return common


@part
def _region(words: U64, start: int, period: int, size: int, k: int, margin: int) -> tuple[int, int]:
    """Return start and end of the longest stretch around a k-gram that keeps its period, whatever it is part of."""
    left = _common_before(words, start + margin, words, start + margin + period, start)
    end = start + k
    return start - left, end + _common_from(words, end + margin, words, end + margin - period, size - end)


@part
def _mark_of_region(words: U64, region: tuple[int, int], margin: int) -> np.int64:
    """Return the byte before a region and, higher, that behind it."""
    before, behind = words[region[0] + margin - 1] & np.uint64(255), words[region[1] + margin] & np.uint64(255)
    return np.int64(before | behind << np.uint64(_MARK_BITS))


@entry(WORDS, INT, WORDS, NUMBERS, INT, INT, INT, INT, INT, INT)
def marks_of(  # noqa: PLR0913, PLR0917 - postings of an index
    text_words: U64,
    size: int,
    positions: U64,
    layout: I64,
    low: int,
    count: int,
    period: int,
    limit: int,
    k: int,
    margin: int,
) -> U16:
    """Return a mark of what stands beside each place of a frequent k-gram; nothing if one lies beyond the text.

    Of a run of 50 bytes 16 before the k-gram or 16 behind it are the same. Of one through a k-gram that repeats itself
    a byte beside its region is the same, unless the run lies in the region.
    """
    marks = np.empty(count, dtype=np.uint16)
    for i in range(count):
        place = _unpacked(positions, low + i - layout[5], layout[4])
        if place >= limit:
            return marks[:0].copy()
        if period and place + k <= size:
            marks[i] = _mark_of_region(text_words, _region(text_words, place, period, size, k, margin), margin)  # type: ignore[arg-type]
        else:
            marks[i] = _mark(text_words, place + margin, k)
    return marks


@part
def _goes_beside(query: U8, text: U8, shift: int, low: int, high: int, margin: int) -> bool:
    for at in (low - 1, high):
        if 0 <= at < len(query) - 2 * margin:
            there = min(max(0, shift + at + margin), len(text) - 1)
            if text[there] == query[at + margin]:
                return True
    return False


@part
def _reaches(query: U8, text: U8, shift: int, q: int, common: I64, k: int, margin: int) -> bool:  # noqa: PLR0913, PLR0917
    """Return whether a run through the k-gram at q may lie in none of the common spans."""
    for span in range(len(common)):
        low, high = common[span]
        if q >= low and q + k <= high and not _goes_beside(query, text, shift, low, high, margin):
            return False
    return True


@part
def _beside(query: U8, text: U8, ours: tuple[int, int], theirs: tuple[int, int], common: I64, margin: int) -> bool:
    """Return whether a run through two regions may lie in none of the common spans that hold ours."""
    for span in range(len(common)):
        low, high = common[span]
        if ours[0] < low or ours[1] > high or _goes_beside(query, text, theirs[0] - ours[0], low, high, margin):
            continue
        if not _goes_beside(query, text, theirs[1] - ours[1], low, high, margin):
            return False
    return True


@part
def _realigned(  # noqa: PLR0913, PLR0917 - two regions, and what is asked of them
    query: U8,
    words: U64,
    text: U8,
    text_words: U64,
    starts: I64,
    places: I64,
    width: int,
    q: int,
    period: int,
    common: I64,
    min_bytes: int,
    k: int,
    margin: int,
    pairs: I64,
    number: int,
) -> tuple[I64, int]:
    """Append the alignments of periodic regions: see `matching`."""
    end = len(text) - 2 * margin - k
    first, second = words[q + margin], words[q + margin + _WORD]
    ours = _region(words, q, period, len(query) - 2 * margin, k, margin)
    theirs, possible, document = (0, 0), False, (0, 0)
    for place in places:
        for d in range(place, place + width):
            if text_words[d + margin] != first or text_words[d + margin + _WORD] != second or d > end:
                continue
            if d < theirs[0] or d + k > theirs[1]:
                theirs = _region(text_words, d, period, len(text) - 2 * margin, k, margin)
                document = (0, 0)
                same = query[ours[0] + margin - 1] == text[theirs[0] + margin - 1]
                same |= query[ours[1] + margin] == text[theirs[1] + margin]
                possible = same or min(ours[1] - ours[0], theirs[1] - theirs[0]) >= min_bytes
            if not possible or (document[0] <= d and d + k <= document[1]):
                continue
            at = np.searchsorted(starts, d, side="right") - 1
            if d + k > starts[at + 1]:
                continue
            document = starts[at], starts[at + 1]
            there = max(theirs[0], document[0]), min(theirs[1], document[1])
            if not _beside(query, text, ours, there, common, margin):
                continue
            at_start, at_end, step = there[0] - ours[0], there[1] - ours[1], (there[1] - there[0]) // period * period
            below_start = at_start - (at_start - d + q) % period
            below_end = at_end - (at_end - d + q) % period
            for turn in range(4 + max(0, (at_start - at_end) // step)):
                shift = below_start if turn < 2 else below_end  # noqa: PLR2004 - the nearest below, and above
                shift = shift + (turn & 1) * period if turn < 4 else below_start - (turn - 3) * step  # noqa: PLR2004
                low, high = max(ours[0], there[0] - shift), min(ours[1], there[1] - shift)
                goes_on = shift == at_start and query[low + margin - 1] == text[low + shift + margin - 1]
                goes_on |= shift == at_end and query[high + margin] == text[high + shift + margin]
                if high - low >= (k if goes_on else min_bytes):
                    pairs, number = _appended(pairs, number, low, low + shift, len(query))
    return pairs, number


@part
def _compared(  # noqa: PLR0913, PLR0917 - a k-gram, its places, and what is asked of them
    query: U8,
    words: U64,
    text: U8,
    text_words: U64,
    places: I64,
    width: int,
    q: int,
    common: I64,
    min_bytes: int,
    k: int,
    margin: int,
    pairs: I64,
    number: int,
) -> tuple[I64, int]:
    """Append the places in some cells at which the k-gram at q stands and which may lie in a run."""
    end = len(text) - 2 * margin - k
    first, second = words[q + margin], words[q + margin + _WORD]
    inside = False
    for span in range(len(common)):
        inside |= q >= common[span, 0] and q + k <= common[span, 1]
    for place in places:
        if width == 1 and inside and not _reaches(query, text, place - q, q, common, k, margin):
            continue
        for d in range(place, place + width):
            if (
                text_words[d + margin] == first
                and text_words[d + margin + _WORD] == second
                and d <= end
                and _promising(words, q, text_words, d, min_bytes, k, margin)
            ):
                pairs, number = _appended(pairs, number, q, d, len(query))
    return pairs, number


@entry(
    BYTES, WORDS, BYTES, WORDS, NUMBERS,
    WORDS, WORDS, NUMBERS,
    KEYS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, MARKS,
    SPANS, INT, INT, INT,
)  # fmt: skip
def alignments(  # noqa: C901, PLR0912, PLR0913, PLR0917 - a loop over postings, compiled as a whole
    query: U8,
    words: U64,
    text: U8,
    text_words: U64,
    starts: I64,
    postings: U64,
    positions: U64,
    layout: I64,
    keys: U32,
    grams: I64,
    periods: I64,
    lows: I64,
    counts: I64,
    taken: I64,
    phases: I64,
    marked: I64,
    marks: U16,
    common: I64,
    min_bytes: int,
    k: int,
    margin: int,
) -> tuple[I64, int, np.uint64]:
    """Return packed pairs that may lie in a run, and how many; DAMAGED for a place beyond the text.

    The third number says nothing: it is there so that no compiler leaves out what fetches the text ahead.

    Of the `counts` postings of each k-gram, from `lows` on, so many are `taken`, spread evenly from its phase on. Where
    it is `marked`, the number is that of the first of its `marks`, and places with other marks are passed over.
    """
    cell_bits, bucket_slots = layout[3], layout[5]
    limit = max(1, starts[-1])
    pairs, number = np.empty(64, dtype=np.int64), 0
    places, touched = np.empty(_BATCH, dtype=np.int64), np.uint64(0)
    for n in range(len(keys)):
        if _is_known(keys, taken, counts, marked, n):
            continue
        alone, is_marked, mine = marked[n] >= 0 or taken[n] < counts[n], marked[n] >= 0, np.int64(0)
        if is_marked and periods[n]:
            region = _region(words, grams[n], periods[n], len(query) - 2 * margin, k, margin)
            is_marked, mine = region[1] - region[0] < min_bytes, _mark_of_region(words, region, margin)
        elif is_marked:
            mine = _mark(words, grams[n] + margin, k)
        width = 1 if lows[n] >= bucket_slots else 1 << cell_bits
        for batch in range(0, taken[n], _BATCH):
            held = 0
            for i in range(batch, min(batch + _BATCH, taken[n])):
                if is_marked:
                    unlike = marks[marked[n] + i] ^ mine
                    if unlike & _LOW_MARK and unlike >> _MARK_BITS:
                        continue
                index = lows[n] + (i if taken[n] == counts[n] else (i * counts[n] + phases[n]) // taken[n])
                place = _place(postings, positions, layout, keys[n], index)
                if place >= limit:
                    return pairs, DAMAGED, touched
                if place >= 0:
                    # The processor fetches many lines at once, as long as nothing depends on what is in them.
                    touched ^= (
                        text_words[place + margin] ^ text_words[place + margin - 32] ^ text_words[place + margin + 40]
                    )
                    places[held] = place
                    held += 1
            for other in range(n, len(keys)):
                if other > n and (alone or keys[other] != keys[n]):
                    continue
                q, period = grams[other], periods[other]
                if period:
                    pairs, number = _realigned(
                        query, words, text, text_words, starts, places[:held], width, q, period, common, min_bytes,
                        k, margin, pairs, number,
                    )  # fmt: skip
                    continue
                pairs, number = _compared(
                    query, words, text, text_words, places[:held], width, q, common, min_bytes, k, margin, pairs, number
                )  # fmt: skip
    return pairs, number, touched


# --- runs and spans --------------------------------------------------------------------------------------------------


@part
def _document_of(starts: I64, position: int, near: np.int64) -> np.int64:
    """Return the document that a position lies in, which is not far behind another: quicker than a search."""
    low = near if starts[near] <= position else np.int64(0)
    step = 1
    while low + step < len(starts) and starts[low + step] <= position:
        low += step
        step *= 2
    return low + np.searchsorted(starts[low : low + step], position, side="right") - 1


@entry(WORDS, INT, WORDS, NUMBERS, types.Array(types.int64, 1, "C"), INT, INT)
def extended(  # noqa: PLR0913, PLR0917 - a query and the arrays of an index
    words: U64, size: int, text_words: U64, starts: I64, pairs: I64, min_bytes: int, margin: int
) -> I64:
    """Return the maximal runs of at least `min_bytes` around sorted pairs: rows (start, length, position)."""
    runs = np.empty((3, len(pairs)), dtype=np.int64)
    number, diagonal, end, document = 0, np.int64(-1), np.int64(-1), np.int64(0)
    for pair in pairs:
        q = pair & ((1 << _Q_BITS) - 1)
        if pair >> _Q_BITS == diagonal and q < end:
            continue
        diagonal = pair >> _Q_BITS
        d = diagonal - (size + 2 * margin) + q
        document = _document_of(starts, d, document)
        left = _common_before(words, q + margin, text_words, d + margin, min(q, d - starts[document]))
        right = _common_from(words, q + margin, text_words, d + margin, min(size - q, max(0, starts[document + 1] - d)))
        end = q + right
        if left + right >= min_bytes:
            runs[0, number], runs[1, number], runs[2, number] = q - left, left + right, d - left
            number += 1
    return runs[:, :number].copy()


@entry(BYTES, NUMBERS, SPANS, NUMBERS, INT, INT)
def held(data: U8, offsets: I64, runs: I64, starts: I64, min_run: int, start: int) -> I64:
    """Return the spans that lie in no other, with each document that holds them: see `index`.

    Rows, by start, descending end and document: start, end, characters, document, position of the span in it. `runs`
    are in the order of their positions, where they are the same stretch.
    """
    size = len(data)
    before = np.empty(size + 2, dtype=np.int64)  # how many characters start before each byte
    before[0] = 0
    for i in range(size):
        before[i + 1] = before[i] + ((data[i] & _MARKER) != _CONTINUATION)
    before[size + 1] = before[size] + 1
    found, number = np.empty((5, runs.shape[1]), dtype=np.int64), 0
    for n in range(runs.shape[1]):
        first, last, position = runs[0, n], runs[0, n] + runs[1, n], runs[2, n]
        # A run of bytes may begin or end inside a character: keep its whole characters.
        while first < last and (data[first] & _MARKER) == _CONTINUATION:
            first, position = first + 1, position + 1
        while last > first and last < size and (data[last] & _MARKER) == _CONTINUATION:
            last -= 1
        characters = before[last] - before[first]
        if characters >= min_run and offsets[last - 1] >= start:
            found[0, number], found[1, number], found[2, number], found[4, number] = first, last, characters, position
            number += 1
    order = np.argsort((found[0, :number] << _Q_BITS) + size - found[1, :number], kind="mergesort")
    kept, count = np.empty((5, number), dtype=np.int64), 0
    first, last, document = np.int64(-1), np.int64(-1), np.int64(-1)
    for n in order:
        if found[1, n] > last:
            first, last, document = found[0, n], found[1, n], np.int64(-1)
        elif found[0, n] != first or found[1, n] != last:
            continue
        at = np.searchsorted(starts, found[4, n], side="right") - 1
        if at != document:
            document = at
            kept[:, count] = found[:, n]
            kept[3, count] = at
            count += 1
    return kept[:, :count].copy()
