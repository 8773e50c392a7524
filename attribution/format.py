"""The files of an index: layout, checks and reader. `writer` writes them.

    index.json            what the index is: facts, how postings are packed; name, size and SHA-256 of each other file;
                          its own checksum
    verbatim-*-<sha>.bin  the postings of the text, see `postings`: key of a k-gram -> where it starts in the text
    renamed-*-<sha>.bin   the postings of the lexemes, if asked for, see `lexemes`: key of a gram -> its first byte
    text-<sha>.bin        u8  (bytes + 2048,)  normalised bytes of all documents in a row, to confirm matches;
                                               between margins of 1024 zeros, so that no block is read beyond an end;
                                               not there with `text` "compressed": see below
    chain-*-<sha>.bin     of an index without text only, see `chains`: what confirms a match in its place
    originals-<sha>.bin   zlib, a stream each  the documents' source text in UTF-8, to be shown beside a match
    starts-<sha>.bin      u64 (documents + 1,) where each document starts in the text
    digests-<sha>.bin     u8  (documents, 16)  the start of the SHA-256 of each document's source text in UTF-8
    details-<sha>.bin     zlib, see `details`  sizes, paths and line tables, a stream for each block of documents
    block_starts-<sha>.bin u64 (blocks + 1,)   the number of the first document of each block
    blocks-<sha>.bin      u64 (blocks + 1, 2)  where the details and the originals of each block start
    sources-<sha>.bin     JSON                 list of {name, revision, url, licenses, license_conflict}
    source_starts-<sha>.bin u64 (sources + 1,) the number of the first document of each source
    tombstones.json       which sources are forgotten, if any: see `tombstones`

All numbers are little-endian; a file that would be empty is not there. Documents are sorted by source, path and
content, so that the same corpus gives the same bytes. <sha> is the start of the file's SHA-256: a file never changes
under its name, and an index is replaced by adding files and then swapping index.json, in one atomic step.

What is kept of the text (`Facts.text`):
    raw          the normalised text, as it is compared, and the originals: about one byte per byte of source
    compressed   the originals only, 0.3 bytes; the documents that a key points to are normalised for each question: 1.5
                 ms for 400 characters in the middle, 0.1 s where these stand in thousands of documents
    none         no text at all: matches are confirmed by hashes of what lies between fingerprints, see `chains`
Costs with k = 16, per byte of source: guarantee 50: 0.044 postings of 24 to 30 bits; 100: 0.018 of them; 0.021 for the
details, 25 bytes for a document. Opening reads index.json and sources, and maps the rest.
Limits: 2**32 lines or bytes of a document, 2**39 bytes of text (a bound of `matching`).

History
    1   first version: k = 25; keys and positions in full; lines in 32 bits; no originals
    2   k = 16; packed postings; compressed lines and originals
    3   details of up to 16 documents in one stream; half of a digest; sources by their first document
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property, lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attribution import details, normalise, tombstones
from attribution.chains import Chains
from attribution.errors import IndexFormatError, IndexVersionError
from attribution.fingerprint import GUARANTEES, K
from attribution.lexemes import LEXER_VERSION
from attribution.normalise import NORMALISER_VERSION
from attribution.postings import Postings, PostingsLayout, file_kinds, words_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from attribution.details import Details

FORMAT = "starcite-index"
FORMAT_VERSION = 3
HEADER = "index.json"
TEXT_MARGIN_BYTES = 1024
VERBATIM = "verbatim"
RENAMED = "renamed"
TEXT_MODES = ("raw", "compressed")
NO_TEXT = "none"

DIGEST_BYTES = 16
"""So much of a SHA-256 tells documents apart; the rest of it would be a tenth of what an index keeps of a small one."""
FILE_KINDS: dict[str, np.dtype[Any]] = {
    **file_kinds(VERBATIM),
    **file_kinds(RENAMED),
    "chain-symbols": np.dtype("<u4"),
    "chain-bases": np.dtype("<u8"),
    "text": np.dtype("u1"),
    "originals": np.dtype("u1"),
    "starts": np.dtype("<u8"),
    "digests": np.dtype("u1"),
    "details": np.dtype("u1"),
    "block_starts": np.dtype("<u8"),
    "blocks": np.dtype("<u8"),
    "sources": np.dtype("u1"),
    "source_starts": np.dtype("<u8"),
}
FILE_NAME = re.compile(r"[a-z_-]+-[0-9a-f]{16}\.bin")
_REBUILD = "rebuild it with 'starcite index build'"
_VIEW_BYTES = 1 << 24
_CACHED_BLOCKS = 32
_RECENT_BYTES = 1 << 24

Bytes = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


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
    """What an index is. `corpus` is the SHA-256 of its sorted content; `bytes` counts the sources' text in UTF-8.

    `text` says what is kept of the text: see the module. `lexer` is the version of the rules of the lexeme stream, 0
    where there is none.
    """

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
    text: str = "raw"
    lexer: int = 0


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that is written, not yet packed.

    `columns`, of shape (documents,): `source` (number in `sources`), `size` (bytes of source text), `digest` (SHA-256,
    with a second axis); of shape (documents + 1,): `starts`, `line_starts`, `path_starts`, `original_starts`, where
    each document's part of the blocks starts (`original_starts` are zeros without text).
    `blocks`, arrays that follow each other, in one piece or many: `text` (normalised bytes), `lines` (u32: normalised
    bytes before each source line, from its document's start), `paths` (UTF-8), `originals` (see `compressed`),
    `chains` (symbols, see `chains`); taken are those that `facts.text` asks for.
    `postings`: blocks of keys (u32) and positions in the text, sorted by both, over all blocks; `lexemes`: the same of
    the lexeme stream, nothing without one.
    """

    facts: Facts
    sources: tuple[SourceRecord, ...]
    columns: Mapping[str, Array]
    blocks: Mapping[str, Iterable[Array]]
    postings: Iterable[tuple[Array, Array]]
    lexemes: Iterable[tuple[Array, Array]] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """All that an index keeps of a document: its fingerprints follow from `data`, its normalised bytes.

    `lines` are the normalised bytes before each source line; `digest` is the SHA-256 of the `source_bytes` of its text,
    which `original` is (see `compressed`); both are empty in an index without text.
    """

    source: SourceRecord
    path: bytes
    digest: bytes
    source_bytes: int
    data: Bytes
    lines: npt.NDArray[np.uint32]
    original: bytes


