"""From a document to the prompt's text."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lsp_server import prompt
from lsp_server.documents import Snapshot


def document(text: str, uri: str = "file:///w/repo/src/a%20b.py") -> Snapshot:
    """Return a document with the text."""
    return Snapshot(uri, "python", 1, text)


def test_prefix_suffix_and_path() -> None:
    r"""The cursor splits the text, line ends become `\\n`, and the path is the one below the root."""
    fim = prompt.build(document("a\r\nb\rc\n"), 4, (), Path("/w/repo"))
    assert (fim.prefix, fim.suffix, fim.path, fim.repo) == ("a\nb", "\nc\n", "src/a b.py", "repo")


def test_paths_outside_a_workspace() -> None:
    """A file of no workspace folder, and a document that is no file, are known by their names alone."""
    assert prompt.relative_path("file:///x/y.py", Path("/w")) == ("y.py", "w")
    assert prompt.relative_path("untitled:Untitled-1", None) == ("Untitled-1", "")


@given(st.integers(0, 40_000), st.integers(0, 200))
def test_a_large_file_is_cut_where_typing_does_not_move_the_cut(offset: int, typed: int) -> None:
    """The prefix is at most its limit, ends at the cursor, and mostly begins where it began some keys ago."""
    text = "".join(f"line_{number} = {number}\n" for number in range(3000))
    fim = prompt.build(document(text), offset, (), None)
    assert len(fim.prefix) <= prompt.MAX_PREFIX_CHARS
    assert text[:offset].endswith(fim.prefix)
    assert fim.suffix == text[offset : offset + prompt.MAX_SUFFIX_CHARS]
    later = prompt.build(document(text[:offset] + "x" * typed + text[offset:]), offset + typed, (), None)
    assert later.prefix.startswith(fim.prefix) or len(later.prefix) < len(fim.prefix) + typed


def test_one_line_without_end_is_still_cut() -> None:
    """A minified file of one line does not make a prompt of its own size."""
    assert len(prompt.build(document("x" * 100_000), 90_000, (), None).prefix) == prompt.MAX_PREFIX_CHARS
