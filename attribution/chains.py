"""A document's fingerprints in a row, each tied to the next by a hash of all that lies between: an index without text.

    entries    at each stored fingerprint; every 254 bytes where fingerprints are further apart; at the document's start
    symbol     u32: bytes to the next entry (1 .. 254), and above them 24 bits of hash of the normalised bytes from the
               entry to the end of the next entry's k-gram; no hash before the first fingerprint and from the last on

    chain-symbols   u32 (entries,)      of all documents in a row: their bytes add up to the whole text's
    chain-bases     u64 (groups,)       where the first of each 64 entries stands in the text

Which fingerprints lie between two others that a query and a document share is decided by the bytes between these alone
(`fingerprint`), so equal text has equal symbols; and equal symbols, one after the other, have equal text: 24 bits and
the distance for each, on top of the 32 bits of a key by which a chain is found. `textless` asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from attribution.fingerprint import K, stretch_hashes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

MAX_STEP_BYTES = 254
GROUP_ENTRIES = 64
STEP_MASK = 0xFF

_HASH_SHIFT = 40
_STARTS_PER_BLOCK = 1 << 14
_BEYOND = GROUP_ENTRIES * STEP_MASK + 1  # a group has fewer bytes


@dataclass(frozen=True, slots=True)
class Chain:
    """The entries of one text: `positions` int64 (n,), `symbols` uint32 (n,), with a hash from `first` on to `last`."""

    positions: I64
    symbols: U32
    first: int
    last: int


def chain(data: U8, prints: I64) -> Chain:
    """Return the chain of normalised bytes whose stored fingerprints are at `prints`."""
    heads = prints if len(prints) and prints[0] == 0 else np.concatenate([np.zeros(1, dtype=np.int64), prints])
    heads = heads[: len(data)]  # an empty text has no entry
    pieces = -(-np.diff(heads, append=len(data)) // MAX_STEP_BYTES)
    number = np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    positions = np.repeat(heads, pieces) + MAX_STEP_BYTES * number
    symbols = np.diff(positions, append=len(data)).astype(np.uint32)
    if not len(prints):
        return Chain(positions, symbols, 0, 0)
    first, last = np.searchsorted(positions, prints[[0, -1]]).tolist()
    hashes = stretch_hashes(data, positions[first:last], positions[first + 1 : last + 1] + K) >> np.uint64(_HASH_SHIFT)
    symbols[first:last] |= np.maximum(hashes, np.uint64(1)).astype(np.uint32) << np.uint32(8)
    return Chain(positions, symbols, first, last)


def bases(blocks: Iterable[U32]) -> Iterator[tuple[U32, U64]]:
    """Yield each block of symbols with the bases of the groups that begin in it."""
    entries, place = 0, 0
    for block in blocks:
        ends = place + np.cumsum(block & STEP_MASK, dtype=np.uint64)
        begins = np.concatenate([np.array([place], dtype=np.uint64), ends[:-1]])
        yield block, begins[-entries % GROUP_ENTRIES :: GROUP_ENTRIES][: len(block)]
        entries, place = entries + len(block), int(ends[-1]) if len(block) else place


@dataclass(frozen=True, slots=True)
class Chains:
    """The mapped chains of an index."""

    symbols: U32
    bases: U64

    def problem(self) -> tuple[str, str] | None:
        """Return which part is wrong, and how; `None` if look-ups cannot leave the arrays."""
        if len(self.bases) != -(-len(self.symbols) // GROUP_ENTRIES):
            return "chain-bases", "its length is not the number of groups"
        return None

    def entries_from(self, starts: I64) -> I64:
        """Return the first entry at or behind each document's start, given where documents start and the text ends."""
        blocks = range(0, len(starts), _STARTS_PER_BLOCK)
        found = np.concatenate([self.entries_at(starts[at : at + _STARTS_PER_BLOCK]) for at in blocks])
        return np.where(starts == starts[-1], len(self.symbols), found)

    def entries_at(self, positions: I64) -> I64:
        """Return the entry at each position in the text, or -1 where none stands."""
        if not len(self.symbols):
            return np.full(len(positions), -1, dtype=np.int64)
        group = np.searchsorted(self.bases, positions.view(np.uint64), side="right") - 1
        index = np.maximum(group, 0)[:, None] * GROUP_ENTRIES + np.arange(GROUP_ENTRIES)
        steps = self.symbols.take(index, mode="clip") & np.uint32(STEP_MASK)
        begins = np.cumsum(steps, axis=1, dtype=np.uint32) - steps
        beyond = positions - self.bases[np.maximum(group, 0)].view(np.int64)
        inside = (begins < np.minimum(beyond, _BEYOND).astype(np.uint32)[:, None]).sum(axis=1)
        found = (group >= 0) & (inside < GROUP_ENTRIES)
        found[found] = begins[np.flatnonzero(found), inside[found]] == beyond[found]
        found &= group * GROUP_ENTRIES + inside < len(self.symbols)
        return np.where(found, group * GROUP_ENTRIES + inside, -1)
