"""FimPrompt and card to token ids: the only place that knows special tokens.

The text around the cursor is laid out as the model was trained, here prefix, suffix, middle (PSM):

    [repository header and snippets] PRE prefix SUF suffix MID begun ▒
                                         └ from a line start to the anchor    └ from the anchor to the cursor

*User text can never become a marker.* It is tokenised with the parsing of special tokens off; markers enter by id only.

*Anchor.* Where the card has `anchor_lines`, the lines from the anchor to the cursor stand behind the middle marker, as
a middle that was begun. What is typed is then appended to the prompt, so the key-value cache holds for all that stands
before it: measured, 9 ms to the first token instead of 1,364 ms. The anchor moves in steps of lines, for that reason.

*Healing.* Text that was just typed may end within a token, where the model never saw text end. So the last word before
the cursor is taken back, and the generation must first reproduce its bytes (`Rendered.heal`, `HealTable`). Measured on
HumanEval-Infilling (Qwen2.5-Coder 0.5B, greedy, cursor within a line, exact rest of the line), of 100: anchored 26
without healing and 71 with it, plain 50 and 55. On a second sample, all healed: plain 70, anchored at exactly three
lines 72, anchored in steps as here 71. So healing is what matters, and the anchor costs nothing. Taking back the whole
word and not only its last token: 75 against 65, in the middle of words 42 against 32 of 48.

*Window.* Where the text does not fit, its start moves in steps of tokens to a line start, so that it stays put for many
keys: 36 times fewer evaluated tokens in an editing session than a window that slides.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.errors import CardError, ContextOverflowError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from models.cards import Card
    from models.protocol import FimPrompt, Snippet

# Text beyond this many characters a token of room is not even tokenised: tokenising 8,000 characters takes 1.8 ms.
_CHARS_PER_TOKEN = 8
# The room that is set aside for the suffix is rounded up, so that a changed suffix does not move the prefix's window.
_ROUND_TOKENS = 64
_ANCHOR_STEP_LINES = 4
_LEAST_ROOM_TOKENS = 16
_LAST_WORD = re.compile(r"\w+$")
# Of a word longer than any name, only so much is generated again.
MAX_HEAL_BYTES = 40


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a prompt may be, in tokens; `snippet_share` is the part of it that snippets may take."""

    prompt_tokens: int = 1024
    generate_tokens: int = 64
    suffix_tokens: int = 256
    step_tokens: int = 256
    snippet_share: float = 0.25


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A loaded model's tokens.

    `tokenize` turns plain text into ids: it parses no special tokens and adds none; it may be memoised, since between
    two keys most of the text stays, and `render` changes none of its lists. `pieces[id]` are the bytes of a
    token, empty for special ones; together they give back the text. `marker_ids` has the id of each of `markers(card)`.
    """

    tokenize: Callable[[str], list[int]]
    pieces: Sequence[bytes]
    marker_ids: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as tokens, and the texts that went into it.

    The generation that follows `tokens` must begin with the bytes `heal`, which are the end of the text before the
    cursor and no part of the completion. `snippets` is the number of snippets of which something went in.
    """

    tokens: list[int]
    heal: bytes
    prefix: str
    begun: str
    suffix: str
    snippets: int


def markers(card: Card) -> tuple[str, ...]:
    """Return the markers that `render` may use for a card, each of which must be one token of its model."""
    fim = card.fim
    used = (fim.bos, fim.prefix, fim.middle, fim.suffix, fim.repo_name, fim.file_separator)
    return tuple(marker for marker in used if marker is not None)