def padded(text: Bytes) -> Bytes:
    """Return normalised bytes between margins, as the text file holds them and as blocks are compared."""
    margin = np.zeros(TEXT_MARGIN_BYTES, dtype=np.uint8)
    return np.concatenate((margin, text, margin))  # seven times faster than np.pad for a completion


def compressed(raw: bytes) -> bytes:
    """Return a document's source text in UTF-8 as an index keeps it; level 1 is three times faster than 6."""
    return zlib.compress(raw, 1)


def digest_of(raw: bytes) -> bytes:
    """Return what an index tells documents apart by, given the source text in UTF-8."""
    return hashlib.sha256(raw).digest()[:DIGEST_BYTES]


@dataclass(frozen=True)
class View:
    """Normalised text of some documents, to be compared: `padded` between margins, `starts` of each document in it.

    `documents` are their numbers, `None` for all of the index: then places in the view are those in the index.
    """

    padded: Bytes
    starts: I64
    origins: I64
    documents: I64 | None = None

    @cached_property
    def words(self) -> npt.NDArray[np.uint64]:
        """The eight bytes from each byte of `padded` on as one number."""
        return words_of(self.padded)

    def document_of(self, positions: I64) -> I64:
        """Return the place in the view of the document that each position lies in."""
        return np.searchsorted(self.starts, positions, side="right") - 1

    def placed(self, positions: I64) -> I64:
        """Return where positions in the view stand in the index's text."""
        if self.documents is None:
            return positions
        which = self.document_of(positions)
        return positions - self.starts[which] + self.origins[which]


