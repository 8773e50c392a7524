"""Documents -> an index: normalise, fingerprint, sort, publish.

The same documents give the same bytes, whatever the order in which they came and wherever the index is written.
Everything is held in memory: about eight bytes per byte of source text at the peak, fit for corpora below a gigabyte.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attribution import documents, normalise
from attribution.errors import SourceError
from attribution.fingerprint import GUARANTEES, K
from attribution.format import DOCUMENT, Contents, Facts, check_output, padded, write
from attribution.licenses import from_expression
from attribution.shards import Entry, Merge, Shard, check_guarantee, fingerprint_shard, prepare, starts_of

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

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
    check_guarantee(guarantee)
    target = Path(out)
    check_output(target, overwrite=overwrite)
    skipped = Counter() if skipped is None else skipped
    shard = fingerprint_shard(_told(found, progress), guarantee=guarantee)
    return merge_shards([shard], target, name=name, overwrite=overwrite, skipped=skipped)


def merge_shards(
    shards: Sequence[Shard],
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    overwrite: bool = False,
    skipped: Counter[str] | None = None,
) -> BuildReport:
    """Index the union of shards, which `fingerprint_shard` made anywhere: the bytes that one build of all would give.

    `skipped` is reported as it is, with the documents that were there twice.
    Raises `SourceError`, `IndexExistsError` and `IndexWriteError`.
    """
    return publish(Merge(shards), out, name=name, overwrite=overwrite, skipped=skipped)


def publish(
    merge: Merge,
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    overwrite: bool = False,
    replacing: str | None = None,
    skipped: Counter[str] | None = None,
) -> BuildReport:
    """Index what a merge gives; `replacing` as in `format.write`. Otherwise as `merge_shards`."""
    target = Path(out)
    contents = _contents(merge, name or target.name)
    write(target, contents, overwrite=overwrite, replacing=replacing)
    return _report(target, contents, Counter(skipped or {}) + Counter({"given twice": merge.repeated}))


def _told(found: Iterable[documents.Document], progress: Progress | None) -> Iterator[Entry]:
    """Yield documents made ready, and tell the progress after each."""
    total = 0
    for number, document in enumerate(found, start=1):
        entry = prepare(document)
        total += entry.source_bytes
        yield entry
        if progress is not None:
            progress(number, total)


def _contents(merge: Merge, name: str) -> Contents:
    records = np.zeros(merge.documents + 1, dtype=DOCUMENT)
    records["lines"] = starts_of(merge.column("line_starts"))
    records["path"] = starts_of(merge.column("path_starts"))
    records["source"][:-1] = merge.column("source")
    sizes = records["bytes"][:-1] = merge.column("size")
    records["digest"][:-1] = merge.column("digest")
    starts = starts_of(merge.column("starts"))
    keys, positions = (np.concatenate(parts) for parts in zip(*merge.postings(), strict=True))
    lines = np.concatenate(list(merge.blocks("lines")))
    facts = Facts(
        name=name,
        corpus=merge.corpus,
        normaliser=normalise.NORMALISER_VERSION,
        k=K,
        w=GUARANTEES[merge.guarantee],
        guarantee=merge.guarantee,
        documents=merge.documents,
        sources=len(merge.sources),
        bytes=int(sizes.sum()),
        lines=len(lines),
    )
    arrays: dict[str, npt.NDArray[Any]] = {
        "keys": keys,
        "positions": positions.astype(np.uint32) if starts[-1] < POSITION_LIMIT else positions,
        "text": padded(np.concatenate(list(merge.blocks("text")) or [np.empty(0, dtype=np.uint8)])),
        "starts": starts,
        "documents": records,
        "lines": lines,
        "paths": np.concatenate(list(merge.blocks("paths")) or [np.empty(0, dtype=np.uint8)]),
    }
    return Contents(facts, arrays, merge.sources)


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
