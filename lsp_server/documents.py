r"""The text of a document, and the only place where an editor's positions become offsets.

An offset is a 0-based index of a Unicode code point in the text. A position is what LSP 3.18 says: a line, ended by
`\n`, `\r\n` or `\r` and by nothing else, and a character counted in the negotiated encoding's units. pygls splits lines
as `str.splitlines` does, at form feeds and U+2028 too, and then puts edits into the wrong line, so that it is not asked
here. Positions outside the text are clamped as the standard demands: to the end of their line, to the end of the text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

from lsp_server.errors import FileInputError

if TYPE_CHECKING:
    from pathlib import Path

Encoding = Literal["utf-8", "utf-16", "utf-32"]

_LINE_END = re.compile(r"\r\n|\n|\r")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class Position(NamedTuple):
    """A place between two characters: a 0-based line, and a character in units of the negotiated encoding."""

    line: int
    character: int


class Change(NamedTuple):
    """One content change of `textDocument/didChange`; without `start` and `end` it replaces the whole text."""

    text: str
    start: Position | None = None
    end: Position | None = None


@dataclass(frozen=True)
class Snapshot:
    """A document as it was at one version; handlers get these, so that an edit cannot change what they read."""

    uri: str
    language: str
    version: int
    text: str

    @cached_property
    def line_starts(self) -> tuple[int, ...]:
        """Return the offset at which each line begins; a text that ends with a line end has an empty last line."""
        return (0, *(match.end() for match in _LINE_END.finditer(self.text)))

    def line_of(self, offset: int) -> int:
        """Return the 0-based line that holds the offset."""
        return bisect_right(self.line_starts, offset) - 1

    def line_bounds(self, line: int) -> tuple[int, int]:
        """Return the offsets of a line's first character and of its end, its line end not included."""
        start = self.line_starts[line]
        after = self.line_starts[line + 1] if line + 1 < len(self.line_starts) else len(self.text)
        return start, start + len(self.text[start:after].rstrip("\r\n"))

    def offset_at(self, position: Position, encoding: Encoding) -> int:
        """Return the offset of a position, clamped to its line and to the text."""
        if position.line >= len(self.line_starts):
            return len(self.text)
        start, end = self.line_bounds(max(position.line, 0))
        return start + _code_points(self.text[start:end], max(position.character, 0), encoding)

    def position_at(self, offset: int, encoding: Encoding) -> Position:
        """Return the position of an offset; one inside or behind a line end is the end of that line."""
        offset = min(max(offset, 0), len(self.text))
        line = self.line_of(offset)
        start, end = self.line_bounds(line)
        return Position(line, _units(self.text[start : min(offset, end)], encoding))

    def changed(self, changes: tuple[Change, ...], version: int, encoding: Encoding) -> Snapshot:
        """Return the document after the changes, each of which speaks of the text that the one before it left."""
        after = self
        for change in changes:
            after = Snapshot(self.uri, self.language, version, after._edited(change, encoding))
        return after

    def _edited(self, change: Change, encoding: Encoding) -> str:
        if change.start is None or change.end is None:
            return change.text
        start, end = self.offset_at(change.start, encoding), self.offset_at(change.end, encoding)
        if end < start:  # the standard has start before end; an editor that errs must not duplicate text
            start, end = end, start
        text = self.text[:start] + change.text + self.text[end:]
        return _joined_surrogates(text) if _SURROGATE.search(change.text) else text


def read_source(path: Path, max_bytes: int | None = None) -> str:
    """Return the text of a file, its line ends as they are; raises FileInputError where it is no UTF-8 text.

    `max_bytes`: how much a file may hold; a larger one is an error too.
    """
    try:
        with path.open("rb") as file:
            data = file.read(-1 if max_bytes is None else max_bytes + 1)
    except IsADirectoryError:
        raise FileInputError(f"{path} is a folder; name a file.", "a folder") from None
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}); name a file that can."
        raise FileInputError(message, "unreadable") from error
    if max_bytes is not None and len(data) > max_bytes:
        size = f"larger than {max_bytes >> 20} MiB"
        raise FileInputError(f"{path} is {size}; name a smaller file.", size)
    return source_text(data, str(path))


def source_text(data: bytes, name: str) -> str:
    """Return the text of a file's bytes, its line ends as they are; raises FileInputError where it is no UTF-8 text."""
    if b"\0" in data:
        raise FileInputError(f"{name} is a binary file; name a file of source text.", "binary")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileInputError(f"{name} is not UTF-8 (byte {error.start}); save it as UTF-8.", "not UTF-8") from error


def offset_of(snapshot: Snapshot, line: int, column: int) -> int:
    """Return the offset of a 1-based line and column in code points, as the command line counts.

    Raises FileInputError where the text has no such line, or the line no such column.
    """
    lines = len(snapshot.line_starts)
    if not 1 <= line <= lines:
        message = f"line {line} is outside the file; it has {lines} lines."
        raise FileInputError(message)
    start, end = snapshot.line_bounds(line - 1)
    if not 1 <= column <= end - start + 1:
        message = f"column {column} is outside line {line}; the cursor can stand at 1 to {end - start + 1}."
        raise FileInputError(message)
    return start + column - 1


def _code_points(line: str, units: int, encoding: Encoding) -> int:
    """Return how many code points the first `units` units of the line are; half a character counts as before it."""
    if encoding == "utf-32" or line.isascii():
        return min(units, len(line))
    if encoding == "utf-8":
        return len(line.encode("utf-8", "surrogatepass")[:units].decode("utf-8", "ignore"))
    passed = 0
    for index, character in enumerate(line):
        passed += 2 if ord(character) > 0xFFFF else 1  # noqa: PLR2004 - the end of the Basic Multilingual Plane
        if passed > units:
            return index
    return len(line)


def _units(text: str, encoding: Encoding) -> int:
    """Return the length of a text in units of the encoding."""
    if encoding == "utf-32" or text.isascii():
        return len(text)
    if encoding == "utf-8":
        return len(text.encode("utf-8", "surrogatepass"))
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _joined_surrogates(text: str) -> str:
    """Return the text with surrogate pairs that two edits brought one by one made into the characters that they are."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
