"""Indexes -> indexes: unite them, forget in them, and remove what is forgotten.

    merge     several indexes ──▶ one, byte for byte the build of all their documents
    forget    opt-outs ──▶ tombstones beside the index; every search, also of open indexes, leaves their sources out
    compact   an index and its tombstones ──▶ byte for byte the build without their sources

The canonical order makes this possible: an index has its documents by source (name, revision, address, licences),
path and SHA-256 of their text, and each such document once, however it came to be. Positions and keys are no part of
what is merged: fingerprints are made again from the stored text, which takes a tenth of the time of reading sources.

An index is published in one step, and its tombstones before that and after it (`tombstones.handed_on`), so that a crash
leaves the state before or the state after, and never one in which something forgotten is found again. `compact` once
more removes what a crash left behind.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from attribution import optout, tombstones
from attribution.build import publish
from attribution.durable import locked, remove_stale_workspaces, workspace
from attribution.errors import QueryError, SourceError
from attribution.format import HEADER, Reader, read_header
from attribution.optout import OptOuts
from attribution.shards import Entry, Merge, Shard, ShardWriter, chunks, fingerprint_shard, starts_of
from attribution.tombstones import Tombstones
from attribution.writer import check_output, remove_strays, write_error

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    from attribution.build import BuildReport
    from attribution.format import Facts

CHUNK_BYTES = 1 << 25
"""So much normalised text is fingerprinted at once, in about eight times as much memory."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How much of an index is forgotten."""

    sources: int
    documents: int


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What `compact` removed, and the size of the index before and after, in bytes."""

    removed: Forgotten
    bytes_before: int
    bytes_after: int


def merge(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    overwrite: bool = False,
) -> BuildReport:
    """Write the union of indexes to a new one. What one of them was asked to forget is taken from none of them.

    `name` is shown with results (default: the name of `out`). Raises `QueryError` for indexes that do not go together,
    `SourceError` if nothing is left, `IndexFormatError`, `IndexExistsError` and `IndexWriteError`.
    """
    target = Path(out)
    check_output(target, overwrite=overwrite)
    readers = [Reader(Path(folder)) for folder in folders]
    _check_alike(readers)
    optouts = _optouts(readers)
    masks = [_mask(reader, tombstones.resolve(optouts, reader.sources)[1]) for reader in readers]
    left_out = Counter({"opted out": sum(_forgotten(*pair).documents for pair in zip(readers, masks, strict=True))})
    with _merged(target, readers, masks) as merged:
        report = publish(merged, target, name=name, text=readers[0].facts.text, overwrite=overwrite, skipped=left_out)
    if (asked_meanwhile := _optouts(readers)) != optouts:
        _forget(target, asked_meanwhile)
    return report


def forget(folder: str | os.PathLike[str], optouts_file: str | os.PathLike[str]) -> Forgotten:
    """Let no search find the sources that a file of opt-outs covers, from now on; return how much is forgotten in all.

    Earlier opt-outs stay in force. Raises `OptOutError`, `IndexFormatError` and `IndexWriteError`.
    """
    return _forget(Path(folder), optout.read(Path(optouts_file)))


def forgotten(reader: Reader) -> Forgotten:
    """Return how much of an index is forgotten now."""
    reader.refresh()
    return _forgotten(reader, reader.forgotten)


def compact(folder: str | os.PathLike[str]) -> CompactReport:
    """Remove what is forgotten, and what a crash left behind: afterwards no file in the folder holds anything of it.

    An index without tombstones keeps every byte. Raises `SourceError` if nothing would be left, `IndexFormatError` and
    `IndexWriteError`, also if the index was replaced meanwhile.
    """
    target = Path(folder)
    before = _size(target)
    reader = Reader(target)
    removed = _forgotten(reader, reader.forgotten)
    if removed.documents == reader.facts.documents:
        raise SourceError(f"Everything in {target} is forgotten; delete the folder.")
    if removed.sources:
        with _merged(target, [reader], [reader.forgotten]) as merged:
            publish(
                merged,
                target,
                name=reader.facts.name,
                text=reader.facts.text,
                overwrite=True,
                replacing=reader.identity,
            )
    _tidy(target)
    return CompactReport(removed, before, _size(target))


def _forget(folder: Path, optouts: OptOuts) -> Forgotten:
    read_header(folder / HEADER)  # says what is wrong with a folder that is no index
    try:
        with locked(folder):
            reader = Reader(folder)
            before = tombstones.load(folder)
            wanted = optouts | before.optouts if before else optouts
            effective, numbers = tombstones.resolve(wanted, reader.sources)
            tombstones.save(folder, Tombstones(effective, {reader.identity: numbers}))
    except OSError as error:
        raise write_error(folder, error) from error
    return _forgotten(reader, _mask(reader, numbers))


def _tidy(folder: Path) -> None:
    """Remove the files and the opt-outs that the index in a folder has no use for."""
    try:
        with locked(folder):
            reader = Reader(folder)
            if before := tombstones.load(folder):
                effective, numbers = tombstones.resolve(before.optouts, reader.sources)
                tombstones.save(folder, Tombstones(effective, {reader.identity: numbers}))
            remove_strays(folder)
        remove_stale_workspaces(folder)
    except OSError as error:
        raise write_error(folder, error) from error


def _optouts(readers: Iterable[Reader]) -> OptOuts:
    optouts = OptOuts()
    for reader in readers:
        if found := tombstones.load(reader.folder):
            optouts |= found.optouts
    return optouts


def _check_alike(readers: Sequence[Reader]) -> None:
    if not readers:
        raise QueryError("There is nothing to merge; name the folders of indexes.")
    first = readers[0]
    for reader in readers[1:]:
        if _rules(reader) != _rules(first):
            raise QueryError(
                f"{reader.folder} has a guarantee of {reader.facts.guarantee} and its text {reader.facts.text}, "
                f"{first.folder} one of {first.facts.guarantee} and its text {first.facts.text}; build them alike."
            )


def _rules(reader: Reader) -> Facts:
    """Return the facts of an index that do not follow from its documents."""
    return replace(reader.facts, name="", corpus="", documents=0, sources=0, bytes=0, lines=0)


def _mask(reader: Reader, numbers: Sequence[int]) -> Mask:
    mask = np.zeros(len(reader.sources), dtype=np.bool_)
    mask[list(numbers)] = True
    return mask


def _forgotten(reader: Reader, mask: Mask | None) -> Forgotten:
    if mask is None:
        return Forgotten(0, 0)
    documents = mask[reader.source_of(np.arange(reader.facts.documents))]
    return Forgotten(int(mask.sum()), int(documents.sum()))


def _entries(reader: Reader, without: Mask | None) -> Iterator[Entry]:
    """Yield the documents of an index as they went into it, in its order, but those of some sources."""
    numbers = reader.source_of(np.arange(reader.facts.documents))
    kept = np.arange(reader.facts.documents) if without is None else np.flatnonzero(~without[numbers])
    for document in kept.tolist():
        held = reader.stored(document)
        yield Entry(held.source, held.path, held.digest, held.source_bytes, held.data, held.lines, held.original)


@contextlib.contextmanager
def _merged(target: Path, readers: Sequence[Reader], without: Sequence[Mask | None]) -> Iterator[Merge]:
    """Yield the merge of indexes without some sources; its shards lie beside the target until the block ends."""
    try:
        with workspace(target) as folder:
            if readers[0].text_is_gone:
                shards = [_resharded(reader, folder / str(number)) for number, reader in enumerate(readers)]
                yield Merge(shards, without=without)
            else:
                entries = chain.from_iterable(_entries(*pair) for pair in zip(readers, without, strict=True))
                yield Merge(list(_shards(folder, entries, readers[0].facts)))
    except OSError as error:
        raise write_error(target, error) from error


def _shards(folder: Path, entries: Iterable[Entry], facts: Facts) -> Iterator[Shard]:
    """Fingerprint documents, chunk by chunk, into shards in a folder."""
    for number, chunk in enumerate(chunks(entries, CHUNK_BYTES, lambda entry: len(entry.data))):
        shard = fingerprint_shard(chunk, guarantee=facts.guarantee, renamed=bool(facts.lexer))
        shard.save(folder / str(number))
        yield Shard.open(folder / str(number))


def _resharded(reader: Reader, folder: Path) -> Shard:
    """Write an index without text as a shard: of nothing but its own files can its fingerprints be made again.

    So every byte is checked before. Raises `IndexFormatError`.
    """
    reader.verify()
    assert reader.chains is not None  # noqa: S101 - see above
    with ShardWriter(folder, reader.facts.guarantee, renamed=False) as writer:
        lines, paths = [], []
        for document in range(reader.facts.documents):
            held = reader.stored(document)
            for name, value in (("lines", held.lines), ("paths", held.path), ("digest", held.digest)):
                writer.append(name, np.frombuffer(value, dtype=np.uint8) if isinstance(value, bytes) else value)
            writer.append("size", np.array([held.source_bytes]))
            lines.append(len(held.lines))
            paths.append(len(held.path))
        writer.append("line_starts", starts_of(lines))
        writer.append("path_starts", starts_of(paths))
        writer.append("original_starts", np.zeros(len(reader.starts)))
        writer.append("starts", reader.starts)
        writer.append("source", reader.source_of(np.arange(reader.facts.documents)))
        writer.append("chains", reader.chains.symbols)
        writer.append("chain_starts", reader.chains.entries_from(reader.starts))
        for keys, positions in reader.postings.pairs():
            writer.append("keys", keys)
            writer.append("positions", positions)
        writer.finish(reader.sources, 0)
    return Shard.open(folder)


def _size(folder: Path) -> int:
    """Return the bytes of an index's files. Raises `IndexFormatError` for a folder that holds none."""
    read_header(folder / HEADER)
    return sum(path.stat().st_size for path in folder.iterdir())
