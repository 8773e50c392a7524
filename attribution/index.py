"""Which spans of a text stand in an index, and where do they come from: the question that all else is for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from attribution import kernels, normalise
from attribution.commonplace import commonplace
from attribution.errors import IndexFormatError, QueryError
from attribution.format import Reader
from attribution.matching import COMMON_DOCUMENTS, COMMON_SOURCES, find_runs
from attribution.renamed import Stretch, find_stretches
from attribution.textless import find_confirmed, surely_found

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from types import TracebackType

MIN_RUN = 80
MAX_LISTED_SOURCES = 10

_TRUE = np.ones(1, dtype=np.bool_)

I64 = npt.NDArray[np.int64]
Terms = tuple[tuple[str, ...], bool]  # the SPDX ids of a source, and whether they conflict


@dataclass(frozen=True, slots=True)
class Source:
    """A place that holds a matched span: lines are 1-based and inclusive, licences are SPDX ids.

    `content` is the SHA-256 of the whole document's text in UTF-8, by which `Index.excerpt` finds it again.
    """

    name: str
    revision: str
    path: str
    start_line: int
    end_line: int
    url: str
    licenses: tuple[str, ...]
    license_conflict: bool
    content: str = field(default="", repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the `Source` of the public contract."""
        return {
            "name": self.name,
            "revision": self.revision,
            "path": self.path,
            "start_line": self.start_line,
            "end_line": self.end_line,
            "url": self.url,
            "licenses": list(self.licenses),
            "license_conflict": self.license_conflict,
        }


@dataclass(frozen=True, slots=True)
class Match:
    """A maximal span of the caller's text that stands in the index.

    `start` and `end` are 0-based code points, half-open; lines are 1-based and inclusive; `run` counts normalised
    characters. `source_count` counts the documents that hold the span, of which `sources` lists ten at most; `terms`
    are the licences of all of them, but for a frequent span. `license_conflict`: the sources name different licences,
    all of them looked at, or one of them is in conflict with itself.

    `classification` is "common" for a span that is frequent, in more than 50 documents or 20 sources, and for one that
    is commonplace by itself (see `commonplace`). Of a frequent span, `source_count` is "at least", and no more sources
    are looked at than show that it is frequent.

    Of the kind "renamed" it is a possible copy with other names, comments or literals, over so many `lexemes`.
    """

    start: int
    end: int
    start_line: int
    end_line: int
    run: int
    classification: str
    source_count: int
    sources: tuple[Source, ...]
    kind: str = "verbatim"
    decision: Literal["allow", "annotate", "block"] = "annotate"
    terms: tuple[Terms, ...] = ()
    license_conflict: bool = False
    lexemes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the `Match` of the public contract."""
        return {
            "kind": self.kind,
            "start": self.start,
            "end": self.end,
            "start_line": self.start_line,
            "end_line": self.end_line,
            "run": self.run,
            "class": self.classification,
            "decision": self.decision,
            "source_count": self.source_count,
            "license_conflict": self.license_conflict,
            "sources": [source.to_json() for source in self.sources],
        } | ({} if self.lexemes is None else {"lexemes": self.lexemes})


@dataclass(frozen=True, slots=True)
class _Found:
    """A span (normalised bytes [start, end), `run` characters) in one index.

    `documents` that hold it, ascending; for each, one of its places, `positions` to `stops`, and its source's number.
    """

    start: int
    end: int
    run: int
    reader: Reader
    documents: I64
    positions: I64
    stops: I64
    sources: I64


class Index:
    """An open index. Safe to share between threads; use it as a context manager or call `close()`."""

    def __init__(self, reader: Reader) -> None:
        """Wrap mapped files; use `Index.open`."""
        self._reader: Reader | None = reader
        self._folder = reader.folder

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Map the index in a folder. Raises `IndexFormatError` or `IndexVersionError`, naming the file at fault."""
        return cls(_reader(Path(path)))

    @property
    def reader(self) -> Reader:
        """The mapped files, followed as by `refresh`. Raises `QueryError` once the index is closed."""
        return self.refresh()

    def refresh(self) -> Reader:
        """Look at what is in the folder now: another index that was published there, and what it is to forget.

        It takes four microseconds. Every search begins with it. Raises as `open` does if what is there now is damaged.
        """
        reader = self._reader
        if reader is None:
            raise QueryError(f"The index {self._folder} is closed; open it again.")
        if not reader.refresh():
            reader = self._reader = _reader(self._folder)
        return reader

    @property
    def summary(self) -> dict[str, str | int]:
        """What was searched: name, corpus id, documents, bytes of source text, guarantee, and what confirms a match.

        `surely_found` is the length from which on a run is found, whatever it holds: see `textless` for "hashes".
        """
        reader = self.reader
        facts = reader.facts
        return {
            "name": facts.name,
            "corpus": facts.corpus,
            "documents": facts.documents,
            "bytes": facts.bytes,
            "guarantee": facts.guarantee,
            "confirmed_by": "hashes" if reader.text_is_gone else "text",
            "surely_found": surely_found(facts.guarantee) if reader.text_is_gone else facts.guarantee,
        }

    def matches(self, text: str, *, min_run: int = MIN_RUN, start: int = 0, renamed: bool = False) -> list[Match]:
        """Return the matches of `text`, as `search` does."""
        return search([self], text, min_run=min_run, start=start, renamed=renamed)

    def excerpt(self, source: Source, context_lines: int = 0) -> str | None:
        """Return the lines of a source that hold the span, as they stand there, with some lines before and after.

        `None` if the source is not from this index, or is forgotten, or no text is kept. Takes a millisecond for a
        large document.
        """
        reader = self.reader
        document = reader.find(bytes.fromhex(source.content), source.path, source.name, source.revision)
        if document is None or reader.text_is_gone:
            return None
        text = reader.original(document)
        starts = normalise.line_starts(text)
        first = max(0, source.start_line - 1 - context_lines)
        last = min(len(starts), source.end_line + context_lines)
        end = int(starts[last]) if last < len(starts) else len(text)
        return text[int(starts[first]) : end]

    def verify(self) -> None:
        """Check every byte of the index; raises `IndexFormatError` naming the damaged file."""
        self.reader.verify()

    def close(self) -> None:
        """Let go of the files; they are unmapped when no search in another thread uses them any more."""
        self._reader = None

    def __enter__(self) -> Self:
        """Return the index; leaving the block closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the index."""
        self.close()


