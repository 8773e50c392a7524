"""A model of n-grams with copy: the baseline that a trained model must beat, and a source of drafts.

Tokens are any numbers below `BOUNDARY`. For each length of context, 0 to order - 1 tokens, the counts of what followed
are one sorted array of 64-bit keys, the context's hash in the upper 40 bits and the next token in the lower 24:

    |  40 bits: hash of the context  |  24 bits: next token  |  -> count, int32

so that all continuations of a context lie beside each other. Twelve bytes an entry. With 8 million contexts, of 100,000
unknown ones one is taken for a known one; nothing is stored to tell. Probabilities are interpolated from the longest
context down (Witten and Bell, 1991). Memory is bounded by lossy counting (Manku and Motwani, 2002): what is rarest is
forgotten whenever there are too many entries. The same sequences in the same order give the same model.
"""

from __future__ import annotations

from functools import cached_property
from itertools import chain, islice
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

BOUNDARY: Final = (1 << 24) - 1
"""The token that stands between two sequences; predicted, it means that the sequence ends."""

ORDER = 5
MAX_ENTRIES = 8_000_000
# A repetition of so many tokens in the text itself is trusted more than the counts. Of 700 lines (counts of 64 MB) 127
# were exact with 2, 125 with 3, 120 with 4.
COPY_TOKENS = 2
MAX_COPY_TOKENS = 32

_CHUNK_TOKENS = 1 << 22
_NEXT_BITS = np.uint64(24)
_NEXT_MASK = np.uint64(BOUNDARY)
# Odd constants of splitmix64 and xxHash64, one for each place of a context.
_MULTIPLIERS = np.array(
    [
        *(0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9),
        *(0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93),
    ],
    dtype=np.uint64,
)
MAX_ORDER = len(_MULTIPLIERS) + 1


class Prediction(NamedTuple):
    """The likeliest next token and its probability; `copied` is the length of the repetition that it goes on, or 0."""

    token: int
    probability: float
    copied: int = 0


class NgramModel:
    """Counts of up to `order` tokens in a row; made by `train`."""

    def __init__(self, tables: list[_Table]) -> None:
        """Take the counts for contexts of 0, 1, … tokens; use `NgramModel.train`."""
        self._tables = tables

    @classmethod
    def train(cls, sequences: Iterable[Sequence[int]], *, order: int = ORDER, max_entries: int = MAX_ENTRIES) -> Self:
        """Count the n-grams of sequences of tokens, keeping at most `max_entries` of each length.

        The sequences are read once. 64 MB of code are 20 million entries, after 10 s and 860 MB at the peak. Raises
        ValueError where the order is not 1 to `MAX_ORDER`.
        """
        if not 1 <= order <= MAX_ORDER:
            raise ValueError(f"the order must be 1 to {MAX_ORDER}, not {order}")
        tables = [_Table(only_context=length == 0) for length in range(order)]
        flat = chain.from_iterable(chain(sequence, (BOUNDARY,)) for sequence in sequences)
        carried = np.full(order - 1, BOUNDARY, dtype=np.uint64)
        while len(chunk := np.fromiter(islice(flat, _CHUNK_TOKENS), dtype=np.uint64)):
            tokens = np.concatenate([carried, chunk])
            for length, table in enumerate(tables):
                table.add(_keys(tokens, length, order - 1), max_entries)
            carried = tokens[len(tokens) - (order - 1) :]
        return cls(tables)

    @property
    def order(self) -> int:
        """The tokens of the longest n-gram, the predicted one included."""
        return len(self._tables)

    @property
    def entries(self) -> int:
        """The number of different n-grams that are kept, of all lengths."""
        return sum(len(table.keys) for table in self._tables)

    def probability(self, context: Sequence[int], token: int) -> float:
        """Return the interpolated probability of a token behind a context, 0 for one that was never seen."""
        return self._interpolated([table.span(hashed) for table, hashed in self._seen(context)], token)

    def predict(self, context: Sequence[int], allowed: NDArray[np.int64] | None = None) -> Prediction | None:
        """Return the likeliest token behind a context, of those `allowed` if told; None where there is none."""
        spans = [table.span(hashed) for table, hashed in self._seen(context)]
        likeliest = {span.likeliest(allowed) for span in spans} - {None}
        found = [Prediction(token, self._interpolated(spans, token)) for token in likeliest if token is not None]
        return max(found, key=lambda prediction: (prediction.probability, -prediction.token), default=None)

    def _seen(self, context: Sequence[int]) -> Iterator[tuple[_Table, int]]:
        """Yield the tables whose context can be asked for, the shortest first, each with the context's hash."""
        wanted = self.order - 1
        padded = [BOUNDARY] * max(0, wanted - len(context)) + list(context[len(context) - min(wanted, len(context)) :])
        tokens = np.array([*padded, 0], dtype=np.uint64)
        for length, table in enumerate(self._tables):
            yield table, int(_keys(tokens, length, wanted)[0] >> _NEXT_BITS)

    @staticmethod
    def _interpolated(spans: list[_Span], token: int) -> float:
        probability = 0.0
        for span in spans:
            if not span.total:
                break
            kinds = len(span.counts) if probability else 0  # below the shortest context there is nothing to save for
            probability = (span.count(token) + kinds * probability) / (span.total + kinds)
        return probability


