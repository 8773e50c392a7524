"""Positions, offsets and edits, against the definitions of LSP 3.18."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.documents import Change, Encoding, Position, Snapshot, offset_of, read_source
from lsp_server.errors import FileInputError

if TYPE_CHECKING:
    from pathlib import Path

ENCODINGS: tuple[Encoding, ...] = ("utf-8", "utf-16", "utf-32")
# The separators at which str.splitlines splits and LSP does not, line ends of all three kinds, and wide characters.
ALPHABET = "ab \t\r\n\x0b\x0c\x1c\x85\u2028\u2029é😀𝒳"
TEXTS = st.text(ALPHABET, max_size=60)


def document(text: str) -> Snapshot:
    """Return a document with the text."""
    return Snapshot("file:///w/a.py", "python", 1, text)


@given(TEXTS, st.data())
def test_offset_and_position_are_inverse(text: str, data: st.DataObject) -> None:
    """Every offset that is not inside a line end has a position in each encoding that leads back to it."""
    offset = data.draw(st.integers(0, len(text)))
    if text[offset - 1 : offset + 1] == "\r\n":
        return
    snapshot = document(text)
    for encoding in ENCODINGS:
        assert snapshot.offset_at(snapshot.position_at(offset, encoding), encoding) == offset


@given(TEXTS, st.integers(-3, 20), st.integers(-3, 90), st.sampled_from(ENCODINGS))
def test_every_position_is_clamped_into_the_text(text: str, line: int, character: int, encoding: Encoding) -> None:
    """Positions outside the text are moved to the end of their line or of the text, never beyond."""
    snapshot = document(text)
    offset = snapshot.offset_at(Position(line, character), encoding)
    assert 0 <= offset <= len(text)
    if 0 <= line < len(snapshot.line_starts):
        start, end = snapshot.line_bounds(line)
        assert start <= offset <= end


@given(TEXTS, TEXTS, st.data())
def test_an_incremental_change_is_the_splice_of_its_offsets(text: str, new: str, data: st.DataObject) -> None:
    """A change of a range gives the text in which exactly that range is replaced, in each encoding."""
    snapshot = document(text)
    places = [offset for offset in range(len(text) + 1) if text[offset - 1 : offset + 1] != "\r\n" or offset == 0]
    start, end = sorted((data.draw(st.sampled_from(places)), data.draw(st.sampled_from(places))))
    for encoding in ENCODINGS:
        change = Change(new, snapshot.position_at(start, encoding), snapshot.position_at(end, encoding))
        assert snapshot.changed((change,), 2, encoding).text == text[:start] + new + text[end:]


def test_lines_end_only_where_lsp_ends_them() -> None:
    """A form feed and U+2028 are characters of a line: an edit of the second line lands in the second line."""
    snapshot = document("x = 'a\x0cb\u2028c'\ny = 1\n")
    after = snapshot.changed((Change("2", Position(1, 4), Position(1, 5)),), 2, "utf-16")
    assert after.text == "x = 'a\x0cb\u2028c'\ny = 2\n"
    assert after.version == 2


def test_changes_apply_one_after_the_other() -> None:
    """The second change speaks of the text that the first one left."""
    changes = (Change("", Position(1, 0), Position(1, 1)), Change("α", Position(0, 0), Position(0, 1)))
    assert document("a = '😀'\r\nb\n").changed(changes, 2, "utf-16").text == "α = '😀'\r\n\n"


def test_a_change_without_range_replaces_the_text() -> None:
    """A whole-document change leaves nothing of the old text."""
    assert document("old").changed((Change("new"),), 2, "utf-8").text == "new"


def test_surrogates_sent_one_by_one_become_the_character() -> None:
    """Two edits that bring the halves of a pair leave one astral character, as in the editor."""
    halves = (Change("\ud83d", Position(0, 0), Position(0, 0)), Change("\ude00", Position(0, 1), Position(0, 1)))
    assert document("").changed(halves, 2, "utf-16").text == "😀"


def test_a_reversed_range_is_read_in_order() -> None:
    """A client that sends the end before the start does not duplicate text."""
    change = Change("x", Position(0, 3), Position(0, 1))
    assert document("abcd").changed((change,), 2, "utf-16").text == "axd"


@pytest.mark.parametrize(("line", "column", "offset"), [(1, 1, 0), (1, 4, 3), (2, 1, 4), (2, 3, 6), (3, 1, 7)])
def test_the_command_line_counts_from_one(line: int, column: int, offset: int) -> None:
    """LINE:COL is 1-based in code points, and the cursor stands before that character."""
    assert offset_of(document("aé😀\nbc\n"), line, column) == offset


@pytest.mark.parametrize(
    ("line", "column", "says"), [(0, 1, "it has 3 lines"), (4, 1, "it has 3 lines"), (1, 5, "1 to 4")]
)
def test_a_position_outside_the_file_is_an_error(line: int, column: int, says: str) -> None:
    """The message says where the cursor could stand."""
    with pytest.raises(FileInputError, match=says):
        offset_of(document("aé😀\nbc\n"), line, column)


def test_what_is_no_source_text_is_refused(tmp_path: Path) -> None:
    """Missing, binary, foreign encodings and folders each give one sentence."""
    binary, latin = tmp_path / "b.bin", tmp_path / "l.py"
    binary.write_bytes(b"\x7fELF\0\0")
    latin.write_bytes("é".encode("latin-1"))
    for path, says in (
        (binary, "binary"),
        (latin, "not UTF-8"),
        (tmp_path, "folder"),
        (tmp_path / "no", "cannot be read"),
    ):
        with pytest.raises(FileInputError, match=says):
            read_source(path)
