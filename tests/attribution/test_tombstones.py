"""The tombstones of an index: never passed over, whatever happened to them."""

from __future__ import annotations

import json
import os
import random
import timeit
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from attribution import tombstones
from attribution.build import build_documents
from attribution.documents import Document
from attribution.errors import IndexFormatError, IndexVersionError
from attribution.format import Reader, SourceRecord
from attribution.index import Index
from attribution.operations import compact, forget, merge
from attribution.optout import OptOuts
from attribution.tombstones import FILE, Tombstones, load, save

if TYPE_CHECKING:
    from pathlib import Path

SOURCES = [SourceRecord(f"{name}/x", "1", "", (), license_conflict=False) for name in ("ann", "bob", "carl")]


def text(seed: int) -> str:
    """Return random lines."""
    rng = random.Random(seed)  # noqa: S311
    return "".join(rng.choice("abcdefghij    \n") for _ in range(400))


DOCUMENTS = [Document(text(n), f"{n}.py", source) for n, source in enumerate(SOURCES)]


def optouts(tmp_path: Path, *owners: str) -> Path:
    """Write a file of opt-outs."""
    path = tmp_path / "optouts.jsonl"
    path.write_text(json.dumps({"optout_owners": owners}), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an index that has forgotten one of its three sources."""
    build_documents(DOCUMENTS, tmp_path / "index")
    forget(tmp_path / "index", optouts(tmp_path, "ann", "nobody"))
    return tmp_path / "index"


def found(index: Index) -> list[bool]:
    """Return for each document whether it is found."""
    return [bool(index.matches(document.text)) for document in DOCUMENTS]


def rewrite(folder: Path, **changes: object) -> None:
    """Change the file as a writer of that kind would: with a valid checksum."""
    fields = json.loads((folder / FILE).read_bytes()) | changes
    fields["checksum"] = tombstones._checksum(fields)
    (folder / FILE).write_text(json.dumps(fields), encoding="utf-8")


def test_the_file_names_no_one_without_need(folder: Path) -> None:
    """Of the opt-outs only those are kept that the index holds something of."""
    kept = load(folder)
    assert kept is not None
    assert kept.optouts == OptOuts(owners=frozenset({"ann"}))
    assert kept.sources == {Reader(folder).identity: (0,)}
    assert b"nobody" not in (folder / FILE).read_bytes()


def test_every_flipped_bit_is_found(folder: Path) -> None:
    """A bit that flips anywhere in the file is an error naming it, for indexes that are open as for those that open."""
    data = (folder / FILE).read_bytes()
    with Index.open(folder) as index:
        assert found(index) == [False, True, True]
        for offset in range(len(data)):
            flipped = bytearray(data)
            flipped[offset] ^= 1 << offset % 8
            (folder / FILE).write_bytes(flipped)
            os.utime(folder / FILE, ns=(offset, offset))
            for search in (index.matches, Index.open):
                with pytest.raises(IndexFormatError) as caught:
                    search(text(1) if search == index.matches else folder)  # type: ignore[arg-type]
                assert str(folder / FILE) in str(caught.value)
        (folder / FILE).write_bytes(data)
        assert found(index) == [False, True, True]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"format": "starcite-tombstones"}'])
def test_foreign_files_stop_everything(folder: Path, tmp_path: Path, content: bytes) -> None:
    """No command passes over a file of tombstones that it cannot read, and none writes over it."""
    (folder / FILE).write_bytes(content)
    for command in (
        lambda: Index.open(folder),
        lambda: forget(folder, optouts(tmp_path, "bob")),
        lambda: compact(folder),
        lambda: merge([folder], tmp_path / "out"),
        lambda: build_documents(DOCUMENTS, folder, overwrite=True),
    ):
        with pytest.raises(IndexFormatError, match=r"tombstones\.json .* forget again"):
            command()
    assert (folder / FILE).read_bytes() == content


def test_tombstones_of_another_index(folder: Path, tmp_path: Path) -> None:
    """A file that was copied from another index, or is newer than this Starcite, is an error; so are wrong numbers."""
    build_documents(DOCUMENTS[:2], tmp_path / "other")
    (tmp_path / "other" / FILE).write_bytes((folder / FILE).read_bytes())
    with pytest.raises(IndexFormatError, match="belongs to another index"):
        Index.open(tmp_path / "other")
    identity = Reader(folder).identity
    for changes, error in (
        ({"version": 2}, "upgrade Starcite"),
        ({"sources": {identity: [3]}}, "does not exist"),
        ({"sources": {identity: [-1]}}, "does not exist"),
        ({"sources": {identity: ["0"]}}, "not complete"),
        ({"sources": [identity]}, "not complete"),
        ({"owners": 3}, "not complete"),
    ):
        rewrite(folder, **{"version": 1, "owners": ["ann"]} | changes)
        with pytest.raises(IndexFormatError, match=error):
            Index.open(folder)
    rewrite(folder, version=2)
    with pytest.raises(IndexVersionError):
        Index.open(folder)


def test_verify_compares_sources_with_opt_outs(folder: Path) -> None:
    """A file that says of another source than its opt-outs cover that it is forgotten does not pass."""
    with Index.open(folder) as index:
        index.verify()
        rewrite(folder, sources={index.reader.identity: [1]})
        with pytest.raises(IndexFormatError, match="not those that its opt-outs cover"):
            index.verify()


def test_an_unreadable_file_is_no_missing_file(folder: Path) -> None:
    """Something else under the name of the tombstones is an error, not an index that has forgotten nothing."""
    (folder / FILE).unlink()
    (folder / FILE).mkdir()
    with pytest.raises(IndexFormatError, match="cannot be used"):
        Index.open(folder)


def test_a_half_replaced_index_goes_on_forgetting(folder: Path) -> None:
    """Tombstones of the old and of the new index in one file, as a crash may leave them, are good for both."""
    kept = load(folder)
    assert kept is not None
    save(folder, Tombstones(kept.optouts, {**kept.sources, "0" * 64: ()}))
    with Index.open(folder) as index:
        assert found(index) == [False, True, True]
        index.verify()


def test_a_deleted_file_counts_from_the_next_opening(folder: Path) -> None:
    """Who removes the file by hand has the index as it was; an index that is open has forgotten for good."""
    with Index.open(folder) as index:
        assert found(index) == [False, True, True]
        (folder / FILE).unlink()
        assert found(index) == [False, True, True]
    with Index.open(folder) as index:
        assert found(index) == [True, True, True]


def test_searches_see_every_change_at_once(folder: Path, tmp_path: Path) -> None:
    """However quickly one change follows another, in any thread, a search that begins after it knows of it."""
    with Index.open(folder) as index, ThreadPoolExecutor(2) as pool:
        for owner, expected in (("bob", [False, False, True]), ("carl", [False, False, False])):
            pool.submit(forget, folder, optouts(tmp_path, owner)).result()
            assert list(pool.map(found, [index] * 8)) == [expected] * 8


def test_looking_costs_microseconds(folder: Path) -> None:
    """Every search looks at the disk for tombstones and a replaced index; that takes a few microseconds."""
    reader = Reader(folder)
    assert min(timeit.repeat(reader.refresh, number=1000, repeat=5)) / 1000 < 50e-6
