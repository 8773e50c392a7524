"""Opt-outs: whom they cover, and which files of them are understood."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from attribution.errors import OptOutError
from attribution.optout import OptOuts, read

if TYPE_CHECKING:
    from pathlib import Path


def optouts(tmp_path: Path, *entries: object) -> OptOuts:
    """Write lines and read them."""
    path = tmp_path / "optouts.jsonl"
    path.write_text("\n".join(json.dumps(entry) for entry in entries) + "\n", encoding="utf-8")
    return read(path)


@pytest.mark.parametrize(
    ("name", "url", "covered"),
    [
        ("Ann/tool", "", True),
        ("ann/other", "", True),
        ("annabel/tool", "", False),
        ("bob/ann", "", False),
        ("ann", "", False),  # a package of that name is not the account
        ("tool", "https://github.com/ann/tool", True),
        ("tool", "https://www.github.com/Ann", True),
        ("tool", "git+ssh://git@github.com:ann/tool.git", True),
        ("tool", "https://raw.githubusercontent.com/ann/tool/main/{path}", True),
        ("tool", "https://gitlab.com/%61nn/group/tool/-/blob/1/{path}", True),
        ("tool", "https://notgithub.com/ann/tool", False),
        ("tool", "https://example.org/?from=github.com", False),
        ("tool", "https://example.org/ann/tool", False),
        ("Carl/Lib", "", True),
        ("carl/lib2", "", False),
        ("carl/libs", "https://github.com/carl/lib.git", True),
        ("Left-Pad", "", True),
        ("left-pad2", "", False),
        ("x/left-pad", "", False),
    ],
)
def test_whom_opt_outs_cover(tmp_path: Path, name: str, url: str, *, covered: bool) -> None:
    """Owners by name or address, repositories by owner/name, packages by their exact name; case does not matter."""
    given = optouts(tmp_path, {"optout_owners": ["ANN"]}, {"optout_repos": ["carl/LIB", "left-pad"], "issue": 7})
    assert given.covers(name, url) is covered


def test_entries_as_people_write_them(tmp_path: Path) -> None:
    """Addresses, @names, spaces and `.git` are understood; empty names and blank lines are passed over."""
    given = optouts(
        tmp_path,
        {"optout_owners": [" @Ann ", "https://github.com/Bob/", ""], "optout_repos": []},
        {"optout_repos": ["https://github.com/Carl/lib.git", "git@github.com:dora/x", "e/f/"]},
    )
    assert given == OptOuts(frozenset({"ann", "bob"}), frozenset({"carl/lib", "dora/x", "e/f"}))
    (tmp_path / "empty").write_text("\n \n", encoding="utf-8")
    assert not read(tmp_path / "empty")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'["ann"]', "no object with"),
        (b'{"owners": ["ann"]}', "no object with"),
        (b'{"optout_owners": "ann"}', "must be lists"),
        (b'{"optout_repos": [1]}', "is no name"),
        (b'{"optout_owners": ["ann/tool"]}', "belong into optout_repos"),
        (b'{"optout_owners": ["https://github.com/ann/tool"]}', "belong into optout_repos"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_line_that_is_not_understood_is_named(tmp_path: Path, line: bytes, reason: str) -> None:
    """An entry that would silently cover nobody is an error that names file and line."""
    path = tmp_path / "optouts.jsonl"
    path.write_bytes(b'{"optout_owners": ["bob"]}\n' + line)
    with pytest.raises(OptOutError, match=reason) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "line 2" in str(caught.value) or reason == "not UTF-8"


def test_a_missing_file(tmp_path: Path) -> None:
    """A file that is not there is an error of one sentence."""
    with pytest.raises(OptOutError, match="cannot be read"):
        read(tmp_path / "none.jsonl")
