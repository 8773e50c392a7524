"""Normalisation: what is dropped, what is folded, and where each byte came from."""

from __future__ import annotations

import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from attribution import normalise

TEXTS = st.text(st.sampled_from("ab'\"` \t\r\n\u00a0\u2028\u3000é漢𝔸\x1f\x85\ud800"), max_size=80)


def test_white_space_table_is_str_isspace() -> None:
    """The frozen table holds exactly the code points for which str.isspace() is true, over all of Unicode."""
    assert [point for point in range(sys.maxunicode + 1) if chr(point).isspace()] == list(normalise.WHITE_SPACE)


@settings(deadline=None)  # a busy machine is no failure
@given(TEXTS | st.text(max_size=60))
def test_text_is_what_a_loop_over_characters_gives(text: str) -> None:
    """Bytes and offsets equal those of the plain definition, character by character."""
    data, offsets = bytearray(), []
    for offset, character in enumerate(text):
        if not character.isspace():
            encoded = ("'" if character in "'\"`" else character).encode("utf-8", "surrogatepass")
            data += encoded
            offsets += [offset] * len(encoded)
    normalised = normalise.text(text)
    assert normalised.data.tobytes() == bytes(data)
    assert normalised.offsets.tolist() == offsets
    assert normalised.data.dtype == np.uint8


@settings(deadline=None)  # a busy machine is no failure
@given(st.text(st.sampled_from("a\r\n\x0b\u2028é"), max_size=40))
def test_lines_end_where_editors_end_them(text: str) -> None:
    r"""A line starts after \n, \r\n and \r, and after nothing else."""
    expected = [0] + [
        i + 1
        for i, character in enumerate(text)
        if character == "\n" or (character == "\r" and text[i + 1 : i + 2] != "\n")
    ]
    assert normalise.line_starts(text).tolist() == expected


@settings(deadline=None)  # a busy machine is no failure
@given(TEXTS)
def test_layout_and_quotes_do_not_count(text: str) -> None:
    """Re-indenting and other quotes leave the normalised bytes as they were."""
    changed = "".join(f"{character} \t\u2003\r\n" for character in text).replace('"', "`")
    assert normalise.text(changed).data.tobytes() == normalise.text(text).data.tobytes()
