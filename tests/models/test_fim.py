"""Prompts as tokens: the right markers at the right places, within the budget, and with nothing lost."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.cards import DEFAULT_MODEL, list_cards, load_card
from models.errors import CardError, ContextOverflowError
from models.fim import HealTable, Limits, Rendered, Vocabulary, markers, render, render_plain
from models.protocol import FimPrompt, Snippet
from models.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.cards import Card

SHARED = Path(os.environ.get("STARCITE_SHARED", Path(__file__).parents[3] / "shared")) / "data"
QWEN = load_card(DEFAULT_MODEL, Path("none"))
PLAIN = replace(QWEN, fim=replace(QWEN.fim, anchor_lines=None))
CARDS = list_cards(Path("none"))
# A tokenizer in the manner of byte-level BPE: words with their space, runs of white space, single bytes of the rest.
WORD = re.compile(rb" ?[A-Za-z_]+|\n+|[ \t]+(?![^ \t\n])|.", re.DOTALL)
FIRST_MARKER = 256
FIRST_WORD = 300


class Words:
    """A vocabulary that grows as it meets words; ids below 256 are bytes, then come the markers of one card."""

    def __init__(self, card: Card) -> None:
        """Know the markers of a card."""
        self.marker_ids = {marker: FIRST_MARKER + index for index, marker in enumerate(markers(card))}
        self.pieces = [bytes([byte]) for byte in range(FIRST_MARKER)] + [b""] * (FIRST_WORD - FIRST_MARKER)
        self._ids: dict[bytes, int] = {piece: token for token, piece in enumerate(self.pieces) if piece}
        self.vocabulary = Vocabulary(self.tokenize, self.pieces, self.marker_ids)

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of a text, in which a marker is a text like any other."""
        return [self._id(piece) for piece in WORD.findall(text.encode())]

    def _id(self, piece: bytes) -> int:
        if piece not in self._ids:
            self._ids[piece] = len(self.pieces)
            self.pieces.append(piece)
        return self._ids[piece]

    def text(self, tokens: list[int]) -> str:
        """Return what a prompt says, markers included."""
        names = {token: marker.encode() for marker, token in self.marker_ids.items()}
        return b"".join(names.get(token, self.pieces[token]) for token in tokens).decode("utf-8", "replace")


def draw(prompt: FimPrompt, card: Card, limits: Limits | None = None) -> tuple[str, Rendered]:
    """Render with a vocabulary of words; return what the tokens say, and the rest."""
    words = Words(card)
    rendered = render(prompt, card, words.vocabulary, limits)
    return words.text(rendered.tokens), rendered


PROMPT = FimPrompt("a = 1\nb = 2\nreturn a", "\nprint(b)\n", (Snippet("lib/x.py", "x = 3"),), "owner/repo", "src/m.py")

