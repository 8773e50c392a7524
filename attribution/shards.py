"""Documents -> shards, and shards -> an index: the external sort behind every build, on one machine or many.

    documents ──prepare──▶ entries ──fingerprint_shard──▶ shard ─┐
                                                         shard ─┼─merge_shards──▶ index
                                                         shard ─┘        (combine: the same, but into one larger shard)

A shard is an index of its own documents in the simplest form: its documents sorted as an index has them, each once,
their normalised text in a row, and (key, position) pairs sorted. Because every shard keeps the index's order, the
position of a posting in the index is its position in the shard plus its document's shift, pairs that are sorted in a
shard are sorted in the index, and a merge reads each file once, from the front.

    sources.json   list of {name, revision, url, licenses, license_conflict}, sorted
    text           u8  (bytes,)             starts       u64 (documents + 1,)  of each document's text
    lines          u32 (lines,)             line_starts  u64 (documents + 1,)  normalised bytes before each source line
    paths          u8  (bytes of UTF-8,)    path_starts  u64 (documents + 1,)
    originals      u8  (bytes,)             original_starts u64 (documents + 1,)  source text, see `format.compressed`
    source         u32 (documents,)         number in the table of sources
    digest         u8  (documents, 16)      the start of the SHA-256 of the source text in UTF-8
    size           u64 (documents,)         bytes of the source text in UTF-8
    keys           u32 (postings,)          ascending
    positions      u64 (postings,)          in `text`, ascending among equal keys
    renamed_keys, renamed_positions         the same of the lexeme stream, see `lexemes`; nothing where it is not wanted
    chains         u32 (entries,)           chain_starts u64 (documents + 1,)  only if `text` is gone: see `chains`

Memory: a shard is made in memory, about eight bytes per byte of its text. A merge maps its shards and holds some 20
bytes per document, one block of postings and the table of sources, whatever the size of the text.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import mmap
import os
import shutil
import zlib
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from attribution import kernels, lexemes
from attribution.chains import chain
from attribution.errors import SourceError
from attribution.fingerprint import GUARANTEES, K
from attribution.format import DIGEST_BYTES, SourceRecord, compressed, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from attribution.documents import Document

    Array = npt.NDArray[Any]
    Flags = npt.NDArray[np.bool_]

MANIFEST = "shard.json"
POSTINGS_PER_BLOCK = 1 << 22
TEXT_PER_BLOCK_BYTES = 1 << 24
KEY_LIMIT = 1 << 32
_ROWS_PER_BLOCK = 1 << 12
_SYMBOLS_PER_BLOCK = 1 << 20
_LEFT_OUT = -(1 << 62)
_U64 = np.dtype("<u8")
_DTYPES: dict[str, np.dtype[Any]] = {
    "text": np.dtype("u1"),
    "starts": _U64,
    "lines": np.dtype("<u4"),
    "line_starts": _U64,
    "paths": np.dtype("u1"),
    "path_starts": _U64,
    "originals": np.dtype("u1"),
    "original_starts": _U64,
    "source": np.dtype("<u4"),
    "digest": np.dtype("u1"),
    "size": _U64,
    "keys": np.dtype("<u4"),
    "positions": _U64,
    "renamed_keys": np.dtype("<u4"),
    "renamed_positions": _U64,
    "chains": np.dtype("<u4"),
    "chain_starts": _U64,
}
LAYOUT = (*_DTYPES, DIGEST_BYTES)
"""What a shard consists of: one of another layout is not read again."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A document made ready: `data` normalised, `lines` the normalised bytes before each of its source lines."""

    source: SourceRecord
    path: bytes
    digest: bytes
    source_bytes: int
    data: npt.NDArray[np.uint8]
    lines: npt.NDArray[np.uint32]
    original: bytes

    def key(self) -> tuple[Any, ...]:
        """Return what documents are sorted by, and what makes two of them the same."""
        return source_key(self.source), self.path, self.digest


