"""The check before display: a text, and what stands left of it, against every open index.

A short suggestion can continue a passage that the file already holds, so that it is searched together with the text on
its left, and only what reaches into the suggestion is reported, clamped to it.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from attribution.errors import AttributionError, IndexFormatError
from attribution.index import Index, Match, search

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from attribution.index import Source
    from attribution.policy import Policy

LOGGER = logging.getLogger(__name__)

# White space does not count, and a run is reported from 50 characters on: this much holds one in ordinary code.
LEFT_CONTEXT_CHARS = 400

Covers = Literal["full", "partial", "unknown", "none"]


@dataclass(frozen=True, slots=True)
class Checked:
    """What was searched: `reason` says why nothing was, and "not checked" is never "nothing found"."""

    state: Literal["checked", "not_checked"]
    reason: str | None
    indexes: tuple[dict[str, Any], ...]
    covers_model: Covers
    elapsed_ms: float

    def to_json(self) -> dict[str, Any]:
        """Return the `Checked` of the contract."""
        return {
            "state": self.state,
            "reason": self.reason,
            "indexes": list(self.indexes),
            "covers_model": self.covers_model,
            "elapsed_ms": round(self.elapsed_ms, 3),
        }


class Corpora:
    """The indexes that are searched: opened when first needed; each follows what is published in its folder.

    `find` gives their folders, and is asked at every check, which costs a few microseconds: an index that was built
    while the editor runs is searched from then on.
    """

    def __init__(self, find: Callable[[], tuple[Path, ...]]) -> None:
        """Search the indexes in the folders that `find` returns."""
        self._find = find
        self._open: dict[Path, Index] = {}

    def check(
        self,
        text: str,
        *,
        min_run: int,
        exact: bool = False,
        renamed: bool = False,
        model_corpus: str = "unknown",
        left: str = "",
    ) -> tuple[tuple[Match, ...], Checked]:
        """Return the matches of a text, and what was searched; never raises for an index that cannot be read.

        Offsets and lines are the text's own. `left` is what stands before it; of that nothing is reported. An index
        that promises only longer runs than `min_run` is searched for those, unless `exact`: then it raises QueryError.
        `renamed`: possible renamed copies are looked for too, which takes some milliseconds.
        """
        started = time.perf_counter()
        indexes, problems = self._indexes()
        if not indexes:
            return (), Checked("not_checked", "; ".join(problems) or _NO_INDEX, (), "none", _ms_since(started))
        left = left[-LEFT_CONTEXT_CHARS:]
        try:
            found = search(indexes, left + text, min_run=min_run, start=len(left), lenient=not exact, renamed=renamed)
        except IndexFormatError as error:
            LOGGER.warning("%s", error)
            return (), Checked("not_checked", str(error), (), "none", _ms_since(started))
        matches = tuple(clamped(match, left, text) for match in found)
        summaries = tuple(index.summary for index in indexes)
        covers = _coverage(summaries, model_corpus)
        return matches, Checked("checked", "; ".join(problems) or None, summaries, covers, _ms_since(started))

    def excerpt(self, source: Source) -> str | None:
        """Return the lines of a source that a match named, None where no open index keeps its text."""
        texts = (index.excerpt(source) for index in self._open.values())
        return next((text for text in texts if text is not None), None)

    def open(self) -> None:
        """Open what there is now and search it once, so that the first check is as quick as the others.

        The first search of a process takes 25 ms, of which nearly all is reading in the mapped pages.
        """
        indexes, _ = self._indexes()
        search(indexes, __doc__ or "", lenient=True)

    def close(self) -> None:
        """Close every index."""
        for index in self._open.values():
            index.close()
        self._open.clear()

    def _indexes(self) -> tuple[tuple[Index, ...], tuple[str, ...]]:
        indexes, problems = [], []
        paths = self._find()
        for gone in set(self._open) - set(paths):
            self._open.pop(gone).close()
        for path in paths:
            try:
                indexes.append(self._current(path))
            except (AttributionError, OSError) as error:
                LOGGER.warning("index %s: %s", path, error)
                problems.append(str(error))
        return tuple(indexes), tuple(problems)

    def _current(self, path: Path) -> Index:
        """Return the index at the path, which follows what is published there. Raises what is wrong with it now."""
        if path not in self._open or not path.is_dir():
            self._open[path] = Index.open(path)
        index = self._open[path]
        index.refresh()
        return index


_NO_INDEX = "no index is installed: build one with 'starcite index build'"


def judged(
    policy: Policy, matches: tuple[Match, ...], checked: Checked, path: Path | None
) -> tuple[tuple[Match, ...], Checked]:
    """Return matches with what a policy decides, and what was searched: with a policy that cannot be read, nothing."""
    if policy.problem:
        checked = replace(checked, state="not_checked", reason=policy.problem)
    return policy.applied(matches, path), checked


def clamped(match: Match, left: str, text: str) -> Match:
    """Return a match of `left + text` as one of the text alone, cut to it."""
    start = max(match.start - len(left), 0)
    end = min(match.end - len(left), len(text))
    first = 1 + text.count("\n", 0, start)
    return replace(match, start=start, end=end, start_line=first, end_line=first + text.count("\n", start, end - 1))


def moved(match: Match, chars: int, lines: int) -> Match:
    """Return a match of a part of a text as one of the whole text, the part beginning after so many of them."""
    return replace(
        match,
        start=match.start + chars,
        end=match.end + chars,
        start_line=match.start_line + lines,
        end_line=match.end_line + lines,
    )


def _coverage(summaries: tuple[dict[str, Any], ...], model_corpus: str) -> Covers:
    """Return how much of what the model was trained on was searched; only an index that names its corpus can tell."""
    return "full" if any(summary["corpus"] == model_corpus for summary in summaries) else "unknown"


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
