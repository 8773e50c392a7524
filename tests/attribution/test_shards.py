"""Shards: however documents are dealt out, cut and merged, the index is the same."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attribution import shards
from attribution.build import build_documents, merge_shards
from attribution.documents import Document
from attribution.errors import SourceError
from attribution.format import SourceRecord
from attribution.shards import Merge, Shard, characters, chunks, combine, fingerprint_shard

if TYPE_CHECKING:
    from pathlib import Path

SOURCES = [SourceRecord(name, "1", "", ("MIT",), license_conflict=False) for name in "abc"]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def sample(count: int, seed: int = 0) -> list[Document]:
    """Return random documents, some of which hold the same text."""
    rng = random.Random(seed)  # noqa: S311
    texts = ["".join(rng.choices("abcdefgh é\n'", k=rng.choice([0, 40, 400]))) for _ in range(count)]
    return [Document(rng.choice(texts), f"d/{rng.randrange(count)}.py", rng.choice(SOURCES)) for _ in range(count)]


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, 40), deals=st.lists(st.integers(0, 4), min_size=1, max_size=40), block=st.integers(1, 300))
def test_any_dealing_gives_the_same_index(
    count: int, deals: list[int], block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Documents dealt to any shards, some to two of them, merged in blocks of any size, give the single build."""
    folder = tmp_path_factory.mktemp("deal")
    documents = sample(count, seed=count)
    build_documents(documents, folder / "one", name="n")
    hands: list[list[Document]] = [[] for _ in range(5)]
    for number, document in enumerate(documents):
        hands[deals[number % len(deals)]].append(document)
        if number % 7 == 0:
            hands[(deals[number % len(deals)] + 1) % 5].append(document)
    made = [fingerprint_shard(hand) for hand in hands]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "POSTINGS_PER_BLOCK", block)
        patch.setattr(shards, "TEXT_PER_BLOCK_BYTES", block)
        patch.setattr(shards, "_ROWS_PER_BLOCK", 3)
        merge_shards(made, folder / "many", name="n")
    assert contents(folder / "many") == contents(folder / "one")


def test_shards_are_saved_mapped_and_combined(tmp_path: Path) -> None:
    """A shard that was written and mapped again, or combined from others, is the same as the one made at once."""
    documents = sample(60)
    whole = fingerprint_shard(documents)
    whole.save(tmp_path / "whole")
    parts = [fingerprint_shard(documents[start : start + 20]) for start in (40, 0, 20)]
    combine(parts, tmp_path / "combined")
    for other in (Shard.open(tmp_path / "whole"), Shard.open(tmp_path / "combined")):
        assert (other.sources, other.repeated) == (whole.sources, whole.repeated)
        for name, array in whole.arrays.items():
            np.testing.assert_array_equal(other.arrays[name], array)


def test_a_truncated_shard_is_an_error(tmp_path: Path) -> None:
    """A folder that is no shard, and one with a file cut short, are errors that name the folder."""
    fingerprint_shard(sample(9)).save(tmp_path / "shard")
    (tmp_path / "shard" / "text").write_bytes(b"short")
    for name in ("shard", "none"):
        with pytest.raises(SourceError, match=f"{name} is no shard of an index"):
            Shard.open(tmp_path / name)


def test_what_cannot_be_merged(tmp_path: Path) -> None:
    """Shards of different guarantees, and shards that hold nothing, are errors, and nothing is written."""
    with pytest.raises(SourceError, match="different guarantees"):
        Merge([fingerprint_shard(sample(3)), fingerprint_shard(sample(3), guarantee=100)])
    with pytest.raises(SourceError, match="No source code"):
        merge_shards([fingerprint_shard([])], tmp_path / "none")
    assert not list(tmp_path.iterdir())


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 100))
def test_chunks_hold_all_documents_in_order(sizes: list[int], limit: int) -> None:
    """Chunks, one after the other, are the documents; each but the last has the size asked for, less one document."""
    documents = [Document("x" * size, str(number), SOURCES[0]) for number, size in enumerate(sizes)]
    cut = list(chunks(documents, limit, characters))
    assert [document for chunk in cut for document in chunk] == documents
    for chunk in cut[:-1]:
        assert sum(len(document.text) for document in chunk[:-1]) < limit <= sum(len(d.text) for d in chunk)
