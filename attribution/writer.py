"""The files of an index, written and published: see `format` for what they are.

    Contents ──packed, block by block──▶ files in a folder beside the index ──rename, or swap of index.json──▶ the index

Memory: the columns, one block, and the few postings of frequent keys, whatever the size of the text.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from attribution import chains, tombstones
from attribution.details import block_starts, packed, packed_lines
from attribution.durable import locked, sync_folder, workspace, write_synced
from attribution.errors import IndexExistsError, IndexWriteError
from attribution.format import (
    FILE_KINDS,
    FILE_NAME,
    FORMAT,
    FORMAT_VERSION,
    HEADER,
    NO_TEXT,
    RENAMED,
    TEXT_MARGIN_BYTES,
    VERBATIM,
    Contents,
    checksum,
    read_header,
)
from attribution.postings import PostingsLayout, PostingsWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

Array = npt.NDArray[Any]

_PACKING = {
    ("raw", 50): {"bucket_postings": 4, "cell_bits": 3, "remainder_bits": 0},
    ("raw", 100): {"bucket_postings": 8, "cell_bits": 6, "remainder_bits": 0},
    ("compressed", 50): {"bucket_postings": 4, "cell_bits": 0, "remainder_bits": 6},
    ("compressed", 100): {"bucket_postings": 4, "cell_bits": 0, "remainder_bits": 6},
    (NO_TEXT, 50): {"bucket_postings": 4, "cell_bits": 0, "remainder_bits": 32},
    (NO_TEXT, 100): {"bucket_postings": 4, "cell_bits": 0, "remainder_bits": 32},
}
"""By what is kept of the text, and guarantee.

All eight places of a cell of a mapped text are looked at in a tenth of a microsecond, one of a compressed text in a
hundred; without text whole keys are kept, by which indexes are merged. With the guarantee of 100 a question has half
as many k-grams, and can look at more places for each.
"""

# A look takes a document to be lexed again, a millisecond: one in 64 is for nothing.
_LEXEME_PACKING = {"bucket_postings": 4, "cell_bits": 0, "remainder_bits": 8}
_NORMALISED_BYTES_PER_GRAM = 32
_POSTINGS_PER_BLOCK = 1 << 20
_NAME_DIGITS = 16


def check_output(out: Path, *, overwrite: bool) -> None:
    """Raise `IndexExistsError` unless an index may be written to `out`: it is absent, empty, or an index to replace."""
    try:
        occupied = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise write_error(out, error) from error
    if not occupied:
        return
    if not _is_index(out):
        raise IndexExistsError(f"{out} exists and is no index; choose another output folder.")
    if not overwrite:
        raise IndexExistsError(f"{out} already holds an index; choose another output folder or ask to overwrite it.")
    tombstones.load(out)  # what is damaged there is said before the work, not after it


def write(out: Path, contents: Contents, *, overwrite: bool = False, replacing: str | None = None) -> int:
    """Publish an index at `out` atomically, and return how many postings it has.

    An interruption leaves what was there before, and nothing beside it.

    `replacing`: the `identity` of the only index that may be overwritten. What the former index was asked to forget is
    forgotten in the new one too. Raises `IndexExistsError` (see `check_output`), `IndexWriteError`, and
    `IndexFormatError` for damaged tombstones.
    """
    check_output(out, overwrite=overwrite)
    try:
        with workspace(out) as stage:
            stage.chmod(0o777 & ~_umask())
            layout = _write_files(stage, contents)
            _publish(stage, out, contents, replacing)
    except OSError as error:
        raise write_error(out, error) from error
    return layout.postings


class _Files:
    """The files of an index while they are written, all at once; `close` gives them their names."""

    def __init__(self, stage: Path) -> None:
        self._stage = stage
        self._open = {kind: (stage / kind).open("wb") for kind in FILE_KINDS}
        self._digests = {kind: hashlib.sha256() for kind in FILE_KINDS}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()

    def append(self, kind: str, data: npt.ArrayLike | bytes) -> None:
        raw = data if isinstance(data, bytes) else np.ascontiguousarray(data, dtype=FILE_KINDS[kind]).tobytes()
        self._open[kind].write(raw)
        self._digests[kind].update(raw)

    def named(self) -> dict[str, dict[str, str | int]]:
        """Bring all files to the disk under their names, and return what index.json says of them."""
        entries: dict[str, dict[str, str | int]] = {}
        for kind, file in self._open.items():
            file.flush()
            os.fsync(file.fileno())
            if not file.tell():
                (self._stage / kind).unlink()
                continue
            digest = self._digests[kind].hexdigest()
            entries[kind] = {
                "name": f"{kind}-{digest[:_NAME_DIGITS]}.bin",
                "bytes": file.tell(),
                "sha256": digest,
            }
            (self._stage / kind).rename(self._stage / str(entries[kind]["name"]))
        return entries


def _write_files(stage: Path, contents: Contents) -> PostingsLayout:
    with _Files(stage) as files:
        _write_documents(files, contents)
        files.append("starts", contents.columns["starts"])
        files.append("digests", contents.columns["digest"])
        sources = [asdict(source) for source in contents.sources]
        files.append("sources", json.dumps(sources, sort_keys=True).encode("ascii"))
        numbers = np.arange(len(sources) + 1, dtype=np.uint32)
        files.append("source_starts", np.searchsorted(contents.columns["source"], numbers))
        layout = _write_postings(files, contents)
        header: dict[str, Any] = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "facts": asdict(contents.facts),
            "postings": {VERBATIM: asdict(layout)} | _write_lexemes(files, contents),
            "files": files.named(),
        }
    header["checksum"] = checksum(header)
    write_synced(stage / HEADER, json.dumps(header, sort_keys=True, indent=1).encode("ascii"))
    sync_folder(stage)
    return layout


def _write_documents(files: _Files, contents: Contents) -> None:
    margin = np.zeros(TEXT_MARGIN_BYTES, dtype=np.uint8)
    if contents.facts.text == "raw":
        for block in itertools.chain([margin], contents.blocks["text"], [margin]):
            files.append("text", block)
    if contents.facts.text == NO_TEXT:
        for symbols, bases in chains.bases(contents.blocks["chains"]):
            files.append("chain-symbols", symbols)
            files.append("chain-bases", bases)
    else:
        for block in contents.blocks["originals"]:
            files.append("originals", block)
    columns = contents.columns
    originals = columns["original_starts"]
    paths = _per_document(contents.blocks["paths"], columns["path_starts"])
    lines = _per_document(contents.blocks["lines"], columns["line_starts"])
    blocks = block_starts(np.diff(columns["line_starts"]))
    files.append("block_starts", blocks)
    start = 0
    for first, last in itertools.pairwise(blocks):
        stream = packed(
            columns["size"][first:last].tolist(),
            np.diff(originals[first : last + 1]).tolist(),
            [path.tobytes() for path in itertools.islice(paths, last - first)],
            [packed_lines(table) for table in itertools.islice(lines, last - first)],
        )
        files.append("details", stream)
        files.append("blocks", [start, originals[first]])
        start += len(stream)
    files.append("blocks", [start, originals[-1]])


def _write_postings(files: _Files, contents: Contents) -> PostingsLayout:
    facts = contents.facts
    size = int(contents.columns["starts"][-1])
    writer = PostingsWriter(
        files.append,
        VERBATIM,
        size * 2 // (facts.w + 1),  # the density of winnowing
        size,
        **_PACKING[facts.text, facts.guarantee],
    )
    return _fed(writer, contents.postings)


def _write_lexemes(files: _Files, contents: Contents) -> dict[str, dict[str, int]]:
    """Write the lexeme stream, if there is one, and return how it is packed."""
    if not contents.facts.lexer:
        return {}
    size = int(contents.columns["starts"][-1])
    writer = PostingsWriter(
        files.append,
        RENAMED,
        size // _NORMALISED_BYTES_PER_GRAM,
        size,
        **_LEXEME_PACKING,
    )
    return {RENAMED: asdict(_fed(writer, contents.lexemes))}


def _fed(writer: PostingsWriter, blocks: Iterable[tuple[Array, Array]]) -> PostingsLayout:
    for keys, positions in blocks:
        for at in range(0, len(keys), _POSTINGS_PER_BLOCK):
            block = slice(at, at + _POSTINGS_PER_BLOCK)
            writer.feed(keys[block], positions[block].astype(np.int64))
    return writer.finish()


def _per_document(blocks: Iterable[Array], starts: Array) -> Iterator[Array]:
    """Yield each document's part of blocks that follow each other."""
    held: Array = np.empty(0, dtype=np.uint8)
    following = iter(blocks)
    offset = 0
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        while offset + len(held) < end:
            held = np.concatenate([held[start - offset :], next(following)])
            offset = start
        yield held[start - offset : end - offset]


