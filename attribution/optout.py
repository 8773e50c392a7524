"""Who is not to be in a corpus: lines of `{"optout_owners": [...], "optout_repos": [...]}`, as The Stack keeps them.

An owner covers every repository of that name's account; a repository is `owner/name`, or the exact name of a package.
Case does not matter, as on the forges. A source is known by its name and by its address on one of the forges below.
Other keys of a line (the issue it came from) are left alone.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from attribution.errors import OptOutError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWNERS, REPOS = "optout_owners", "optout_repos"

_FORGES = r"github\.com|gitlab\.com|bitbucket\.org|codeberg\.org|gitee\.com|raw\.githubusercontent\.com"
_ADDRESS = re.compile(
    rf"(?:[a-z+]+://)?(?:[^/@]*@)?(?:www\.|api\.|gist\.)?(?:{_FORGES})[/:](?:repos/)?"
    r"(?P<owner>[^/?#]+)(?:/(?P<repo>[^/?#]+))?"
)


@dataclass(frozen=True, slots=True)
class OptOuts:
    """Owners, and repositories or packages, in lower case."""

    owners: frozenset[str] = frozenset()
    repos: frozenset[str] = frozenset()

    def __or__(self, other: OptOuts) -> OptOuts:
        """Return what either covers."""
        return OptOuts(self.owners | other.owners, self.repos | other.repos)

    def __bool__(self) -> bool:
        """Whether there is any entry."""
        return bool(self.owners or self.repos)

    def covers(self, name: str, url: str) -> bool:
        """Return whether the source of that name and address is opted out."""
        return bool(self.met(name, url))

    def met(self, name: str, url: str) -> OptOuts | None:
        """Return the entries that opt the source of that name and address out; None if none does.

        It takes two microseconds: an index may have millions of sources, and has to forget within a second.
        """
        plain = name.lower()
        owners, repos = [plain.partition("/")[0]] if "/" in plain else [], [plain]
        if "%" in url:
            url = unquote(url)
        if address := _ADDRESS.match(url.lower()):
            owner, repo = address["owner"], address["repo"]
            owners.append(owner)
            if repo:
                repos.append(f"{owner}/{repo.removesuffix('.git')}")
        if self.owners.isdisjoint(owners) and self.repos.isdisjoint(repos):
            return None
        return OptOuts(self.owners.intersection(owners), self.repos.intersection(repos))


def read(path: Path) -> OptOuts:
    """Return the opt-outs of a JSONL file. Raises `OptOutError`, naming the line, for a line that is not understood."""
    owners, repos = set(), set()
    for number, line in _lines(path):
        entry = _entry(line, path, number)
        owners |= {_checked(value, path, number, owner=True) for value in entry.get(OWNERS, [])}
        repos |= {_checked(value, path, number, owner=False) for value in entry.get(REPOS, [])}
    return OptOuts(frozenset(owners - {""}), frozenset(repos - {""}))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise OptOutError(f"{path} cannot be read ({error.strerror}); give a file of opt-outs.") from error
    except UnicodeError as error:
        raise OptOutError(f"{path} is not UTF-8; give a file of JSON lines.") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def _entry(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _bad(path, number, "it is not JSON") from error
    if not isinstance(entry, dict) or not entry.keys() & {OWNERS, REPOS}:
        raise _bad(path, number, f"it is no object with {OWNERS} or {REPOS}")
    if not all(isinstance(entry.get(key, []), list) for key in (OWNERS, REPOS)):
        raise _bad(path, number, f"{OWNERS} and {REPOS} must be lists")
    return entry


def _checked(value: object, path: Path, number: int, *, owner: bool) -> str:
    """Return an entry as it is compared: without the address of the forge, `@`, `.git` and capitals."""
    if not isinstance(value, str):
        raise _bad(path, number, f"{value!r} is no name")
    plain = value.strip().lower().rstrip("/")
    if (address := _ADDRESS.match(plain)) and (owner or address["repo"]):
        plain = address["owner"] if owner and not address["repo"] else f"{address['owner']}/{address['repo']}"
    plain = plain.removeprefix("@").removesuffix(".git")
    if owner and "/" in plain:
        raise _bad(path, number, f"{value!r} is no owner; repositories belong into {REPOS}")
    return plain


def _bad(path: Path, number: int, what: str) -> OptOutError:
    return OptOutError(f"{path}, line {number}: {what}; correct the line.")
