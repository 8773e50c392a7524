"""Possible copies: found under other names and comments, never shown unless the texts bear it out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attribution.build import build_documents
from attribution.documents import Document
from attribution.errors import IndexFormatError
from attribution.format import SourceRecord
from attribution.index import Index
from attribution.lexemes import NAME, lex
from attribution.operations import compact, forget, merge
from tests.attribution.test_lexemes import LANGUAGES, renamed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOURCE = SourceRecord("made", "1", "https://example.org/{path}", ("MIT",), license_conflict=False)
LONG = '''
class Basket:
    """What is to be paid for."""

    def __init__(self, owner, currency="EUR"):
        self.owner = owner
        self.currency = currency
        self.items = {}

    def add(self, item, count=1):
        if count < 1:
            raise ValueError(f"{count} of {item}")
        self.items[item] = self.items.get(item, 0) + count  # as often as wished

    def total(self, prices, discount=None):
        """Return the sum."""
        result = sum(prices[item] * count for item, count in self.items.items())
        if discount is not None and result > discount.minimum:
            result -= discount.amount(result)
        return round(result, 2)
'''
NUMBERS = "table = [\n" + "".join(f"    {n * n % 97}, {n}, 'w{n}',\n" for n in range(60)) + "]\n"
TEXTS = {**{f"{name}.src": text for name, text in LANGUAGES.items()}, "long.py": LONG, "numbers.py": NUMBERS}


def made(out: Path, *, text: str = "raw", stream: bool = True) -> Path:
    """Build an index of the texts."""
    documents = (Document(content, path, SOURCE) for path, content in TEXTS.items())
    build_documents(documents, out, text=text, renamed=stream)
    return out


@pytest.fixture(scope="module", params=["raw", "compressed"])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """Return an index of texts in five languages, with the lexeme stream."""
    with Index.open(made(tmp_path_factory.mktemp("renamed") / "made", text=request.param)) as opened:
        yield opened


@pytest.mark.parametrize("name", [*LANGUAGES, "long"])
def test_consistent_new_names_are_found(index: Index, name: str) -> None:
    """With every name replaced nothing verbatim is left, and the possible copy names its source and its lines."""
    path = next(path for path in TEXTS if path.startswith(f"{name}."))
    copy = renamed(TEXTS[path], {})
    (match,) = [match for match in index.matches(copy, renamed=True) if match.kind == "renamed"]
    assert match.sources[0].path == path
    assert match.lexemes is not None
    assert match.lexemes > 0.7 * len(lex(copy))
    assert match.to_json()["lexemes"] == match.lexemes
    assert match.run == len("".join(copy[match.start : match.end].split()))
    lines = TEXTS[path].splitlines()[match.sources[0].start_line - 1 : match.sources[0].end_line]
    assert len(lines) == match.end_line - match.start_line + 1


def test_off_unless_asked_for(index: Index) -> None:
    """Without the word nothing but verbatim runs is looked for."""
    assert index.matches(renamed(LONG, {})) == []
    assert all("lexemes" not in match.to_json() for match in index.matches(LONG))


def test_other_comments_are_found(index: Index) -> None:
    """A comment after every line breaks each verbatim run, and the stretch is still found."""
    copy = "\n".join(f"{line}  # line {number}" for number, line in enumerate(LONG.splitlines()))
    assert {match.sources[0].path for match in index.matches(copy, renamed=True)} == {"long.py"}
    assert [match.kind for match in index.matches(copy, renamed=True)] == ["renamed"]


def test_a_table_is_found_by_its_values_only(index: Index) -> None:
    """With comments in it a list of numbers is found; with other numbers it is another list."""
    commented = NUMBERS.replace("\n", "  # here\n")
    assert [match.kind for match in index.matches(commented, renamed=True)] == ["renamed"]
    others = re.sub(r"\d+", lambda number: str(int(number[0]) + 13), commented)
    assert index.matches(others, renamed=True) == []


def test_few_lexemes_are_found_by_their_spelling(tmp_path: Path) -> None:
    """Of 23 lexemes or fewer the index may hold one gram only, between others: the query asks for all that it has.

    Imports weigh too little to be a copy under other names, and 80 characters of them are found between new comments.
    """
    lines = [f"from package_{n}.module_{n * n} import Class{n}, function_{n}" for n in range(9, 40)]
    build_documents([Document("\n".join(lines), "imports.py", SOURCE)], tmp_path / "index", renamed=True)
    pieces = ["\n".join(f"{line}  # {at}" for line in lines[at : at + 2]) for at in range(len(lines) - 1)]
    assert {len(lex(piece)) for piece in pieces} == {16}
    with Index.open(tmp_path / "index") as opened:
        found = [opened.matches(piece, renamed=True) for piece in pieces]
    assert sum(map(bool, found)) > 0.4 * len(pieces)
    assert {match.kind for matches in found for match in matches} == {"renamed"}


def test_an_idiom_is_no_copy(index: Index) -> None:
    """Thirty lexemes that look alike under other names are not shown, though they stand in a document."""
    start = LONG.index("    def add")
    idiom = LONG[start : LONG.index(".get(item", start)]
    other = "\n".join(f"unlike_{n} = [{n}] * {n} @ here" for n in range(9))
    assert index.matches(renamed(idiom, {}) + "pass\n" + other, renamed=True) == []


def test_verbatim_text_is_not_shown_twice(index: Index) -> None:
    """What is found verbatim is no possible copy besides."""
    assert {match.kind for match in index.matches(LONG, renamed=True)} == {"verbatim"}


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_inconsistent_names_are_not_confirmed(index: Index, data: st.DataObject) -> None:
    """With a new name drawn for each use, a stretch that is shown maps its names one to one."""
    found = lex(LONG)
    parts, at = [], 0
    for start, end, symbol in zip(found.starts.tolist(), found.ends.tolist(), found.symbols.tolist(), strict=True):
        word = data.draw(st.sampled_from(["a", "b", "c", LONG[start:end]])) if symbol == NAME else LONG[start:end]
        parts += [LONG[at:start], word]
        at = end
    copy = "".join([*parts, LONG[at:]])
    for match in index.matches(copy, renamed=True):
        if match.kind == "renamed":
            assert one_to_one(copy[match.start : match.end], LONG, match.lexemes or 0)


def one_to_one(part: str, whole: str, count: int) -> bool:
    """Return whether some stretch of a text is a part under a mapping of names."""
    a, b = lex(part), lex(whole)
    assert len(a) == count
    for first in range(len(b) - len(a) + 1):
        if (a.symbols == b.symbols[first : first + len(a)]).all():
            pairs = {
                (part[a.starts[t] : a.ends[t]], whole[b.starts[first + t] : b.ends[first + t]])
                for t in range(len(a))
                if a.symbols[t] == NAME
            }
            if len({x for x, _ in pairs}) == len({y for _, y in pairs}) == len(pairs):
                return True
    return False


def test_an_index_without_the_stream_finds_none(tmp_path: Path) -> None:
    """It is no error to ask."""
    with Index.open(made(tmp_path / "index", stream=False)) as opened:
        assert opened.matches(renamed(LONG, {}), renamed=True) == []


def test_only_what_reaches_into_the_text_is_told(index: Index) -> None:
    """A possible copy that ends in the left context is left out."""
    left = renamed(LONG, {})
    assert index.matches(left + "\nzzz = 1\n", start=len(left), renamed=True) == []


def test_the_stream_survives_merge_and_compact_and_forgets(tmp_path: Path) -> None:
    """A merged index finds what its parts find; what is forgotten is not found, before and after compacting."""
    gone = SourceRecord("acme/gone", "1", "https://example.org/{path}", ("MIT",), license_conflict=False)
    build_documents([Document(LONG, "long.py", gone)], tmp_path / "a", renamed=True)
    build_documents([Document(TEXTS["java.src"], "p.java", SOURCE)], tmp_path / "b", renamed=True)
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    java, basket = renamed(TEXTS["java.src"], {}), renamed(LONG, {})
    with Index.open(tmp_path / "both") as opened:
        assert opened.matches(java, renamed=True)
        assert opened.matches(basket, renamed=True)
        optouts = tmp_path / "o.jsonl"
        optouts.write_text('{"optout_owners": [], "optout_repos": ["acme/gone"]}\n')
        forget(tmp_path / "both", optouts)
        assert opened.matches(basket, renamed=True) == []
        compact(tmp_path / "both")
        assert opened.matches(basket, renamed=True) == []
        assert opened.matches(java, renamed=True)


def test_a_damaged_stream_is_an_error_or_changes_nothing(tmp_path: Path) -> None:
    """Each flipped byte of the stream's files is found by `verify`, and no search fails but by `IndexFormatError`."""
    folder = made(tmp_path / "index")
    copy = renamed(LONG, {})
    for path in sorted(folder.glob("renamed-*.bin")):
        good = path.read_bytes()
        for at in range(0, len(good), max(1, len(good) // 40)):
            path.write_bytes(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])
            try:
                with Index.open(folder) as opened:
                    for match in opened.matches(copy, renamed=True):
                        assert match.sources[0].path == "long.py"
            except IndexFormatError:
                pass
            with pytest.raises(IndexFormatError), Index.open(folder) as opened:
                opened.verify()
        path.write_bytes(good)
