"""Near-duplicates among documents: MinHash of word 5-grams, bands, clusters; of each cluster the best is kept.

    text      words: letters, digits and _ in lower case, all bytes above ASCII; hashed, five in a row hashed together
    signature u32 (250,)   the least of a[i] * gram + b[i] over the set of grams; two sets of Jaccard similarity s agree
                           in a place with probability s (Broder 1997)
    bands     u64 (25,)    hashes of ten places each: a pair meets in one with probability 1 - (1 - s**10)**25
                           s        0.5    0.6    0.7    0.8    0.9
                           meets    2 %    14 %   51 %   94 %   100 %
    cluster   documents that met and whose signatures agree in at least 0.7 of their places, and those joined by them

The words, the 5-grams and the threshold are those of The Stack v2's removal of near-duplicates; there a pair that met
in a band was not compared again. Documents of fewer than five words have no near-duplicates. A cluster keeps the
document with a permissive licence before one without a licence before others, then the first by source and path: the
answer does not depend on the order of the documents.

Costs: 1.4 kB per document in files, 16 bytes in memory, and 24 more for the band in work.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attribution.licenses import PERMISSIVE
from attribution.shards import source_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from attribution.documents import Document

    U64 = npt.NDArray[np.uint64]
    U32 = npt.NDArray[np.uint32]
    I64 = npt.NDArray[np.int64]

THRESHOLD = 0.7
WORDS_PER_GRAM = 5
BANDS, ROWS = 25, 10
PERMUTATIONS = BANDS * ROWS

_GRAMS_PER_BLOCK = 256  # 250 times as many 64-bit products stay in the second-level cache
_PAIRS_PER_BLOCK = 1 << 15
_LONGEST_WORD = 1 << 16
_FILES = ("count", "bands", "signatures", "keys", "places")


@dataclass(frozen=True, slots=True)
class Signatures:
    """What is compared of documents, mapped from files; of each that has five words, in order.

    `places`: its number among all documents, and where its key ends in `keys`.
    """

    count: int
    bands: U64
    signatures: U32
    keys: npt.NDArray[np.uint8]
    places: I64

    @classmethod
    def open(cls, folder: Path) -> Signatures:
        """Map what `write_signatures` wrote."""
        with contextlib.ExitStack() as stack:
            return _signatures({name: stack.enter_context((folder / name).open("rb")) for name in _FILES})

    def key(self, row: int) -> Any:  # noqa: ANN401 - JSON
        """Return what the best of a cluster has least of."""
        start = int(self.places[row - 1, 1]) if row else 0
        return json.loads(self.keys[start : int(self.places[row, 1])].tobytes())


def near_duplicates(documents: Iterable[Document], scratch: Path | None = None) -> npt.NDArray[np.bool_]:
    """Return, for each document in turn, whether it is to go: bool of shape (documents,).

    `scratch`: the folder of the temporary files (default: the system's).
    """
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(tempfile.TemporaryFile(dir=scratch)) for name in _FILES}
        _write(documents, files)
        (dropped,) = near_duplicates_among([_signatures(files)])
        return dropped


def write_signatures(documents: Iterable[Document], folder: Path) -> None:
    """Write what is compared of documents to a folder, for `Signatures.open`."""
    with contextlib.ExitStack() as stack:
        _write(documents, {name: stack.enter_context((folder / name).open("wb")) for name in _FILES})


def near_duplicates_among(parts: Sequence[Signatures]) -> list[npt.NDArray[np.bool_]]:
    """Return, for each part of the documents, what `near_duplicates` of all in a row says of it."""
    starts = np.cumsum([0, *(len(part.places) for part in parts)])
    dropped = [np.zeros(part.count, dtype=np.bool_) for part in parts]
    for row in _not_best(_clusters(parts, starts), parts, starts):
        number = int(np.searchsorted(starts, row, side="right")) - 1
        dropped[number][parts[number].places[row - starts[number], 0]] = True
    return dropped


def similarity(one: str, other: str) -> float:
    """Return the estimated Jaccard similarity of two texts' sets of word 5-grams; 0 where one has none."""
    grams = _grams(one), _grams(other)
    if not all(map(len, grams)):
        return 0.0
    return float(np.mean(_signature(grams[0]) == _signature(grams[1])))


# --- signatures ------------------------------------------------------------------------------------------------------


def _grams(text: str) -> U64:
    """Return the hashes of a text's word 5-grams, each once; none if it has fewer than five words."""
    return np.unique(grams_of(word_hashes(text), WORDS_PER_GRAM))


def word_hashes(text: str) -> U64:
    """Return the hash of each word of a text, in order."""
    raw = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)
    tables = _tables()
    inside = tables.in_word[raw]
    edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return np.empty(0, dtype=np.uint64)
    lengths = ends - starts
    characters = raw[inside]
    firsts = np.cumsum(lengths) - lengths
    place = np.arange(len(characters)) - np.repeat(firsts, lengths)
    terms = tables.letters[characters] * tables.powers[place & (_LONGEST_WORD - 1)]
    return _mix(np.add.reduceat(terms, firsts))


