"""Rows of data sets (`.jsonl`, `.jsonl.gz`, `.jsonl.zst`, `.parquet`) -> documents.

The columns are those of The Stack v1 and v1-dedup, v2, v3, of Stack-Edu and of their mirrors:

    text       content · text · code · body                str, or bytes in the encoding that `src_encoding` names
    source     repo_name · max_stars_repo_name · repo_path  with commit, path, and the `url` of what is no owner/repo
    licences   detected_licenses · license · gha_license_id a list, a word, or {"list": [{"item": …}]} as BigQuery has
    files[]    the row is a repository (v3, v2-train): every file is a document, and has the columns that the row lacks

A row of v1 may name three repositories that hold the text (`max_stars_*`, `max_issues_*`, `max_forks_*`): each of them
is a source. Columns that are not named here are not read. Rows are read a few at a time: one may be a repository.
"""

from __future__ import annotations

import json
import re
from collections import ChainMap
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from attribution import archives, licenses
from attribution.errors import DamagedSourceError
from attribution.format import SourceRecord

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")

MAX_ROW_BYTES = 256 << 20
"""Longest JSON line: a repository with all its files."""

_ROWS_PER_BATCH = 64
_REPOSITORIES_PER_BATCH = 4
_PARQUET_BUFFER_BYTES = 1 << 20

_TEXT = ("content", "text", "code", "body")
_ID = ("blob_id", "content_id", "hexsha", "id")
_URL = ("url",)
_ENCODING = ("src_encoding", "encoding")
_LICENSES = ("detected_licenses", "detected_licenses_right", "licenses", "license", "gha_license_id")
_UNKNOWN_LICENSES = frozenset({"", "noassertion", "none", "other", "unknown", "no_license"})


@dataclass(frozen=True, slots=True)
class _Place:
    """The columns that name a place where a text was found; the first that is there counts."""

    repo: tuple[str, ...]
    path: tuple[str, ...]
    revision: tuple[str, ...]
    licenses: tuple[str, ...]


def _place_of_v1(prefix: str) -> _Place:
    return _Place(
        (f"{prefix}_repo_name",),
        (f"{prefix}_repo_path",),
        (f"{prefix}_repo_head_hexsha",),
        (f"{prefix}_repo_licenses",),
    )


_PLACES_OF_V1 = tuple(map(_place_of_v1, ("max_stars", "max_issues", "max_forks")))
_PLACE = _Place(
    ("repo_name", "repo_path", "repository_name", "repository", "repo"),
    ("file_path", "path", "filepath"),
    ("revision_id", "commit_id", "revision", "commit"),
    _LICENSES,
)
_COLUMNS = frozenset(
    {"files", "download_success", *_TEXT, *_ID, *_URL, *_ENCODING}.union(
        *(place.repo + place.path + place.revision + place.licenses for place in (_PLACE, *_PLACES_OF_V1))
    )
)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Row:
    """One text of a data set, the sources that it was found in, each with its path there."""

    text: str | bytes
    encoding: str
    places: tuple[tuple[str, SourceRecord], ...]


def is_rows(name: str) -> bool:
    """Return whether a file's name is that of rows that can be read."""
    return name.lower().endswith(SUFFIXES)


def rows(
    path: Path, skipped: Counter[str], *, license_id: str | None = None, unlicensed: bool = False
) -> Iterator[Row]:
    """Yield the texts of a file, in its order; count the rows that are none, by reason.

    `license_id`: an SPDX expression that overrules what the rows say. `unlicensed`: rows without a licence as well.
    Raises `DamagedSourceError`, and `SourceError` if a package that reads the file is not installed.
    """
    given = licenses.from_expression(license_id) if license_id else frozenset()
    label = path.name[: -len(next(suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)))]
    found = _parquet(path) if path.name.lower().endswith(".parquet") else _json_lines(path, skipped)
    for number, row in enumerate(found):
        for part, columns in enumerate(_exploded(row)):
            fallback = _Fallback(label, f"{number}.{part}" if part else str(number))
            try:
                yield _row(columns, fallback, given, unlicensed=unlicensed)
            except _SkippedRowError as reason:
                skipped[str(reason)] += 1


@dataclass(frozen=True, slots=True)
class _Fallback:
    """What a text is called whose row names neither repository nor path nor id: the file, and the row's number."""

    name: str
    path: str


class _SkippedRowError(Exception):
    """A row is no document; the message is the reason that is counted."""


