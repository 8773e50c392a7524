"""Text out of tokens: whole characters, no stop strings, whatever the tokens' bounds are."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from models.stream import TextStream

TEXTS = st.text(alphabet="ab\n日🎉é", max_size=30)
STOPS = st.lists(st.text(alphabet="ab\n日", max_size=3), max_size=3).map(tuple)


def spoken(pieces: list[bytes], stops: tuple[str, ...]) -> str:
    """Return everything that a stream says of the pieces."""
    stream = TextStream(stops)
    text = "".join(stream.push(piece) for piece in pieces)
    return text if stream.stopped else text + stream.flush()


@given(TEXTS, STOPS, st.lists(st.integers(0, 60), max_size=10))
def test_text_does_not_depend_on_the_tokens(text: str, stops: tuple[str, ...], cuts: list[int]) -> None:
    """However the bytes are cut, the text is the same: all of it before the first stop that is complete."""
    data = text.encode()
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(bounds)]
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop and stop in text]
    assert spoken(pieces, stops) == (text[: min(ends)[1]] if ends else text)


@given(TEXTS, STOPS)
def test_nothing_is_taken_back(text: str, stops: tuple[str, ...]) -> None:
    """What was said byte by byte never holds a stop string or a replacement character."""
    stream = TextStream(stops)
    said = ""
    for byte in text.encode():
        said += stream.push(bytes([byte]))
        assert "\ufffd" not in said
        assert not any(stop in said for stop in stops if stop)


def test_a_part_of_a_character_is_left_out() -> None:
    """A generation that ends within a character ends before it, and bytes that are no UTF-8 vanish."""
    assert spoken(["né🎉".encode()[:-1]], ()) == "né"
    assert spoken([b"a\xffb"], ()) == "ab"


def test_nothing_follows_a_stop() -> None:
    """After a stop string there is no text any more."""
    stream = TextStream(("\n",))
    assert stream.push(b"a\nb") == "a"
    assert stream.stopped
    assert stream.push(b"c") + stream.flush() == ""
