"""The files of an index: layout, checks, writer and reader.

    index.json            what the index is: counts, rules; name, size and SHA-256 of each other file; its own checksum
    keys-<sha>.bin        u32 (postings,)      low halves of the k-gram hashes, ascending
    positions-<sha>.bin   u32 (postings,)      where each k-gram starts in the text; u64 from 4 GiB of text on;
                                               ascending among equal keys
    text-<sha>.bin        u8  (bytes + 2048,)  normalised bytes of all documents in a row, to confirm matches;
                                               between margins of 1024 zeros, so that no block is read beyond an end
    starts-<sha>.bin      u64 (documents + 1,) where each document starts in the text
    documents-<sha>.bin   records (documents + 1,) where its lines and its path start, the number of its source; size
                                               and SHA-256 of its text in UTF-8, by which indexes are merged
    lines-<sha>.bin       u32 (lines,)         normalised bytes before each source line, from its document's start
    paths-<sha>.bin       UTF-8                the documents' paths within their sources, one after the other
    sources-<sha>.bin     JSON                 list of {name, revision, url, licenses, license_conflict}
    tombstones.json       which sources are forgotten, if any: see `tombstones`

All numbers are little-endian. Documents are sorted by source, path and content, so that the same corpus gives the same
bytes. <sha> is the start of the file's SHA-256: a file never changes under its name, and an index is replaced by adding
files and then swapping index.json, in one atomic step.

Costs with k = 25, w = 26, per normalised byte: 1 for the text, 0.074 postings of 8 bytes, about 0.15 for the lines.
A look-up is a binary search in the mapped keys. Opening reads index.json and sources, and maps the rest.
Limits: 2**32 lines per document, 2**32 sources, 2**39 bytes of text (a bound of `matching`).

History
    1   first version
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attribution import tombstones
from attribution.durable import locked, sync_folder, workspace, write_synced
from attribution.errors import IndexExistsError, IndexFormatError, IndexVersionError, IndexWriteError
from attribution.fingerprint import GUARANTEES, K
from attribution.normalise import NORMALISER_VERSION

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = "starcite-index"
FORMAT_VERSION = 1
HEADER = "index.json"
TEXT_MARGIN_BYTES = 1024

DIGEST_BYTES = 32
DOCUMENT = np.dtype(
    [("lines", "<u8"), ("path", "<u8"), ("source", "<u4"), ("bytes", "<u4"), ("digest", "u1", (DIGEST_BYTES,))]
)
_DTYPES: dict[str, np.dtype[Any]] = {
    "keys": np.dtype("<u4"),
    "positions": np.dtype("<u4"),
    "text": np.dtype("u1"),
    "starts": np.dtype("<u8"),
    "documents": DOCUMENT,
    "lines": np.dtype("<u4"),
    "paths": np.dtype("u1"),
    "sources": np.dtype("u1"),
}
_FILE_NAME = re.compile(rf"({'|'.join(_DTYPES)})-[0-9a-f]{{16}}\.bin")
_REBUILD = "rebuild it with 'starcite index build'"

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """Where documents come from. `url` may hold `{path}`, which stands for the document's path."""

    name: str
    revision: str
    url: str
    licenses: tuple[str, ...]
    license_conflict: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What an index is. `corpus` is the SHA-256 of its sorted content; `bytes` counts the sources' text in UTF-8."""

    name: str
    corpus: str
    normaliser: int
    k: int
    w: int
    guarantee: int
    documents: int
    sources: int
    bytes: int
    lines: int


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that is written: the facts, the arrays by file kind (see the module), the sources."""

    facts: Facts
    arrays: dict[str, npt.NDArray[Any]]
    sources: tuple[SourceRecord, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """All that an index keeps of a document: its fingerprints follow from `data`, its normalised bytes.

    `lines` are the normalised bytes before each source line; `digest` is the SHA-256 of the `source_bytes` of its text.
    """

    source: SourceRecord
    path: bytes
    digest: bytes
    source_bytes: int
    data: Bytes
    lines: npt.NDArray[np.uint32]


def padded(text: Bytes) -> Bytes:
    """Return normalised bytes between margins, as the text file holds them and as blocks are compared."""
    margin = np.zeros(TEXT_MARGIN_BYTES, dtype=np.uint8)
    return np.concatenate((margin, text, margin))  # seven times faster than np.pad for a completion


# --- writing ---------------------------------------------------------------------------------------------------------


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


def write(out: Path, contents: Contents, *, overwrite: bool = False, replacing: str | None = None) -> None:
    """Publish an index at `out` atomically. An interruption leaves what was there before, and nothing beside it.

    `replacing`: the `identity` of the only index that may be overwritten. What the former index was asked to forget is
    forgotten in the new one too. Raises `IndexExistsError` (see `check_output`), `IndexWriteError`, and
    `IndexFormatError` for damaged tombstones.
    """
    check_output(out, overwrite=overwrite)
    try:
        with workspace(out) as stage:
            stage.chmod(0o777 & ~_umask())
            _write_files(stage, contents)
            _publish(stage, out, contents, replacing)
    except OSError as error:
        raise write_error(out, error) from error


def _write_files(stage: Path, contents: Contents) -> None:
    sources = json.dumps([asdict(source) for source in contents.sources], sort_keys=True).encode("ascii")
    arrays = contents.arrays | {"sources": np.frombuffer(sources, dtype=np.uint8)}
    files = {kind: _write_array(stage, kind, arrays[kind]) for kind in _DTYPES}
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "facts": asdict(contents.facts),
        "files": files,
    }
    header["checksum"] = _checksum(header)
    write_synced(stage / HEADER, json.dumps(header, sort_keys=True, indent=1).encode("ascii"))
    sync_folder(stage)


def _write_array(stage: Path, kind: str, array: npt.NDArray[Any]) -> dict[str, str | int]:
    data = np.ascontiguousarray(array).tobytes()
    digest = hashlib.sha256(data).hexdigest()
    name = f"{kind}-{digest[:16]}.bin"
    write_synced(stage / name, data)
    return {"name": name, "bytes": len(data), "sha256": digest, "item": array.dtype.itemsize}


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
        if path.name == tombstones.HALF_WRITTEN or (_FILE_NAME.fullmatch(path.name) and path.name not in named):
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


def _checksum(header: dict[str, Any]) -> str:
    body = {key: value for key, value in header.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


# --- reading ---------------------------------------------------------------------------------------------------------


class Reader:
    """An index, mapped read-only. Immutable and safe to share between threads.

    `Reader(folder)` raises `IndexFormatError` or `IndexVersionError`; it checks index.json, the sources and the files'
    sizes. `verify()` checks every byte.
    """

    def __init__(self, folder: Path) -> None:
        """Map the index in a folder."""
        self.folder = folder
        self._header_path = str(folder / HEADER)
        self._stamp = tombstones.stamp(self._header_path)
        header = read_header(folder / HEADER)
        self.identity: str = header["checksum"]
        self._files: dict[str, dict[str, Any]] = header["files"]
        self.facts = Facts(**header["facts"])
        self.k, self.w = self.facts.k, self.facts.w
        self.keys: npt.NDArray[np.uint32] = self._map("keys")
        self.positions: npt.NDArray[np.uint32] | npt.NDArray[np.uint64] = self._map("positions")
        self.padded_text: Bytes = self._map("text")
        self.text = self.padded_text[TEXT_MARGIN_BYTES : len(self.padded_text) - TEXT_MARGIN_BYTES]
        self.starts: npt.NDArray[np.int64] = self._map("starts").view(np.int64)
        self._documents = self._map("documents")
        self._lines: npt.NDArray[np.uint32] = self._map("lines")
        self._paths: Bytes = self._map("paths")
        self.sources = self._read_sources()
        self._check()
        self._watch = tombstones.Watch(folder, self.identity, len(self.sources))
        self.forgotten = self._watch.forgotten()

    def refresh(self) -> bool:
        """Look at what is to be forgotten now, and return whether the index is still the one in the folder.

        `forgotten` says of each source whether it is, and is None if none is. Raises `IndexFormatError`.
        """
        # In this order: tombstones are taken away only after their index has been replaced.
        try:
            self.forgotten = self._watch.forgotten()
        except IndexFormatError:
            if self._is_current():
                raise
        return self._is_current()

    def _is_current(self) -> bool:
        """Return whether index.json was not replaced; where the whole folder is gone, the mapped files live on."""
        return tombstones.stamp(self._header_path) in {self._stamp, tombstones.ABSENT}

    def verify(self) -> None:
        """Read every file and compare its SHA-256; raises `IndexFormatError` naming the first that differs."""
        self._watch.verify(self.sources)
        for kind, entry in self._files.items():
            path = self.folder / entry["name"]
            try:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise _damaged(path, error.strerror or str(error)) from error
            if digest != entry["sha256"]:
                raise _damaged(path, f"the checksum of its {kind} is wrong")

    def document_of(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the number of the document that each position in the text lies in."""
        return np.searchsorted(self.starts, positions, side="right") - 1

    def source_of(self, documents: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the number of each document's source."""
        numbers: npt.NDArray[np.int64] = self._documents["source"][documents].astype(np.int64)
        if len(numbers) and numbers.max() >= len(self.sources):
            raise self.damaged("documents", "it names a source that does not exist")
        return numbers

    def path_of(self, document: int) -> str:
        """Return a document's path within its source."""
        raw = self._slice("path", self._paths, document)
        return raw.tobytes().decode("utf-8", "replace")

    def stored(self, document: int) -> Stored:
        """Return all that is kept of a document."""
        record = self._documents[document]
        return Stored(
            source=self.sources[int(self.source_of(np.array([document]))[0])],
            path=self._slice("path", self._paths, document).tobytes(),
            digest=record["digest"].tobytes(),
            source_bytes=int(record["bytes"]),
            data=self.text[self.starts[document] : self.starts[document + 1]],
            lines=self._slice("lines", self._lines, document),
        )

    def lines_of(self, document: int, start: int, end: int) -> tuple[int, int]:
        """Return the 1-based first and last source line of text[start:end], which lies in the document."""
        lines = self._slice("lines", self._lines, document)
        base = int(self.starts[document])
        first, last = np.searchsorted(lines, [start - base, end - 1 - base], side="right")
        return max(1, int(first)), max(1, int(last))

    def damaged(self, kind: str, what: str) -> IndexFormatError:
        """Return the error that says what is wrong with one of the files."""
        return _damaged(self.folder / self._files[kind]["name"], what)

    def _slice(self, column: str, values: npt.NDArray[Any], document: int) -> npt.NDArray[Any]:
        start, end = self._documents[column][document : document + 2].tolist()
        if not start <= end <= len(values):
            raise self.damaged("documents", f"the bounds of a document's {column} are wrong")
        return values[start:end]

    def _map(self, kind: str) -> npt.NDArray[Any]:
        entry = self._files[kind]
        path = self.folder / entry["name"]
        dtype = np.dtype("<u8") if kind == "positions" and entry["item"] == 8 else _DTYPES[kind]  # noqa: PLR2004
        try:
            size = path.stat().st_size
            if size != entry["bytes"] or size % dtype.itemsize:
                raise _damaged(path, f"it has {size} bytes instead of {entry['bytes']}")
            # An empty file cannot be mapped.
            return np.asarray(np.memmap(path, dtype=dtype, mode="r")) if size else np.empty(0, dtype=dtype)
        except OSError as error:
            raise _damaged(path, error.strerror or str(error)) from error

    def _read_sources(self) -> tuple[SourceRecord, ...]:
        entry = self._files["sources"]
        data = self._map("sources").tobytes()
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise self.damaged("sources", "its checksum is wrong")
        return tuple(SourceRecord(**(record | {"licenses": tuple(record["licenses"])})) for record in json.loads(data))

    def _check(self) -> None:
        """Check what cheap checks can find, so that no damage makes a look-up leave the arrays."""
        if len(self.keys) != len(self.positions):
            raise self.damaged("positions", "its length differs from that of the keys")
        if len(self.starts) != self.facts.documents + 1 or len(self._documents) != len(self.starts):
            raise self.damaged("documents", "its length is not the number of documents")
        if self.starts[0] != 0 or self.starts[-1] != len(self.text) or (np.diff(self.starts) < 0).any():
            raise self.damaged("starts", "the documents' bounds are not in order")


def read_header(path: Path) -> dict[str, Any]:
    """Return index.json, checked: ours, not newer than this Starcite, undamaged."""
    try:
        header = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise IndexFormatError(f"{path.parent} is no index: it has no {HEADER}; {_REBUILD}.") from error
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "it is not JSON") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise IndexFormatError(f"{path} does not describe a Starcite index; {_REBUILD}.")
    version = header.get("version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise IndexVersionError(
            f"{path} has format {version}, newer than this Starcite's {FORMAT_VERSION}; upgrade Starcite."
        )
    if header.get("checksum") != _checksum(header):
        raise _damaged(path, "its checksum is wrong")
    _check_rules(path, header["facts"])
    return header


def _check_rules(path: Path, facts: dict[str, Any]) -> None:
    if facts["normaliser"] > NORMALISER_VERSION:
        raise IndexVersionError(f"{path} was normalised by rules newer than this Starcite's; upgrade Starcite.")
    if (facts["k"], facts["w"]) != (K, GUARANTEES.get(facts["guarantee"])):
        raise IndexVersionError(f"{path} has a guarantee that this Starcite does not know; upgrade Starcite.")


def _damaged(path: Path, what: str) -> IndexFormatError:
    return IndexFormatError(f"{path} is damaged: {what}; {_REBUILD}.")
