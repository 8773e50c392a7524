"""The oracle against brute force: what stands in a corpus, with no index, and the comparison with an index."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attribution import build, normalise, oracle
from attribution.errors import MissingPackageError
from attribution.index import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

# Few letters, so that there are long repetitions; white space, quotes, and characters of two and four bytes.
LETTERS = st.text(alphabet="ab\n '\"`é\U0001f600\u2003", max_size=60)


def brute_force(text: str, documents: list[str]) -> list[int]:
    """Return the longest run from each normalised character, by trying all."""
    whole = oracle.normalised(text)
    held = [oracle.normalised(document) for document in documents]
    return [
        max(
            (size for size in range(len(whole) - at + 1) if any(whole[at : at + size] in one for one in held)),
            default=0,
        )
        for at in range(len(whole))
    ]


@settings(max_examples=200, deadline=None)
@given(st.lists(LETTERS, max_size=4), st.lists(LETTERS, max_size=5), st.integers(1, 80))
@example(["abab"], [], 1)
@example(["ab", "ba"], ["a", "b"], 1)
@example(["é"], ["\u00e8", "\u0129"], 8)
def test_the_longest_runs_are_those_of_brute_force(texts: list[str], documents: list[str], block_bytes: int) -> None:
    """For any texts and documents, however they fall into blocks."""
    found = oracle.longest_runs(texts, documents, block_bytes)
    assert [runs.tolist() for runs in found] == [brute_force(text, documents) for text in texts]


def test_no_run_crosses_documents_or_texts() -> None:
    """What stands in two documents that follow each other stands in none; and texts do not run on into each other."""
    assert [runs.tolist() for runs in oracle.longest_runs(["abcd", "ef"], ["xab", "cdef"])] == [[2, 1, 2, 1], [2, 1]]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80))
def test_the_two_normalisers_agree(text: str) -> None:
    """The one that was written a second time leaves the same characters at the same places as the index's own."""
    ours = normalise.text(text)
    theirs = oracle.normalised(text)
    first = normalise.starts_character(ours.data)
    assert oracle.kept_offsets(text).tolist() == ours.offsets[first].tolist()
    fold = str.maketrans('"`', "''")
    assert theirs.translate(fold) == ours.data.tobytes().decode("utf-8", "surrogatepass").translate(fold)


def test_lines_are_an_editors() -> None:
    r"""Lines end in \n, \r\n and \r, and in nothing else."""
    assert oracle.lines("a\r\nb\rc\x0cd\ne", 2, 3) == "b\nc\x0cd"


class TestComparison:
    """Windows of four characters of "abcdefghij", of which "bcdefg" stands in a document."""

    TEXT = "ab cdef\nghij"
    RUNS = np.array([0, 6, 5, 4, 3, 2, 1, 0, 0, 0])

    def compare(self, *spans: tuple[int, int], start: int = 0) -> oracle.Comparison:
        """Compare some spans of the text with the truth."""
        return oracle.compare(self.TEXT, spans, self.RUNS, 4, start)

    def test_what_is_right(self) -> None:
        """The three windows lie in the one match."""
        assert self.compare((1, 9)) == oracle.Comparison(3, 0, 3, 0, 0)

    def test_what_is_missed(self) -> None:
        """A match that ends early leaves windows out; no match leaves out all."""
        assert self.compare((1, 6)) == oracle.Comparison(3, 2, 1, 0, 0)
        assert self.compare() == oracle.Comparison(3, 3, 0, 0, 0)

    def test_what_is_wrong(self) -> None:
        """A match that reaches too far is wrong, and so is the window at its end."""
        assert self.compare((1, 10)) == oracle.Comparison(3, 0, 4, 1, 1)
        assert self.compare((4, 5), (9, 9)) == oracle.Comparison(3, 3, 0, 0, 1)

    def test_what_ends_before_the_start_does_not_count(self) -> None:
        """The window that ends with "e" lies before an "f" that is the start."""
        assert self.compare((1, 9), start=6).windows == 2
        assert self.compare(start=6).missed == 2


def test_an_index_agrees_with_the_oracle(write_tree: Callable[[str, Mapping[str, str | bytes]], Path]) -> None:
    """Of a text that is half copied, every window is judged alike by the index and the suffix array."""
    body = "".join(
        f"def function_{number}(first, second):\n    return first * {number} + second\n" for number in range(30)
    )
    source = write_tree("source", {"a.py": body, "b.py": body[200:900].replace("first", "erster")})
    build.build([source], source.parent / "index", license="MIT")
    text = "something of its own\n" + body[150:700] + "and more " * 12 + body[200:260] + "xyz" * 20
    (runs,) = oracle.longest_runs([text], [path.read_text() for path in source.iterdir()])
    with Index.open(source.parent / "index") as index:
        spans = [(match.start, match.end) for match in index.matches(text, min_run=50)]
    found = oracle.compare(text, spans, runs, 50)
    assert found.windows > 300
    assert (found.missed, found.wrong, found.wrong_matches) == (0, 0, 0)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pydivsufsort the error says what to install."""
    monkeypatch.setitem(sys.modules, "pydivsufsort", None)
    with pytest.raises(MissingPackageError, match=r"starcite\[eval\]"):
        oracle.longest_runs(["a"], ["b"])