def grams_of(words: U64, length: int) -> U64:
    """Return the hash of every `length` words in a row, in order: u64 of shape (max(words - length + 1, 0),)."""
    count = max(len(words) - length + 1, 0)
    grams = np.zeros(count, dtype=np.uint64)
    for place in range(length if count else 0):
        grams += words[place : place + count] * _tables().powers[1 + place]
    return _mix(grams)


def _signature(grams: U64) -> U32:
    """Return the MinHash of a set that is not empty: uint32 of shape (PERMUTATIONS,)."""
    tables = _tables()
    least = np.full(PERMUTATIONS, np.iinfo(np.uint64).max, dtype=np.uint64)
    for start in range(0, len(grams), _GRAMS_PER_BLOCK):
        products = np.multiply.outer(grams[start : start + _GRAMS_PER_BLOCK], tables.factors)
        products += tables.summands
        np.minimum(least, products.min(axis=0), out=least)
    return (least >> np.uint64(32)).astype(np.uint32)


def _band_hashes(signature: U32) -> U64:
    tables = _tables()
    weighted = signature.astype(np.uint64) * tables.factors  # other factors in every band: bands are told apart
    return _mix(weighted.reshape(BANDS, ROWS).sum(axis=1, dtype=np.uint64))


def _key(document: Document) -> bytes:
    """Return what the best of a cluster has least of, as bytes that JSON tells apart."""
    licenses = document.source.licenses
    rank = (0 if set(licenses) <= PERMISSIVE else 2) if licenses else 1
    digest = hashlib.sha256(document.text.encode("utf-8", "surrogatepass")).hexdigest()
    return json.dumps([rank, list(source_key(document.source)), document.path, digest]).encode("ascii")


def _write(documents: Iterable[Document], files: Mapping[str, IO[bytes]]) -> None:
    count = key_end = 0
    for number, document in enumerate(documents):
        count = number + 1
        grams = _grams(document.text)
        if len(grams):
            signature = _signature(grams)
            key_end += files["keys"].write(_key(document))
            files["signatures"].write(signature.tobytes())
            files["bands"].write(_band_hashes(signature).tobytes())
            files["places"].write(np.array([number, key_end], dtype=np.int64).tobytes())
    files["count"].write(count.to_bytes(8, "little"))


def _signatures(files: Mapping[str, IO[bytes]]) -> Signatures:
    return Signatures(
        count=int(_mapped(files["count"], np.int64)[0]),
        bands=_mapped(files["bands"], np.uint64).reshape(-1, BANDS),
        signatures=_mapped(files["signatures"], np.uint32).reshape(-1, PERMUTATIONS),
        keys=_mapped(files["keys"], np.uint8),
        places=_mapped(files["places"], np.int64).reshape(-1, 2),
    )


# --- clusters --------------------------------------------------------------------------------------------------------


