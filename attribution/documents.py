"""Sources on disk -> the documents that an index is made of.

A source is a folder, an archive or a file of rows; what it holds is told apart in `origins` and `readers`. Whatever
cannot be a document is left out and counted by reason; a strange file never ends a build.
"""

from __future__ import annotations

import codecs
import os
import re
import tempfile
import weakref
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attribution import archives, readers
from attribution.errors import DamagedSourceError, SourceError
from attribution.filetypes import is_skipped_folder, is_source
from attribution.origins import Origin, Tree, is_metadata, origins
from attribution.readers import is_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from attribution.format import SourceRecord

MAX_DOCUMENT_BYTES = 4 << 20
_TOO_LARGE = f"larger than {MAX_DOCUMENT_BYTES >> 20} MiB"
_UNPACKED_IN_MEMORY_BYTES = 64 << 20
_INNER_ARCHIVE = "archive inside a folder (give it as a source of its own)"

_CODING = re.compile(rb"^[ \t\f]*(?:#|//|;|%|--|/?\*).*?coding[:=][ \t]*([-\w.]+)")


@dataclass(frozen=True, slots=True)
class Document:
    """One text, its path within its source, and the source."""

    text: str
    path: str
    source: SourceRecord


class _SkippedError(Exception):
    """A file is no document; the message is the reason that is counted."""


def read(
    sources: Iterable[Path],
    skipped: Counter[str],
    *,
    license_id: str | None = None,
    docs: bool = False,
    unlicensed: bool = False,
) -> Iterator[Document]:
    """Yield the documents of sources, in the order of their paths or rows; count what is skipped, by reason.

    `license_id`: an SPDX expression that overrules what the sources say. `docs`: documentation too, not only code.
    `unlicensed`: rows of data sets that name no licence too. A folder without source code gives its files of rows.
    Raises `SourceError` for a source that is missing or of an unknown kind, and for one that is damaged, unless it is
    one of several `parts`: then the rest of it is left out and counted.
    """
    paths = parts(sources, skipped, docs=docs)
    for path in paths:
        try:
            yield from read_part(path, skipped, license_id=license_id, docs=docs, unlicensed=unlicensed)
        except DamagedSourceError:
            if len(paths) == 1:
                raise
            skipped["damaged source"] += 1


def parts(sources: Iterable[Path], skipped: Counter[str], *, docs: bool = False) -> list[Path]:
    """Return what can be read apart, in order: every source, or the files of rows that a folder consists of.

    Raises `SourceError` for a source that is missing or of an unknown kind.
    """
    paths = list(sources)
    for path in paths:
        _check_kind(path)
    return [
        part for path in paths for part in (_row_files(path, skipped, docs=docs) if path.is_dir() else ()) or (path,)
    ]


def read_part(
    path: Path, skipped: Counter[str], *, license_id: str | None, docs: bool, unlicensed: bool
) -> Iterator[Document]:
    """Yield the documents of one of the `parts`. Raises `DamagedSourceError`, maybe after some of them."""
    if is_rows(path.name) and not path.is_dir():
        yield from _rows(path, skipped, license_id=license_id, unlicensed=unlicensed)
        return
    tree = _folder(path.resolve(), skipped, docs=docs) if path.is_dir() else _archive(path, skipped, docs=docs)
    skipped["file of rows among source code (give it as a source of its own)"] += len(tree.rows)
    for origin in origins(tree, license_id, skipped):
        yield from _documents(tree, origin, skipped, docs=docs)


def total_bytes(sources: Iterable[Path], *, docs: bool = False) -> int | None:
    """Return about how much source code there is to be read; None where that is not known before: in what is packed.

    Raises `SourceError` as `read` does.
    """
    total = 0
    try:
        for part in parts(sources, Counter(), docs=docs):
            if part.is_dir():
                found = _walk(part.resolve(), "", Counter())
                total += sum(entry.stat().st_size for relative, entry in found if is_source(relative, docs=docs))
            elif part.name.lower().endswith((".jsonl", ".tar")):
                total += part.stat().st_size
            else:
                return None
    except OSError:  # a file that has just gone: the build counts it
        return None
    return total


def decode(data: bytes) -> str:
    """Return a file's text: UTF-8, or the encoding that one of its first two lines declares (PEP 263).

    Raises `UnicodeError` or `LookupError`.
    """
    if data.startswith(codecs.BOM_UTF8):
        return data[len(codecs.BOM_UTF8) :].decode("utf-8")
    for line in data.splitlines()[:2] if len(data) < 1 << 12 else data[: 1 << 12].splitlines()[:2]:
        if declared := _CODING.match(line):
            return data.decode(declared[1].decode("ascii", "replace"))
    return data.decode("utf-8")


def _rows(path: Path, skipped: Counter[str], *, license_id: str | None, unlicensed: bool) -> Iterator[Document]:
    for row in readers.rows(path, skipped, license_id=license_id, unlicensed=unlicensed):
        try:
            text = row.text if isinstance(row.text, str) else _decoded(row.text, row.encoding)
            _check_text(text)
        except _SkippedError as reason:
            skipped[str(reason)] += 1
        else:
            for where, source in row.places:
                yield Document(text, where, source)


