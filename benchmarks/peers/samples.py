"""Pieces of documents to ask with: windows of an exact length, and snippets of fifteen lines."""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.peers.edits import lex
from benchmarks.peers.engines import normalised

if TYPE_CHECKING:
    import random

    from attribution.documents import Document

LINES = 15
LEAST_CHARS = 80
_SPACE = np.array([chr(code).isspace() for code in range(0x3002)])
_NOVEL = "qzxjkvwy"


@dataclass(frozen=True, slots=True)
class Snippet:
    """Some lines of a document."""

    language: str
    text: str
    document: Document


class Windows:
    """Verbatim windows of documents by their length in characters that are not white space."""

    def __init__(self, documents: list[Document], rng: random.Random) -> None:
        """Find every character that is not white space, by Python's own rule for each code point."""
        self._rng = rng
        self._texts = [document.text for document in documents]
        points = (np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4") for text in self._texts)
        self._offsets = [np.flatnonzero(~_SPACE[np.minimum(codes, 0x3001)]).astype(np.uint32) for codes in points]
        self._ends = list(itertools.accumulate(len(offsets) for offsets in self._offsets))

    def draw(self, run: int) -> str:
        """Return a window of `run` characters, drawn evenly over the corpus."""
        while True:
            at = self._rng.randrange(self._ends[-1])
            number = bisect.bisect_right(self._ends, at)
            offsets = self._offsets[number]
            first = at - (self._ends[number] - len(offsets))
            if first + run <= len(offsets):
                return self._texts[number][int(offsets[first]) : int(offsets[first + run - 1]) + 1]


def framed(window: str, rng: random.Random, least: int = 0) -> tuple[str, int]:
    """Return the window between at least so many random letters that stand in no corpus, and where it starts."""
    left, right = ("".join(rng.choices(_NOVEL, k=least + rng.randrange(80))) for _ in range(2))
    return left + "\n" + window + "\n" + right, len(left) + 1


def snippets(documents: list[Document], language: str, count: int, rng: random.Random) -> list[Snippet]:
    """Return snippets of fifteen lines with at least 80 characters, drawn evenly over the lines.

    They start and end outside of comments and strings of several lines: no one copies half a comment, and its words
    would count as lexemes.
    """
    lines = [document.text.split("\n") for document in documents]
    ends = list(itertools.accumulate(max(0, len(rows) - LINES) for rows in lines))
    closed: dict[int, set[int]] = {}
    found: list[Snippet] = []
    for _ in range(count * 20):
        if len(found) == count or not ends or not ends[-1]:
            break
        at = rng.randrange(ends[-1])
        number = bisect.bisect_right(ends, at)
        first = at - (ends[number] - (len(lines[number]) - LINES))
        if number not in closed:
            closed[number] = _closed_lines(documents[number].text, language)
        text = "\n".join(lines[number][first : first + LINES])
        if {first, first + LINES} <= closed[number] and len(normalised(text)) >= LEAST_CHARS:
            found.append(Snippet(language, text, documents[number]))
    return found


def _closed_lines(text: str, language: str) -> set[int]:
    """Return the 0-based lines that do not start inside a lexeme."""
    line, starts = 0, {0}
    for kind, part in lex(text, language):
        line += part.count("\n")
        if kind == "line":
            starts.add(line)
    return starts


def cuts(documents: list[Document], chars: int, count: int, rng: random.Random) -> list[str]:
    """Return pieces of `chars` characters, drawn evenly over the corpus."""
    texts = [document.text for document in documents if len(document.text) > chars]
    chosen = rng.choices(texts, [len(text) for text in texts], k=count)
    starts = [rng.randrange(len(text) - chars) for text in chosen]
    return [text[start : start + chars] for text, start in zip(chosen, starts, strict=True)]
