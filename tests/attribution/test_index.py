"""The index against a brute-force oracle: what is found, how far it reaches, and what is said about it."""

from __future__ import annotations

import json
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attribution import alignment, kernels, matching, normalise, postings
from attribution import index as index_module
from attribution.build import build_documents
from attribution.documents import Document
from attribution.errors import QueryError
from attribution.format import TEXT_MODES, SourceRecord
from attribution.index import COMMON_DOCUMENTS, Index, Match, search
from attribution.matching import find_runs
from attribution.operations import forget

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCE = SourceRecord("owner/repo", "abc", "https://example.org/{path}", ("MIT",), license_conflict=False)
ALPHABETS = ("abcdefgh", "ab", "aé è漢𝔸b", "x'\"`y\n", "if(a==b):\r\n\treturn", "\u00a0ab\u3000c\u2028d")
INTERVALS = set[tuple[int, int]]


def folded(text: str) -> str:
    """Normalise the plain way."""
    return "".join("'" if character in "'\"`" else character for character in text if not character.isspace())


def oracle(text: str, document: str, least: int) -> INTERVALS:
    """Return all maximal runs (start, end in normalised characters of `text`) that two texts share."""
    ours, theirs = (
        np.array([ord(character) for character in folded(each)], dtype=np.int64) for each in (text, document)
    )
    same = ours[:, None] == theirs[None, :]
    found: INTERVALS = set()
    for diagonal in range(-len(ours), len(theirs) + 1):
        line = np.concatenate([[False], same.diagonal(diagonal), [False]])
        edges = np.flatnonzero(line[1:] != line[:-1]) + max(0, -diagonal)
        found |= {(int(a), int(b)) for a, b in edges.reshape(-1, 2) if b - a >= least}
    return found


def maximal(intervals: INTERVALS) -> INTERVALS:
    """Return the intervals that lie in no other."""
    return {
        one for one in intervals if not any(two != one and two[0] <= one[0] and one[1] <= two[1] for two in intervals)
    }


def repeats_itself(text: str) -> bool:
    """Whether 16 bytes in a row of the normalised text have a period of at most 8."""
    data = folded(text).encode("utf-8", "surrogatepass")
    return any(
        data[i : i + 16 - period] == data[i + period : i + 16] for i in range(len(data) - 15) for period in range(1, 9)
    )


@st.composite
def corpora(draw: st.DrawFn, *, periodic: bool) -> tuple[str, list[str]]:
    """Draw a text and documents that are put together from the same pieces, laid out differently."""
    pieces = []
    for _ in range(draw(st.integers(2, 5))):
        rng = random.Random(draw(st.integers(0, 1 << 30)))  # noqa: S311
        alphabet = draw(st.sampled_from(ALPHABETS))
        size = draw(st.integers(5, 110))
        unit = draw(st.integers(1, 14)) if periodic and draw(st.booleans()) else size
        cell = "".join(rng.choice(alphabet) for _ in range(unit))
        pieces.append((cell * size)[:size])
    gap = st.sampled_from(["", "", "q", " ", "\n\n", "\r\n    ", "zw", "é"])
    laid_out = st.lists(st.tuples(st.sampled_from(pieces), gap), min_size=1, max_size=6).map(
        lambda parts: "".join(piece + between for piece, between in parts)
    )
    return draw(laid_out), draw(st.lists(laid_out, min_size=1, max_size=4))


def asked(indexes: Sequence[Index], text: str, **options: Any) -> list[Match]:  # noqa: ANN401 - those of `search`
    """Search by numpy and, where numba is installed, by what it compiles: both say the same."""
    kernels.warm()
    fast = search(indexes, text, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "ready", lambda: None)
        plain = search(indexes, text, **options)
    assert fast == plain
    return plain


def matches(text: str, documents: Sequence[str], least: int, guarantee: int = 50, kept: str = "raw") -> list[Match]:
    """Index documents and search a text in them; check what must hold for each match by itself."""
    with tempfile.TemporaryDirectory() as folder:
        found = [Document(document, f"{number}.py", SOURCE) for number, document in enumerate(documents)]
        build_documents(found, Path(folder) / "index", guarantee=guarantee, text=kept)
        with Index.open(Path(folder) / "index") as index:
            index.verify()
            result = asked([index], text, min_run=least)
    for match in result:
        check(match, text, documents, least)
    return result


