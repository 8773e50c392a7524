"""Documents -> an index: normalise, fingerprint, sort, publish.

The same documents give the same bytes, whatever the order in which they came and wherever the index is written.
Everything is held in memory: about eight bytes per byte of source text at the peak, fit for corpora below a gigabyte.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attribution import documents, normalise
from attribution.errors import SourceError
from attribution.fingerprint import GUARANTEES, K
from attribution.format import Contents, Facts
from attribution.licenses import from_expression
from attribution.shards import Entry, Merge, Shard, check_guarantee, fingerprint_shard, prepare, starts_of
from attribution.writer import check_output, write

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

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
    license: str | None = None,  # noqa: A002 - the option's name
    docs: bool = False,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> BuildReport:
    """Index folders and archives (see `documents`) into the folder `out`, atomically.

    `name` is shown with results (default: the name of `out`). `guarantee` is 50 or 100. `text` is "raw" or
    "compressed": what is kept of the text, see `format`. `license` is an SPDX expression
    that overrules what the sources say. `progress(documents, bytes)` is called after each document.

    Raises `SourceError`, `IndexExistsError` and `IndexWriteError`.
    """
    if license is not None and not from_expression(license):
        raise SourceError(f"{license!r} is no SPDX licence expression; give one like MIT or 'Apache-2.0 OR MIT'.")
    check_output(Path(out), overwrite=overwrite)
    skipped: Counter[str] = Counter()
    found = documents.read((Path(source) for source in sources), skipped, license_id=license, docs=docs)
    return build_documents(
        found,
        out,
        name=name,
        guarantee=guarantee,
        text=text,
        progress=progress,
        overwrite=overwrite,
        skipped=skipped,
    )


def build_documents(  # noqa: PLR0913 - all but two are named options
    found: Iterable[documents.Document],
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    guarantee: int = 50,
    text: str = "raw",
    progress: Progress | None = None,
    overwrite: bool = False,
    skipped: Counter[str] | None = None,
) -> BuildReport:
    """Index documents that the caller has already; `skipped` is reported as it is when they are exhausted.

    Otherwise as `build`.
    """
    check_guarantee(guarantee)
    target = Path(out)
    check_output(target, overwrite=overwrite)
    skipped = Counter() if skipped is None else skipped
    shard = fingerprint_shard(_told(found, progress), guarantee=guarantee)
    return merge_shards([shard], target, name=name, text=text, overwrite=overwrite, skipped=skipped)


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
    contents = _contents(merge, name or target.name, text)
    postings = write(target, contents, overwrite=overwrite, replacing=replacing)
    return _report(target, contents, postings, Counter(skipped or {}) + Counter({"given twice": merge.repeated}))


def _told(found: Iterable[documents.Document], progress: Progress | None) -> Iterator[Entry]:
    """Yield documents made ready, and tell the progress after each."""
    total = 0
    for number, document in enumerate(found, start=1):
        entry = prepare(document)
        total += entry.source_bytes
        yield entry
        if progress is not None:
            progress(number, total)


def _contents(merge: Merge, name: str, text: str) -> Contents:
    lengths = ("starts", "line_starts", "path_starts", "original_starts")
    columns: dict[str, npt.NDArray[Any]] = {column: starts_of(merge.column(column)) for column in lengths}
    columns |= {column: merge.column(column) for column in ("source", "size", "digest")}
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
    )
    blocks = {kind: merge.blocks(kind) for kind in ("text", "lines", "paths", "originals")}
    return Contents(facts, merge.sources, columns, blocks, merge.postings())


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
