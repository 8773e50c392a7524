"""Text to tokens and back, and no text ever a special token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.starter import tokenizer
from models.starter.corpus import Row
from models.starter.tokenizer import SPECIAL_TOKENS

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

TEXTS = ["def total(values):\n    return sum(values)\n", "for i in range(100):\n    print(i, 1234)\n"] * 5


@pytest.fixture(scope="module")
def trained_here() -> Tokenizer:
    """Train on next to nothing."""
    return tokenizer.train(TEXTS, 320)


def test_the_same_texts_give_the_same_tokenizer(trained_here: Tokenizer) -> None:
    """A corpus has one tokenizer, whoever trains it."""
    assert tokenizer.train(TEXTS, 320).to_str() == trained_here.to_str()


def test_special_tokens_have_the_first_ids(trained_here: Tokenizer) -> None:
    """Each special token's id is its place in the list; the data on the disk rely on it."""
    assert [trained_here.token_to_id(text) for text in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))


@given(st.text())
def test_the_bytes_of_tokens_are_the_text(trained_here: Tokenizer, text: str) -> None:
    """Whatever is encoded, the joined bytes of its tokens are the text's."""
    table = tokenizer.pieces(trained_here)
    assert b"".join(table[token] for token in trained_here.encode(text).ids) == text.encode()


@pytest.mark.parametrize("marker", SPECIAL_TOKENS)
def test_text_never_becomes_a_special_token(trained_here: Tokenizer, tmp_path: Path, marker: str) -> None:
    """A file that holds a marker's letters is text, also to a tokenizer that was read from its file."""
    trained_here.save(str(tmp_path / "tokenizer.json"))
    for one in (trained_here, tokenizer.load(tmp_path / "tokenizer.json")):
        assert min(one.encode(f"x = {marker}y").ids) >= len(SPECIAL_TOKENS)


def test_digits_stand_singly(trained_here: Tokenizer) -> None:
    """A number is as many tokens as it has digits, however common it is."""
    assert len(trained_here.encode("1234").ids) == 4


def test_the_sample_is_bounded_and_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more text than the bound about the bound is taken, from the start to the end."""
    monkeypatch.setattr(tokenizer, "SAMPLE_BYTES", 1000)
    rows = [Row(f"{number:010}", "r", "p") for number in range(1000)]
    taken = list(tokenizer.sample(rows, 10_000))
    assert 900 <= sum(map(len, taken)) <= 1100
    assert int(taken[0]) < 100
    assert int(taken[-1]) > 900
