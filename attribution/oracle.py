"""What of some texts stands in a corpus, found without an index: the truth that an index is measured by.

Nothing here is shared with the index, neither the normalisation, which is written a second time after the public
contract, nor the search:

    documents of a block ⏎ … ⏎ texts ⇥ … ⇥     one string of normalised bytes, and its suffix array (divsufsort)

The suffixes that begin within the texts are looked at in their order: the corpus suffixes nearest above and below each
share the longest beginnings with it that any does. Documents are parted by a line feed and texts by a tab, both white
space, which normalisation leaves out; so no common beginning crosses them. A block holds whole documents, so that the
blocks' results are joined by their maximum. Measured: 67 MB of source in one block, 7.2 s of one
core and 420 MB.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from attribution.errors import MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

BLOCK_BYTES = 64 << 20

I64: TypeAlias = npt.NDArray[np.int64]
U8: TypeAlias = npt.NDArray[np.uint8]

_QUOTES = str.maketrans({"'": '"', "`": '"'})
_LINE_END = re.compile(r"\r\n|\r|\n")
_BETWEEN_DOCUMENTS = b"\n"
_BETWEEN_TEXTS = b"\t"


def normalised(text: str) -> str:
    """Return a text without white space, its quote characters made one."""
    return "".join(text.split()).translate(_QUOTES)


def kept_offsets(text: str) -> I64:
    """Return where each character of the normalised text stands in the text, in code points."""
    return np.array([i for i, character in enumerate(text) if not character.isspace()], dtype=np.int64)


def lines(text: str, first: int, last: int) -> str:
    """Return some lines of a text, 1-based and inclusive, as an editor counts them."""
    return "\n".join(_LINE_END.split(text)[first - 1 : last])


def longest_runs(texts: Sequence[str], documents: Iterable[str], block_bytes: int = BLOCK_BYTES) -> list[I64]:
    """Return for each normalised character of each text how long a run starts there that stands in a document.

    Each array has the shape (normalised characters of the text,) and counts normalised characters; a run is whole in
    one document. The documents are read once. Raises MissingPackageError without pydivsufsort.
    """
    if not texts:
        return []
    data = [_bytes(text) for text in texts]
    queries = np.frombuffer(b"".join(text + _BETWEEN_TEXTS for text in data), dtype=np.uint8)
    longest = np.zeros(len(queries), dtype=np.int64)
    for block in _blocks(documents, block_bytes):
        np.maximum(longest, _longest_in(queries, np.frombuffer(block, dtype=np.uint8)), out=longest)
    starts = np.cumsum([0, *(len(text) + 1 for text in data)])
    return [_in_characters(longest[start : start + len(text)], text) for start, text in zip(starts, data, strict=False)]


def _bytes(text: str) -> bytes:
    return normalised(text).encode("utf-8", "surrogatepass")


def _blocks(documents: Iterable[str], block_bytes: int) -> Iterator[bytes]:
    block = bytearray()
    for document in documents:
        block += _bytes(document) + _BETWEEN_DOCUMENTS
        if len(block) >= block_bytes:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


def _longest_in(queries: U8, block: U8) -> I64:
    """Return for each byte of the queries the length of the longest beginning there that stands in the block."""
    try:
        from pydivsufsort import divsufsort  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingPackageError(
            "The package pydivsufsort is missing: run pip install 'starcite[eval]', then try again."
        ) from error
    text = np.concatenate([block, queries])
    suffixes = divsufsort(text)
    ranks = np.flatnonzero(suffixes >= len(block))
    places = suffixes[ranks].astype(np.int64)
    # Neighbours in the order may be of the queries too: the nearest of the block stand at the ends of such a group.
    apart = np.flatnonzero(np.diff(ranks) > 1)
    firsts, lasts = np.concatenate([[0], apart + 1]), np.concatenate([apart, [len(ranks) - 1]])
    sizes = lasts - firsts + 1
    longest = np.zeros(len(queries), dtype=np.int64)
    for neighbours in (np.repeat(ranks[firsts] - 1, sizes), np.repeat(ranks[lasts] + 1, sizes)):
        there = (neighbours >= 0) & (neighbours < len(suffixes))
        here = places[there]
        shared = _common(text, here, suffixes[neighbours[there]].astype(np.int64), len(block))
        longest[here - len(block)] = np.maximum(longest[here - len(block)], shared)
    return longest


def _common(text: U8, places: I64, others: I64, block_length: int) -> I64:
    """Return how many bytes are alike from `places`, in the queries, and from `others`, in the block."""
    lengths = np.zeros(len(places), dtype=np.int64)
    alive = np.arange(len(places))
    while len(alive):
        here, there = places[alive] + lengths[alive], others[alive] + lengths[alive]
        # A query ends in a tab, which no document holds; so the comparison ends before the text does.
        alive = alive[(there < block_length) & (text[here] == text[np.minimum(there, block_length - 1)])]
        lengths[alive] += 1
    return lengths


def _in_characters(runs: I64, text: bytes) -> I64:
    """Return runs of bytes as runs of whole characters, for the bytes at which a character starts."""
    data = np.frombuffer(text, dtype=np.uint8)
    starts = np.flatnonzero((data & 0xC0) != 0x80)  # noqa: PLR2004 - continuation bytes are 10xxxxxx
    ends = np.searchsorted(np.append(starts, len(data)), starts + runs[starts], side="right") - 1
    return ends - np.arange(len(starts))


@dataclass(frozen=True, slots=True)
class Comparison:
    """An index's matches of one text beside the truth, in windows of `guarantee` normalised characters.

    `windows` that stand in a document and reach beyond the start, of which `missed` lie in no match; `reported` windows
    that lie in a match, of which `wrong` stand in no document; `wrong_matches` do not stand in one document as a whole.
    """

    windows: int
    missed: int
    reported: int
    wrong: int
    wrong_matches: int


def compare(text: str, spans: Sequence[tuple[int, int]], runs: I64, guarantee: int, start: int = 0) -> Comparison:
    """Compare the spans that an index found in a text, in code points, with its `longest_runs`.

    Windows that end before `start` are not counted, nor need an index report them.
    """
    kept = kept_offsets(text)
    number = max(0, len(kept) - guarantee + 1)
    stands = runs[:number] >= guarantee
    counts = kept[guarantee - 1 :][:number] >= start
    covered = np.zeros(number, dtype=np.bool_)
    wrong_matches = 0
    for first, last in spans:
        low, high = np.searchsorted(kept, [first, last]).tolist()
        covered[low : max(low, high - guarantee + 1)] = True
        wrong_matches += bool(runs[low] < high - low) if low < high else 1
    return Comparison(
        windows=int((stands & counts).sum()),
        missed=int((stands & counts & ~covered).sum()),
        reported=int(covered.sum()),
        wrong=int((covered & ~stands).sum()),
        wrong_matches=wrong_matches,
    )
