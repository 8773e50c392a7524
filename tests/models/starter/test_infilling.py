"""A text in three is the text, cut where the daemon cuts it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.starter import infilling

TEXTS = st.text(alphabet="ab \n", min_size=1, max_size=200)
SEEDS = st.integers(0, 2**32)


@given(TEXTS, SEEDS)
def test_parts_join_to_the_text(text: str, seed: int) -> None:
    """No character is lost or doubled, however a text is cut."""
    rng = np.random.default_rng(seed)
    for parts in (infilling.at_characters(text, rng), infilling.anchored(text, rng, len(text))):
        assert parts.prefix + parts.middle + parts.suffix == text


@given(TEXTS, SEEDS)
def test_an_anchored_prefix_ends_with_a_line(text: str, seed: int) -> None:
    """The prefix is nothing, or whole lines: what was begun starts with a line."""
    prefix = infilling.anchored(text, np.random.default_rng(seed), len(text)).prefix
    assert not prefix or prefix.endswith("\n")


@given(SEEDS)
def test_the_middle_begins_as_many_lines_above_as_the_daemons(seed: int) -> None:
    """Far from both ends, three to six whole lines stand in the middle before the cursor's."""
    text = "".join(f"line {number}\n" for number in range(100))
    parts = infilling.anchored(text, np.random.default_rng(seed), 300)
    lines = parts.middle.count("\n")
    assert infilling.ANCHOR_LINES <= lines < infilling.ANCHOR_LINES + infilling.ANCHOR_STEP_LINES + 8
    assert len(parts.suffix) <= 300


def test_a_whole_line_is_what_is_asked_for_most_often() -> None:
    """Of many cuts about six in ten end with the cursor's line, others within it and after more lines."""
    text = "".join(f"some line {number}\n" for number in range(100))
    rng = np.random.default_rng(0)
    cuts = [infilling.anchored(text, rng, 1000) for _ in range(400)]
    within = sum(not cut.suffix.startswith("\n") and bool(cut.suffix) for cut in cuts)
    assert 40 < within < 120
