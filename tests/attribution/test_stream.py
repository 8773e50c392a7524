"""A stream is told of a run with the very text that completes it, as a search of all so far would find it."""

from __future__ import annotations

import random
import string
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attribution.build import build_documents
from attribution.documents import Document
from attribution.errors import QueryError
from attribution.format import SourceRecord
from attribution.index import Index, Match, search
from attribution.operations import forget
from attribution.stream import StreamChecker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SOURCE = SourceRecord("made", "1", "https://example.org/{path}", ("MIT",), license_conflict=False)
WORDS = ["alpha", "beta = gamma", "(x, y)", "return", '"text"', "\n    ", "für", "n+1", "{", "-----", "==", "日本語"]


def prose(seed: int, words: int) -> str:
    """Return text of words chosen at random, half of them made up."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    made = ["".join(chance.choices(string.ascii_lowercase, k=chance.randint(1, 9))) for _ in range(words)]
    return " ".join(chance.choice([word, chance.choice(WORDS)]) for word in made)


DOCUMENTS = [
    *(prose(seed, 150) for seed in range(4)),
    prose(5, 30) + "-" * 140 + prose(6, 30),
    "abc" * 60 + prose(7, 20) + "ab" * 70 + prose(8, 20),
    prose(1, 40) + prose(2, 60) + prose(1, 40),
]


@pytest.fixture(scope="module", params=[50, 100])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """Return an index of documents that hold each other's parts, letters outside ASCII and lines of dashes."""
    out = tmp_path_factory.mktemp("stream") / "made"
    made = (Document(text, f"{number}.py", SOURCE) for number, text in enumerate(DOCUMENTS))
    build_documents(made, out, guarantee=request.param)
    with Index.open(out) as opened:
        yield opened


def reaching_the_end(index: Index, text: str, limit: int, left: int) -> Match | None:
    """Return the run that a search finds at the end of a text."""
    end = len(text.rstrip())
    return next((match for match in search([index], text, min_run=limit, start=left) if match.end == end), None)


def check(index: Index, left: str, texts: Sequence[str], limit: int) -> list[Match]:
    """Feed texts, and compare what is told with a search after each of them; return what was told."""
    checker = StreamChecker([index], left, limit)
    told: list[Match] = []
    so_far = left
    for text in texts:
        so_far += text
        said = checker.feed(text)
        found = reaching_the_end(index, so_far, limit, len(left))
        if said is not None:
            assert said == found
            told.append(said)
        if found is not None and text.strip():
            assert found.start in {match.start for match in told}
    return told


def pieces_of(text: str, sizes: list[int]) -> list[str]:
    """Return a text cut into pieces of these sizes, over and over."""
    pieces, at, turn = [], 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        pieces.append(text[at : at + size])
        at, turn = at + size, turn + 1
    return pieces


PART = st.builds(
    lambda number, start, length: DOCUMENTS[number][start : start + length],
    st.integers(0, len(DOCUMENTS) - 1),
    st.integers(0, 900),
    st.integers(1, 260),
)
OTHER = st.builds(prose, st.integers(100, 200), st.integers(0, 12))
DASHES = st.builds(lambda unit, count: unit * count, st.sampled_from(["-", "ab", "abc"]), st.integers(1, 90))


@settings(deadline=None, max_examples=60)  # a busy machine is no failure
@given(
    left=st.lists(PART | OTHER | DASHES, max_size=2).map("".join),
    text=st.lists(PART | OTHER | DASHES, min_size=1, max_size=4).map("".join),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    above=st.sampled_from([0, 1, 5, 30, 60]),
)
def test_tells_what_a_search_of_every_prefix_finds(
    index: Index, left: str, text: str, sizes: list[int], above: int
) -> None:
    """After each text, what a search finds at the end was told of, and nothing was told of that it does not find."""
    check(index, left, pieces_of(text, sizes), index.reader.facts.guarantee + above)


@settings(deadline=None, max_examples=30)
@given(cut=st.integers(60, 400), size=st.integers(1, 6))
def test_a_short_text_that_continues_a_copied_passage_is_told_of_at_once(index: Index, cut: int, size: int) -> None:
    """With the passage in the left context, the first few characters suffice; other characters are not told of."""
    limit = index.reader.facts.guarantee
    document = DOCUMENTS[0]
    long_enough = len("".join(document[:cut].split())) >= limit
    first = document[cut : cut + size]
    if first.strip() and long_enough:
        assert StreamChecker([index], document[:cut], limit).feed(first) is not None
    assert StreamChecker([index], document[:cut], limit).feed("\x07") is None


def test_a_run_is_told_of_once_and_the_next_one_again(index: Index) -> None:
    """Each of two passages with other text between them is told of when it comes to the limit, and never again."""
    limit = index.reader.facts.guarantee + 30
    text = DOCUMENTS[2][100:400] + prose(999, 30) + DOCUMENTS[3][100:400]
    told = check(index, "", pieces_of(text, [3, 4]), limit)
    assert [match.run for match in told if match.run >= limit + 4] == []
    assert len(told) == 2


def test_what_is_forgotten_is_not_told_of(tmp_path: Path) -> None:
    """A source in the tombstones is passed over."""
    optouts = tmp_path / "o.jsonl"
    optouts.write_text('{"optout_owners": [], "optout_repos": ["acme/gone"]}\n')
    gone = SourceRecord("acme/gone", "1", "https://example.org/{path}", ("MIT",), license_conflict=False)
    build_documents([Document(DOCUMENTS[0], "a.py", gone)], tmp_path / "index")
    with Index.open(tmp_path / "index") as opened:
        assert check(opened, "", pieces_of(DOCUMENTS[0][:300], [4]), 80)
        forget(tmp_path / "index", optouts)
        assert check(opened, "", pieces_of(DOCUMENTS[0][:300], [4]), 80) == []


def test_a_limit_below_the_guarantee_is_an_error(index: Index) -> None:
    """What an index cannot promise is not asked of it."""
    with pytest.raises(QueryError, match="below"):
        StreamChecker([index], "", index.reader.facts.guarantee - 1)


def test_without_an_index_nothing_is_told() -> None:
    """A checker of no index takes any text."""
    checker = StreamChecker([], "left", 80)
    assert [checker.feed(text) for text in pieces_of(DOCUMENTS[0], [4])] == [None] * len(pieces_of(DOCUMENTS[0], [4]))
