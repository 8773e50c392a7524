"""Benchmarks' problems are found in documents."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attribution.decontaminate import WORDS_PER_GRAM, Table
from attribution.errors import CorpusError
from tests.attribution.registry import code

if TYPE_CHECKING:
    from pathlib import Path

PROBLEM = (
    "def longest_common_run(first, second):\n"
    '    """Return the longest run of characters that both words share, the leftmost one if there are several."""\n'
    "    best = ''\n    for start in range(len(first)):\n        for stop in range(start + 1, len(first) + 1):\n"
    "            if first[start:stop] in second and len(best) < stop - start:\n"
    "                best = first[start:stop]\n"
    "    return best\n"
)
WORDS = PROBLEM.split()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Return the table of one problem."""
    path = tmp_path_factory.mktemp("problems") / "p.jsonl"
    path.write_text(
        json.dumps({"prompt": PROBLEM, "test_list": ["assert short and never enough to be looked for"]}) + "\n"
    )
    return Table.of_benchmarks([path])


def test_a_copy_is_found_wherever_it_stands(table: Table) -> None:
    """Other layout, capitals and punctuation do not hide a copied passage; other code is not met."""
    copied = PROBLEM.replace("    ", "\t").replace("'", '"').upper()
    assert table.meets(code("before") + copied + code("after"))
    assert not table.meets(code("before") + code("after"))


@given(st.integers(0, len(WORDS) - 16))
def test_every_sixteen_words_of_a_problem_are_found(table: Table, start: int) -> None:
    """White space splits into pieces of at least one word each, so that sixteen of them hold ten words."""
    passage = " ".join(WORDS[start : start + 16])
    assert table.meets(f"# {passage}\n{code('around')}")


def test_short_texts_are_found_whole(table: Table) -> None:
    """A text of six to nine words is looked for as a whole."""
    assert table.meets("x = 1  # assert short and never enough to be looked for")
    assert not table.meets("x = 1  # assert short and never enough to look")


def test_counts_are_no_passage(tmp_path: Path) -> None:
    """Ten numbers in a row stand in every list of numbers."""
    path = tmp_path / "p.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"code": "f([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])"}).encode()))
    assert len(Table.of_benchmarks([path])) == 0


def test_round_trip(table: Table, tmp_path: Path) -> None:
    """A table is read as it was written; a damaged one is refused by name."""
    path = tmp_path / "t.bin"
    data = table.to_bytes()
    path.write_bytes(data)
    again = Table.from_file(path)
    assert again.grams.keys() == table.grams.keys()
    assert WORDS_PER_GRAM in again.grams
    for length, grams in table.grams.items():
        assert np.array_equal(again.grams[length], grams)
    for broken in (data[:-1], b"something else", b""):
        path.write_bytes(broken)
        with pytest.raises(CorpusError, match=r"t\.bin is no whole table"):
            Table.from_file(path)


def test_union(table: Table) -> None:
    """What either table holds is met."""
    other = Table({WORDS_PER_GRAM: np.array([1, 2], dtype=np.uint64)})
    both = table | other
    assert len(both) == len(table) + 2
    assert both.meets(PROBLEM)


@pytest.mark.parametrize("content", ["no json\n", "[1]\n", None])
def test_bad_problems(tmp_path: Path, content: str | None) -> None:
    """A file that is missing, or no JSON lines, is named."""
    path = tmp_path / "p.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CorpusError, match=r"p\.jsonl"):
        Table.of_benchmarks([path])