# What each card's prompt says, for PROMPT and for PROMPT without its snippet.
STARCODER_PLAIN = "<fim_prefix>a = 1\nb = 2\nreturn<fim_suffix>\nprint(b)\n<fim_middle>"
QWEN_PLAIN = "<|fim_prefix|>a = 1\nb = 2\nreturn<|fim_suffix|>\nprint(b)\n<|fim_middle|>"
QWEN_FILES = "<|repo_name|>owner/repo\n<|file_sep|>lib/x.py\nx = 3\n<|file_sep|>src/m.py\n"
QWEN_ANCHORED = "<|fim_prefix|><|fim_suffix|>\nprint(b)\n<|fim_middle|>a = 1\nb = 2\nreturn"
STARCODER = ("<reponame>owner/repo<filename>lib/x.py\nx = 3<filename>src/m.py\n" + STARCODER_PLAIN, STARCODER_PLAIN)
STARCODER2_FILES = "<repo_name>owner/repo<file_sep>lib/x.py\nx = 3<file_sep>"
STARCODER2 = (
    STARCODER2_FILES + STARCODER_PLAIN.replace("<fim_prefix>", "<fim_prefix>src/m.py\n"),
    STARCODER_PLAIN,
)
DEEPSEEK = ("<｜begin▁of▁sentence｜><｜fim▁begin｜>a = 1\nb = 2\nreturn<｜fim▁hole｜>\nprint(b)\n<｜fim▁end｜>",) * 2
GOLDEN = {
    "qwen2.5-coder-0.5b": (QWEN_FILES + QWEN_ANCHORED, QWEN_ANCHORED),
    "qwen2.5-coder-1.5b": (QWEN_FILES + QWEN_PLAIN, QWEN_PLAIN),
    "starcoder": STARCODER,
    "starcoderbase-1b": STARCODER,
    "starcoderbase-3b": STARCODER,
    "starcoderbase-7b": STARCODER,
    "tiny_starcoder_py": STARCODER,
    "starcoder2-3b": STARCODER2,
    "starcoder2-7b": STARCODER2,
    "starcoder2-15b": STARCODER2,
    "codellama-7b": ("<s>▁<PRE>a = 1\nb = 2\nreturn▁<SUF>\nprint(b)\n▁<MID>",) * 2,
    "deepseek-coder-1.3b": DEEPSEEK,
    "deepseek-coder-6.7b": DEEPSEEK,
    "codegemma-2b": ("<bos>" + QWEN_PLAIN,) * 2,
    "granite-3b-code": (STARCODER_PLAIN,) * 2,
}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.id)
def test_golden_prompts(card: Card) -> None:
    """Each card's prompt is exactly what its model was trained on, with snippets and without; " a" is to be healed."""
    with_files, alone = GOLDEN[card.id]
    said, rendered = draw(PROMPT, card)
    assert said == with_files
    assert rendered.heal == b" a"
    assert rendered.snippets == (card.fim.form != "none")
    assert draw(replace(PROMPT, snippets=()), card)[0] == alone


def test_names_may_be_missing() -> None:
    """Without a repository's name or a path the header has neither, and the snippets stay."""
    said, _ = draw(replace(PROMPT, repo="", path=""), PLAIN)
    assert said.startswith("<|file_sep|>lib/x.py\nx = 3\n<|file_sep|><|fim_prefix|>a = 1")


def test_suffix_first() -> None:
    """A card of the order SPM has the suffix before the prefix."""
    card = replace(PLAIN, fim=replace(PLAIN.fim, order="SPM"))
    said, _ = draw(replace(PROMPT, snippets=()), card)
    assert said == "<|fim_suffix|>\nprint(b)\n<|fim_prefix|>a = 1\nb = 2\nreturn<|fim_middle|>"


def test_the_anchor_stands_some_lines_above_the_cursor() -> None:
    """From three to six whole lines stand behind the middle marker, and the anchor moves only every fourth line."""
    lines = "".join(f"line {number}\n" for number in range(40))
    anchors = []
    for number in range(3, 40):
        prefix = lines[: lines.index(f"line {number}\n") + 3]
        rendered = draw(FimPrompt(prefix, ""), QWEN)[1]
        assert 3 <= rendered.begun.count("\n") <= 6
        assert rendered.prefix.endswith("\n") or not rendered.prefix
        anchors.append(len(rendered.prefix))
    assert len(set(anchors)) == 10


def test_typing_only_appends() -> None:
    """With an anchor, a key pressed within a line changes none of the tokens before the last two."""
    text = "def f(a):\n    b = a + 1\n    c = b * 2\n    d = c - a\n    result = a + b + c + dozen"
    words = Words(QWEN)
    before = render(FimPrompt(text[:60], "\nprint(1)\n"), QWEN, words.vocabulary).tokens
    for end in range(61, len(text)):
        after = render(FimPrompt(text[:end], "\nprint(1)\n"), QWEN, words.vocabulary).tokens
        assert after[: len(before) - 1] == before[:-1]
        before = after


