"""What a person asks to be checked -> texts: files, folders, standard input, the lines added since a revision.

A file that was named must be good; of those that are found in a folder or a diff, the ones that are no source text are
passed over and counted by reason.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from attribution.documents import MAX_DOCUMENT_BYTES
from attribution.filetypes import is_skipped_folder, is_source
from lsp_server.documents import read_source, source_text
from lsp_server.errors import FileInputError, GitError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attribution.index import Match

STDIN = "-"

_HUNK = re.compile(rb"@@ -\d+(?:,(?P<removed>\d+))? \+(?P<first>\d+)(?:,(?P<added>\d+))? @@")
_ESCAPE = re.compile(rb"\\([0-7]{3}|.)")
_ESCAPED = {b"a": b"\a", b"b": b"\b", b"t": b"\t", b"n": b"\n", b"v": b"\v", b"f": b"\f", b"r": b"\r"}


@dataclass(frozen=True, slots=True)
class Target:
    """A text to be checked; `path` is None for standard input. `added`: the 1-based lines that count, None for all.

    `named` tells a file that the person named from one that was found in a folder or a diff.
    """

    name: str
    path: Path | None
    text: str
    added: frozenset[int] | None = None
    named: bool = True

    def counts(self, match: Match) -> bool:
        r"""Return whether a match takes in text of a line that counts; lines end at \n, as git has it."""
        if self.added is None:
            return True
        line = 1 + self.text.count("\n", 0, match.start)
        pieces = self.text[match.start : match.end].split("\n")
        return any(number in self.added and piece.strip() for number, piece in enumerate(pieces, line))


@dataclass(slots=True)
class Targets:
    """Yields the texts; `skipped` counts, by reason, what was passed over so far."""

    names: Sequence[str]
    since: str | None = None
    skipped: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[Target]:
        """Yield what is to be checked; raises FileInputError and GitError."""
        if self.since is not None:
            yield from self._changed(self.since)
            return
        for name in self.names:
            path = Path(name)
            if name == STDIN:
                yield Target(name, None, source_text(sys.stdin.buffer.read(), "standard input"))
            elif path.is_dir():
                yield from self._found(sorted(files_below(path)))
            else:
                yield Target(name, path, read_source(path))

    def _found(self, paths: Sequence[Path], added: dict[Path, frozenset[int]] | None = None) -> Iterator[Target]:
        for path in paths:
            try:
                text = read_source(path, MAX_DOCUMENT_BYTES)
            except FileInputError as error:
                self.skipped[error.reason] += 1
            else:
                yield Target(str(path), path, text, added[path] if added else None, named=False)

    def _changed(self, revision: str) -> Iterator[Target]:
        root = work_tree()
        if root is None:
            raise GitError(f"{Path.cwd()} is in no git repository; run this inside one, or name files without --diff.")
        commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        if commit.returncode:
            raise GitError(f"git knows no revision {revision!r} here; name a commit, a branch or a tag.")
        diff = _git(*_DIFF, commit.stdout.decode().strip(), "--", *(name for name in self.names if name != STDIN))
        if diff.returncode:
            raise GitError(f"git cannot compare: {_last_line(diff.stderr)}; mend that, or name files without --diff.")
        added = {_shortest(root / name): lines for name, lines in added_lines(diff.stdout).items() if lines}
        files = [path for path in sorted(added) if path.is_file() and not path.is_symlink()]
        yield from self._found(files, added)


# Whatever the user's configuration says, so that the answer can be read and no program of theirs runs.
_DIFF = (
    *("diff", "--unified=0", "--no-color", "--no-ext-diff", "--no-textconv", "--no-relative", "--find-renames"),
    *("--diff-filter=d", "--ignore-submodules", "--src-prefix=a/", "--dst-prefix=b/"),
)


def work_tree(folder: Path | None = None) -> Path | None:
    """Return the root of the git work tree that holds a folder, None where none does; raises GitError without git."""
    found = _git("rev-parse", "--show-toplevel", folder=folder)
    return None if found.returncode else Path(found.stdout.decode(errors="surrogateescape").removesuffix("\n"))


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the source files of a folder: in a git work tree those that git does not ignore, else all.

    Links are not followed. A folder that git ignores but that was asked for is read whole.
    """
    for path in _listed(folder) or _walked(folder):
        if path.is_symlink():
            continue
        if path.is_dir():  # a repository inside the repository
            yield from files_below(path)
        elif is_source(path.as_posix(), docs=False) and path.is_file():
            yield path


def _listed(folder: Path) -> list[Path]:
    try:
        if not _git("check-ignore", "--quiet", ".", folder=folder).returncode:
            return []
        names = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", folder=folder).stdout
    except GitError:
        return []
    return [folder / name for name in set(names.decode(errors="surrogateescape").split("\0")) if name]


def _walked(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_skipped_folder(name)]
        yield from (Path(root, name) for name in files)


def added_lines(diff: bytes) -> dict[str, frozenset[int]]:
    """Return the numbers of the lines that a diff without context adds, by the path of the file after it.

    Lines are counted off as the hunks' heads announce them: what an added line holds is never taken for a head.
    """
    found: dict[str, set[int]] = {}
    name = ""
    left = 0
    for line in diff.split(b"\n"):
        if left:
            left -= not line.startswith(b"\\")
        elif line.startswith(b"+++ "):
            name = _path_after(line.removeprefix(b"+++ "))
        elif hunk := _HUNK.match(line):
            added = int(hunk["added"] or 1)
            left = added + int(hunk["removed"] or 1)
            found.setdefault(name, set()).update(range(int(hunk["first"]), int(hunk["first"]) + added))
    return {name: frozenset(lines) for name, lines in found.items()}


def _path_after(quoted: bytes) -> str:
    r"""Return the path of a `+++` line: git quotes one with `"`, `\` or control characters in it, as C does."""
    path = quoted.removesuffix(b"\t")  # set behind a path that holds a space
    if path.startswith(b'"'):
        path = _ESCAPE.sub(lambda escape: _unescaped(escape[1]), path[1:-1])
    return path.removeprefix(b"b/").decode(errors="surrogateescape")


def _unescaped(code: bytes) -> bytes:
    return bytes([int(code, 8) & 0xFF]) if code.isdigit() else _ESCAPED.get(code, code)


def _shortest(path: Path) -> Path:
    """Return a path as the person would write it: relative to the current folder where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _git(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    command = ["git", "-c", "core.quotePath=false", "-c", "core.fsmonitor=false", *words]
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, check=False)
    except OSError as error:
        raise GitError(f"git cannot be started ({error.strerror}); install it, or name files.") from error


def _last_line(errors: bytes) -> str:
    return (errors.decode(errors="replace").strip().splitlines() or ["it does not say why"])[-1]