def _publish(stage: Path, out: Path, contents: Contents, replacing: str | None) -> None:
    if not out.exists():
        stage.rename(out)
    else:
        header = json.loads((stage / HEADER).read_bytes())
        with locked(out), tombstones.handed_on(out, header["checksum"], contents.sources):
            if replacing is not None and read_header(out / HEADER)["checksum"] != replacing:
                raise IndexWriteError(f"{out} was replaced by another index meanwhile; run the command again.")
            for path in stage.iterdir():
                if path.name != HEADER:
                    path.replace(out / path.name)
            sync_folder(out)
            (stage / HEADER).replace(out / HEADER)
            sync_folder(out)
            remove_strays(out)
    sync_folder(out.parent)


def remove_strays(folder: Path) -> None:
    """Remove the files of an index that it does not consist of any more. The caller holds the folder's lock.

    Readers may still map them; what a crash left behind goes as well.
    """
    named = {entry["name"] for entry in read_header(folder / HEADER)["files"].values()}
    for path in folder.iterdir():
        if path.name == tombstones.HALF_WRITTEN or (FILE_NAME.fullmatch(path.name) and path.name not in named):
            with contextlib.suppress(OSError):
                path.unlink()
    sync_folder(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _is_index(folder: Path) -> bool:
    """Whether a folder is an index, maybe a damaged one."""
    try:
        return FORMAT.encode() in (folder / HEADER).read_bytes()
    except OSError:
        return False


def write_error(out: Path, error: OSError) -> IndexWriteError:
    """Return the error that says why an index cannot be written."""
    reason = error.strerror or str(error)
    return IndexWriteError(f"{out}: the index cannot be written ({reason}); free the space or choose another folder.")