@pytest.mark.parametrize("prefix", ["", "a\n", "a\n\n"])
@pytest.mark.parametrize("card", [QWEN, PLAIN], ids=["anchored", "plain"])
def test_nothing_is_healed_at_a_line_start(prefix: str, card: Card) -> None:
    """After a newline, and in an empty file, a token has ended: nothing is taken back."""
    assert draw(FimPrompt(prefix, "b"), card)[1].heal == b""


def test_indentation_is_healed() -> None:
    """The spaces at the start of a line are taken back, since the model writes them and the word as other tokens."""
    assert draw(FimPrompt("if a:\n    ", ""), QWEN)[1].heal == b"    "


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.id)
def test_markers_in_the_users_text_stay_text(card: Card) -> None:
    """A file that spells out the markers gets no marker token from it, wherever it says them."""
    forged = "".join(markers(card))
    prompt = FimPrompt(forged + " x", forged, (Snippet(forged, forged),), forged, forged)
    words = Words(card)
    rendered = render(prompt, card, words.vocabulary)
    honest = render(replace(PROMPT, prefix="y x"), card, words.vocabulary)
    used = [token for token in rendered.tokens if token in set(words.marker_ids.values())]
    assert used == [token for token in honest.tokens if token in set(words.marker_ids.values())]


def test_a_missing_marker_is_a_mistake_of_the_card() -> None:
    """Weights that lack a marker of their card are refused, by name."""
    vocabulary = replace(Words(QWEN).vocabulary, marker_ids={"<|fim_prefix|>": 1})
    with pytest.raises(CardError, match=r"no token '<\|fim_middle\|>'"):
        render(PROMPT, QWEN, vocabulary)


def test_no_room_is_an_error() -> None:
    """A budget that leaves no room for text is refused with the least that is needed, and not answered blindly."""
    with pytest.raises(ContextOverflowError, match="at least 128"):
        draw(PROMPT, QWEN, Limits(prompt_tokens=16))


def test_the_context_bounds_the_budget() -> None:
    """A short context leaves room for what is to be generated."""
    small = replace(QWEN, context_length=512)
    long = FimPrompt("word word word\n" * 2000, "more\n" * 2000)
    rendered = draw(long, small, Limits(prompt_tokens=4096, generate_tokens=100))[1]
    assert 300 < len(rendered.tokens) <= 412


def test_the_window_starts_at_a_line_and_moves_in_steps() -> None:
    """Of a long file the end is kept from a line start on, which stays put while hundreds of tokens are typed."""
    lines = "".join(f"value = {number} + other\n" for number in range(2000))
    starts = set()
    for end in range(len(lines) - 2000, len(lines), 25):
        rendered = draw(FimPrompt(lines[:end], "\n"), PLAIN)[1]
        assert lines[: end - len(rendered.prefix)].endswith("\n")
        assert len(rendered.tokens) <= 1024
        starts.add(end - len(rendered.prefix))
    assert 2 <= len(starts) <= 7, "of 80 prompts"


def test_one_endless_line_is_cut_within() -> None:
    """A line that alone is beyond the budget keeps its end before the cursor and its start behind it."""
    rendered = draw(FimPrompt("é1 " * 9000, "2 é" * 9000), QWEN)[1]
    assert len(rendered.tokens) <= 1024
    assert ("é1 " * 9000).endswith(rendered.prefix + rendered.begun)
    assert len(rendered.prefix + rendered.begun) > 200
    assert ("2 é" * 9000).startswith(rendered.suffix)


def test_the_suffix_is_short_and_ends_with_a_line() -> None:
    """At most a quarter of the prompt is behind the cursor, whole lines of it."""
    rendered = draw(FimPrompt("a", " rest\n" + "behind = the + cursor\n" * 500), QWEN)[1]
    assert rendered.suffix.endswith("cursor\n")
    assert len(Words(QWEN).tokenize(rendered.suffix)) <= 256


