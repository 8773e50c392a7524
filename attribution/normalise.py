"""Text -> the bytes that are compared: UTF-8 without white space, the three quote characters as one.

No lexer: any language, and a snippet may start in the middle of a string. Re-indenting, re-wrapping and changing
the quotes leave the normalised bytes as they were. The version of this rule is stored in every index.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NORMALISER_VERSION = 1

# The code points for which `str.isspace()` is true. Frozen here, because an index must not change its meaning when a
# newer Python ships a newer Unicode; a test compares the table with the running Python's.
WHITE_SPACE = (
    *range(0x09, 0x0E),
    *range(0x1C, 0x21),
    0x85,
    0xA0,
    0x1680,
    *range(0x2000, 0x200B),
    0x2028,
    0x2029,
    0x202F,
    0x205F,
    0x3000,
)
QUOTES = b"'\"`"

_HIGHEST_WHITE_SPACE = WHITE_SPACE[-1]
_KEPT = np.ones(_HIGHEST_WHITE_SPACE + 2, dtype=np.bool_)
_KEPT[list(WHITE_SPACE)] = False
_KEPT_ASCII = _KEPT[:256].copy()
_FOLDED = np.arange(256, dtype=np.uint8)
_FOLDED[list(QUOTES)] = QUOTES[0]


@dataclass(frozen=True, slots=True)
class Normalised:
    """The normalised bytes of a text and where each came from.

    `data` is uint8 of shape (n,). `offsets` is int64 of shape (n,): the code-point offset in the text of the
    character that the byte belongs to.
    """

    data: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]


def text(source: str) -> Normalised:
    """Return the normalised bytes of `source` with their code-point offsets. Lone surrogates are kept."""
    if source.isascii():
        raw = np.frombuffer(source.encode("ascii"), dtype=np.uint8)
        offsets = np.flatnonzero(_KEPT_ASCII[raw])
        return Normalised(_FOLDED[raw[offsets]], offsets)
    raw = np.frombuffer(source.encode("utf-8", "surrogatepass"), dtype=np.uint8)
    kept = _KEPT[np.minimum(_code_points(source), _HIGHEST_WHITE_SPACE + 1)]
    character = np.cumsum(starts_character(raw)) - 1
    indices = np.flatnonzero(kept[character])
    return Normalised(_FOLDED[raw[indices]], character[indices])


def tables() -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint8]]:
    """Return which code points are kept, the last for all above it, and what each byte becomes: for `kernels`."""
    return _KEPT, _FOLDED


def starts_character(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return, for each byte of UTF-8, whether a character starts there."""
    starts: npt.NDArray[np.bool_] = (data & 0xC0) != 0x80  # noqa: PLR2004 - continuation bytes are 10xxxxxx
    return starts


def line_starts(source: str) -> npt.NDArray[np.int64]:
    r"""Return the code-point offset of each line's first character; lines end in \n, \r\n or \r, as in an editor."""
    points = _code_points(source)
    feed = points == ord("\n")
    carriage = points == ord("\r")
    carriage[:-1] &= ~feed[1:]
    ends = np.flatnonzero(feed | carriage)
    return np.concatenate([np.zeros(1, dtype=np.int64), ends + 1])


def _code_points(source: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(source.encode("utf-32-le", "surrogatepass"), dtype="<u4")
