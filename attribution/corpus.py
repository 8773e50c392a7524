"""What may be in a corpus: licence, near-duplicates, personal data, opt-out, in this order, each with its count.

    documents ──▶ licensed ──▶ without near-duplicates ──▶ without personal data ──▶ without opted-out sources

The order is BigCode's: a duplicate that is kept has the best licence of its cluster, what is compared is not redacted,
and what is opted out goes last, so that its copies of lower rank do not come back. All are off unless asked for: an
index may be of text as it is.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from attribution import dedup, pii
from attribution.errors import SourceError
from attribution.licenses import PERMISSIVE, from_expression

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from attribution.documents import Document
    from attribution.optout import OptOuts

    Read = Callable[[Counter[str]], Iterable[Document]]

VERSION = 1
"""Of the filters' rules: a newer version does not reuse what an older one left out or redacted."""

UNLICENSED = "NONE"
"""SPDX's word for no licence: allowing it keeps documents without one."""

_NAMED_SETS = {"permissive": PERMISSIVE}


@dataclass(frozen=True, slots=True)
class Filters:
    """What is asked for. `allowed`: licence ids, None for all (see `allowed_licenses`).

    `detect_secrets`: keys are also looked for with that package, at a fiftieth of the rate; it implies `redact`.
    """

    allowed: frozenset[str] | None = None
    dedup: bool = False
    redact: bool = False
    detect_secrets: bool = False
    optouts: OptOuts | None = None

    def identity(self) -> tuple[Any, ...]:
        """Return what decides how a document comes out of `finished`."""
        optouts = self.optouts
        return self.redact, self.detect_secrets, optouts and (sorted(optouts.owners), sorted(optouts.repos))


def allowed_licenses(words: Iterable[str]) -> frozenset[str]:
    """Return the licence ids that are meant by SPDX ids and names of sets (`permissive`; `NONE`: without a licence).

    Raises `SourceError` for a word that is neither.
    """
    allowed: set[str] = set()
    for word in words:
        ids = _NAMED_SETS.get(word.lower()) or from_expression(word)
        if not ids:
            raise SourceError(f"{word!r} is no SPDX id and no set of licences; give ids like MIT, or permissive.")
        allowed |= ids
    return frozenset(allowed)


def filtered(read: Read, filters: Filters, skipped: Counter[str]) -> Iterator[Document]:
    """Yield the documents that pass all filters, redacted if asked for; count the others by reason.

    `read(skipped)` gives the documents, always the same ones: for near-duplicates they are read twice.
    """
    yield from finished(chosen(read, filters, skipped), filters, skipped)


def chosen(read: Read, filters: Filters, skipped: Counter[str], scratch: Path | None = None) -> Iterator[Document]:
    """Yield the documents with an allowed licence that are no near-duplicates: what cannot be said of one by itself."""
    dropped: Iterable[bool] = itertools.repeat(False)  # noqa: FBT003 - a value
    if filters.dedup:
        nowhere: Counter[str] = Counter()  # what is passed over is counted when it is read again
        dropped = dedup.near_duplicates(licensed(read(nowhere), filters.allowed, nowhere), scratch)
    for document, drop in zip(licensed(read(skipped), filters.allowed, skipped), dropped, strict=False):
        if drop:
            skipped["near-duplicate"] += 1
        else:
            yield document


def finished(documents: Iterable[Document], filters: Filters, skipped: Counter[str]) -> Iterator[Document]:
    """Yield documents redacted, without those opted out: what each document decides by itself, on any machine."""
    for document in documents:
        source = document.source
        if filters.optouts is not None and filters.optouts.covers(source.name, source.url):
            skipped["opted out"] += 1
        elif filters.redact or filters.detect_secrets:
            yield replace(document, text=pii.redacted(document.text, detect_secrets=filters.detect_secrets))
        else:
            yield document


def licensed(
    documents: Iterable[Document], allowed: frozenset[str] | None, skipped: Counter[str]
) -> Iterator[Document]:
    """Yield the documents all of whose licences are allowed, or that have none where `NONE` is allowed."""
    for document in documents:
        if allowed is None or is_allowed(document.source.licenses, allowed):
            yield document
        else:
            skipped["licence not allowed" if document.source.licenses else "no licence"] += 1


def is_allowed(licenses: Iterable[str], allowed: frozenset[str]) -> bool:
    """Return whether all of a source's licences are allowed: which of them holds for a file is not known."""
    return set(licenses or (UNLICENSED,)) <= allowed