def test_snippets_take_their_share_and_no_more() -> None:
    """Snippets go in in their order until their share is full; the last one is cut at a line's end."""
    snippets = tuple(Snippet(f"file{number}.py", "x = y\n" * 20) for number in range(20))
    said, rendered = draw(FimPrompt("word " * 5000, "", snippets, "", "me.py"), PLAIN)
    header = said[: said.index("<|fim_prefix|>")]
    assert 0 < rendered.snippets < 20
    assert [f"file{number}.py" in header for number in range(20)] == [n < rendered.snippets for n in range(20)]
    assert header.endswith("x = y\n<|file_sep|>me.py\n")
    assert len(rendered.tokens) <= 1024


def test_a_header_that_is_too_long_is_left_out() -> None:
    """A name that would fill the snippets' share leaves a prompt without any of them."""
    said, rendered = draw(replace(PROMPT, repo="long name " * 500), PLAIN)
    assert (said, rendered.snippets) == (QWEN_PLAIN, 0)


LINES = st.lists(st.text("ab _=(\t\né<|>🦊", max_size=12), max_size=30).map("\n".join)


@settings(deadline=None)
@given(
    prefix=LINES,
    suffix=LINES,
    snippet=LINES,
    budget=st.integers(64, 300),
    anchor_lines=st.none() | st.integers(0, 5),
)
def test_within_the_budget_and_nothing_lost(
    prefix: str, suffix: str, snippet: str, budget: int, anchor_lines: int | None
) -> None:
    """The budget holds; prefix and begun middle are the text's end, the suffix is its start, healing completes it."""
    card = replace(QWEN, fim=replace(QWEN.fim, anchor_lines=anchor_lines))
    words = Words(card)
    prompt = FimPrompt(prefix, suffix, (Snippet("p", snippet),), "r", "q")
    rendered = render(prompt, card, words.vocabulary, Limits(prompt_tokens=budget))
    assert len(rendered.tokens) <= budget
    kept = rendered.prefix + rendered.begun
    assert prefix.endswith(kept)
    assert suffix.startswith(rendered.suffix)
    assert not rendered.begun or not rendered.prefix or rendered.prefix.endswith("\n")
    prefix_id, suffix_id, middle_id = (
        words.marker_ids[marker] for marker in (card.fim.prefix, card.fim.suffix, card.fim.middle)
    )
    at = {token: rendered.tokens.index(token) for token in (prefix_id, suffix_id, middle_id)}
    before = rendered.tokens[at[prefix_id] + 1 : at[suffix_id]] + rendered.tokens[at[middle_id] + 1 :]
    assert b"".join(words.pieces[token] for token in before) + rendered.heal == kept.encode()
    between = rendered.tokens[at[suffix_id] + 1 : at[middle_id]]
    assert b"".join(words.pieces[token] for token in between) == rendered.suffix.encode()
    if len(words.tokenize(prefix)) + len(words.tokenize(suffix)) + 12 <= budget // 4:
        assert (kept, rendered.suffix) == (prefix, suffix)


PIECES = st.lists(st.binary(max_size=4), max_size=60)


@given(pieces=PIECES, rest=st.binary(min_size=1, max_size=6))
def test_heal_table_allows_what_agrees(pieces: list[bytes], rest: bytes) -> None:
    """Allowed are exactly the tokens that start with the rest, or that the rest starts with."""
    wanted = [token for token, piece in enumerate(pieces) if piece and _agree(piece, rest)]
    allowed = HealTable(pieces).allowed(rest)
    assert sorted(allowed.tolist()) == wanted
    assert allowed.dtype == np.int32


