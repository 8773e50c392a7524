"""Sequences depend on data, seed and number alone, show every token, and are laid out as the daemon's prompts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.starter import packing, tokenizer
from models.starter.corpus import open_corpus, rows
from models.starter.packing import PADDING, Sequences
from models.starter.tokenizer import SPECIAL_TOKENS
from models.starter.tokens import read_tokens, write_tokens

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

    from models.starter.tokens import Tokens

END, PRE, MID, SUF, _, REPO, FILE = range(len(SPECIAL_TOKENS))


@pytest.fixture(scope="module")
def data(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokens, Tokenizer]:
    """Return the corpus in tokens, and its tokenizer."""
    folder, opened = tmp_path_factory.mktemp("tokens"), open_corpus(corpus)
    trained = tokenizer.train((row.text for row in rows(opened, "train")), 1024)
    write_tokens(opened, "train", trained, folder)
    return read_tokens(folder, "train"), trained


def text_of(ids: list[int], trained: Tokenizer) -> str:
    """Return the text of tokens."""
    table = tokenizer.pieces(trained)
    return b"".join(table[token] for token in ids).decode("utf-8", "replace")


def test_tokens_on_the_disk_are_the_files(corpus: Path, data: tuple[Tokens, Tokenizer]) -> None:
    """Each file's tokens give its text back, and its package and path stand beside it."""
    tokens, trained = data
    for number, row in enumerate(rows(open_corpus(corpus), "train")):
        first, last = tokens.starts[number : number + 2]
        assert text_of(tokens.ids[first:last].tolist(), trained) == row.text
        assert (tokens.repo_names[tokens.repos[number]], tokens.paths[number]) == (row.repo_name, row.path)


def test_a_sequence_depends_on_seed_and_number_alone(data: tuple[Tokens, Tokenizer]) -> None:
    """In whatever order sequences are asked for, each is the same; under another seed it is another."""
    one, two = (Sequences(*data, 256, seed=3) for _ in range(2))
    forward = [one[number] for number in range(40)]
    backward = [two[number] for number in reversed(range(40))][::-1]
    assert np.array_equal(forward, backward)
    assert not np.array_equal(forward, [Sequences(*data, 256, seed=4)[number] for number in range(40)])


def test_an_epoch_shows_every_token(data: tuple[Tokens, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without infilling and names, an epoch's tokens are the corpus', but for what separators push out of windows."""
    monkeypatch.setattr(packing, "FIM_RATE", 0)
    monkeypatch.setattr(packing, "NAMES_RATE", 0)
    sequences = Sequences(*data, 256, seed=1)
    for epoch in range(2):
        first = epoch * sequences.an_epoch
        shown = Counter(token for n in range(sequences.an_epoch) for token in sequences[first + n].tolist())
        missing = Counter(data[0].ids.tolist()) - shown
        assert sum(missing.values()) < 257 + 20 * len(data[0].paths)


def test_anchored_sequences_are_the_daemons_prompts(
    data: tuple[Tokens, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all is anchored: prefix, suffix, middle in this order, a prefix of whole lines, a short suffix, an end."""
    monkeypatch.setattr(packing, "FIM_RATE", 1)
    monkeypatch.setattr(packing, "ANCHORED_RATE", 1)
    sequences = Sequences(*data, 1024, seed=1)
    seen = 0
    for number in range(20):
        ids = [token for token in sequences[number].tolist() if token != PADDING]
        while PRE in ids:
            ids = ids[ids.index(PRE) + 1 :]
            suffix, middle, end = ids.index(SUF), ids.index(MID), ids.index(END)
            assert suffix < middle < end
            assert middle - suffix - 1 <= 256
            prefix = text_of(ids[:suffix], data[1])
            assert not prefix or prefix.endswith("\n")
            seen += 1
            ids = ids[end + 1 :]
    assert seen >= 20


def test_characters_are_cut_in_both_orders_about_equally(
    data: tuple[Tokens, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is cut at characters, about half has the suffix first."""
    monkeypatch.setattr(packing, "FIM_RATE", 1)
    monkeypatch.setattr(packing, "ANCHORED_RATE", 0)
    sequences = Sequences(*data, 512, seed=1)
    orders: Counter[tuple[int, ...]] = Counter()
    for number in range(200):
        markers = [token for token in sequences[number].tolist() if token in {PRE, SUF, MID}]
        orders.update(tuple(markers[at : at + 3]) for at in range(0, len(markers) - 2, 3))
    assert set(orders) == {(PRE, SUF, MID), (SUF, PRE, MID)}
    assert 0.35 < orders[SUF, PRE, MID] / orders.total() < 0.65


def test_files_of_a_package_stand_behind_each_other(
    data: tuple[Tokens, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With names, a package's name is followed by a file's path, as repository prompts have them."""
    monkeypatch.setattr(packing, "FIM_RATE", 0)
    monkeypatch.setattr(packing, "NAMES_RATE", 1)
    sequences = Sequences(*data, 2048, seed=1)
    found = 0
    for number in range(sequences.an_epoch):
        ids = sequences[number].tolist()
        for place in (at for at, token in enumerate(ids) if token == REPO):
            separator = ids.index(FILE, place)
            name, path = (
                text_of(ids[place + 1 : separator], data[1]),
                text_of(ids[separator + 1 : separator + 12], data[1]),
            )
            files = [i for i, repo in enumerate(data[0].repos) if data[0].repo_names[repo] == name]
            assert any(path.startswith(data[0].paths[i] + "\n") for i in files)
            found += 1
    assert found >= len(data[0].repo_names)