class _Recent:
    """What was last unpacked of some documents, _RECENT_BYTES of it: text that many copy names the same few of them."""

    def __init__(self) -> None:
        self._held: OrderedDict[int, Array] = OrderedDict()
        self._bytes, self._lock = 0, Lock()

    def get(self, document: int) -> Array | None:
        with self._lock:
            if (found := self._held.get(document)) is not None:
                self._held.move_to_end(document)
            return found

    def put(self, document: int, data: Array) -> None:
        with self._lock:
            if document not in self._held:
                self._held[document] = data
                self._bytes += data.nbytes
            while self._bytes > _RECENT_BYTES:
                self._bytes -= self._held.popitem(last=False)[1].nbytes


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
        self.postings = Postings.mapped(PostingsLayout(**header["postings"][VERBATIM]), VERBATIM, self._map)
        self.lexemes: Postings | None = None
        if self.facts.lexer == LEXER_VERSION:
            self.lexemes = Postings.mapped(PostingsLayout(**header["postings"][RENAMED]), RENAMED, self._map)
        self.starts: I64 = self._map("starts").view(np.int64)
        self._source_starts: I64 = self._map("source_starts").view(np.int64)
        self._digests: Bytes = self._map("digests").reshape(-1, DIGEST_BYTES)
        self._block_starts: I64 = self._map("block_starts").view(np.int64)
        self._blocks: I64 = self._map("blocks").view(np.int64).reshape(-1, 2)
        self._details: Bytes = self._map("details")
        self._originals: Bytes = self._map("originals")
        # Of a function that does not know the reader, so that its files are let go of with it.
        self._unpacked = lru_cache(_CACHED_BLOCKS)(details.unpacked)
        self.whole = View(self._map("text"), self.starts, self.starts) if self.facts.text == "raw" else None
        self.chains = Chains(self._map("chain-symbols"), self._map("chain-bases")) if self.text_is_gone else None
        self._normalised, self._line_tables = _Recent(), _Recent()
        self.marks = _Recent()
        self.sources = self._read_sources()
        self._check()
        self._watch = tombstones.Watch(folder, self.identity, len(self.sources))
        self.forgotten = self._watch.forgotten()

    @property
    def text_is_gone(self) -> bool:
        """Whether nothing of the text is kept: then `original`, `normalised` and `views` have nothing to give."""
        return self.facts.text == NO_TEXT

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

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file's kind; those of a stream's postings in one."""
        sizes: dict[str, int] = {}
        for kind, entry in self._files.items():
            sizes[kind.partition("-")[0]] = sizes.get(kind.partition("-")[0], 0) + entry["bytes"]
        return sizes

    def document_of(self, positions: I64) -> I64:
        """Return the number of the document that each position in the text lies in."""
        return np.searchsorted(self.starts, positions, side="right") - 1

    def source_of(self, documents: I64) -> I64:
        """Return the number of each document's source."""
        return np.searchsorted(self._source_starts, documents, side="right") - 1

    def terms_of(self, sources: I64) -> set[tuple[tuple[str, ...], bool]]:
        """Return the licences of some sources, by number, and whether these conflict: each once."""
        terms, number = self._terms
        return {terms[held] for held in set(number[sources].tolist())}

    @cached_property
    def _terms(self) -> tuple[list[tuple[tuple[str, ...], bool]], I64]:
        """The different licences that sources have, and which of them each source has."""
        held = [(source.licenses, source.license_conflict) for source in self.sources]
        numbers = {terms: number for number, terms in enumerate(dict.fromkeys(held))}
        return list(numbers), np.array([numbers[terms] for terms in held], dtype=np.int64)

    def digest_of(self, document: int) -> bytes:
        """Return the start of the SHA-256 of a document's source text in UTF-8."""
        digest: bytes = self._digests[document].tobytes()
        return digest

    def find(self, digest: bytes, path: str, name: str, revision: str) -> int | None:
        """Return the first document of that text, path and source that is not forgotten, or None."""
        wanted = np.frombuffer(digest, dtype=np.uint8)
        if len(wanted) != DIGEST_BYTES:
            return None
        near = np.flatnonzero(self._digests[:, 0] == wanted[0])
        for document in near[(self._digests[near] == wanted).all(axis=1)].tolist():
            number = int(self.source_of(np.array([document]))[0])
            source = self.sources[number]
            if self.forgotten is not None and self.forgotten[number]:
                continue
            if (self.path_of(document), source.name, source.revision) == (path, name, revision):
                return int(document)
        return None

    def path_of(self, document: int) -> str:
        """Return a document's path within its source."""
        held, which = self._details_of(document)
        return held.path(which).decode("utf-8", "replace")

    def stored(self, document: int) -> Stored:
        """Return all that is kept of a document."""
        held, which = self._details_of(document)
        return Stored(
            source=self.sources[int(self.source_of(np.array([document]))[0])],
            path=held.path(which),
            digest=self.digest_of(document),
            source_bytes=held.source_bytes(which),
            data=np.empty(0, dtype=np.uint8) if self.text_is_gone else self.normalised(document),
            lines=self._line_table(document),
            original=self._packed_original(document),
        )

    def lines_of(self, document: int, start: int, end: int) -> tuple[int, int]:
        """Return the 1-based first and last source line of text[start:end], which lies in the document."""
        lines = self._line_table(document)
        base = int(self.starts[document])
        first, last = np.searchsorted(lines, [start - base, end - 1 - base], side="right")
        return max(1, int(first)), max(1, int(last))

    def original(self, document: int) -> str:
        """Return a document's source text. Raises `IndexFormatError` if it is not what was indexed, or not kept."""
        if self.text_is_gone:
            raise IndexFormatError(f"{self.folder} keeps no text; build it with its text to see that.")
        try:
            raw = zlib.decompress(self._packed_original(document))
        except zlib.error as error:
            raise self.damaged("originals", "a text cannot be unpacked") from error
        if digest_of(raw) != self.digest_of(document):
            raise self.damaged("originals", "a text is not the one that was indexed")
        return raw.decode("utf-8", "surrogatepass")

    def normalised(self, document: int) -> Bytes:
        """Return a document's normalised text."""
        start, end = self.starts[document : document + 2].tolist()
        if self.whole is not None:
            return self.whole.padded[TEXT_MARGIN_BYTES + start : TEXT_MARGIN_BYTES + end]
        if (data := self._normalised.get(document)) is not None:
            return data
        data = normalise.text(self.original(document)).data
        if len(data) != end - start:
            raise self.damaged("starts", "a document has another length than its text")
        self._normalised.put(document, data)
        return data

    def views(self, positions: I64) -> Iterator[tuple[View, I64, I64]]:
        """Yield texts that together hold all positions: the view, which of the positions, and where they are in it."""
        if self.whole is not None:
            yield self.whole, np.arange(len(positions)), positions
            return
        if not len(positions):
            return
        document = self.document_of(positions)
        order = np.argsort(document, kind="stable")
        held, first = np.unique(document[order], return_index=True)
        sizes = np.cumsum(self.starts[held + 1] - self.starts[held])
        batches = np.flatnonzero(np.diff(sizes // _VIEW_BYTES, prepend=-1))
        bounds = np.append(first, len(order))
        for low, high in zip(batches.tolist(), [*batches[1:].tolist(), len(held)], strict=True):
            documents = held[low:high]
            texts = [self.normalised(number) for number in documents.tolist()]
            starts = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
            view = View(padded(np.concatenate(texts)), starts, self.starts[documents], documents)
            chosen = order[bounds[low] : bounds[high]]
            inside = positions[chosen] - self.starts[document[chosen]]
            yield view, chosen, starts[np.searchsorted(documents, document[chosen])] + inside

    def damaged(self, kind: str, what: str) -> IndexFormatError:
        """Return the error that says what is wrong with one of the files."""
        return _damaged(self.folder / self._files.get(kind, {"name": HEADER})["name"], what)

    def _line_table(self, document: int) -> npt.NDArray[np.uint32]:
        if (lines := self._line_tables.get(document)) is None:
            held, which = self._details_of(document)
            try:
                lines = details.unpacked_lines(held.lines(which))
            except ValueError as error:
                raise self.damaged("details", f"a table of lines cannot be unpacked: {error}") from error
            self._line_tables.put(document, lines)
        return lines

    def _packed_original(self, document: int) -> bytes:
        held, which = self._details_of(document)
        start = int(self._blocks[self._block_of(document), 1])
        part = held.original(which)
        return self._originals[start + part.start : start + part.stop].tobytes()

    def _block_of(self, document: int) -> int:
        return int(self._block_starts.searchsorted(document, side="right")) - 1

    def _details_of(self, document: int) -> tuple[Details, int]:
        """Return the details of a document and of its neighbours, and which of them are its own."""
        block = self._block_of(document)
        first, last = self._block_starts[block : block + 2].tolist()
        start, end = self._blocks[block : block + 2, 0].tolist()
        try:
            return self._unpacked(self._details[start:end].tobytes(), last - first), document - first
        except ValueError as error:
            raise self.damaged("details", f"what is said of some documents cannot be unpacked: {error}") from error

    def _map(self, kind: str) -> Array:
        dtype = FILE_KINDS[kind]
        if kind not in self._files:  # a file that would be empty is not there
            return np.empty(0, dtype=dtype)
        entry = self._files[kind]
        path = self.folder / entry["name"]
        try:
            size = path.stat().st_size
            if size != entry["bytes"] or size % dtype.itemsize:
                raise _damaged(path, f"it has {size} bytes instead of {entry['bytes']}")
            return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
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
        if self.chains is not None and (problem := self.chains.problem()):
            raise self.damaged(*problem)
        if problem := self.postings.problem():
            raise self.damaged(f"{VERBATIM}-{problem[0]}", problem[1])
        if self.lexemes is not None and (problem := self.lexemes.problem()):
            raise self.damaged(f"{RENAMED}-{problem[0]}", problem[1])
        documents = self.facts.documents
        if len(self.starts) != documents + 1 or len(self._digests) != documents:
            raise self.damaged("digests", "its length is not the number of documents")
        if len(self._blocks) != len(self._block_starts):
            raise self.damaged("blocks", "its length is not the number of blocks")
        starts = self._block_starts
        if not len(starts) or (np.diff(starts) < 1).any() or (starts[0], starts[-1]) != (0, documents):
            raise self.damaged("block_starts", "the blocks' documents are not in order")
        bounds = self._source_starts
        if (
            len(bounds) != len(self.sources) + 1
            or (np.diff(bounds) < 0).any()
            or (bounds[0], bounds[-1]) != (0, documents)
        ):
            raise self.damaged("source_starts", "the sources' documents are not in order")
        if self.starts[0] != 0 or (np.diff(self.starts) < 0).any():
            raise self.damaged("starts", "the documents' bounds are not in order")
        if self.whole is not None and self.starts[-1] != len(self.whole.padded) - 2 * TEXT_MARGIN_BYTES:
            raise self.damaged("starts", "the documents' bounds are not those of the text")


def checksum(header: dict[str, Any]) -> str:
    """Return the SHA-256 of index.json but for this checksum itself."""
    body = {key: value for key, value in header.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


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
    if header.get("checksum") != checksum(header):
        raise _damaged(path, "its checksum is wrong")
    if version != FORMAT_VERSION:
        raise IndexVersionError(f"{path} has format {version}, which this Starcite does not read any more; {_REBUILD}.")
    _check_rules(path, header["facts"])
    return header


def _check_rules(path: Path, facts: dict[str, Any]) -> None:
    if facts["normaliser"] > NORMALISER_VERSION:
        raise IndexVersionError(f"{path} was normalised by rules newer than this Starcite's; upgrade Starcite.")
    if (facts["k"], facts["w"]) != (K, GUARANTEES.get(facts["guarantee"])):
        raise IndexVersionError(f"{path} has a guarantee that this Starcite does not know; upgrade Starcite.")
    if facts["text"] not in {*TEXT_MODES, NO_TEXT}:
        raise IndexVersionError(f"{path} keeps its text in a way that this Starcite does not know; upgrade Starcite.")


def _damaged(path: Path, what: str) -> IndexFormatError:
    return IndexFormatError(f"{path} is damaged: {what}; {_REBUILD}.")