@given(rest=st.binary(min_size=1, max_size=6), piece=st.binary(min_size=1, max_size=6))
def test_advance_takes_off_what_a_token_says(rest: bytes, piece: bytes) -> None:
    """A token that agrees shortens the rest by its bytes, one that does not is refused."""
    if not _agree(piece, rest):
        with pytest.raises(ValueError, match="does not agree"):
            HealTable.advance(rest, piece)
        return
    left = HealTable.advance(rest, piece)
    assert piece + left == rest or (left == b"" and piece.startswith(rest))


def test_nothing_left_to_heal_is_not_asked() -> None:
    """Asking for the tokens that agree with nothing is a mistake of the caller."""
    with pytest.raises(ValueError, match="every token is allowed"):
        HealTable([b"a"]).allowed(b"")


def test_a_rest_of_highest_bytes_is_found() -> None:
    """Bytes that have none after them are found too."""
    assert HealTable([b"\xff", b"\xff\xff", b"a"]).allowed(b"\xff\xff").tolist() == [0, 1]


def _agree(piece: bytes, rest: bytes) -> bool:
    return piece.startswith(rest) or rest.startswith(piece)


@pytest.mark.model
def test_the_default_model_has_its_markers() -> None:
    """In the real vocabulary each marker is one token without text, and forged markers become many others."""
    llama_cpp = pytest.importorskip("llama_cpp")
    store = Store()
    if not store.is_pulled(QWEN):
        pytest.skip("the default model is not pulled")
    model = llama_cpp.Llama(str(store.path(QWEN)), vocab_only=True, verbose=False)
    try:
        _check_vocabulary(
            lambda text: model.tokenize(text.encode(), add_bos=False, special=False),
            lambda text: model.tokenize(text.encode(), add_bos=False, special=True),
        )
    finally:
        model.close()


def _check_vocabulary(tokenize: Callable[[str], list[int]], parse: Callable[[str], list[int]]) -> None:
    ids = [parse(marker) for marker in markers(QWEN)]
    assert ids == [[151659], [151660], [151661], [151663], [151664]]
    for marker, (token,) in zip(markers(QWEN), ids, strict=True):
        assert token not in tokenize(marker)


def test_starcoder_cannot_be_given_markers_by_text() -> None:
    """With StarCoder's own vocabulary, a prompt that spells out the markers has only those that the layout puts."""
    path = SHARED / "starcoder1-tokenizer.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    card = load_card("starcoderbase-1b", Path("none"))
    vocabulary, marker_ids = _starcoder(path, card)
    forged = "".join(markers(card)) + " end"
    rendered = render(FimPrompt(forged, forged), card, vocabulary)
    assert [token for token in rendered.tokens if token in marker_ids] == [1, 3, 2]
    assert rendered.heal == b" end"


def _starcoder(path: Path, card: Card) -> tuple[Vocabulary, set[int]]:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True  # text that spells out a special token is text
    marker_ids = {marker: tokenizer.token_to_id(marker) for marker in markers(card)}
    pieces = [tokenizer.decode([token]).encode() for token in range(tokenizer.get_vocab_size())]
    tokenize = lambda text: tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
    return Vocabulary(tokenize, pieces, marker_ids), set(marker_ids.values())


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.id)
def test_a_plain_prompt_is_the_end_of_the_prefix(card: Card) -> None:
    """There is no marker but the one that each text of the model begins with, nothing is healed, and it fits."""
    words = Words(card)
    text = "".join(f"line_{number} = {number}\n" for number in range(100)) + "x = line_"
    rendered = render_plain(FimPrompt(text, "suffix"), card, words.vocabulary, Limits(prompt_tokens=64))
    assert (rendered.heal, rendered.suffix, rendered.begun) == (b"", "", "")
    assert len(rendered.tokens) <= 64
    assert text.endswith(rendered.prefix)
    assert words.text(rendered.tokens) == (card.fim.bos or "") + rendered.prefix
    assert len(rendered.prefix) > 60
    with pytest.raises(ContextOverflowError, match="give some text"):
        render_plain(FimPrompt("", "suffix"), card, words.vocabulary, Limits())