def _clusters(parts: Sequence[Signatures], starts: I64) -> I64:
    """Return the number of each document's cluster: that of one of its documents."""
    parents = np.arange(starts[-1])
    weights = np.concatenate([part.bands.sum(axis=1, dtype=np.uint64) for part in parts])
    for band in range(BANDS):
        hashes = np.concatenate([part.bands[:, band] for part in parts])
        order = np.lexsort((weights, hashes))  # which pairs are neighbours depends on their signatures alone
        met = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        for start in range(0, len(met), _PAIRS_PER_BLOCK):
            block = met[start : start + _PAIRS_PER_BLOCK]
            _join(parents, order[block], order[block + 1], parts, starts)
        _flatten(parents)
    return parents


def _join(parents: I64, ones: I64, others: I64, parts: Sequence[Signatures], starts: I64) -> None:
    """Join the clusters of pairs that are similar enough; `parents` is a union-find forest."""
    apart = parents[ones] != parents[others]
    ones, others = ones[apart], others[apart]
    agree = _rows(parts, starts, ones) == _rows(parts, starts, others)
    similar = agree.mean(axis=1) >= THRESHOLD
    for one, other in zip(ones[similar].tolist(), others[similar].tolist(), strict=True):
        roots = sorted((_root(parents, one), _root(parents, other)))
        parents[roots[1]] = roots[0]


def _rows(parts: Sequence[Signatures], starts: I64, rows: I64) -> U32:
    """Return the signatures of some documents."""
    found = np.empty((len(rows), PERMUTATIONS), dtype=np.uint32)
    part_of = np.searchsorted(starts, rows, side="right") - 1
    for part in np.unique(part_of).tolist():
        mine = part_of == part
        found[mine] = parts[part].signatures[rows[mine] - starts[part]]
    return found


def _root(parents: I64, number: int) -> int:
    while (parent := int(parents[number])) != number:
        parents[number] = parents[parent]
        number = parent
    return number


def _flatten(parents: I64) -> None:
    while not np.array_equal(above := parents[parents], parents):
        parents[:] = above


def _not_best(roots: I64, parts: Sequence[Signatures], starts: I64) -> list[int]:
    """Return the numbers of all but the best of each cluster."""
    sizes = np.bincount(roots, minlength=len(roots))
    members = np.flatnonzero(sizes[roots] > 1)
    dropped = []
    best: dict[int, tuple[Any, int]] = {}
    part_of = np.searchsorted(starts, members, side="right") - 1
    for member, root, part in zip(members.tolist(), roots[members].tolist(), part_of.tolist(), strict=True):
        candidate = parts[part].key(member - int(starts[part])), member
        if root in best:
            dropped.append(max(candidate, best[root])[1])
        best[root] = min(candidate, best.get(root, candidate))
    return dropped


def _mapped(file: IO[bytes], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    file.flush()
    size = os.fstat(file.fileno()).st_size
    return np.asarray(np.memmap(file, dtype=dtype, mode="r")) if size else np.empty(0, dtype=dtype)


# --- tables ----------------------------------------------------------------------------------------------------------


class _Tables:
    """Fixed random numbers: what each byte counts for, powers for the places, and the permutations."""

    def __init__(self) -> None:
        numbers = _mix(np.arange(1, 257 + 2 * PERMUTATIONS, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        self.letters = numbers[:256].copy()
        self.letters[ord("A") : ord("Z") + 1] = self.letters[ord("a") : ord("z") + 1]
        codes = np.arange(256)
        letter = (codes | 0x20 >= ord("a")) & (codes | 0x20 <= ord("z"))
        digit = (codes >= ord("0")) & (codes <= ord("9"))
        self.in_word = letter | digit | (codes == ord("_")) | (codes > 127)  # noqa: PLR2004 - the end of ASCII
        powers = np.full(_LONGEST_WORD, 0xD6E8FEB86659FD93, dtype=np.uint64)
        powers[0] = 1
        self.powers = np.multiply.accumulate(powers)
        self.factors = numbers[256 : 256 + PERMUTATIONS] | np.uint64(1)
        self.summands = numbers[256 + PERMUTATIONS :]


@cache
def _tables() -> _Tables:
    return _Tables()


def _mix(values: U64) -> U64:
    """Return splitmix64's finaliser of each value."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))