def search(
    indexes: Sequence[Index],
    text: str,
    *,
    min_run: int = MIN_RUN,
    start: int = 0,
    lenient: bool = False,
    renamed: bool = False,
) -> list[Match]:
    """Return the maximal spans of `text` that stand verbatim in a document of an index, by start.

    Every run of at least `min_run` normalised characters is covered. Only matches that reach into text[start:] are
    returned; a caller gives a suggestion with the text to its left, and offsets stay those of `text`. A span inside a
    longer one is left out; the sources of a span from several indexes are united. `lenient`: an index whose guarantee
    is above `min_run` is searched from its guarantee on. `renamed`: possible copies with other names, comments or
    literals are returned too (see `renamed`), where an index was built for that, but those that lie half or more in
    other matches; this takes some milliseconds.

    Raises `QueryError` if `min_run` is below an index's guarantee, the text is too long, or an index is closed.
    """
    readers = [index.reader for index in indexes]
    for reader in readers:
        if min_run < reader.facts.guarantee and not lenient:
            raise QueryError(
                f"A minimum run of {min_run} characters is below {reader.facts.guarantee}, the guarantee of the index "
                f"{reader.folder}; ask for at least {reader.facts.guarantee}."
            )
    normalised = normalise.text(text)
    if len(normalised.data) < min_run:
        return []
    found: dict[tuple[int, int], list[_Found]] = {}
    for reader in readers:
        for span in _find(reader, normalised, max(min_run, reader.facts.guarantee), start):
            found.setdefault((span.start, span.end), []).append(span)
    possible = _possible(readers, text, normalised, min_run) if renamed else {}
    if not found and not possible:
        return []
    lines = normalise.line_starts(text)
    spans = _maximal(sorted(found, key=lambda span: (span[0], -span[1])))
    matches = [_match(found[span], text, normalised, lines) for span in spans]
    covered = np.zeros(len(text), dtype=np.bool_)
    for match in matches:
        covered[match.start : match.end] = True
    for (first, last), (lexemes, copies) in sorted(possible.items(), key=lambda item: (-item[1][0], item[0])):
        if last > start and 2 * covered[first:last].sum() < last - first:
            covered[first:last] = True
            matches.append(replace(_match(copies, text, normalised, lines), kind="renamed", lexemes=lexemes))
    return sorted(matches, key=lambda match: (match.start, -match.end))