def check(match: Match, text: str, documents: Sequence[str], least: int) -> None:
    """Check that a match is what it says: its span, its lines, and every document that it names."""
    span = text[match.start : match.end]
    assert match.run == len(folded(span)) >= least
    assert not span[0].isspace()
    assert not span[-1].isspace()
    assert (match.start_line, match.end_line) == (line_of(text, match.start), line_of(text, match.end - 1))
    for source in match.sources:
        document = documents[int(source.path.removesuffix(".py"))]
        lines = split_lines(document)
        assert folded(span) in folded("".join(lines[source.start_line - 1 : source.end_line]))


def split_lines(text: str) -> list[str]:
    r"""Split after \n, \r\n and \r only."""
    return text.replace("\r\n", "\0").replace("\r", "\r\1").replace("\n", "\n\1").replace("\0", "\r\n\1").split("\1")


def line_of(text: str, offset: int) -> int:
    """Return the 1-based line of a character."""
    return len(split_lines(text[: offset + 1])) - (text[offset] == "\n")


def intervals(text: str, found: Sequence[Match]) -> list[tuple[int, int]]:
    """Return the matches in normalised characters."""
    return [(len(folded(text[: match.start])), len(folded(text[: match.end]))) for match in found]


FEW = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@FEW
@given(
    corpus=corpora(periodic=False),
    least=st.sampled_from([50, 51, 64, 80, 100]),
    kept=st.sampled_from(TEXT_MODES),
    one_by_one=st.sampled_from([0, alignment._FEW]),
    many=st.sampled_from([0, matching._MANY_CANDIDATES]),
)
def test_spans_are_exactly_the_oracle_s(
    corpus: tuple[str, list[str]], least: int, kept: str, one_by_one: int, many: int
) -> None:
    """Where no text repeats itself, the matches are the maximal runs, no more and no fewer, with all documents."""
    text, documents = corpus
    if any(repeats_itself(each) for each in (text, *documents)):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "_FEW", one_by_one)
        patch.setattr(matching, "_MANY_CANDIDATES", many)
        found = matches(text, documents, least, kept=kept)
    expected = maximal(set().union(*(oracle(text, document, least) for document in documents)))
    assert sorted(intervals(text, found)) == sorted(expected)
    for match in found:
        span = folded(text[match.start : match.end])
        holders = {f"{i}.py" for i, document in enumerate(documents) if span in folded(document)}
        assert {source.path for source in match.sources} == holders
        assert match.source_count == len(holders)


@FEW
@given(
    corpus=corpora(periodic=True),
    least=st.sampled_from([50, 60, 80, 100]),
    kept=st.sampled_from(TEXT_MODES),
    many=st.sampled_from([0, matching._MANY_CANDIDATES]),
)
def test_periodic_runs_are_covered(corpus: tuple[str, list[str]], least: int, kept: str, many: int) -> None:
    """Every run is covered to its last character, and overlapped by a match at least as long, however periodic."""
    text, documents = corpus
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "_MANY_CANDIDATES", many)
        spans = intervals(text, matches(text, documents, least, kept=kept))
    covered = set().union(*(range(*span) for span in spans))
    for start, end in set().union(*(oracle(text, document, least) for document in documents)):
        assert covered.issuperset(range(start, end))
        assert any(a < end and start < b and b - a >= end - start for a, b in spans)


