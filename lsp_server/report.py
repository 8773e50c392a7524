"""What `check` answers: as JSON, and for a person, with the lines of the text beside those of its source."""

from __future__ import annotations

import difflib
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lsp_server.documents import Snapshot

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator, Sequence

    from attribution.index import Match, Source
    from lsp_server.attribute import Checked
    from lsp_server.targets import Target

TAB_CELLS = 4
# Of a long passage the head and the tail are enough to know it again.
HEAD_ROWS = 12
TAIL_ROWS = 4

_SEPARATOR = " │ "
_LEAST_CELLS = 24  # of a column; where two of these do not fit, only the user's lines are shown


@dataclass(frozen=True, slots=True)
class Result:
    """What was found in one text; of one in which nothing was found the text itself is not kept."""

    target: Target
    matches: tuple[Match, ...]
    checked: Checked

    @property
    def not_allowed(self) -> tuple[Match, ...]:
        """Return the matches that the policy does not allow."""
        return tuple(match for match in self.matches if match.decision != "allow")


def as_json(results: Sequence[Result], skipped: Counter[str]) -> dict[str, Any]:
    """Return the answer of `check --json`, as the contract has it, with what was passed over by reason."""
    return {
        "version": 1,
        "results": [
            {
                "file": result.target.name,
                "checked": result.checked.to_json(),
                "matches": [match.to_json() for match in result.matches],
            }
            for result in results
        ],
        "skipped": dict(sorted(skipped.items())),
    }


def for_a_person(
    results: Sequence[Result], width: int, excerpt: Callable[[Source], str | None], *, allowed: bool
) -> Iterator[str]:
    """Yield the lines of the answer, fitted to a terminal's width in cells.

    `excerpt` gives the lines of a source where they are kept. `allowed`: matches that the policy allows too. Files that
    were found in a folder are named only where something is found in them, and summed up at the end.
    """
    for result in results:
        shown = result.matches if allowed else result.not_allowed
        if result.target.named or shown:
            yield f"{plain(result.target.name)}: {sentence(result.checked, shown)}"
        for match in shown:
            yield heading(match)
            yield from _lines(result.target.text, match, width, excerpt)
    if any(not result.target.named for result in results):
        yield summary(results)
    hidden = 0 if allowed else sum(len(result.matches) - len(result.not_allowed) for result in results)
    if hidden:
        yield f"{_counted(hidden, 'passage')} that the policy allows; --all shows them"


def sentence(checked: Checked, matches: Sequence[Match]) -> str:
    """Return what was searched and how many passages were found, in one line."""
    if checked.state == "not_checked":
        return f"not checked: {checked.reason}"
    against = f"checked against {_scope(checked)} in {checked.elapsed_ms:.2f} ms"
    if not matches:
        return f"{against}: nothing found, which does not mean that it is original"
    return f"{against}: {_counted(len(matches), 'passage')} found"


def summary(results: Sequence[Result]) -> str:
    """Return how much was checked and found in all, in one line."""
    unchecked = [result.checked for result in results if result.checked.state == "not_checked"]
    if unchecked:
        return f"{len(unchecked):,} of {_counted(len(results), 'file')} not checked: {unchecked[0].reason}"
    passages = sum(len(result.not_allowed) for result in results)
    files = sum(bool(result.not_allowed) for result in results)
    found = f"{_counted(passages, 'passage')} found in {files:,} of them"
    nothing = "nothing found, which does not mean that it is original"
    against = _scope(results[0].checked)
    return f"{_counted(len(results), 'file')} checked against {against}: {found if passages else nothing}"


def heading(match: Match) -> str:
    """Return what a match is, and a line for each of its sources."""
    kind = "possible renamed copy, " * (match.kind == "renamed")
    verdict = {"allow": ", allowed by the policy", "block": ", blocked by the policy"}.get(match.decision, "")
    conflict = ", licences conflict" * match.license_conflict
    place = f"lines {match.start_line}-{match.end_line}"
    head = f"  {place}, {kind}{match.run} characters, {match.classification}{conflict}{verdict}"
    if match.source_count > len(match.sources):
        least = "at least " * (match.classification == "common")
        head += f", {least}{match.source_count} sources, of which"
    return "\n".join([head, *(f"    {plain(_cited(source))}" for source in match.sources)])


def named_licenses(source: Source) -> str:
    """Return a source's licences for a person."""
    return " or ".join(source.licenses) or "no licence known"