def _reader(folder: Path) -> Reader:
    try:
        return Reader(folder)
    except IndexFormatError:
        return Reader(folder)  # an index that was replaced while it was being opened opens now


def _maximal(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the spans that lie in no other, given spans by ascending start and descending end."""
    kept: list[tuple[int, int]] = []
    for span in spans:
        if not kept or span[1] > kept[-1][1]:
            kept.append(span)
    return kept


def _find(reader: Reader, normalised: normalise.Normalised, min_run: int, start: int) -> list[_Found]:
    """Return the maximal spans in one index that reach beyond `start`, with all documents that hold them."""
    if reader.text_is_gone:
        runs, min_run = find_confirmed(normalised.data, reader, min_run), 1
    else:
        runs = find_runs(normalised.data, reader, min_run, spans_only=True)
    if not len(runs.starts):
        return []
    if (compiled := kernels.ready()) is not None:
        rows = compiled.held(normalised.data, normalised.offsets, np.array(runs.columns), reader.starts, min_run, start)
        return _spans(reader, rows)
    # A run of bytes may begin or end inside a character: keep its whole characters.
    first_bytes = np.append(np.flatnonzero(normalise.starts_character(normalised.data)), len(normalised.data))
    first = np.searchsorted(first_bytes, runs.starts, side="left")
    last = np.searchsorted(first_bytes, runs.starts + runs.lengths, side="right") - 1
    starts, ends = first_bytes[first], first_bytes[last]
    wanted = (last - first >= min_run) & (normalised.offsets[ends - 1] >= start)
    if not wanted.any():
        return []
    order = np.flatnonzero(wanted)[np.lexsort((runs.positions[wanted], -ends[wanted], starts[wanted]))]
    starts, ends, characters = starts[order], ends[order], (last - first)[order]
    positions = runs.positions[order] + starts - runs.starts[order]
    # By ascending start and descending end, a span lies in another exactly if an earlier one reaches as far.
    longer = ends > np.concatenate([[-1], np.maximum.accumulate(ends)[:-1]])
    holder = np.flatnonzero(longer)[np.cumsum(longer) - 1]
    kept = (starts == starts[holder]) & (ends == ends[holder])
    starts, ends, characters, positions = starts[kept], ends[kept], characters[kept], positions[kept]
    documents = reader.document_of(positions)
    first = np.ones(len(documents), dtype=np.bool_)  # of each document, whose places are ascending
    first[1:] = (np.diff(documents) != 0) | (np.diff(starts) != 0) | (np.diff(ends) != 0)
    return _spans(reader, np.stack([starts, ends, characters, documents, positions])[:, first])


def _spans(reader: Reader, rows: I64) -> list[_Found]:
    """Return the spans of rows (start, end, characters, document, position), of which equal spans are neighbours."""
    starts, ends, characters, documents, positions = rows
    edges = (np.flatnonzero((np.diff(starts) != 0) | (np.diff(ends) != 0)) + 1).tolist() if len(starts) > 1 else []
    sources = reader.source_of(documents)
    found = []
    for low, high in zip([0, *edges], [*edges, len(starts)], strict=True):
        if low < high:
            start, end, places = int(starts[low]), int(ends[low]), positions[low:high]
            about = reader, documents[low:high], places, places + (end - start), sources[low:high]
            found.append(_Found(start, end, int(characters[low]), *about))
    return found


def _possible(
    readers: Sequence[Reader], text: str, normalised: normalise.Normalised, min_run: int
) -> dict[tuple[int, int], tuple[int, list[_Found]]]:
    """Return the possible copies, by span in code points: the number of lexemes, and where they stand."""
    found: dict[tuple[int, int], tuple[int, list[_Found]]] = {}
    for reader in readers:
        stretches: dict[tuple[int, int], dict[int, Stretch]] = {}
        for stretch in find_stretches(text, reader, min_run):
            stretches.setdefault((stretch.start, stretch.end), {}).setdefault(stretch.document, stretch)
        for span, held in stretches.items():
            documents = np.array(sorted(held))
            first, last = np.searchsorted(normalised.offsets, span).tolist()
            copies = _Found(
                start=first,
                end=last,
                run=int(normalise.starts_character(normalised.data[first:last]).sum()),
                reader=reader,
                documents=documents,
                positions=np.array([held[document].position for document in documents.tolist()]),
                stops=np.array([held[document].stop for document in documents.tolist()]),
                sources=reader.source_of(documents),
            )
            found.setdefault(span, (held[int(documents[0])].lexemes, []))[1].append(copies)
    return found


def _match(found: list[_Found], text: str, normalised: normalise.Normalised, lines: I64) -> Match:
    span = found[0]
    start, end = int(normalised.offsets[span.start]), int(normalised.offsets[span.end - 1]) + 1
    start_line, end_line = np.searchsorted(lines, [start, end - 1], side="right").tolist()
    documents, sources = _counts(found)
    frequent = documents > COMMON_DOCUMENTS or sources > COMMON_SOURCES
    terms = _terms(found)
    return Match(
        start=start,
        end=end,
        start_line=start_line,
        end_line=end_line,
        run=span.run,
        classification="common" if frequent or commonplace(text[start:end]) else "rare",
        source_count=documents,
        sources=_listed(found),
        terms=() if frequent else terms,
        license_conflict=len({licenses for licenses, _ in terms if licenses}) > 1 or any(flag for _, flag in terms),
    )


def _counts(found: list[_Found]) -> tuple[int, int]:
    """Return how many documents and how many sources hold a span, each once though several indexes may hold it."""
    if len(found) == 1:
        # Documents are in the order of their sources, so that equal numbers are neighbours: here and below.
        return len(found[0].documents), 1 + int(np.count_nonzero(np.diff(found[0].sources)))
    documents, sources = set(), set()
    for span in found:
        for document, number in zip(span.documents.tolist(), span.sources.tolist(), strict=True):
            record = span.reader.sources[number]
            sources.add((record.name, record.revision))
            documents.add((record.name, record.revision, span.reader.path_of(document)))
    return len(documents), len(sources)


def _terms(found: list[_Found]) -> tuple[Terms, ...]:
    """Return the licences of every source that holds a span, listed or not, and whether they conflict; each once."""
    return tuple(sorted(set().union(*(span.reader.terms_of(span.sources) for span in found))))


def _listed(found: list[_Found]) -> tuple[Source, ...]:
    """Return ten sources at most: one document of every source before a second of any, the rarer source first."""
    ranked: dict[tuple[str, str, str], tuple[int, int, Source]] = {}
    for span in found:
        first = np.flatnonzero(np.concatenate([_TRUE, span.sources[1:] != span.sources[:-1]]))
        held = np.diff(np.append(first, len(span.sources)))
        ordinal = np.arange(len(span.sources)) - np.repeat(first, held)
        held = np.repeat(held, held)
        best = np.lexsort((span.documents, held, ordinal))[:MAX_LISTED_SOURCES]
        for i in best.tolist():
            source = _source(span, i)
            ranked.setdefault((source.name, source.revision, source.path), (int(ordinal[i]), int(held[i]), source))
    order = sorted(ranked, key=lambda key: (*ranked[key][:2], key))
    return tuple(ranked[key][2] for key in order[:MAX_LISTED_SOURCES])


def _source(span: _Found, which: int) -> Source:
    document, position, stop = int(span.documents[which]), int(span.positions[which]), int(span.stops[which])
    record = span.reader.sources[int(span.sources[which])]
    path = span.reader.path_of(document)
    first, last = span.reader.lines_of(document, position, stop)
    url = record.url.replace("{path}", quote(path))
    return Source(
        record.name,
        record.revision,
        path,
        first,
        last,
        url,
        record.licenses,
        record.license_conflict,
        span.reader.digest_of(document).hex(),
    )