@st.composite
def copied(draw: st.DrawFn, *, periodic: bool) -> tuple[str, list[str]]:
    """Draw a text and documents many of which hold the same pieces, framed by others or by single characters."""
    text, documents = draw(corpora(periodic=periodic))
    alphabet = draw(st.sampled_from(["yz", "abyz"]))
    rng = random.Random(draw(st.integers(0, 1 << 30)))  # noqa: S311
    bases = [*documents, text, *(text[start : start + 120] for start in (0, len(text) // 3, len(text) // 2))]
    found = list(documents)
    for base in bases:
        for _ in range(draw(st.integers(0, 6))):
            head, tail = ("".join(rng.choice(alphabet) for _ in range(rng.randrange(3))) for _ in range(2))
            low = rng.choice([0, 0, rng.randrange(len(base) + 1)])
            high = rng.choice([len(base), len(base), rng.randrange(len(base) + 1)])
            found.append(head + base[low:high] + tail)
    return text, found


def small_thresholds(patch: pytest.MonkeyPatch, places: int, sampled: int, common: int) -> None:
    """Let k-grams of few places be frequent, and runs in few documents common."""
    patch.setattr(postings, "FREQUENT", 1)
    patch.setattr(matching, "_MANY_CANDIDATES", 0)
    patch.setattr(matching, "_MANY_PLACES", places)
    patch.setattr(matching, "_SAMPLED_PLACES", sampled)
    for module in (matching, index_module):
        patch.setattr(module, "COMMON_DOCUMENTS", common)
        patch.setattr(module, "COMMON_SOURCES", common)


@FEW
@given(
    corpus=copied(periodic=False),
    least=st.sampled_from([50, 51, 64, 80, 100]),
    kept=st.sampled_from(TEXT_MODES),
    places=st.integers(0, 3),
    marked=st.sampled_from([0, 1 << 20]),
    sampled=st.integers(1, 4),
    common=st.integers(0, 3),
    sources=st.integers(1, 12),
    forgotten=st.booleans(),
    start=st.integers(0, 200),
)
def test_common_runs_hide_no_other(  # noqa: PLR0913, PLR0917 - all that the look-up of common text depends on
    corpus: tuple[str, list[str]],
    least: int,
    kept: str,
    places: int,
    marked: int,
    sampled: int,
    common: int,
    sources: int,
    forgotten: bool,  # noqa: FBT001
    start: int,
) -> None:
    """Spans and classes are those of looking at all places; of a rare span, each source; of a common one, enough."""
    text, documents = corpus
    if any(repeats_itself(each) for each in (text, *documents)):
        return
    records = [SourceRecord(f"o{n}/r", "1", "", ("MIT",), license_conflict=False) for n in range(sources)]
    held = [Document(each, f"{n}.py", records[n % sources]) for n, each in enumerate(documents)]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        small_thresholds(patch, places, sampled, common)
        patch.setattr(matching, "_MARKED_PLACES", marked)
        halves = [held, held[: -(-len(held) // 2)]]
        for number, half in enumerate(halves):
            build_documents(half, Path(folder) / str(number), text=kept)
            if forgotten:
                (Path(folder) / "optouts.json").write_text(json.dumps({"optout_owners": ["o0"]}))
                forget(Path(folder) / str(number), Path(folder) / "optouts.json")
        with Index.open(Path(folder) / "0") as index, Index.open(Path(folder) / "1") as other:
            for indexes in ([index], [index, other]):
                found = asked(indexes, text, min_run=least, start=start)
                with pytest.MonkeyPatch.context() as plain:
                    plain.setattr(matching, "_MANY_PLACES", 1 << 20)
                    expected = asked(indexes, text, min_run=least, start=start)
                spans = [(match.start, match.end, match.run, match.classification) for match in expected]
                assert [(match.start, match.end, match.run, match.classification) for match in found] == spans
                assert not (forgotten and "o0/r" in {source.name for match in found for source in match.sources})
                for match, whole in zip(found, expected, strict=True):
                    if match.classification == "rare":
                        assert match == whole
                    else:
                        assert common < match.source_count <= whole.source_count
                        check(match, text, documents, least)


@FEW
@given(
    corpus=copied(periodic=True),
    least=st.sampled_from([50, 60, 80, 100]),
    kept=st.sampled_from(TEXT_MODES),
    sampled=st.integers(1, 4),
    common=st.integers(0, 3),
)
def test_common_periodic_runs_are_covered(
    corpus: tuple[str, list[str]], least: int, kept: str, sampled: int, common: int
) -> None:
    """What is said of periodic runs holds where they are common, too."""
    text, documents = corpus
    with pytest.MonkeyPatch.context() as patch:
        small_thresholds(patch, 0, sampled, common)
        spans = intervals(text, matches(text, documents, least, kept=kept))
    covered = set().union(*(range(*span) for span in spans))
    for start, end in set().union(*(oracle(text, document, least) for document in documents)):
        assert covered.issuperset(range(start, end))
        assert any(a < end and start < b and b - a >= end - start for a, b in spans)


@pytest.mark.parametrize("guarantee", [50, 100])
@pytest.mark.parametrize("position", range(0, 60, 7))
def test_a_run_of_the_guarantee_is_found_wherever_it_starts(guarantee: int, position: int) -> None:
    """Exactly `guarantee` characters are found at any place of document and text; one fewer is not reported."""
    rng = random.Random(position)  # noqa: S311
    filler = "".join(rng.choice("abcdefghij(){}=.") for _ in range(400))
    run = "".join(rng.choice("klmnopqrst[]<>,;") for _ in range(guarantee))
    document = filler[:position] + run + filler[position:]
    text = "  \n".join("X" + run + "Y")
    (found,) = matches(text, [document], guarantee, guarantee)
    assert found.run == guarantee
    assert matches("X" + run[1:] + "Y", [document], guarantee, guarantee) == []


@pytest.mark.parametrize("ours", [49, 80, 100, 500])
@pytest.mark.parametrize("theirs", [79, 80, 81, 300])
@pytest.mark.parametrize("unit", ["-", "=-", "abc", "0x00,", "lorem ipsum+"])
def test_lines_of_dashes_are_aligned(ours: int, theirs: int, unit: str) -> None:
    """Stretches of repeated text match over their whole common length, though each costs one posting."""
    text = f"first({(unit * ours)[:ours]})"
    document = f"second[{(unit * theirs)[:theirs]}]"
    longest = max((b - a for a, b in oracle(text, document, 50)), default=0)
    found = matches(text, [document], 50)
    assert max((match.run for match in found), default=0) == longest


@pytest.mark.parametrize("unit", ["-", "=-", "abc", "0x00,"])
def test_a_short_stretch_covers_a_long_one(unit: str) -> None:
    """Of repeated text that is longer than the document's, every character is covered by a match as long as that."""
    text = f"({(unit * 1000)[:1000]})"
    found = matches(text, [f"[{(unit * 103)[:103]}]"], 80)
    spans = intervals(text, found)
    assert set().union(*(range(*span) for span in spans)) >= set(range(1, 1001))
    assert max(end - start for start, end in spans) == 103
    assert len(found) < 30


@pytest.mark.parametrize("seed", range(10))
def test_runs_in_a_row_are_told_apart(seed: int) -> None:
    """Where single characters were changed, each stretch of the guarantee between two changes is a match."""
    rng = random.Random(seed)  # noqa: S311
    pieces = ["".join(rng.choice("abcdefgh") for _ in range(50)) for _ in range(4)]
    found = matches("1".join(pieces), ["2".join(pieces)], 50)
    assert [(match.start, match.end) for match in found] == [(51 * n, 51 * n + 50) for n in range(4)]


def test_a_run_that_goes_on_beyond_dashes_is_whole() -> None:
    """A comment banner with text on both sides is one match, and a banner of another length ends it."""
    banner = "def before(self, value):\n    # " + "-" * 70 + "\n    return after(value) + before\n"
    (whole,) = matches("x = 1\n" + banner, ["import os\n" + banner], 80)
    assert whole.run == len(folded(banner))
    other = banner.replace("-" * 70, "-" * 90)
    found = matches(banner, [other], 80)
    longest = max(end - start for start, end in oracle(banner, other, 80))
    assert max(match.run for match in found) == longest < len(folded(banner))
    assert len(found) == 2  # the text before with the dashes, and the dashes with the text behind


@pytest.mark.parametrize("offset", range(8))
@pytest.mark.parametrize("dashes", [16, 18, 23, 70])
@pytest.mark.parametrize("before", [2, 20])
def test_dashes_across_the_end_of_a_document(offset: int, dashes: int, before: int) -> None:
    """A document that begins with dashes is found, though the one before it ends with some: both in one cell."""
    rng = random.Random(offset)  # noqa: S311
    body, other = ("".join(rng.choice("abcdefgh") for _ in range(100 + offset)) for _ in range(2))
    text = "-" * dashes + body
    documents = [other + "-" * before, text]
    (found,) = matches(text, documents, 50)
    assert found.run == len(text)
    ends = [documents[1] + "-" * dashes, "-" * before + other]
    (found,) = matches(body + "-" * dashes, ends, 50)
    assert found.run == len(body) + dashes


def test_only_matches_that_reach_into_the_suggestion() -> None:
    """With `start`, matches that end before it are left out, and offsets stay those of the whole text."""
    rng = random.Random(5)  # noqa: S311
    one, two = ("".join(rng.choice("abcdefgh") for _ in range(120)) for _ in range(2))
    text = f"{one}\n#\n{two}"
    with tempfile.TemporaryDirectory() as folder:
        build_documents([Document(one, "1.py", SOURCE), Document(two, "2.py", SOURCE)], Path(folder) / "i")
        with Index.open(Path(folder) / "i") as index:
            assert [match.start for match in index.matches(text)] == [0, 123]
            assert [match.start for match in index.matches(text, start=119)] == [0, 123]
            assert [match.start for match in index.matches(text, start=120)] == [123]
            assert index.matches(text, start=len(text)) == []


def test_common_text_is_called_common_and_lists_ten_sources() -> None:
    """Over 50 documents or over 20 sources make a run common; ten sources at most are listed, one of each first."""
    run = "".join(random.Random(6).choice("abcdefgh") for _ in range(100))  # noqa: S311
    records = [SourceRecord(f"package{n:02}", "1", "", ("MIT",), license_conflict=False) for n in range(25)]

    def classified(documents: list[Document]) -> Match:
        with tempfile.TemporaryDirectory() as folder:
            build_documents(documents, Path(folder) / "i")
            with Index.open(Path(folder) / "i") as index:
                (match,) = index.matches(run)
                return match

    one_source = [Document(f"{run}#{n}", f"{n:02}.py", records[0]) for n in range(51)]
    assert classified(one_source).classification == "common"
    assert classified(one_source[:50]).classification == "rare"
    many_sources = [Document(run, "a.py", record) for record in records]
    assert classified(many_sources[:21]).classification == "common"
    rare = classified(many_sources[:3] + one_source[:9])
    assert (rare.classification, rare.source_count, len(rare.sources)) == ("rare", 12, 10)
    assert [source.name for source in rare.sources[:4]] == ["package01", "package02", "package00", "package00"]


def test_two_indexes_are_searched_as_one() -> None:
    """A span inside a longer one of another index is left out; the sources of one span are united, each once."""
    rng = random.Random(7)  # noqa: S311
    run, more = ("".join(rng.choice("abcdefgh") for _ in range(size)) for size in (100, 60))
    other = SourceRecord("other", "2", "", (), license_conflict=False)
    with tempfile.TemporaryDirectory() as folder:
        build_documents([Document(run, "a.py", SOURCE)], Path(folder) / "one")
        build_documents([Document(run, "a.py", SOURCE), Document(run, "b.py", other)], Path(folder) / "two")
        build_documents([Document(run + more, "c.py", other)], Path(folder) / "three", guarantee=100)
        with Index.open(Path(folder) / "one") as one, Index.open(Path(folder) / "two") as two:
            (match,) = asked([one, two], run)
            assert (match.source_count, [source.path for source in match.sources]) == (2, ["b.py", "a.py"])
            with Index.open(Path(folder) / "three") as three:
                (match,) = asked([one, two, three], run + more, min_run=100)
                assert (match.run, match.source_count) == (160, 1)


def test_json_is_the_contract_s() -> None:
    """A match has exactly the public fields, in the public form."""
    (match,) = matches("abcdefghijklmnopqrstuvwxyz" * 4, ["abcdefghijklmnopqrstuvwxyz" * 4], 80)
    assert match.to_json() == {
        "kind": "verbatim",
        "start": 0,
        "end": 104,
        "start_line": 1,
        "end_line": 1,
        "run": 104,
        "class": "rare",
        "decision": "annotate",
        "source_count": 1,
        "license_conflict": False,
        "sources": [
            {
                "name": "owner/repo",
                "revision": "abc",
                "path": "0.py",
                "start_line": 1,
                "end_line": 1,
                "url": "https://example.org/0.py",
                "licenses": ["MIT"],
                "license_conflict": False,
            }
        ],
    }


def test_questions_that_cannot_be_answered() -> None:
    """A minimum below the guarantee and a closed index are errors that say what to do."""
    with tempfile.TemporaryDirectory() as folder:
        build_documents([Document("abc", "a.py", SOURCE)], Path(folder) / "i", guarantee=100)
        index = Index.open(Path(folder) / "i")
        with pytest.raises(QueryError, match="ask for at least 100"):
            index.matches("x" * 200, min_run=99)
        assert index.matches("x" * 200, min_run=100) == []
        assert index.matches("", min_run=100) == []
        index.close()
        with pytest.raises(QueryError, match="open it again"):
            index.matches("x")


@pytest.mark.parametrize("kept", TEXT_MODES)
@pytest.mark.parametrize("guarantee", [50, 100])
def test_a_common_gram_is_followed_everywhere(kept: str, guarantee: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of many thousand places are compared, in blocks; a common run's documents are counted if asked for."""
    monkeypatch.setattr("attribution.matching._BLOCK_CANDIDATES", 500)
    rng = random.Random(8)  # noqa: S311
    header, tail = ("".join(rng.choice("abcdefgh ") for _ in range(200)) for _ in range(2))
    documents = [Document(f"{n}{header}{n}", f"{n:04}.py", SOURCE) for n in range(600)]
    documents.append(Document(header + tail, "whole.py", SOURCE))
    with tempfile.TemporaryDirectory() as folder:
        build_documents(documents, Path(folder) / "i", guarantee=guarantee, text=kept)
        with Index.open(Path(folder) / "i") as index:
            (match,) = asked([index], f"!{header}!", min_run=100)
            assert COMMON_DOCUMENTS < match.source_count <= 601
            assert match.classification == "common"
            every = find_runs(normalise.text(header).data, index.reader, 100)
            assert len(np.unique(index.reader.document_of(every.positions))) == 601
            (match,) = asked([index], header + tail, min_run=100)
            assert [source.path for source in match.sources] == ["whole.py"]


def test_common_text_is_looked_at_in_few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a header that stands in 2,000 documents, a twentieth of its places are read, a third where it is left."""
    rng = random.Random(10)  # noqa: S311
    header, tail = ("".join(rng.choice("abcdefgh(){}=.") for _ in range(400)) for _ in range(2))
    documents = [Document(f"{n}{header}#{n}", f"{n:04}.py", SOURCE) for n in range(2000)]
    documents.append(Document(header + tail, "whole.py", SOURCE))
    read: list[int] = []
    places = postings.Postings.places

    def counted(self: postings.Postings, index: Any, keys: Any) -> Any:  # noqa: ANN401 - passed on as they are
        read.append(len(index))
        return places(self, index, keys)

    monkeypatch.setattr(postings.Postings, "places", counted)
    monkeypatch.setattr(kernels, "ready", lambda: None)
    with tempfile.TemporaryDirectory() as folder:
        build_documents(documents, Path(folder) / "i")
        with Index.open(Path(folder) / "i") as index:
            for text, end, count in (
                (header, 400, 2001),
                (header[200:] + tail[:200], 400, 1),
                (f"{header}#?", 401, 2000),
            ):
                read.clear()
                (match,) = index.matches(text)
                assert (match.start, match.end) == (0, end)
                assert min(count, COMMON_DOCUMENTS + 1) <= match.source_count <= count
                few = sum(read)
                read.clear()
                find_runs(normalise.text(text).data, index.reader, 80)
                assert few < sum(read) / (20 if text == header else 3)


def test_an_excerpt_is_the_source_s_own_text() -> None:
    """The lines of a source are shown as they stand there, with lines around; of another index there are none."""
    body = "".join(f'    value_{n} = compute({n} * {n})  # "step"\r\n' for n in range(9))
    document = "head\n" + body + "last"
    with tempfile.TemporaryDirectory() as folder:
        for text in ("raw", "compressed"):
            found = [Document(document, "a.py", SOURCE), Document(f"#\n{document}", "a.py", SOURCE)]
            build_documents(found, Path(folder) / text, text=text)
        with Index.open(Path(folder) / "raw") as index, Index.open(Path(folder) / "compressed") as other:
            (match,) = index.matches(body.replace("\r\n", " "))
            assert match.to_json() == other.matches(body.replace("\r\n", " "))[0].to_json()
            for source in match.sources:
                assert index.excerpt(source) == other.excerpt(source) == body
            first = min(match.sources, key=lambda source: source.start_line)
            assert index.excerpt(first, context_lines=1) == document
            assert index.excerpt(first, context_lines=100) == document
            assert index.excerpt(replace(first, path="b.py")) is None
            assert index.excerpt(replace(first, content="00" * 32)) is None
            assert index.excerpt(replace(first, content="")) is None


def test_sources_that_disagree_about_the_licence_are_flagged() -> None:
    """The same text under two licences is a conflict, also of sources that are not listed; an unknown one is none."""
    run = "".join(random.Random(9).choice("abcdefgh") for _ in range(100))  # noqa: S311

    def conflict(*licenses: tuple[str, ...]) -> bool:
        records = [SourceRecord(f"{n:02}", "1", "", held, license_conflict=False) for n, held in enumerate(licenses)]
        with tempfile.TemporaryDirectory() as folder:
            build_documents([Document(run, "a.py", record) for record in records], Path(folder) / "i")
            with Index.open(Path(folder) / "i") as index:
                (match,) = index.matches(run)
                assert match.to_json()["license_conflict"] is match.license_conflict
                return match.license_conflict

    assert not conflict(("MIT",), ("MIT",), ())
    assert conflict(("MIT",), ("GPL-3.0-only",))
    assert conflict(*[("MIT",)] * 30, ("ISC",))
