"""From what the model generated to what is inserted: scope end, overlap with what follows, trailing space. Pure.

The model goes on until it is stopped. `is_finished` says, on the text so far, that nothing behind it can be shown, so
that the daemon is freed; `finish` cuts the same text to what is shown. Both read a `Scope`: what is round the cursor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lsp_server.languages import Language

Kind = Literal["line", "block"]

_TAB_COLUMNS = 4
_CLOSERS = {")": "(", "]": "[", "}": "{"}
_QUOTES = "\"'`"
# `end` closes a block in Ruby, Lua, Elixir, Julia and shells; the words that open one end their line.
_END_OPENERS = re.compile(r"(?:\b(?:do|then|else|begin|function\s*\(.*\))|\|[\w\s,]*\|)\s*$")
_END_CLOSER = re.compile(r"(?:end|fi|done|esac)\b")


@dataclass(frozen=True, slots=True)
class Scope:
    """What stands round the cursor: the rest of its line on both sides, and the lines that follow.

    `indent` is in columns, a tab being four: the least indentation that a later line of a block may have.
    """

    kind: Kind
    left: str
    right: str
    following: str
    indent: int
    language: Language

    @property
    def next_line(self) -> str:
        """Return the first line after the cursor's that is not blank, without its indentation; empty at the end."""
        return next((line.strip() for line in self.following.split("\n") if line.strip()), "")


def scope_at(text: str, offset: int, language: Language) -> Scope:
    r"""Return the scope of a cursor; the text's line ends are `\\n`."""
    left = text[text.rfind("\n", 0, offset) + 1 : offset]
    line_end = text.find("\n", offset)
    line_end = len(text) if line_end < 0 else line_end
    right, following = text[offset:line_end], text[line_end + 1 :]
    opens = opens_block(left, language)
    block = not right.strip() and (opens or not left.strip())
    return Scope("block" if block else "line", left, right, following, columns(left) + bool(opens), language)


def opens_block(left: str, language: Language) -> bool:
    """Return whether the line, up to the cursor, opens a block that stands on the lines below it."""
    code = left.split(f" {language.comment}", maxsplit=1)[0].rstrip() if language.comment else left.rstrip()
    if language.blocks == "end":
        return bool(_END_OPENERS.search(code))
    return code.endswith((":", "{", "(", "[") if language.blocks == "indent" else ("{", "(", "["))


def columns(line: str) -> int:
    """Return the width of a line's indentation."""
    expanded = line.expandtabs(_TAB_COLUMNS)
    return len(expanded) - len(expanded.lstrip())


def is_finished(text: str, scope: Scope) -> bool:
    """Return whether what the model may still generate would be cut off anyway."""
    if scope.kind == "line":
        return "\n" in text
    end = _block_end(text.split("\n")[:-1], scope)
    return end is not None


def finish(text: str, scope: Scope, *, whole: bool) -> str:
    """Return the text to insert; empty when nothing of it is worth showing.

    `whole` is False when a limit cut the model off: the last line of a block is then half a line, and is dropped.
    """
    if scope.kind == "line":
        text = text.split("\n", 1)[0]
    else:
        lines = text.split("\n")
        if not whole and len(lines) > 1:
            lines.pop()
        text = "\n".join(lines[: _block_end(lines, scope)])
    text = _without_overlap(text, scope).rstrip()
    if not text.strip() or _repeats_next_line(text, scope):
        return ""
    return text


def _block_end(lines: list[str], scope: Scope) -> int | None:
    """Return how many of the lines belong to the block, None where it has not ended in them.

    It ends before a line that is indented less than the scope, save one that closes it and that the file does not have
    yet; before the line that the file goes on with; and at a blank line where the block stands at the file's own level,
    because there nothing else ends a model that never stops.
    """
    begun = bool(lines and lines[0].strip())
    for number, line in enumerate(lines[1:], 1):
        if not line.strip():
            if begun and scope.indent == 0:
                return number
            continue
        if scope.next_line and line.strip() == scope.next_line and _names_something(line):
            return number
        if begun and columns(line) < scope.indent:
            return number + (_closes(line, scope) and not _closes_already(scope))
        begun = True
    return None


def _names_something(line: str) -> bool:
    """Return whether a line is more than brackets, so that meeting it again means repetition."""
    return any(character.isalnum() for character in line)


def _closes(line: str, scope: Scope) -> bool:
    closer = line.strip()
    if columns(line) != max(scope.indent - 1, 0) or not opens_block(scope.left, scope.language):
        return False
    return bool(_END_CLOSER.match(closer)) if scope.language.blocks == "end" else closer[0] in _CLOSERS


def _closes_already(scope: Scope) -> bool:
    """Return whether the file goes on with the line that closes the block."""
    for line in scope.following.split("\n"):
        if line.strip():
            return columns(line) == columns(scope.left) and (
                line.strip()[0] in _CLOSERS or bool(_END_CLOSER.match(line.strip()))
            )
    return False


def _without_overlap(text: str, scope: Scope) -> str:
    """Return the text without an end that stands behind the cursor already.

    The longest end of the text that the rest of the line begins with goes, where it is that whole rest, or where it is
    only closing brackets and quotes that the text itself did not open.
    """
    right = scope.right.strip()
    text = text if not right else text.rstrip()
    for size in range(min(len(text), len(right)), 0, -1):
        end = text[-size:]
        if right.startswith(end) and (size == len(right) or not _names_something(end)):
            return text[:-size] if _unopened(text, end, scope.left) else text
    return text


def _unopened(text: str, end: str, left: str) -> bool:
    """Return whether the brackets and quotes of the end close what stands before the text, not what the text opened."""
    for character in end:
        opener = _CLOSERS.get(character)
        if opener and text.count(character) <= text.count(opener):
            return False
        if character in _QUOTES and text.count(character) % 2 == 0 and left.count(character) % 2 == 0:
            return False
    return True


def _repeats_next_line(text: str, scope: Scope) -> bool:
    line = (scope.left + text).strip()
    return "\n" not in text and line == scope.next_line and _names_something(line)
