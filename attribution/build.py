"""Documents -> an index: normalise, fingerprint, sort, publish.

The same documents give the same bytes, whatever the order in which they came and wherever the index is written.
Everything is held in memory: about eight bytes per byte of source text at the peak, fit for corpora below a gigabyte.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attribution import documents, normalise
from attribution.errors import SourceError
from attribution.fingerprint import GUARANTEES, Fingerprints, K, fingerprints
from attribution.format import DIGEST_BYTES, DOCUMENT, Contents, Facts, SourceRecord, check_output, padded, write
from attribution.licenses import from_expression

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence

    Progress = Callable[[int, int], None]

POSITION_LIMIT = 1 << 32
"""Texts from this many bytes on need positions of eight bytes."""


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What was built: `bytes` of source text in UTF-8, `index_bytes` on disk, `skipped` files by reason."""

    out: Path
    corpus: str
    documents: int
    sources: int
    bytes: int
    normalised_bytes: int
    postings: int
    index_bytes: int
    skipped: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A document made ready: normalised, fingerprinted, its lines as normalised offsets."""

    source: SourceRecord
    path: str
    digest: str
    source_bytes: int
    data: npt.NDArray[np.uint8]
    lines: npt.NDArray[np.uint32]
    prints: Fingerprints

    def key(self) -> tuple[Any, ...]:
        """Return what documents are sorted by, and what makes two of them the same."""
        return _source_key(self.source), self.path, self.digest


def build(  # noqa: PLR0913 - all but two are named options
    sources: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    guarantee: int = 50,
    license: str | None = None,  # noqa: A002 - the option's name
    docs: bool = False,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> BuildReport:
    """Index folders and archives (see `documents`) into the folder `out`, atomically.

    `name` is shown with results (default: the name of `out`). `guarantee` is 50 or 100. `license` is an SPDX expression
    that overrules what the sources say. `progress(documents, bytes)` is called after each document.

    Raises `SourceError`, `IndexExistsError` and `IndexWriteError`.
    """
    if license is not None and not from_expression(license):
        raise SourceError(f"{license!r} is no SPDX licence expression; give one like MIT or 'Apache-2.0 OR MIT'.")
    check_output(Path(out), overwrite=overwrite)
    skipped: Counter[str] = Counter()
    found = documents.read((Path(source) for source in sources), skipped, license_id=license, docs=docs)
    return build_documents(
        found, out, name=name, guarantee=guarantee, progress=progress, overwrite=overwrite, skipped=skipped
    )


def build_documents(  # noqa: PLR0913 - all but two are named options
    found: Iterable[documents.Document],
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    guarantee: int = 50,
    progress: Progress | None = None,
    overwrite: bool = False,
    skipped: Counter[str] | None = None,
) -> BuildReport:
    """Index documents that the caller has already; `skipped` is reported as it is when they are exhausted.

    Otherwise as `build`.
    """
    if guarantee not in GUARANTEES:
        raise SourceError(f"A guarantee of {guarantee} characters is not offered; choose 50 or 100.")
    target = Path(out)
    check_output(target, overwrite=overwrite)
    skipped = Counter() if skipped is None else skipped
    entries = _entries(found, GUARANTEES[guarantee], skipped, progress)
    if not entries:
        raise SourceError("No source code was found in the sources; give folders or archives that hold some.")
    contents = _contents(entries, name or target.name, guarantee)
    write(target, contents, overwrite=overwrite)
    return _report(target, contents, skipped)


def _entries(
    found: Iterable[documents.Document], w: int, skipped: Counter[str], progress: Progress | None
) -> list[_Entry]:
    """Return the documents made ready, sorted, each once."""
    unique: dict[tuple[Any, ...], _Entry] = {}
    total = 0
    for number, document in enumerate(found, start=1):
        entry = _entry(document, w)
        total += entry.source_bytes
        if unique.setdefault(entry.key(), entry) is not entry:
            skipped["given twice"] += 1
        if progress is not None:
            progress(number, total)
    return [unique[key] for key in sorted(unique)]


def _entry(document: documents.Document, w: int) -> _Entry:
    raw = document.text.encode("utf-8", "surrogatepass")
    normalised = normalise.text(document.text)
    lines = np.searchsorted(normalised.offsets, normalise.line_starts(document.text))
    return _Entry(
        source=document.source,
        path=document.path,
        digest=hashlib.sha256(raw).hexdigest(),
        source_bytes=len(raw),
        data=normalised.data,
        lines=lines.astype(np.uint32),
        prints=fingerprints(normalised.data, K, w),
    )


def _source_key(source: SourceRecord) -> tuple[Any, ...]:
    return source.name, source.revision, source.url, source.licenses, source.license_conflict


def _contents(entries: Sequence[_Entry], name: str, guarantee: int) -> Contents:
    sources = tuple(sorted({entry.source for entry in entries}, key=_source_key))
    starts = _starts([len(entry.data) for entry in entries])
    paths = [entry.path.encode("utf-8", "surrogatepass") for entry in entries]
    numbers = {source: number for number, source in enumerate(sources)}
    records = np.zeros(len(entries) + 1, dtype=DOCUMENT)
    records["lines"] = _starts([len(entry.lines) for entry in entries])
    records["path"] = _starts([len(path) for path in paths])
    records["source"][:-1] = [numbers[entry.source] for entry in entries]
    records["bytes"][:-1] = [entry.source_bytes for entry in entries]
    digests = b"".join(bytes.fromhex(entry.digest) for entry in entries)
    records["digest"][:-1] = np.frombuffer(digests, dtype=np.uint8).reshape(-1, DIGEST_BYTES)
    keys, positions = _postings(entries, starts)
    lines = np.concatenate([entry.lines for entry in entries])
    facts = Facts(
        name=name,
        corpus=_corpus_id(entries),
        normaliser=normalise.NORMALISER_VERSION,
        k=K,
        w=GUARANTEES[guarantee],
        guarantee=guarantee,
        documents=len(entries),
        sources=len(sources),
        bytes=sum(entry.source_bytes for entry in entries),
        lines=len(lines),
    )
    arrays: dict[str, npt.NDArray[Any]] = {
        "keys": keys,
        "positions": positions,
        "text": padded(np.concatenate([entry.data for entry in entries])),
        "starts": starts.astype(np.uint64),
        "documents": records,
        "lines": lines,
        "paths": np.frombuffer(b"".join(paths), dtype=np.uint8),
    }
    return Contents(facts, arrays, sources)


def _starts(lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return where each of several stretches starts, and where the last one ends: int64 of shape (n + 1,)."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.array(lengths, dtype=np.int64))])


def _postings(
    entries: Sequence[_Entry], starts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32] | npt.NDArray[np.uint64]]:
    """Return keys and positions sorted by both: positions ascend already, so that a stable sort by key does it."""
    keys = np.concatenate([entry.prints.keys for entry in entries])
    placed = [entry.prints.positions + start for entry, start in zip(entries, starts[:-1], strict=True)]
    order = np.argsort(keys, kind="stable")
    positions = np.concatenate(placed)[order]
    if starts[-1] < POSITION_LIMIT:
        return keys[order], positions.astype(np.uint32)
    return keys[order], positions.astype(np.uint64)


def _corpus_id(entries: Sequence[_Entry]) -> str:
    """Return the SHA-256 of the sorted content: what was indexed, not how."""
    digest = hashlib.sha256()
    for entry in entries:
        for part in (entry.source.name, entry.source.revision, entry.path, entry.digest):
            data = part.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _report(out: Path, contents: Contents, skipped: Counter[str]) -> BuildReport:
    facts = contents.facts
    return BuildReport(
        out=out,
        corpus=facts.corpus,
        documents=facts.documents,
        sources=facts.sources,
        bytes=facts.bytes,
        normalised_bytes=int(contents.arrays["starts"][-1]),
        postings=len(contents.arrays["keys"]),
        index_bytes=sum(path.stat().st_size for path in out.iterdir()),
        skipped={reason: skipped[reason] for reason in sorted(skipped) if skipped[reason]},
    )