def _exploded(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the files of a repository, each with the row's columns behind its own; any other row as it is."""
    files = row.get("files")
    if not isinstance(files, list):
        yield row
        return
    common = {name: value for name, value in row.items() if name not in {"files", *_TEXT, *_ID}}
    for file in files:
        own = {name: value for name, value in file.items() if value is not None} if isinstance(file, dict) else {}
        yield ChainMap(own, common)


def _row(columns: Mapping[str, Any], fallback: _Fallback, given: frozenset[str], *, unlicensed: bool) -> Row:
    if columns.get("download_success") is False:
        raise _SkippedRowError("row whose text was not downloaded")
    text = next((value for name in _TEXT if (value := columns.get(name))), None)
    if not isinstance(text, str | bytes):
        raise _SkippedRowError("row without text")
    path = _word(columns, _ID) or fallback.path
    named = [place for place in (_PLACE, *_PLACES_OF_V1) if _word(columns, place.repo)]
    found = [_placed(columns, place, path, fallback.name, given) for place in named or [_PLACE]]
    licensed = tuple(dict.fromkeys(place for place in found if place[1].licenses or unlicensed))
    if not licensed:
        raise _SkippedRowError("row without a licence")
    return Row(text, _word(columns, _ENCODING) or "utf-8", licensed)


def _placed(
    columns: Mapping[str, Any], place: _Place, path: str, name: str, given: frozenset[str]
) -> tuple[str, SourceRecord]:
    """Return the path of a text in one of its sources, and the source."""
    repo = _word(columns, place.repo) or name
    revision = _word(columns, place.revision)
    verdict = licenses.verdict(given, *(_license_ids(columns.get(column)) for column in place.licenses))
    url = _word(columns, _URL)
    if _REPOSITORY.fullmatch(repo):
        url = f"https://github.com/{repo}" + (f"/blob/{revision}/{{path}}" if revision else "")
    where = (_word(columns, place.path) or path).lstrip("/")
    return where, SourceRecord(repo, revision, url, verdict.licenses, verdict.conflict)


def _word(columns: Mapping[str, Any], names: Iterable[str]) -> str:
    """Return the first of some columns that holds a word or a number."""
    for name in names:
        value = columns.get(name)
        if isinstance(value, str | int) and str(value):
            return str(value)
    return ""


def _license_ids(value: object) -> frozenset[str]:
    """Return the SPDX ids of a licence column: words, lists, and lists as records of any depth."""
    if isinstance(value, str):
        if value.strip().lower() in _UNKNOWN_LICENSES:
            return frozenset()
        return licenses.from_expression(value) or licenses.from_field(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return frozenset[str]().union(*map(_license_ids, parts))


# --- files -----------------------------------------------------------------------------------------------------------


def _json_lines(path: Path, skipped: Counter[str]) -> Iterator[Mapping[str, Any]]:
    budget = archives.Budget.of(path)
    try:
        with archives.decompressed(path) as stream:
            for line in _lines(stream, budget, skipped):
                if (row := _json_row(line)) is not None:
                    yield row
                elif line.strip():
                    skipped["row that is not a JSON object"] += 1
    except archives.ExpandsTooMuchError:
        skipped["rest of a file that expands too much"] += 1
    except archives.DAMAGE as error:
        raise DamagedSourceError(
            f"{path} cannot be read as JSON lines ({error}); fetch it again or leave it out."
        ) from error


def _lines(stream: IO[bytes], budget: archives.Budget, skipped: Counter[str]) -> Iterator[bytes]:
    while line := stream.readline(MAX_ROW_BYTES):
        budget.spend(len(line))
        if len(line) < MAX_ROW_BYTES or line.endswith(b"\n"):
            yield line
            continue
        skipped[f"row larger than {MAX_ROW_BYTES >> 20} MiB"] += 1
        while line and not line.endswith(b"\n"):
            line = stream.readline(1 << 20)
            budget.spend(len(line))


def _json_row(line: bytes) -> Mapping[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra, and 0.2 s
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise archives.missing_extra(path, "pyarrow") from error
    try:
        # Not pre-buffered: a row group of v3 has gigabytes, of which only the pages of some rows are wanted.
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=_PARQUET_BUFFER_BYTES) as file:
            names = [name for name in file.schema_arrow.names if name in _COLUMNS]
            size = _REPOSITORIES_PER_BATCH if "files" in names else _ROWS_PER_BATCH
            for batch in file.iter_batches(batch_size=size, columns=names, use_threads=False):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DamagedSourceError(
            f"{path} cannot be read as parquet ({error}); fetch it again or leave it out."
        ) from error
