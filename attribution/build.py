"""Documents -> an index: normalise, fingerprint, sort, publish.

The same documents give the same bytes, whatever the order in which they came, how many processes work, how often the
build was killed, and wherever the index is written.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attribution import corpus, documents, normalise, runs
from attribution.errors import IndexWriteError, SourceError
from attribution.fingerprint import GUARANTEES, K
from attribution.format import NO_TEXT, TEXT_MODES, Contents, Facts
from attribution.lexemes import LEXER_VERSION
from attribution.licenses import from_expression
from attribution.shards import Merge, Shard, characters, check_guarantee, chunks, starts_of
from attribution.writer import check_output, write

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

    from attribution.optout import OptOuts

    Progress = Callable[[int, int], None]


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


def build(  # noqa: PLR0913 - all but two are named options
    sources: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    guarantee: int = 50,
    text: str = "raw",
    renamed: bool = False,
    license: str | None = None,  # noqa: A002 - the option's name
    docs: bool = False,
    allow_license: Iterable[str] | None = None,
    dedup: bool = False,
    redact: bool = False,
    detect_secrets: bool = False,
    optouts: OptOuts | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> BuildReport:
    """Index folders, archives and files of rows (see `documents`) into the folder `out`, atomically.

    `name` is shown with results (default: the name of `out`). `guarantee` is 50 or 100. `text` is "raw",
    "compressed" or "none": what is kept of the text, see `format`. `renamed` adds the stream by which renamed copies
    are found: a tenth of a byte more per byte of source, and a tenth of a microsecond. `license` is an SPDX expression
    that overrules what the sources say. Of a corpus, `allow_license`, `dedup`, `redact`, `detect_secrets` and `optouts`
    leave out what is not to be in it (see `corpus`); without them the text is indexed as it is. `jobs` processes do
    the work; a call of more than one belongs behind `if __name__ == "__main__"`. `progress(documents, bytes)` is
    called after each document that is read. A build that was ended goes on where it was when it is asked for again
    (see `runs`).

    Raises `SourceError`, `IndexExistsError` and `IndexWriteError`.
    """
    check_license(license)
    target, paths = Path(out), [Path(source) for source in sources]
    allowed = None if allow_license is None else corpus.allowed_licenses(allow_license)
    rules = runs.Rules(guarantee, corpus.Filters(allowed, dedup, redact, detect_secrets, optouts), renamed)
    check_guarantee(guarantee)
    check_text(text, renamed=renamed)
    check_output(target, overwrite=overwrite)

    def read(skipped: Counter[str]) -> Iterator[documents.Document]:
        unlicensed = allowed is not None and corpus.UNLICENSED in allowed
        found = documents.read(paths, skipped, license_id=license, docs=docs, unlicensed=unlicensed)
        return _told(found, progress)

    skipped: Counter[str] = Counter()
    chosen = corpus.chosen(read, rules.filters, skipped, _scratch(target) if dedup else None)
    return _indexed(chosen, target, name, rules, text=text, jobs=jobs, overwrite=overwrite, skipped=skipped)


def build_documents(  # noqa: PLR0913 - all but two are named options
    found: Iterable[documents.Document],
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    guarantee: int = 50,
    text: str = "raw",
    renamed: bool = False,
    jobs: int = 1,
    progress: Progress | None = None,
    overwrite: bool = False,
    skipped: Counter[str] | None = None,
) -> BuildReport:
    """Index documents that the caller has already; `skipped` is reported as it is when they are exhausted.

    Otherwise as `build`.
    """
    check_guarantee(guarantee)
    check_text(text, renamed=renamed)
    target = Path(out)
    check_output(target, overwrite=overwrite)
    skipped = Counter() if skipped is None else skipped
    rules = runs.Rules(guarantee, renamed=renamed)
    return _indexed(
        _told(found, progress), target, name, rules, text=text, jobs=jobs, overwrite=overwrite, skipped=skipped
    )


def _indexed(  # noqa: PLR0913 - what both builds have, named
    found: Iterable[documents.Document],
    target: Path,
    name: str | None,
    rules: runs.Rules,
    *,
    text: str,
    jobs: int,
    overwrite: bool,
    skipped: Counter[str],
) -> BuildReport:
    """Index documents: what fits into a chunk in memory, more by runs on the disk."""
    cut = chunks(found, runs.CHUNK_CHARS, characters)
    first, second = next(cut, []), next(cut, None)
    if second is None:
        shard = runs.shard_of(first, rules, skipped)
        return merge_shards([shard], target, name=name, text=text, overwrite=overwrite, skipped=skipped)
    with runs.work_folder(target) as folder:
        shards = runs.make_runs(itertools.chain((first, second), cut), folder, rules, jobs, skipped)
        return merge_shards(shards, target, name=name, text=text, overwrite=overwrite, skipped=skipped)


def merge_shards(
    shards: Sequence[Shard],
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    text: str = "raw",
    overwrite: bool = False,
    skipped: Counter[str] | None = None,
) -> BuildReport:
    """Index the union of shards, which `fingerprint_shard` made anywhere: the bytes that one build of all would give.

    `skipped` is reported as it is, with the documents that were there twice.
    Raises `SourceError`, `IndexExistsError` and `IndexWriteError`.
    """
    return publish(Merge(shards), out, name=name, text=text, overwrite=overwrite, skipped=skipped)


def publish(  # noqa: PLR0913 - all but two are named options
    merge: Merge,
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    text: str = "raw",
    overwrite: bool = False,
    replacing: str | None = None,
    skipped: Counter[str] | None = None,
) -> BuildReport:
    """Index what a merge gives; `replacing` as in `writer.write`. Otherwise as `merge_shards`."""
    target = Path(out)
    check_text(text, renamed=merge.renamed)
    contents = _contents(merge, name or target.name, text)
    postings = write(target, contents, overwrite=overwrite, replacing=replacing)
    return _report(target, contents, postings, Counter(skipped or {}) + Counter({"given twice": merge.repeated}))


def check_text(text: str, *, renamed: bool) -> None:
    """Raise `SourceError` for a way to keep text that is not offered."""
    if text not in {*TEXT_MODES, NO_TEXT}:
        raise SourceError(f"Text is not kept as {text!r}; choose raw, compressed or none.")
    if renamed and text == NO_TEXT:
        raise SourceError(
            "Renamed copies are confirmed by the source text: an index without text cannot look for them; leave them "
            "out (--no-renamed), or keep the text."
        )


def check_license(license_id: str | None) -> None:
    """Raise `SourceError` for a licence that is no SPDX expression."""
    if license_id is not None and not from_expression(license_id):
        raise SourceError(f"{license_id!r} is no SPDX licence expression; give one like MIT or 'Apache-2.0 OR MIT'.")


def _scratch(target: Path) -> Path:
    """Return the folder of large temporary files: that of the index, on a disk that has room for it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise IndexWriteError(
            f"{target}: the index cannot be written ({error.strerror or error}); choose another folder."
        ) from error
    return target.parent