def render(prompt: FimPrompt, card: Card, vocabulary: Vocabulary, limits: Limits | None = None) -> Rendered:
    """Return the prompt as tokens, never more than `limits.prompt_tokens`.

    Beside them `limits.generate_tokens` fit into the card's context. The snippets come first and in their order, and
    what does not fit of them is left out; so they are where the card has no form for them. Raises ContextOverflowError
    if there is no room for any text, CardError if the vocabulary lacks a marker.
    """
    limits = limits or Limits()
    budget = min(limits.prompt_tokens, card.context_length - limits.generate_tokens)
    layout = _Layout(card, vocabulary)
    suffix_limit = min(limits.suffix_tokens, budget // 4)
    suffix, suffix_tokens = _head(prompt.suffix, suffix_limit, vocabulary)
    share = int(budget * limits.snippet_share)
    header, path, snippets = layout.header(prompt, share)
    room = budget - layout.frame_tokens - _round_up(len(suffix_tokens), suffix_limit)
    room -= _round_up(len(header) + len(path), share)
    if room < _LEAST_ROOM_TOKENS:
        raise ContextOverflowError(
            f"A prompt of {budget} tokens has no room for the text before the cursor; allow at least 128 tokens."
        )
    prefix, prefix_tokens, begun, begun_tokens = _window(prompt.prefix, card.fim.anchor_lines, room, limits, vocabulary)
    if begun:
        begun_tokens, heal = _take_back(begun, begun_tokens, vocabulary)
    else:
        prefix_tokens, heal = _take_back(prefix, prefix_tokens, vocabulary)
    tokens = layout.assemble(header, [*path, *prefix_tokens], suffix_tokens, begun_tokens)
    return Rendered(tokens, heal, prefix, begun, suffix, snippets)


def render_plain(prompt: FimPrompt, card: Card, vocabulary: Vocabulary, limits: Limits) -> Rendered:
    """Return the end of the prompt's prefix as tokens, to be continued from left to right: no marker, nothing healed.

    What a model says when it is only shown how a text of its training begins. Raises CardError if the vocabulary lacks
    a marker, ContextOverflowError if the prefix is empty.
    """
    layout = _Layout(card, vocabulary)
    room = min(limits.prompt_tokens, card.context_length - limits.generate_tokens) - layout.frame_tokens
    text, tokens = _tail(prompt.prefix, room, room, min(limits.step_tokens, room // 4), vocabulary)
    if not tokens:
        raise ContextOverflowError("There is no text to continue: give some text before the cursor.")
    return Rendered(layout.plain(tokens), b"", text, "", "", 0)


class _Layout:
    """Where the markers of one card stand."""

    def __init__(self, card: Card, vocabulary: Vocabulary) -> None:
        self._fim = card.fim
        self._vocabulary = vocabulary
        missing = [marker for marker in markers(card) if marker not in vocabulary.marker_ids]
        if missing:
            raise CardError(
                f"The weights of '{card.id}' have no token {missing[0]!r}; correct the markers in its card."
            )

    @property
    def frame_tokens(self) -> int:
        return 3 + (self._fim.bos is not None)

    def _id(self, marker: str | None) -> list[int]:
        return [] if marker is None else [self._vocabulary.marker_ids[marker]]

    def header(self, prompt: FimPrompt, limit: int) -> tuple[list[int], list[int], int]:
        """Return what stands before the first marker, what stands behind the prefix marker, and the snippet count."""
        fim, tokenize = self._fim, self._vocabulary.tokenize
        snippets = [snippet for snippet in prompt.snippets if snippet.text]
        if fim.form == "none" or not snippets:
            return [], [], 0
        repo_end = "\n" if fim.form == "qwen" else ""
        repo = [*self._id(fim.repo_name), *tokenize(prompt.repo + repo_end)] if prompt.repo else []
        path = tokenize(prompt.path + "\n") if prompt.path else []
        separator = self._id(fim.file_separator)
        files, count = self._files(snippets, limit - len(repo) - len(separator) - len(path))
        if not count:
            return [], [], 0
        # In StarCoder2's training the prefix marker stood before the path (arXiv 2402.19173, section 5.1).
        if fim.form == "starcoder2":
            return [*repo, *files, *separator], path, count
        return [*repo, *files, *separator, *path], [], count

    def _files(self, snippets: list[Snippet], limit: int) -> tuple[list[int], int]:
        files: list[int] = []
        for count, snippet in enumerate(snippets):
            head = [*self._id(self._fim.file_separator), *self._vocabulary.tokenize(snippet.path + "\n")]
            text = snippet.text
            if self._fim.form == "qwen" and not text.endswith("\n"):
                text += "\n"
            kept, tokens = _head(text, limit - len(files) - len(head), self._vocabulary)
            if not kept:
                return files, count
            files += [*head, *tokens]
        return files, len(snippets)

    def plain(self, tokens: list[int]) -> list[int]:
        return [*self._id(self._fim.bos), *tokens]

    def assemble(self, header: list[int], prefix: list[int], suffix: list[int], begun: list[int]) -> list[int]:
        fim = self._fim
        before = [*self._id(fim.prefix), *prefix]
        after = [*self._id(fim.suffix), *suffix]
        parts = (after, before) if fim.order == "SPM" else (before, after)
        return [*self._id(fim.bos), *header, *parts[0], *parts[1], *self._id(fim.middle), *begun]


def _round_up(count: int, limit: int) -> int:
    return max(count, min(limit, -(-count // _ROUND_TOKENS) * _ROUND_TOKENS))


def _head(text: str, limit: int, vocabulary: Vocabulary) -> tuple[str, list[int]]:
    """Return the start of a text that takes at most `limit` tokens, cut at a line's end where it has one, as tokens."""
    if limit <= 0:
        return "", []
    capped = limit * _CHARS_PER_TOKEN
    if len(text) > capped:
        text = _cut_at_line_end(text, capped)
    tokens = vocabulary.tokenize(text)
    while len(tokens) > limit:
        text = _cut_at_line_end(text, min(_chars(tokens[:limit], vocabulary), len(text) - 1))
        tokens = vocabulary.tokenize(text)
    return text, tokens


def _cut_at_line_end(text: str, chars: int) -> str:
    return text[: text.rfind("\n", 0, chars) + 1] or text[:chars]


def _chars(tokens: list[int], vocabulary: Vocabulary) -> int:
    return len(b"".join(vocabulary.pieces[token] for token in tokens).decode("utf-8", "ignore"))


def _window(
    text: str, anchor_lines: int | None, room: int, limits: Limits, vocabulary: Vocabulary
) -> tuple[str, list[int], str, list[int]]:
    """Return the prefix and the begun middle, each as text and as tokens, that fit into `room` tokens together."""
    step = min(limits.step_tokens, room // 4)
    anchor = _anchor(text, anchor_lines)
    begun_tokens: list[int] = []
    if len(text) - anchor <= room * _CHARS_PER_TOKEN:
        begun_tokens = vocabulary.tokenize(text[anchor:])
    if not begun_tokens or len(begun_tokens) > room // 2:  # a line of data, say: no place for an anchor
        anchor, begun_tokens = len(text), []
    prefix, prefix_tokens = _tail(text[:anchor], room - len(begun_tokens), room, step, vocabulary)
    return prefix, prefix_tokens, text[anchor:], begun_tokens


def _anchor(text: str, anchor_lines: int | None) -> int:
    """Return the offset at which the begun middle starts; its line's number is a multiple of the step."""
    if anchor_lines is None:
        return len(text)
    line = max(0, text.count("\n") - anchor_lines)
    above = text.count("\n") - line // _ANCHOR_STEP_LINES * _ANCHOR_STEP_LINES
    start = text.rfind("\n") + 1
    for _ in range(above):
        start = text.rfind("\n", 0, start - 1) + 1
    return start


def _tail(text: str, limit: int, room: int, step: int, vocabulary: Vocabulary) -> tuple[str, list[int]]:
    """Return the end of a text that takes at most `limit` tokens, as tokens; its start moves only in steps."""
    step_chars = step * _CHARS_PER_TOKEN
    excess = len(text) - (room + step) * _CHARS_PER_TOKEN
    if excess > 0:
        text = _cut_at_line_start(text, -(-excess // step_chars) * step_chars)
    tokens = whole = vocabulary.tokenize(text)
    kept = text
    drop = -(-max(0, len(whole) - limit) // step) * step
    while len(tokens) > limit:
        kept = _cut_at_line_start(text, _chars(whole[:drop], vocabulary)) if drop < len(whole) else ""
        tokens = vocabulary.tokenize(kept)
        drop += step
    return kept, tokens


def _cut_at_line_start(text: str, chars: int) -> str:
    start = text.find("\n", max(0, chars - 1)) + 1
    return text[start:] if 0 < start < len(text) else text[chars:]


def _take_back(text: str, tokens: list[int], vocabulary: Vocabulary) -> tuple[list[int], bytes]:
    """Return the tokens without those of the word that the text ends in, and the bytes that were taken back.

    "retu" is " ret" and "u" to the tokenizer; with the "u" alone taken back the model still has to go on from " ret".
    """
    if not tokens or text.endswith("\n"):
        return tokens, b""
    word = _LAST_WORD.search(text)
    wanted_bytes = min(len(word.group().encode("utf-8", "surrogatepass")), MAX_HEAL_BYTES) if word else 1
    kept, heal = len(tokens), b""
    while kept and len(heal) < wanted_bytes:
        kept -= 1
        heal = vocabulary.pieces[tokens[kept]] + heal
    return tokens[:kept], heal


class HealTable:
    """Which tokens may come next while the bytes that healing took back are not yet reproduced.

    Built once a model from the bytes of its tokens (0.2 s for 151,936); tokens without bytes are never allowed.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        """Sort the tokens by their bytes; `pieces[id]` are the bytes of a token."""
        ids = sorted((token for token, piece in enumerate(pieces) if piece), key=pieces.__getitem__)
        self._ids = np.array(ids, dtype=np.int32)
        self._sorted = [pieces[token] for token in ids]

    def allowed(self, rest: bytes) -> NDArray[np.int32]:
        """Return the ids of the tokens whose bytes start with `rest` or are a start of it; `rest` is not empty."""
        if not rest:
            raise ValueError("nothing is left to heal, so every token is allowed")
        starts = [self._span(rest[:length], rest[:length] + b"\x00") for length in range(1, len(rest))]
        return np.concatenate([*starts, self._span(rest, _after(rest))])

    def _span(self, first: bytes, end: bytes | None) -> NDArray[np.int32]:
        stop = len(self._sorted) if end is None else bisect_left(self._sorted, end)
        return self._ids[bisect_left(self._sorted, first) : stop]

    @staticmethod
    def advance(rest: bytes, piece: bytes) -> bytes:
        """Return what is left to heal after a token. Raises ValueError if the token disagrees with `rest`."""
        if not (piece.startswith(rest) or rest.startswith(piece)):
            raise ValueError(f"the token {piece!r} does not agree with the text {rest!r}")
        return rest[len(piece) :]


def _after(prefix: bytes) -> bytes | None:
    """Return the least bytes that sort after everything that starts with `prefix`, None if there are none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None