def side_by_side(yours: Sequence[str], theirs: Sequence[str], first: tuple[int, int], width: int) -> list[str]:
    """Return two texts' lines in two columns that fill a width; equal lines stand side by side.

    `first`: the numbers of their first lines. White space does not count when lines are compared.
    """
    cells = (width - len(_SEPARATOR) - 4) // 2
    left, right = (_numbered(lines, number, cells) for lines, number in zip((yours, theirs), first, strict=True))
    rows = [
        f"    {_padded(left[ours] if ours is not None else '', cells)}{_SEPARATOR}"
        f"{right[its] if its is not None else ''}".rstrip()
        for ours, its in _aligned(yours, theirs)
    ]
    return _shortened(rows)


def plain(text: str) -> str:
    """Return a text without what a terminal would take for a command: a file or a source may hold anything."""
    return "".join(character if _is_shown(character) else "�" for character in text.expandtabs(TAB_CELLS))


def _lines(text: str, match: Match, width: int, excerpt: Callable[[Source], str | None]) -> list[str]:
    yours = _split(text)[match.start_line - 1 : match.end_line]
    source = match.sources[0] if match.sources else None
    theirs = excerpt(source) if source and width >= 2 * _LEAST_CELLS else None
    if source is None or theirs is None:
        return _shortened([f"    {line}".rstrip() for line in _numbered(yours, match.start_line, width - 4)])
    return side_by_side(yours, _split(theirs), (match.start_line, source.start_line), width)


def _cited(source: Source) -> str:
    name = " ".join(filter(None, (source.name, source.revision)))
    conflict = " (licences conflict)" * source.license_conflict
    return f"{name}  {source.path}:{source.start_line}-{source.end_line}  {named_licenses(source)}{conflict}"


def _split(text: str) -> list[str]:
    """Return the lines as an editor counts them: `str.splitlines` ends them at form feeds too."""
    snapshot = Snapshot("", "", 0, text.removesuffix("\n"))
    bounds = (snapshot.line_bounds(line) for line in range(len(snapshot.line_starts)))
    return [snapshot.text[start:end] for start, end in bounds]


def _aligned(yours: Sequence[str], theirs: Sequence[str]) -> Iterator[tuple[int | None, int | None]]:
    """Yield the rows as pairs of line indexes, None where a column has no line."""
    ours, its = (["".join(line.split()) for line in lines] for lines in (yours, theirs))
    for _, i1, i2, j1, j2 in difflib.SequenceMatcher(None, ours, its, autojunk=False).get_opcodes():
        for k in range(max(i2 - i1, j2 - j1)):
            yield (i1 + k if i1 + k < i2 else None), (j1 + k if j1 + k < j2 else None)


def _numbered(lines: Sequence[str], first: int, cells: int) -> list[str]:
    digits = len(str(first + len(lines)))
    return [f"{number:{digits}} {_cut(plain(line), cells - digits - 1)}" for number, line in enumerate(lines, first)]


def _shortened(rows: list[str]) -> list[str]:
    hidden = len(rows) - HEAD_ROWS - TAIL_ROWS
    if hidden <= 1:
        return rows
    return [*rows[:HEAD_ROWS], f"    … {hidden} more lines", *rows[-TAIL_ROWS:]]


def _cut(text: str, cells: int) -> str:
    if _cells(text) <= cells:
        return text
    taken, used = 0, 1  # one for the mark
    while used + _cells(text[taken]) <= cells:
        used += _cells(text[taken])
        taken += 1
    return f"{text[:taken]}…"


def _padded(text: str, cells: int) -> str:
    return text + " " * (cells - _cells(text))


def _cells(text: str) -> int:
    """Return how many cells of a terminal a text fills: East Asian characters two, combining ones none (UAX 11)."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )


def _is_shown(character: str) -> bool:
    return unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}


def _scope(checked: Checked) -> str:
    documents = sum(index["documents"] for index in checked.indexes)
    names = ", ".join(str(index["name"]) for index in checked.indexes)
    partly = f" (not all: {checked.reason})" if checked.reason else ""
    textless = [str(index["name"]) for index in checked.indexes if index.get("confirmed_by") == "hashes"]
    shown = f" ({', '.join(textless)}: no text kept, passages as far as hashes confirm them)" if textless else ""
    return f"{_counted(documents, 'document')} of {names}{partly}{shown}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