def _told(found: Iterable[documents.Document], progress: Progress | None) -> Iterator[documents.Document]:
    """Yield documents, and tell the progress when the caller is done with each."""
    total = 0
    for number, document in enumerate(found, start=1):
        yield document
        text = document.text
        total += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        if progress is not None:
            progress(number, total)


def _contents(merge: Merge, name: str, text: str) -> Contents:
    lengths = ("starts", "line_starts", "path_starts", "original_starts")
    columns: dict[str, npt.NDArray[Any]] = {column: starts_of(merge.column(column)) for column in lengths}
    columns |= {column: merge.column(column) for column in ("source", "size", "digest")}
    if text == NO_TEXT:
        columns["original_starts"] = np.zeros_like(columns["original_starts"])
    facts = Facts(
        name=name,
        corpus=merge.corpus,
        normaliser=normalise.NORMALISER_VERSION,
        k=K,
        w=GUARANTEES[merge.guarantee],
        guarantee=merge.guarantee,
        documents=merge.documents,
        sources=len(merge.sources),
        bytes=int(columns["size"].sum()),
        lines=int(columns["line_starts"][-1]),
        text=text,
        lexer=LEXER_VERSION if merge.renamed else 0,
    )
    blocks = {kind: merge.blocks(kind) for kind in ("text", "lines", "paths", "originals")}
    blocks["chains"] = merge.chains()
    return Contents(facts, merge.sources, columns, blocks, merge.postings(), merge.lexemes())


def _report(out: Path, contents: Contents, postings: int, skipped: Counter[str]) -> BuildReport:
    facts = contents.facts
    return BuildReport(
        out=out,
        corpus=facts.corpus,
        documents=facts.documents,
        sources=facts.sources,
        bytes=facts.bytes,
        normalised_bytes=int(contents.columns["starts"][-1]),
        postings=postings,
        index_bytes=sum(path.stat().st_size for path in out.iterdir()),
        skipped={reason: skipped[reason] for reason in sorted(skipped) if skipped[reason]},
    )
