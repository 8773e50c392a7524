"""From the bytes of tokens to text that may be shown: whole characters only, and nothing of a stop string."""

from __future__ import annotations

import codecs
from functools import cache


@cache
def byte_of_letter() -> dict[str, int]:
    """Return the byte that each letter of a byte-level vocabulary stands for.

    A byte that can be seen is its own letter, the others have those from 256 on (GPT-2).
    """
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in set(seen)]
    return {chr(byte): byte for byte in seen} | {chr(256 + place): byte for place, byte in enumerate(unseen)}


class TextStream:
    """Text out of pieces of bytes, the same whatever the pieces are.

    A character whose bytes are split between tokens is held back until it is whole; bytes that are no UTF-8 are left
    out. The text ends before the stop string that is complete first (the longest of those, where several end together),
    so what could be the beginning of one is held back too.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        """Take the stop strings; empty ones are ignored."""
        self._stops = tuple(stop for stop in stops if stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._held = ""
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether a stop string was reached: from then on there is no text."""
        return self._stopped

    def push(self, piece: bytes) -> str:
        """Take the bytes of one token and return the text that is certain now, perhaps empty."""
        if self._stopped:
            return ""
        text = self._held + self._decoder.decode(piece)
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self._stopped = True
            self._held = ""
            return text[: min(found)[1]]
        certain = len(text) - self._possible_stop_chars(text)
        self._held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """Return what was held back for a stop string that did not come; a part of a character is left out."""
        text, self._held = self._held, ""
        return text

    def _possible_stop_chars(self, text: str) -> int:
        """Return the length of the longest end of the text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=0) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
