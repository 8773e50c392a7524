"""Text to fill-in-the-middle: where a text is cut in three, and how the parts are laid out.

The parts are laid out as `models.fim` asks for them:

    PSM   <fim_prefix> prefix <fim_suffix> suffix <fim_middle> middle <|endoftext|>
    SPM   <fim_suffix> suffix <fim_prefix> prefix <fim_middle> middle <|endoftext|>

*At characters*: two places anywhere (Bavarian et al., arXiv 2207.14255). *Anchored*: the prefix ends some whole lines
above the cursor's, the middle begins with those lines and ends with the cursor's line or a few lines later, the suffix
is short. That is the prompt that the daemon sends, so that what is typed is appended to what it has computed already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# What `models.fim` does with `anchor_lines = 3` in steps of 4, and the tokens of suffix that it sends.
ANCHOR_LINES = 3
ANCHOR_STEP_LINES = 4
SUFFIX_TOKENS = 256
# An anchored middle ends with its line in this share of cases; else within it, or after up to so many lines more.
_WHOLE_LINE = 0.6
_WITHIN_LINE = 0.2
_MAX_MORE_LINES = 8


@dataclass(frozen=True, slots=True)
class Parts:
    """A text in three; joined they are the text."""

    prefix: str
    middle: str
    suffix: str


def at_characters(text: str, rng: np.random.Generator) -> Parts:
    """Cut at two places, each as likely as any other."""
    first, second = sorted(int(place) for place in rng.integers(0, len(text) + 1, size=2))
    return Parts(text[:first], text[first:second], text[second:])


def anchored(text: str, rng: np.random.Generator, suffix_chars: int) -> Parts:
    """Cut as the daemon does for a cursor whose line has at most `suffix_chars` characters behind its start.

    A line with nothing on it is not chosen, unless there are no others.
    """
    lines = text.split("\n")
    starts = [0]
    for line in lines[:-1]:
        starts.append(starts[-1] + len(line) + 1)
    earliest = len(text) - suffix_chars
    wanted = [i for i, line in enumerate(lines) if starts[i] >= earliest and line.strip()] or [len(lines) - 1]
    row = int(rng.choice(wanted))
    above = ANCHOR_LINES + int(rng.integers(0, ANCHOR_STEP_LINES))
    anchor = starts[max(0, row - above)]
    end = _end(lines, starts, row, rng)
    return Parts(text[:anchor], text[anchor:end], text[end:])


def _end(lines: list[str], starts: list[int], row: int, rng: np.random.Generator) -> int:
    """Return the offset at which an anchored middle ends."""
    kind = rng.random()
    if kind < _WHOLE_LINE:
        return starts[row] + len(lines[row])
    if kind < _WHOLE_LINE + _WITHIN_LINE:
        return starts[row] + int(rng.integers(0, len(lines[row]) + 1))
    last = min(row + int(rng.integers(1, _MAX_MORE_LINES + 1)), len(lines) - 1)
    return starts[last] + len(lines[last])