@dataclass(frozen=True)
class Shard:
    """Sorted documents and postings, in memory or mapped from the folder that they were saved to (see the module).

    `repeated` counts the documents that were left out because they were there already.
    """

    guarantee: int
    sources: tuple[SourceRecord, ...]
    arrays: Mapping[str, Array]
    repeated: int = 0
    maps: tuple[mmap.mmap, ...] = ()
    renamed: bool = False

    def release(self) -> None:
        """Give back the memory of what was read of a mapped shard: it would count as ours until the end."""
        for mapped in self.maps:
            if hasattr(mmap, "MADV_DONTNEED"):  # not on every system
                mapped.madvise(mmap.MADV_DONTNEED)

    @property
    def documents(self) -> int:
        """Return the number of documents."""
        return len(self.arrays["source"])

    def save(self, folder: Path) -> None:
        """Write the shard to a folder that is not there yet, in one atomic step. Raises `OSError`."""
        with ShardWriter(folder, self.guarantee, renamed=self.renamed) as writer:
            for name, array in self.arrays.items():
                writer.append(name, array)
            writer.finish(self.sources, self.repeated)

    @classmethod
    def open(cls, folder: Path) -> Shard:
        """Return the shard in a folder, mapped. Raises `SourceError` if it is none or not whole."""
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
            maps = {name: mapped for name in _DTYPES if (mapped := _mapped(folder / name, manifest["bytes"][name]))}
            arrays = {name: np.frombuffer(maps.get(name, b""), dtype) for name, dtype in _DTYPES.items()}
            sources = tuple(_record(source) for source in manifest["sources"])
            arrays["digest"] = arrays["digest"].reshape(-1, DIGEST_BYTES)
            guarantee, repeated, renamed = manifest["guarantee"], manifest["repeated"], manifest["renamed"]
            return cls(guarantee, sources, arrays, repeated, tuple(maps.values()), renamed)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SourceError(f"{folder} is no shard of an index ({error}); build it again.") from error


class ShardWriter:
    """Writes a shard array by array, block by block, and shows it under its name only when it is finished."""

    def __init__(self, folder: Path, guarantee: int, *, renamed: bool) -> None:
        """Begin a folder that is not there yet."""
        self._renamed = renamed
        self._folder = folder
        self._guarantee = guarantee
        self._stage = folder.with_name(f"{folder.name}.part-{os.getpid()}")
        self._stage.mkdir(parents=True)
        self._files = {name: (self._stage / name).open("wb") for name in _DTYPES}

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing of a shard that was not finished."""
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._stage, ignore_errors=True)

    def append(self, name: str, block: Array) -> None:
        """Append a block to one of the arrays."""
        self._files[name].write(np.ascontiguousarray(block, dtype=_DTYPES[name]).data)

    def finish(self, sources: Sequence[SourceRecord], repeated: int) -> None:
        """Write what is left, bring all of it to the disk, and publish."""
        sizes = {}
        for name, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            sizes[name] = file.tell()
        manifest = {
            "guarantee": self._guarantee,
            "renamed": self._renamed,
            "repeated": repeated,
            "bytes": sizes,
            "sources": [asdict(source) for source in sources],
        }
        (self._stage / MANIFEST).write_text(json.dumps(manifest, sort_keys=True), encoding="ascii")
        self._stage.rename(self._folder)


def prepare(document: Document) -> Entry:
    """Return a document made ready for a shard."""
    raw = document.text.encode("utf-8", "surrogatepass")
    data, lines = kernels.normalised(raw)
    return Entry(
        source=document.source,
        path=document.path.encode("utf-8", "surrogatepass"),
        digest=digest_of(raw),
        source_bytes=len(raw),
        data=data,
        lines=lines,
        original=compressed(raw),
    )


def corpus_id(documents: Iterable[Document]) -> str:
    """Return what an index of some documents, without redaction, names its corpus by: `Facts.corpus`."""
    sources: dict[tuple[Any, ...], SourceRecord] = {}
    for document in documents:
        path, text = (each.encode("utf-8", "surrogatepass") for each in (document.path, document.text))
        sources[source_key(document.source), path, digest_of(text)] = document.source
    corpus = hashlib.sha256()
    for key in sorted(sources):
        _add_to_corpus(corpus, sources[key], *key[1:])
    return corpus.hexdigest()


def fingerprint_shard(documents: Iterable[Document | Entry], *, guarantee: int = 50, renamed: bool = False) -> Shard:
    """Return the shard of some documents, in memory: give at most some hundred megabytes at once (see `chunks`).

    The order of the documents changes nothing. `renamed` asks for the lexeme stream too.

    Raises `SourceError` for a guarantee that is not offered.
    """
    check_guarantee(guarantee)
    unique: dict[tuple[Any, ...], Entry] = {}
    given = 0
    for document in documents:
        entry = document if isinstance(document, Entry) else prepare(document)
        unique.setdefault(entry.key(), entry)
        given += 1
    entries = [unique[key] for key in sorted(unique)]
    sources = sorted({entry.source for entry in entries}, key=source_key)
    arrays = _arrays(entries, sources, guarantee)
    grams = _grams(entries, arrays["starts"]) if renamed else []
    arrays["renamed_keys"], arrays["renamed_positions"] = _sorted(grams)
    return Shard(guarantee, tuple(sources), arrays, given - len(entries), renamed=renamed)


def characters(document: Document) -> int:
    """Return the size that a document has in a chunk."""
    return len(document.text)


def chunks(items: Iterable[T], limit: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield items in lists whose sizes add up to about the limit: the same lists for the same items."""
    chunk: list[T] = []
    held = 0
    for item in items:
        chunk.append(item)
        held += size(item)
        if held >= limit:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def check_guarantee(guarantee: int) -> None:
    """Raise `SourceError` for a guarantee that is not offered."""
    if guarantee not in GUARANTEES:
        raise SourceError(f"A guarantee of {guarantee} characters is not offered; choose 50 or 100.")


