"""N-grams with copy: what is counted, what is predicted, and that memory is bounded."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import ngram
from models.ngram import BOUNDARY, NgramModel, Prediction, longest_copy, predict_next

if TYPE_CHECKING:
    from collections.abc import Sequence

SEQUENCES = st.lists(st.lists(st.integers(0, 4), max_size=12), max_size=5)


def counted(sequences: Sequence[Sequence[int]], context: Sequence[int]) -> Counter[int]:
    """Return what follows a context, by looking."""
    flat = [BOUNDARY] * 4
    for sequence in sequences:
        flat += [*sequence, BOUNDARY]
    size = len(context)
    return Counter(flat[i] for i in range(4, len(flat)) if flat[i - size : i] == list(context))


def interpolated(sequences: Sequence[Sequence[int]], context: Sequence[int], token: int, order: int) -> float:
    """Return Witten and Bell's probability, from the definition."""
    padded = [*[BOUNDARY] * 4, *context]
    probability = 0.0
    for length in range(order):
        counts = counted(sequences, padded[len(padded) - length :])
        if not counts:
            break
        kinds = len(counts) if probability else 0
        probability = (counts[token] + kinds * probability) / (counts.total() + kinds)
    return probability


@settings(max_examples=100, deadline=None)
@given(SEQUENCES, st.lists(st.integers(0, 5), max_size=6), st.integers(0, 5), st.integers(1, 5), st.integers(1, 9))
def test_probabilities_are_those_of_the_definition(
    sequences: list[list[int]], context: list[int], token: int, order: int, chunk: int
) -> None:
    """For any sequences, context, token and order, in however many chunks the sequences are counted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram, "_CHUNK_TOKENS", chunk)
        model = NgramModel.train(sequences, order=order)
    assert model.probability(context, token) == pytest.approx(interpolated(sequences, context, token, order))


def test_the_longest_context_decides() -> None:
    """After 1 mostly comes 2, but after 7 1 it was always 3."""
    model = NgramModel.train([[5, 1, 2], [6, 1, 2], [4, 1, 2], [7, 1, 3], [7, 1, 3]], order=3)
    assert model.predict([1]) is not None
    assert model.predict([9, 1])[0] == 2  # type: ignore[index]
    assert model.predict([7, 1])[0] == 3  # type: ignore[index]


def test_an_unknown_context_falls_back_to_the_most_frequent_token() -> None:
    """Nothing is known of 99; 2 is what there is most of."""
    model = NgramModel.train([[1, 2, 2, 2, 3]])
    found = model.predict([99])
    assert found is not None
    assert found.token == 2
    assert found.probability == pytest.approx(3 / 6)


def test_only_allowed_tokens_are_predicted() -> None:
    """The likeliest of those that are allowed, None where none is known."""
    model = NgramModel.train([[1, 2], [1, 2], [1, 3]])
    assert model.predict([1], np.array([3, 4]))[0] == 3  # type: ignore[index]
    assert model.predict([1], np.array([4])) is None


def test_a_model_of_nothing_predicts_nothing() -> None:
    """Without a sequence there is no count."""
    assert NgramModel.train([]).predict([1, 2]) is None


def test_what_is_rarest_is_forgotten_first() -> None:
    """With room for so many entries, those that were counted once go, those that came often stay."""
    often, once = [1, 2, 3, 4] * 50, list(range(100, 400))
    model = NgramModel.train([often, once], order=2, max_entries=20)
    assert model.entries <= 40
    assert model.predict([2]) == NgramModel.train([often, once], order=2).predict([2])._replace(  # type: ignore[union-attr]
        probability=model.probability([2], 3)
    )
    assert model.probability([150], 151) == 0


@pytest.mark.parametrize("order", [0, ngram.MAX_ORDER + 1])
def test_an_impossible_order_is_refused(order: int) -> None:
    """The error names the orders that there are."""
    with pytest.raises(ValueError, match="order must be 1 to"):
        NgramModel.train([], order=order)


def test_the_longest_repetition_is_copied() -> None:
    """Of two places where the last token stands, the one with more of the same before it, be it behind the cursor."""
    assert longest_copy([1, 2, 3, 9, 2, 4, 1, 2]) == Prediction(3, 1.0, 2)
    assert longest_copy([9, 2, 4, 1, 2], [8, 1, 2, 7]) == Prediction(7, 1.0, 2)
    assert longest_copy([1, 2, 3]) is None
    assert longest_copy([]) is None


def test_of_equal_repetitions_the_nearest_before_is_copied() -> None:
    """Not the first in the text, nor one behind the cursor."""
    assert longest_copy([2, 3, 2, 4, 2], [2, 5]) == Prediction(4, 1.0, 1)


def test_only_what_is_allowed_is_copied() -> None:
    """A shorter repetition counts where what followed the longer is not allowed."""
    assert longest_copy([1, 2, 3, 5, 2, 4, 1, 2], (), {4}.__contains__) == Prediction(4, 1.0, 1)


def test_a_long_enough_repetition_overrules_the_counts() -> None:
    """Counts say 3 after 1 2; the text itself says 8, once it repeats enough of itself."""
    model = NgramModel.train([[1, 2, 3]] * 5)
    assert predict_next(model, [1, 2, 8, 1, 2]) == Prediction(8, 1.0, 2)
    assert predict_next(model, [0, 2, 8, 1, 2])[0] == 3  # type: ignore[index]
    assert predict_next(NgramModel.train([]), [0, 2, 8, 1, 2])[0] == 8  # type: ignore[index]