def _documents(tree: Tree, origin: Origin, skipped: Counter[str], *, docs: bool) -> Iterator[Document]:
    for path in origin.paths:
        if is_source(path, docs=docs):
            try:
                text = _text(tree.files[path])
            except _SkippedError as reason:
                skipped[str(reason)] += 1
            else:
                yield Document(text, path.removeprefix(origin.prefix), origin.source)


def _text(content: Callable[[], bytes]) -> str:
    try:
        data = content()
    except OSError as error:
        raise _SkippedError("unreadable") from error
    if len(data) > MAX_DOCUMENT_BYTES:
        raise _SkippedError(_TOO_LARGE)
    if b"\0" in data:
        raise _SkippedError("binary")
    text = _decoded(data)
    if not text.strip():
        raise _SkippedError("empty")
    return text


def _decoded(data: bytes, encoding: str | None = None) -> str:
    try:
        return data.decode(encoding) if encoding else decode(data)
    except (UnicodeError, LookupError, ValueError) as error:
        raise _SkippedError("of an unknown encoding") from error


def _check_text(text: str) -> None:
    if len(text) > MAX_DOCUMENT_BYTES:
        raise _SkippedError(_TOO_LARGE)
    if "\0" in text:
        raise _SkippedError("binary")
    if not text.strip():
        raise _SkippedError("empty")


def _check_kind(path: Path) -> None:
    if not path.exists():
        raise SourceError(f"{path} does not exist; give a folder, an archive or a file of rows.")
    if not path.is_dir() and not archives.is_archive(path.name) and not is_rows(path.name):
        kinds = " ".join(archives.SUFFIXES + readers.SUFFIXES)
        raise SourceError(f"{path} is of an unknown kind; give a folder or one of {kinds}.")


def _row_files(folder: Path, skipped: Counter[str], *, docs: bool) -> list[Path]:
    """Return the files of rows of a folder without source code, and count what else is in it; none of any other."""
    passed: Counter[str] = Counter()
    found = []
    for relative, entry in _walk(folder.resolve(), "", passed):
        if is_rows(entry.name):
            found.append(Path(entry.path))
        elif archives.is_archive(entry.name):
            passed[_INNER_ARCHIVE] += 1
        elif is_source(relative, docs=docs):
            return []
    if found:
        skipped.update(passed)
    return found


def _folder(root: Path, skipped: Counter[str], *, docs: bool) -> Tree:
    files: dict[str, Callable[[], bytes]] = {}
    git = set()
    row_files = []
    for relative, entry in _walk(root, "", skipped):
        if entry.name == ".git":
            git.add(relative.removesuffix(".git"))
        elif is_rows(entry.name):
            row_files.append(Path(entry.path))
        elif archives.is_archive(entry.name):
            skipped[_INNER_ARCHIVE] += 1
        elif is_source(relative, docs=docs) or is_metadata(relative):
            files[relative] = _reader(entry.path)
    return Tree(root.name, files, root, frozenset(git), tuple(row_files))


def _walk(folder: Path, prefix: str, skipped: Counter[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield regular files below a folder, and `.git` entries, with their relative paths, sorted; follow no links."""
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError:
        skipped["unreadable folder"] += 1
        return
    for entry in entries:
        relative = prefix + entry.name
        if entry.is_symlink():
            skipped["symbolic link"] += 1
        elif entry.name == ".git":
            yield relative, entry
        elif entry.is_dir(follow_symlinks=False):
            if not is_skipped_folder(entry.name):
                yield from _walk(Path(entry.path), relative + "/", skipped)
        elif entry.is_file(follow_symlinks=False):
            yield relative, entry


def _reader(path: str) -> Callable[[], bytes]:
    def content() -> bytes:
        with Path(path).open("rb") as file:
            return file.read(MAX_DOCUMENT_BYTES + 1)

    return content


def _archive(path: Path, skipped: Counter[str], *, docs: bool) -> Tree:
    def wanted(name: str) -> bool:
        return not is_skipped_folder(name) and (is_source(name, docs=docs) or is_metadata(name))

    unpacked = _Unpacked()
    members = archives.members(path, wanted, MAX_DOCUMENT_BYTES, skipped)
    contents = {name: unpacked.add(data) for name, data in members}
    label = path.name[: -len(next(suffix for suffix in archives.SUFFIXES if path.name.lower().endswith(suffix)))]
    tops = {name.partition("/")[0] for name in contents}
    if len(tops) == 1 and all("/" in name for name in contents):  # name-version/ in sdists and repositories' archives
        label = tops.pop()
        contents = {name.partition("/")[2]: content for name, content in contents.items()}
    return Tree(label, {name: contents[name] for name in sorted(contents)})


class _Unpacked:
    """The files of an archive: in memory while they are few, else in a temporary file that ends with its readers."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_UNPACKED_IN_MEMORY_BYTES)  # noqa: SIM115 - see above
        weakref.finalize(self, self._file.close)

    def add(self, data: bytes) -> Callable[[], bytes]:
        """Keep a file, and return a function that reads it."""
        start, size = self._file.seek(0, os.SEEK_END), len(data)
        self._file.write(data)

        def content() -> bytes:
            self._file.seek(start)
            return self._file.read(size)

        return content
