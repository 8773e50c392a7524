r"""Tokens on the disk to training sequences: sequence `i` depends on the data, the seed and `i` alone.

    epoch      packages in a random order, the files of each in a random order, one behind the other
    window     one of the equal stretches that the epoch is cut into; they are taken in a random order too
    sequence   the window's files, some of them rearranged to fill in the middle, in exactly so many tokens

So a run that was killed goes on with the very sequence that comes next, and any number of processes can share a step.

    <repo_name>name<file_sep>path\ncode<file_sep><fim_prefix>path\nprefix<fim_suffix>suffix<fim_middle>middle<|endoftext|>…

Names and paths are there in half of the windows. A window that begins or ends within a file holds that part of it, and
of a long file every part is cut in three by itself, so that there are several middles to a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from models.starter import infilling
from models.starter.tokenizer import (
    END,
    FILE_SEPARATOR,
    FIM_MIDDLE,
    FIM_PAD,
    FIM_PREFIX,
    FIM_SUFFIX,
    REPO_NAME,
    SPECIAL_TOKENS,
    pieces,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from models.starter.tokens import Tokens

FIM_RATE = 0.5
ANCHORED_RATE = 0.5  # of what is rearranged at all
SPM_RATE = 0.5  # of what is cut at characters; the daemon's anchored prompts are all PSM
NAMES_RATE = 0.5
MAX_PART_TOKENS = 1024
# Fewer tokens than this of a file are not rearranged.
MIN_FIM_TOKENS = 32
# A text that is cut in three takes a few more tokens than whole, and its markers.
_FIM_ROOM = 16
_ID = {text: token for token, text in enumerate(SPECIAL_TOKENS)}
PADDING = _ID[FIM_PAD]


@dataclass(frozen=True, slots=True)
class _Epoch:
    """The order of an epoch: `files`, where each starts among the epoch's tokens, and the order of the windows."""

    files: NDArray[np.int64]
    starts: NDArray[np.int64]
    shift: int
    windows: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Part:
    """The tokens `first` to `last` of a file."""

    file: int
    first: int
    last: int


class Sequences:
    """The training sequences of a corpus, one after the other without end. Safe to use from several threads."""

    def __init__(self, tokens: Tokens, tokenizer: Tokenizer, sequence_tokens: int, seed: int) -> None:
        """Cut `tokens` into sequences of `sequence_tokens`, and one more, which is only predicted."""
        self._tokens = tokens
        self._tokenizer = tokenizer
        self._pieces = pieces(tokenizer)
        self._room = sequence_tokens + 1
        self._seed = seed
        self.an_epoch = max(1, len(tokens.ids) // self._room)
        self._epoch = lru_cache(2)(self._make_epoch)

    def __getitem__(self, index: int) -> NDArray[np.int64]:
        """Return a sequence, of shape (sequence_tokens + 1,), filled up with `PADDING` where a few tokens are left."""
        rng = np.random.default_rng([self._seed, 1, index])
        out: list[int] = []
        names = rng.random() < NAMES_RATE
        repo = -1
        for part in self._parts(index, rng):
            if self._room - len(out) <= _FIM_ROOM:
                break
            if part.first == 0 and repo not in {-1, self._tokens.repos[part.file]}:
                out.append(_ID[END])  # that of the package before
            is_new = repo != self._tokens.repos[part.file]
            repo = int(self._tokens.repos[part.file])
            if out or names:  # a prompt of one file has nothing before it
                out += self._head(part, with_repo=names and is_new)
            out += self._body(part, self._room - len(out), rng, names=names)
        sequence = np.full(self._room, PADDING, dtype=np.int64)
        sequence[: min(len(out), self._room)] = out[: self._room]
        return sequence

    def _make_epoch(self, number: int) -> _Epoch:
        rng = np.random.default_rng([self._seed, 0, number])
        tokens = self._tokens
        place_of_repo = rng.permutation(len(tokens.repo_names))
        files = np.lexsort((rng.random(len(tokens.repos)), place_of_repo[tokens.repos]))
        starts = np.concatenate([[0], np.cumsum(np.diff(tokens.starts)[files])])
        return _Epoch(files, starts, int(rng.integers(self._room)), rng.permutation(self.an_epoch))

    def _parts(self, index: int, rng: np.random.Generator) -> Iterator[_Part]:
        """Yield what stands in a window: files, or parts of them, none longer than `MAX_PART_TOKENS`."""
        epoch = self._epoch(index // self.an_epoch)
        total = len(self._tokens.ids)
        place = (epoch.shift + int(epoch.windows[index % self.an_epoch]) * self._room) % total
        left = min(self._room, total)
        while left:
            number = int(np.searchsorted(epoch.starts, place, side="right")) - 1
            first = place - int(epoch.starts[number])
            length = min(left, int(epoch.starts[number + 1]) - place)
            if length > MAX_PART_TOKENS:
                length = int(rng.integers(MAX_PART_TOKENS // 2, MAX_PART_TOKENS + 1))
            yield _Part(int(epoch.files[number]), first, first + length)
            left -= length
            place = (place + length) % total

    def _head(self, part: _Part, *, with_repo: bool) -> list[int]:
        """Return what stands before a file."""
        if part.first:
            return []
        repo = self._encode(self._tokens.repo_names[self._tokens.repos[part.file]]) if with_repo else []
        return [*([_ID[REPO_NAME]] if with_repo else []), *repo, _ID[FILE_SEPARATOR]]

    def _body(self, part: _Part, room: int, rng: np.random.Generator, *, names: bool) -> list[int]:
        """Return a part of a file, as it stands or to be filled in, in at most `room` tokens or hardly more."""
        path = self._encode(self._tokens.paths[part.file] + "\n") if names and not part.first else []
        start = int(self._tokens.starts[part.file])
        length = min(part.last - part.first, room - len(path) - _FIM_ROOM)
        rearranged = rng.random() < FIM_RATE
        if not rearranged or length < MIN_FIM_TOKENS:
            return [*path, *self._tokens.ids[start + part.first : start + part.last].tolist()]
        ids = self._tokens.ids[start + part.first : start + part.first + length]
        text = b"".join(self._pieces[token] for token in ids).decode("utf-8", "ignore")
        if part.first:  # the daemon's prompts begin with a line too
            text = text.partition("\n")[2] or text
        # Of a long text the cursor stands so near to the end that hardly any of the suffix is left out.
        near = min(1.0, infilling.SUFFIX_TOKENS / length) if length > 2 * infilling.SUFFIX_TOKENS else 1.0
        return self._infilling(text, int(len(text) * near), path, rng)

    def _infilling(self, text: str, suffix_chars: int, path: list[int], rng: np.random.Generator) -> list[int]:
        if rng.random() < ANCHORED_RATE:
            parts = infilling.anchored(text, rng, suffix_chars)
            suffix = self._encode(parts.suffix)[: infilling.SUFFIX_TOKENS]
            spm = False
        else:
            parts = infilling.at_characters(text, rng)
            suffix = self._encode(parts.suffix)
            spm = rng.random() < SPM_RATE
        before = [_ID[FIM_PREFIX], *path, *self._encode(parts.prefix)]
        after = [_ID[FIM_SUFFIX], *suffix]
        first, second = (after, before) if spm else (before, after)
        return [*first, *second, _ID[FIM_MIDDLE], *self._encode(parts.middle), _ID[END]]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids
