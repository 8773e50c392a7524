"""An index without text against brute force: nothing is shown that is not there, and what is promised is found."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attribution import chains, textless
from attribution.build import build_documents
from attribution.chains import MAX_STEP_BYTES, STEP_MASK, Chains, chain
from attribution.documents import Document
from attribution.errors import IndexFormatError, QueryError, SourceError
from attribution.fingerprint import GUARANTEES, K, chosen_windows, fingerprints
from attribution.index import Index
from attribution.stream import StreamChecker
from attribution.textless import surely_found
from tests.attribution.test_index import (
    FEW,
    SOURCE,
    check,
    copied,
    corpora,
    folded,
    intervals,
    oracle,
    repeats_itself,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attribution.index import Match


def found_in(documents: Sequence[str], text: str, least: int, guarantee: int = 50) -> list[Match]:
    """Search a text in an index of documents that keeps no text; what must hold for each match by itself does."""
    with tempfile.TemporaryDirectory() as folder:
        given_documents = [Document(document, f"{number}.py", SOURCE) for number, document in enumerate(documents)]
        build_documents(given_documents, Path(folder) / "index", guarantee=guarantee, text="none")
        with Index.open(Path(folder) / "index") as index:
            index.verify()
            found = index.matches(text, min_run=least)
    for match in found:
        check(match, text, documents, 1)
    return found


@FEW
@given(
    corpus=st.one_of(corpora(periodic=False), corpora(periodic=True), copied(periodic=True)),
    least=st.sampled_from([50, 64, 80, 100]),
    compared=st.sampled_from([1, textless._COMPARED_SYMBOLS]),
)
def test_what_is_shown_is_part_of_a_run(corpus: tuple[str, list[str]], least: int, compared: int) -> None:
    """Each match lies in a run that text and document share, with the lines and the sources that have it."""
    text, documents = corpus
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textless, "_COMPARED_SYMBOLS", compared)
        found = found_in(documents, text, least)
    for match in found:
        span = folded(text[match.start : match.end])
        holders = {f"{i}.py" for i, document in enumerate(documents) if span in folded(document)}
        assert {source.path for source in match.sources} <= holders


@FEW
@given(
    corpus=st.one_of(corpora(periodic=False), corpora(periodic=True), copied(periodic=False)),
    least=st.sampled_from([50, 60, 85, 100, 120]),
)
def test_what_is_promised_is_found(corpus: tuple[str, list[str]], least: int) -> None:
    """Of a run of `least` characters, each stretch of 85 bytes that does not repeat itself meets a match in the run."""
    text, documents = corpus
    spans = intervals(text, found_in(documents, text, least))
    ours = folded(text)
    for start, end in set().union(*(oracle(text, document, least) for document in documents)):
        for at in range(start, end, 5):
            size, stop = 0, at
            while stop < end and size < surely_found(50):
                size += len(ours[stop].encode("utf-8", "surrogatepass"))
                stop += 1
            if size >= surely_found(50) and not repeats_itself(ours[at:stop]):
                assert any(low < stop and at < high for low, high in spans)


@FEW
@given(st.integers(0, 1 << 30), st.sampled_from([50, 100]), st.data())
def test_how_much_of_a_run_is_shown(seed: int, guarantee: int, data: st.DataObject) -> None:
    """At each end of a random run less than a window is missing."""
    rng = random.Random(seed)  # noqa: S311
    window = GUARANTEES[guarantee]
    size = data.draw(st.integers(surely_found(guarantee), 4 * guarantee))
    run, *others = ("".join(rng.choices("abcdefghijklmnop()=\n ", k=2 * size)) for _ in range(3))
    run = folded(run)[:size]
    text, document = f"{others[0]}?{run}!{others[0]}", f"{others[1]}#{run}${others[1]}"
    low = len(folded(others[0])) + 1
    (span,) = intervals(text, found_in([document], text, guarantee, guarantee))
    assert low <= span[0] < low + window
    assert low + size - window < span[1] <= low + size


@given(st.binary(max_size=3000), st.integers(1, 12), st.sampled_from([35, 85]))
def test_a_chain_is_made_of_its_own_text(noise: bytes, repeated: int, w: int) -> None:
    """Steps add up to the text; equal symbols stand for equal bytes, wherever these stand."""
    raw = noise + bytes(range(repeated)) * 60 + noise[:500]
    data = np.frombuffer(raw, dtype=np.uint8)
    prints = fingerprints(data, K, w).positions
    made = chain(data, prints)
    steps = (made.symbols & STEP_MASK).astype(np.int64)
    assert steps.sum() == len(data)
    assert ((steps > 0) & (steps <= MAX_STEP_BYTES)).all()
    assert set(prints.tolist()) <= set(made.positions.tolist())
    hashed = made.symbols > STEP_MASK
    assert hashed[made.first : made.last].all()
    assert hashed.sum() == made.last - made.first
    shown: dict[int, bytes] = {}
    for at in np.flatnonzero(hashed).tolist():
        start = int(made.positions[at])
        piece = raw[start : start + int(steps[at]) + K]
        assert shown.setdefault(int(made.symbols[at]), piece) == piece


@given(st.lists(st.integers(0, 700), min_size=1, max_size=30), st.integers(1, 100))
def test_entries_are_found_at_their_positions(sizes: list[int], block: int) -> None:
    """Of a row of documents, each entry is found at its position, and none anywhere else."""
    rng = np.random.default_rng(len(sizes))
    texts = [rng.integers(97, 123, size).astype(np.uint8) for size in sizes]
    made = [chain(text, fingerprints(text, K, 35).positions) for text in texts]
    begins = np.concatenate([[0], np.cumsum(sizes)])
    positions = np.concatenate([each.positions + begin for each, begin in zip(made, begins[:-1], strict=True)])
    row = np.concatenate([each.symbols for each in made])
    blocks = [row[:0], *(row[at : at + block] for at in range(0, len(row), block))]
    parts = list(chains.bases(blocks))
    held = Chains(np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]))
    assert held.problem() is None
    everywhere = np.arange(begins[-1] + 9)
    expected = np.full(len(everywhere), -1)
    expected[positions] = np.arange(len(positions))
    assert held.entries_at(everywhere).tolist() == expected.tolist()


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12))
def test_of_two_neighbours_one_is_looked_up(costs: list[int]) -> None:
    """The cheapest choice of fingerprints that meets each pair of neighbours."""

    def meets(chosen: set[int]) -> bool:
        return all(i in chosen or i + 1 in chosen for i in range(len(costs) - 1))

    every = ({i for i in range(len(costs)) if subset >> i & 1} for subset in range(1 << len(costs)))
    least = min(sum(costs[i] for i in chosen) for chosen in every if meets(chosen))
    chosen = set(textless._cover(np.array(costs)).tolist())
    assert meets(chosen)
    assert sum(costs[i] for i in chosen) == least


def test_windows_of_a_long_text_are_those_of_its_parts() -> None:
    """Each window's choice is a right-most least k-gram, also beyond the size that is hashed at once."""
    data = np.random.default_rng(1).integers(97, 101, 100_000).astype(np.uint8)
    chosen, firsts = chosen_windows(data, K, 35)
    assert set(fingerprints(data, K, 35).positions.tolist()) <= set(chosen.tolist())
    assert firsts[0] == 0
    assert (np.diff(firsts) > 0).all()
    assert ((chosen >= firsts) & (chosen - firsts < 35)).all()
    for start in (0, 32_700, 65_400, 90_000):
        part, _ = chosen_windows(data[start : start + 3000], K, 35)
        inner = part[(part > 35) & (part < 2900)] + start
        assert set(inner.tolist()) <= set(chosen.tolist())