class _Span:
    """What followed one context: tokens, ascending, and how often each; views of a table."""

    def __init__(self, tokens: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        self.tokens = tokens
        self.counts = counts
        self.total = int(counts.sum())

    def count(self, token: int) -> int:
        i = int(np.searchsorted(self.tokens, token))
        return int(self.counts[i]) if i < len(self.tokens) and self.tokens[i] == token else 0

    def likeliest(self, allowed: NDArray[np.int64] | None) -> int | None:
        tokens, counts = self.tokens, self.counts
        if allowed is not None:
            which = np.isin(tokens, allowed)
            tokens, counts = tokens[which], counts[which]
        return int(tokens[counts.argmax()]) if len(tokens) else None


class _Table:
    """The counts of n-grams of one length, by ascending key."""

    def __init__(self, *, only_context: bool) -> None:
        """Be empty; `only_context`: the context has no tokens, so that all entries are of one."""
        self._only_context = only_context
        self.keys: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        self.counts: NDArray[np.int32] = np.empty(0, dtype=np.int32)

    def add(self, keys: NDArray[np.uint64], max_entries: int) -> None:
        """Count further keys; of more than `max_entries` the rarest are forgotten, those of one count together."""
        keys.sort()
        new, counts = _summed(keys, np.ones(len(keys), dtype=np.int32))
        keys = np.concatenate([self.keys, new])
        order = np.argsort(keys, kind="stable")  # two sorted runs: a merge
        self.keys, self.counts = _summed(keys[order], np.concatenate([self.counts, counts])[order])
        rarest = 0
        while len(self.keys) > max_entries:
            rarest += 1
            kept = self.counts > rarest
            self.keys, self.counts = self.keys[kept], self.counts[kept]

    def span(self, hashed: int) -> _Span:
        """Return what followed a context, by the upper 40 bits of its keys."""
        if self._only_context:
            return self._whole
        bounds = np.array([hashed << 24, (hashed << 24) + BOUNDARY], dtype=np.uint64)
        first, last = np.searchsorted(self.keys, bounds[0]), np.searchsorted(self.keys, bounds[1], side="right")
        return self._span(int(first), int(last))

    def _span(self, first: int, last: int) -> _Span:
        tokens = (self.keys[first:last] & _NEXT_MASK).astype(np.int64)
        return _Span(tokens, self.counts[first:last].astype(np.int64))

    @cached_property
    def _whole(self) -> _Span:
        return self._span(0, len(self.keys))


def _summed(keys: NDArray[np.uint64], counts: NDArray[np.int32]) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Return each of some sorted keys once, with the sum of its counts."""
    if not len(keys):
        return keys, counts
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[first], np.add.reduceat(counts, first, dtype=np.int32)


def _keys(tokens: NDArray[np.uint64], length: int, skip: int) -> NDArray[np.uint64]:
    """Return the key of each token but the first `skip` in a context of `length` tokens before it."""
    hashed = np.zeros(len(tokens) - skip, dtype=np.uint64)
    for back in range(1, length + 1):
        hashed += (tokens[skip - back : len(tokens) - back] + np.uint64(1)) * _MULTIPLIERS[back - 1]
        hashed ^= hashed >> np.uint64(29)
    hashed *= _MULTIPLIERS[0]
    hashed ^= hashed >> np.uint64(32)
    keys: NDArray[np.uint64] = (hashed & ~_NEXT_MASK) | tokens[skip:]
    return keys


def longest_copy(
    before: Sequence[int], after: Sequence[int] = (), is_allowed: Callable[[int], bool] | None = None
) -> Prediction | None:
    """Return what followed the longest repetition of the end of `before`, in `before` itself or in `after`.

    Of equally long ones the last in `before` counts, as the nearest, then the first in `after`. Probability is not
    estimated: it is 1. None where the last token does not stand anywhere else, or what followed it is not allowed.
    """
    best: Prediction | None = None
    for text, ends in ((before, range(len(before) - 2, -1, -1)), (after, range(len(after) - 1))):
        for end in ends:
            if text[end] == before[-1] and (is_allowed is None or is_allowed(text[end + 1])):
                length = _common_end(text, end, before)
                if best is None or length > best.copied:
                    best = Prediction(text[end + 1], 1.0, length)
    return best


def _common_end(text: Sequence[int], end: int, before: Sequence[int]) -> int:
    length = 0
    while length < min(end + 1, len(before), MAX_COPY_TOKENS) and text[end - length] == before[-1 - length]:
        length += 1
    return length


def predict_next(
    model: NgramModel,
    before: Sequence[int],
    after: Sequence[int] = (),
    allowed: NDArray[np.int64] | None = None,
) -> Prediction | None:
    """Return the next token by copy from the text itself where enough of it is repeated, else by the counts, else copy.

    `allowed` are the tokens to choose from, all by default.
    """
    chosen = None if allowed is None else set(allowed.tolist())
    copy = longest_copy(before, after, chosen.__contains__ if chosen is not None else None) if before else None
    if copy and copy.copied >= COPY_TOKENS:
        return copy
    return model.predict(before, allowed) or copy
