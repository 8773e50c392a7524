"""A locked archive -> the documents of its package that may be learnt from, kept in the user's cache folder.

What is decided here is what a package decides by itself: its licence, and each of its files alone. The cache is keyed
by the archive's digest and the version of the rules, so that a build that was killed goes on with the next package.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from attribution import archives, cleaning, licenses
from attribution.cleaning import language_of, reason_against_path, reason_against_text
from attribution.documents import Document, decode
from attribution.errors import DamagedSourceError
from attribution.format import SourceRecord
from attribution.provenance import DEBIAN_COPYRIGHT, DoubtfulError, foreign_folders, is_license_file, source_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

VERSION = f"1.{cleaning.VERSION}"
"""Of what is cached, with the rules that made it."""

MAX_PACKAGE_BYTES = 4 << 20
"""Of cleaned text that one package may bring, so that a few large ones are not most of a corpus."""

_MAX_METADATA_BYTES = 1 << 20
_METADATA = frozenset({"PKG-INFO", "package.json"})
_DEBIAN_PREFIX = re.compile(r"usr/(?:share|lib)/(?:gocode/src|cargo/registry/[^/]+)/")
_GZIP_LEVEL = 1


@dataclass(frozen=True, slots=True)
class Package:
    """A locked archive. `files`, `digest`: how many files come out of it by itself, and of which content."""

    registry: str
    name: str
    version: str
    file: str
    sha256: str
    licenses: tuple[str, ...]
    files: int
    digest: str

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.name} {self.version} ({self.registry})"


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What is left of a package, in the order of paths, and how many of its files were left out, by reason.

    A package that stays out as a whole has no `source`.
    """

    source: SourceRecord | None
    documents: tuple[Document, ...]
    left_out: Counter[str]

    @property
    def digest(self) -> str:
        """SHA-256 of what is left, the first 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(f"{document.path}\0{document.text}\0".encode())
        return digest.hexdigest()[:16]

    def bytes_by_language(self) -> Counter[str]:
        """Return the bytes of text in each language."""
        counts: Counter[str] = Counter()
        for document in self.documents:
            counts[language_of(document.path) or ""] += len(document.text.encode())
        return counts


def cleaned(archive: Path, cache: Path, *, registry: str, name: str, version: str, sha256: str) -> Cleaned:
    """Return what may be learnt from an archive, out of the cache where it is there. Raises `OSError`."""
    kept = cache / VERSION / sha256[:2] / f"{registry}-{sha256}.jsonl.gz"
    found = _load(kept)
    if found is None:
        found = _clean(archive, registry, name, version)
        _save(kept, found)
    return found


# --- cleaning --------------------------------------------------------------------------------------------------------


def _clean(archive: Path, registry: str, name: str, version: str) -> Cleaned:
    left_out: Counter[str] = Counter()
    try:
        texts, code = _read(archive, left_out)
        source = source_of(registry, name, version, texts)
    except DamagedSourceError:
        return Cleaned(None, (), Counter({"package that cannot be unpacked": 1}))
    except DoubtfulError as reason:
        return Cleaned(None, (), Counter({str(reason): 1}))
    foreign = foreign_folders(texts, source)
    documents = []
    for path, data in sorted(code.items()):
        text = _text(data)
        against = _below(path, foreign) or reason_against_path(path) or _reason_against(text, path, source)
        if against:
            left_out[against] += 1
        else:
            documents.append(Document(text or "", _DEBIAN_PREFIX.sub("", path), source))
    return Cleaned(source, _fair_share(documents, left_out), left_out)


def _read(archive: Path, left_out: Counter[str]) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return a package's metadata and licence files as text, and its files in the languages wanted, by path.

    Paths are below the top folder that archives of pypi and npm have. Raises `DamagedSourceError`.
    """

    def wanted(path: str) -> bool:
        return language_of(path) is not None or _is_metadata(path)

    found = dict(archives.members(archive, wanted, cleaning.MAX_BYTES, left_out))
    tops = {path.partition("/")[0] for path in found}
    if tops != {"usr"} and len(tops) == 1:
        found = {path.partition("/")[2]: data for path, data in found.items() if "/" in path}
    texts, code = {}, {}
    for path, data in found.items():
        if _is_metadata(path):
            texts[path] = data[:_MAX_METADATA_BYTES].decode("utf-8", "replace")
        elif len(data) > cleaning.MAX_BYTES:
            left_out["larger than 1 MiB"] += 1
        else:
            code[path] = data
    return texts, code


def _is_metadata(path: str) -> bool:
    name = PurePosixPath(path).name
    return name in _METADATA or DEBIAN_COPYRIGHT.fullmatch(path) is not None or is_license_file(path)


def _below(path: str, folders: frozenset[str]) -> str | None:
    if folders and any(str(parent) in folders for parent in PurePosixPath(path).parents):
        return "under a licence of its folder's own"
    return None


def _text(data: bytes) -> str | None:
    """Return a file's text with plain line ends; None if its encoding is not known, or it is no text."""
    try:
        text = decode(data).replace("\r\n", "\n").replace("\r", "\n")
        text.encode()  # some encodings decode to what is no text
    except (UnicodeError, LookupError, ValueError):
        return None
    return None if "\0" in text else text


def _reason_against(text: str | None, path: str, source: SourceRecord) -> str | None:
    language = language_of(path)
    if text is None or language is None:
        return "of an unknown encoding"
    for tag in cleaning.SPDX_TAG.findall(text):
        ids = licenses.from_expression(tag.strip().rstrip("/-").strip())
        if not ids <= set(source.licenses):
            return "names a licence of its own"
    return reason_against_text(text, language)


def _fair_share(documents: list[Document], left_out: Counter[str]) -> tuple[Document, ...]:
    """Return as many of a package's files as it may bring, chosen by the hash of their paths."""
    total = 0
    chosen = []
    for document in sorted(documents, key=lambda one: hashlib.sha256(one.path.encode()).digest()):
        total += len(document.text.encode())
        if total > MAX_PACKAGE_BYTES:
            break
        chosen.append(document)
    if len(chosen) < len(documents):
        left_out["beyond the share of one package"] += len(documents) - len(chosen)
    return tuple(sorted(chosen, key=lambda one: one.path))


# --- cache -----------------------------------------------------------------------------------------------------------


def _load(path: Path) -> Cleaned | None:
    """Return what was cached; None if nothing was, or a disk damaged it."""
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
            head = json.loads(file.readline())
            source = _source(head["source"])
            rows = [json.loads(line) for line in file] if source else []
            documents = tuple(Document(row["text"], row["path"], source) for row in rows if source)
            return Cleaned(source, documents, Counter(head["left_out"]))
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


def _source(facts: dict[str, Any] | None) -> SourceRecord | None:
    return SourceRecord(**(facts | {"licenses": tuple(facts["licenses"])})) if facts else None


def _save(path: Path, found: Cleaned) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = found.source
    facts = {name: getattr(source, name) for name in SourceRecord.__dataclass_fields__} if source else None
    lines: Iterable[Mapping[str, Any]] = _rows(found)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with gzip.open(part, "wt", compresslevel=_GZIP_LEVEL, encoding="utf-8", newline="\n") as file:
            file.write(json.dumps({"source": facts, "left_out": found.left_out}) + "\n")
            for row in lines:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _rows(found: Cleaned) -> Iterator[Mapping[str, Any]]:
    for document in found.documents:
        yield {"path": document.path, "text": document.text}