def test_no_text_is_in_the_files_and_none_is_shown(tmp_path: Path) -> None:
    """An index without text is open about it: no file holds any of it, no excerpt is given, no stream is followed."""
    rng = random.Random(3)  # noqa: S311
    text = "".join(rng.choices("abcdefgh ", k=3000))
    build_documents([Document(text, "a.py", SOURCE)], tmp_path / "i", text="none")
    data = b"".join(path.read_bytes() for path in (tmp_path / "i").iterdir())
    assert not any(folded(text)[at : at + 6].encode() in data for at in range(0, 2600, 6))
    with Index.open(tmp_path / "i") as index:
        assert (index.summary["confirmed_by"], index.summary["surely_found"]) == ("hashes", 85)
        (match,) = index.matches(text)
        assert match.run > 2600
        assert index.excerpt(match.sources[0]) is None
        with pytest.raises(QueryError, match="keeps no text"):
            StreamChecker([index], "", 80)
        with pytest.raises(IndexFormatError, match="keeps no text"):
            index.reader.original(0)


def test_renamed_copies_need_the_text(tmp_path: Path) -> None:
    """The stream of renamed copies is refused without text, before anything is read, with what to do."""
    with pytest.raises(SourceError, match="--no-renamed"):
        build_documents([], tmp_path / "i", text="none", renamed=True)
    with pytest.raises(SourceError, match="choose raw, compressed or none"):
        build_documents([], tmp_path / "i", text="zip")
    assert not (tmp_path / "i").exists()


def test_damage_is_an_error_or_shows_nothing_false(tmp_path: Path) -> None:
    """A flipped bit is found by `verify` or changes no answer; noise that is not verified confirms no other text."""
    rng = random.Random(0)  # noqa: S311
    texts = ["".join(rng.choices("abcdef(=\n ", k=400)) for _ in range(12)]
    folder = tmp_path / "i"
    build_documents([Document(text, f"{n}.py", SOURCE) for n, text in enumerate(texts)], folder, text="none")
    query = texts[3] + "?" + texts[7][50:]

    def answers(*, verified: bool) -> list[Match]:
        with Index.open(folder) as index:
            if verified:
                index.verify()
            return index.matches(query)

    expected = answers(verified=True)
    assert len(expected) == 2
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for offset in {0, len(data) - 1, *(rng.randrange(len(data)) for _ in range(30))}:
            path.write_bytes(data[:offset] + bytes([data[offset] ^ 1 << rng.randrange(8)]) + data[offset + 1 :])
            try:
                assert answers(verified=True) == expected
            except IndexFormatError as error:
                assert str(path) in str(error)  # noqa: PT017
            path.write_bytes(data[:offset] + rng.randbytes(len(data[offset : offset + 64])) + data[offset + 64 :])
            try:
                for match in answers(verified=False):
                    assert any(folded(query[match.start : match.end]) in folded(text) for text in texts)
            except IndexFormatError as error:
                assert str(folder) in str(error)  # noqa: PT017
        path.write_bytes(data)