def source_key(source: SourceRecord) -> tuple[Any, ...]:
    """Return what sources are sorted by."""
    return source.name, source.revision, source.url, source.licenses, source.license_conflict


def starts_of(lengths: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Return where each of several stretches starts, and where the last one ends: uint64 of shape (n + 1,)."""
    ends = np.cumsum(np.asarray(lengths, dtype=np.uint64))
    return np.concatenate([np.zeros(1, dtype=np.uint64), ends])


def _arrays(entries: Sequence[Entry], sources: Sequence[SourceRecord], guarantee: int) -> dict[str, Array]:
    numbers = {source: number for number, source in enumerate(sources)}
    starts = starts_of([len(entry.data) for entry in entries])
    keys, positions = _postings(entries, starts, GUARANTEES[guarantee])
    return {
        "text": _joined([entry.data for entry in entries], np.uint8),
        "starts": starts,
        "lines": _joined([entry.lines for entry in entries], np.uint32),
        "line_starts": starts_of([len(entry.lines) for entry in entries]),
        "paths": np.frombuffer(b"".join(entry.path for entry in entries), dtype=np.uint8),
        "path_starts": starts_of([len(entry.path) for entry in entries]),
        "originals": np.frombuffer(b"".join(entry.original for entry in entries), dtype=np.uint8),
        "original_starts": starts_of([len(entry.original) for entry in entries]),
        "source": np.array([numbers[entry.source] for entry in entries], dtype=np.uint32),
        "digest": np.frombuffer(b"".join(e.digest for e in entries), dtype=np.uint8).reshape(-1, DIGEST_BYTES),
        "size": np.array([entry.source_bytes for entry in entries], dtype=np.uint64),
        "keys": keys,
        "positions": positions,
        "chains": np.empty(0, dtype=np.uint32),
        "chain_starts": np.empty(0, dtype=np.uint64),
    }


def _joined(parts: Sequence[Array], dtype: npt.DTypeLike) -> Array:
    return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)


def _postings(
    entries: Sequence[Entry], starts: npt.NDArray[np.uint64], w: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]:
    """Return keys and positions, sorted by both.

    One sort of 64-bit numbers, key above position, is four times faster than a stable argsort and two gathers.
    """
    pairs = []
    for entry, start in zip(entries, starts[:-1].tolist(), strict=True):
        prints = kernels.prints(entry.data, K, w)
        pairs.append(prints.keys.astype(np.uint64) << np.uint64(32) | (prints.positions + start).astype(np.uint64))
    return _sorted(pairs)


def _grams(entries: Sequence[Entry], starts: npt.NDArray[np.uint64]) -> list[npt.NDArray[np.uint64]]:
    """Return keys and positions of the lexeme stream, the key above the position."""
    pairs = []
    for entry, start in zip(entries, starts[:-1].tolist(), strict=True):
        text = zlib.decompress(entry.original).decode("utf-8", "surrogatepass")
        places, keys = lexemes.fingerprints(text)
        pairs.append(keys.astype(np.uint64) << np.uint64(32) | (places + start).astype(np.uint64))
    return pairs


def _sorted(
    pairs: Sequence[npt.NDArray[np.uint64]],
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]:
    joined = _joined(pairs, np.uint64)
    joined.sort()
    return (joined >> np.uint64(32)).astype(np.uint32), joined & np.uint64(0xFFFFFFFF)


def _mapped(path: Path, size: int) -> mmap.mmap | None:
    """Return a mapped file; None for an empty one, which cannot be mapped."""
    if path.stat().st_size != size:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes instead of {size}")
    if not size:
        return None
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _record(fields: dict[str, Any]) -> SourceRecord:
    return SourceRecord(**(fields | {"licenses": tuple(fields["licenses"])}))


# --- merging ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Order:
    """Which document of which shard comes where in a union: what a `Merge` finds out, for others that merge the same.

    `repeated` documents stand in several shards, or did within one.
    """

    shard_of: npt.NDArray[np.uint16]
    number_of: npt.NDArray[np.uint32]
    corpus: str
    repeated: int


class Merge:
    """Several shards as one: every array of the union, in blocks, in the order of the index.

    The order of the shards, and how documents were dealt out to them, change nothing. A document that is in several
    shards is taken once. Raises `SourceError` if the shards were made with different guarantees, or hold nothing.

    `order` is that of an earlier merge of the same shards, which saves finding it again. `without` says of each shard
    which of its sources are left out, with their documents; None if none is.
    """

    def __init__(
        self, shards: Sequence[Shard], order: Order | None = None, without: Sequence[Flags | None] | None = None
    ) -> None:
        """Find the order of all documents."""
        if not any(shard.documents for shard in shards):
            raise SourceError("No source code was found in the sources; give folders or archives that hold some.")
        if len({(shard.guarantee, shard.renamed) for shard in shards}) > 1:
            raise SourceError("The shards were made with different guarantees or streams; build them alike.")
        self.shards = tuple(shards)
        self.guarantee, self.renamed = shards[0].guarantee, shards[0].renamed
        absent = [np.zeros(len(shard.sources), dtype=np.bool_) for shard in shards]
        self._without = [none if mask is None else mask for none, mask in zip(absent, without or absent, strict=True)]
        kept = [
            (s, gone)
            for shard, mask in zip(shards, self._without, strict=True)
            for s, gone in zip(shard.sources, mask.tolist(), strict=True)
        ]
        self.sources = tuple(sorted({source for source, gone in kept if not gone}, key=source_key))
        numbers = {source: number for number, source in enumerate(self.sources)}
        self._numbers = [np.array([numbers.get(s, 0) for s in shard.sources], dtype=np.uint32) for shard in shards]
        self.order = order or self._ordered()
        self.documents = len(self.order.shard_of)
        self.corpus, self.repeated = self.order.corpus, self.order.repeated
        self._shard_of, self._number_of = self.order.shard_of, self.order.number_of

    def _ordered(self) -> Order:
        """Find which document of which shard comes where."""
        room = sum(shard.documents for shard in self.shards)
        shard_of = np.empty(room, dtype=np.uint16)
        number_of = np.empty(room, dtype=np.uint32)
        corpus = hashlib.sha256()
        given, count = 0, 0
        previous: tuple[Any, ...] = ()
        for source, path, digest, shard, number in heapq.merge(*map(self._rows, range(len(self.shards)))):
            given += 1
            if (source, path, digest) != previous:
                previous = (source, path, digest)
                shard_of[count], number_of[count] = shard, number
                _add_to_corpus(corpus, self.sources[source], path, digest)
                count += 1
        if not count:
            raise SourceError("Nothing is left of the sources; give others.")
        repeated = given - count + sum(shard.repeated for shard in self.shards)
        return Order(shard_of[:count], number_of[:count], corpus.hexdigest(), repeated)

    def _rows(self, shard: int) -> Iterator[tuple[int, bytes, bytes, int, int]]:
        """Yield source, path, digest, shard and number of a shard's documents."""
        arrays = self.shards[shard].arrays
        for first in range(0, self.shards[shard].documents, _ROWS_PER_BLOCK):
            local = arrays["source"][first : first + _ROWS_PER_BLOCK]
            sources, gone = self._numbers[shard][local].tolist(), self._without[shard][local].tolist()
            starts = arrays["path_starts"][first : first + len(sources) + 1].tolist()
            paths = arrays["paths"][starts[0] : starts[-1]].tobytes()
            digests = arrays["digest"][first : first + len(sources)].tobytes()
            self.shards[shard].release()
            for i, source in enumerate(sources):
                if gone[i]:
                    continue
                path = paths[starts[i] - starts[0] : starts[i + 1] - starts[0]]
                yield source, path, digests[i * DIGEST_BYTES : (i + 1) * DIGEST_BYTES], shard, first + i

    def column(self, name: str) -> Array:
        """Return a value of each document, in order: `source`, `size` or `digest`, or the lengths of other arrays.

        A length's name is that of its starts: `starts`, `line_starts` or `path_starts`.
        """
        parts = [
            np.diff(shard.arrays[name]) if name.endswith("starts") else shard.arrays[name] for shard in self.shards
        ]
        if name == "source":
            parts = [numbers[part] for numbers, part in zip(self._numbers, parts, strict=True)]
        column = np.empty((self.documents, *parts[0].shape[1:]), dtype=parts[0].dtype)
        for number, part in enumerate(parts):
            mine = self._shard_of == number
            column[mine] = part[self._number_of[mine]]
        self._release()
        return column

    def blocks(self, name: str) -> Iterator[Array]:
        """Yield `text`, `lines`, `paths` or `originals` of all documents in order, in blocks that follow each other."""
        starts = "starts" if name == "text" else f"{name.removesuffix('s')}_starts"
        read_bytes = 0
        for shard, first, last in self._stretches():
            arrays = self.shards[shard].arrays
            start, end = int(arrays[starts][first]), int(arrays[starts][last])
            for at in range(start, end, TEXT_PER_BLOCK_BYTES):
                block = arrays[name][at : min(at + TEXT_PER_BLOCK_BYTES, end)]
                yield block
                read_bytes += block.nbytes
                if read_bytes >= TEXT_PER_BLOCK_BYTES:  # not after each stretch: it may be one small document
                    self._release()
                    read_bytes = 0

    def chains(self) -> Iterator[npt.NDArray[np.uint32]]:
        """Yield the chains of all documents in order, as they are or made of the text."""
        for shard, first, last in self._stretches():
            arrays = self.shards[shard].arrays
            if len(arrays["chains"]):
                start, end = int(arrays["chain_starts"][first]), int(arrays["chain_starts"][last])
                for at in range(start, end, _SYMBOLS_PER_BLOCK):
                    yield arrays["chains"][at : min(at + _SYMBOLS_PER_BLOCK, end)]
            else:
                starts = arrays["starts"][first : last + 1].tolist()
                for start, end in itertools.pairwise(starts):
                    data = arrays["text"][start:end]
                    yield chain(data, kernels.prints(data, K, GUARANTEES[self.guarantee]).positions).symbols
            self._release()

    def _stretches(self) -> Iterator[tuple[int, int, int]]:
        """Yield shard, first and last + 1 of documents that follow each other here as they do in their shard."""
        follows = np.diff(self._number_of.astype(np.int64)) == 1
        breaks = np.flatnonzero(~follows | (np.diff(self._shard_of) != 0)) + 1
        bounds = np.concatenate([[0], breaks, [self.documents]])
        for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            number = int(self._number_of[first])
            yield int(self._shard_of[first]), number, number + last - first

    @cached_property
    def _shifts(self) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Where in each shard's text a new shift begins, and what from there on is added to a position.

        Below zero, by far: what is there is left out. Documents that follow each other here as in their shard have one
        shift: where shards do not interleave, there is one for all, and no posting's document need be looked up.
        """
        starts = starts_of(self.column("starts"))[:-1].astype(np.int64)
        shifts = []
        for number, shard in enumerate(self.shards):
            local = shard.arrays["starts"][:-1].view(np.int64)
            shift = np.full(shard.documents, _LEFT_OUT, dtype=np.int64)
            mine = self._shard_of == number
            shift[self._number_of[mine]] = starts[mine] - local[self._number_of[mine]]
            begins = np.flatnonzero(np.diff(shift, prepend=_LEFT_OUT - 1))
            shifts.append((local[begins], shift[begins]))
        return shifts

    def postings(self) -> Iterator[tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]]:
        """Yield keys and positions, sorted by both, in blocks of about `POSTINGS_PER_BLOCK`."""
        for low, high in self.key_ranges():
            yield self.postings_between(low, high)

    def lexemes(self) -> Iterator[tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]]:
        """Yield keys and positions of the lexeme stream, as `postings` does."""
        for low, high in self.key_ranges(stream="renamed_"):
            yield self.postings_between(low, high, stream="renamed_")

    def _release(self) -> None:
        for shard in self.shards:
            shard.release()

    def postings_between(
        self, low: int, high: int, stream: str = ""
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]:
        """Return the keys in low .. high - 1 and their positions, sorted by both; `stream` begins the arrays' names."""
        keys, positions = [], []
        for shard, (begins, shifts) in zip(self.shards, self._shifts, strict=True):
            all_keys, all_positions = shard.arrays[f"{stream}keys"], shard.arrays[f"{stream}positions"]
            first, last = _bounds(all_keys, low, high)
            moved = all_positions[first:last].astype(np.int64)
            moved += shifts[np.searchsorted(begins, moved, side="right") - 1] if len(begins) > 1 else shifts[:1]
            kept = slice(None) if len(moved) and moved.min() >= 0 else moved >= 0
            keys.append(all_keys[first:last].copy()[kept])
            positions.append(moved[kept].astype(np.uint64))
            shard.release()  # one byte that is read may map two megabytes: with 250 shards too much to wait with it
        return _sorted_pairs(np.concatenate(keys), np.concatenate(positions))

    def key_ranges(self, low: int = 0, high: int = KEY_LIMIT, stream: str = "") -> Iterator[tuple[int, int]]:
        """Yield ranges that make up low .. high - 1: equal ones, which hold about equally many postings each."""
        total = sum(len(shard.arrays[f"{stream}keys"]) for shard in self.shards) * (high - low) // KEY_LIMIT
        count = max(1, -(-total // POSTINGS_PER_BLOCK))
        bounds = [low + number * (high - low) // count for number in range(count + 1)]
        yield from itertools.pairwise(bounds)


def combine(shards: Sequence[Shard], folder: Path) -> Shard:
    """Write the union of shards as one shard to a new folder, streaming, and return it mapped."""
    merge = Merge(shards)
    with ShardWriter(folder, merge.guarantee, renamed=merge.renamed) as writer:
        for name in ("text", "lines", "paths", "originals"):
            for block in merge.blocks(name):
                writer.append(name, block)
        for name in ("source", "digest", "size"):
            writer.append(name, merge.column(name))
        for name in ("starts", "line_starts", "path_starts", "original_starts"):
            writer.append(name, starts_of(merge.column(name)))
        for keys, positions in merge.postings():
            writer.append("keys", keys)
            writer.append("positions", positions)
        for keys, positions in merge.lexemes():
            writer.append("renamed_keys", keys)
            writer.append("renamed_positions", positions)
        writer.finish(merge.sources, merge.repeated)
    return Shard.open(folder)


def _bounds(keys: npt.NDArray[np.uint32], low: int, high: int) -> tuple[int, int]:
    """Return where keys from `low` to below `high` stand; not of another type, so that no key is converted."""
    last = np.searchsorted(keys, np.uint32(high)) if high < KEY_LIMIT else len(keys)
    return int(np.searchsorted(keys, np.uint32(low))), int(last)


def _sorted_pairs(
    keys: npt.NDArray[np.uint32], positions: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]:
    """Return pairs sorted by key and position; as single numbers wherever key and position fit into 64 bits."""
    if not len(keys):
        return keys, positions
    low = int(keys.min())
    bits = int(positions.max()).bit_length()
    if (int(keys.max()) - low).bit_length() + bits > _U64.itemsize * 8:
        order = np.lexsort((positions, keys))
        return keys[order], positions[order]
    pairs = (keys - np.uint32(low)).astype(np.uint64) << np.uint64(bits) | positions
    pairs.sort()
    return (pairs >> np.uint64(bits)).astype(np.uint32) + np.uint32(low), pairs & np.uint64((1 << bits) - 1)


def _add_to_corpus(corpus: hashlib._Hash, source: SourceRecord, path: bytes, digest: bytes) -> None:
    """Add a document to the id of the corpus: what is indexed, not how."""
    for part in (source.name.encode("utf-8", "surrogatepass"), source.revision.encode("utf-8", "surrogatepass"), path):
        corpus.update(len(part).to_bytes(8, "little") + part)
    name = digest.hex().encode("ascii")
    corpus.update(len(name).to_bytes(8, "little") + name)
