"""What the other open files say about the cursor: the windows of their lines that share most identifiers with it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lsp_server.prompt import relative_path, unix_line_ends
from models.protocol import Snippet

if TYPE_CHECKING:
    from pathlib import Path

    from lsp_server.documents import Snapshot

WINDOW_LINES = 24
STEP_LINES = 12
# The cursor's neighbourhood moves in steps of this many lines, so that what is chosen stays while a line is typed.
REGION_LINES = 16
MAX_SNIPPETS = 2
MAX_FILES = 12
MAX_FILE_CHARS = 200_000
# Below this the windows share little more than the language's own words.
MIN_SIMILARITY = 0.12

_IDENTIFIER = re.compile(r"[^\W\d]\w{2,}")


def region(snapshot: Snapshot, offset: int) -> int:
    """Return the number of the neighbourhood that a cursor lies in; snippets are chosen once for each."""
    return snapshot.line_of(offset) // REGION_LINES


def gather(snapshot: Snapshot, offset: int, others: tuple[Snapshot, ...], root: Path | None) -> tuple[Snippet, ...]:
    """Return the best windows of the other files, at most `MAX_SNIPPETS`, ordered by path so that caches hold.

    `others` come most recently used first. Similarity is Jaccard's, of the sets of identifiers of three and more
    characters, as in the context of Copilot's and Tabby's clients.
    """
    here = _identifiers(_neighbourhood(snapshot, offset))
    candidates = []
    for other in others[:MAX_FILES]:
        if other.uri == snapshot.uri or len(other.text) > MAX_FILE_CHARS:
            continue
        similarity, text = max(
            ((_jaccard(here, _identifiers(window)), window) for window in _windows(other)), default=(0.0, "")
        )
        if similarity >= MIN_SIMILARITY:
            candidates.append((similarity, Snippet(relative_path(other.uri, root)[0], text)))
    best = sorted(candidates, key=lambda candidate: -candidate[0])[:MAX_SNIPPETS]
    return tuple(sorted((snippet for _, snippet in best), key=lambda snippet: snippet.path))


def _neighbourhood(snapshot: Snapshot, offset: int) -> str:
    first = max(region(snapshot, offset) - 1, 0) * REGION_LINES
    return "\n".join(_lines(snapshot)[first : first + 3 * REGION_LINES])


def _windows(snapshot: Snapshot) -> list[str]:
    lines = _lines(snapshot)
    last = max(len(lines) - WINDOW_LINES, 0)
    starts = sorted({*range(0, last, STEP_LINES), last})
    return ["\n".join(lines[start : start + WINDOW_LINES]).strip("\n") + "\n" for start in starts]


def _lines(snapshot: Snapshot) -> list[str]:
    return unix_line_ends(snapshot.text).split("\n")


def _identifiers(text: str) -> frozenset[str]:
    return frozenset(_IDENTIFIER.findall(text))


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    union = len(one | other)
    return len(one & other) / union if union else 0.0
