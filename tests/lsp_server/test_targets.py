"""What is checked: folders as git sees them, and the lines that git says were added, in real repositories."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attribution.index import Match
from lsp_server.errors import FileInputError, GitError
from lsp_server.targets import Target, Targets, added_lines, files_below, work_tree

if TYPE_CHECKING:
    from pathlib import Path


def git(folder: Path, *words: str) -> str:
    """Run git as somebody, whatever is configured on this machine."""
    person = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *person, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty repository with one commit, which is the current folder."""
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "-q")
    git(root, "commit", "-q", "--allow-empty", "-m", "first")
    monkeypatch.chdir(root)
    return root


def committed(root: Path, **files: str) -> None:
    """Write files whose names end in .py, and commit them."""
    for name, text in files.items():
        (root / f"{name}.py").write_bytes(text.encode())
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "more")


SPAN = Match(4, 13, 2, 4, 7, "rare", 1, ())


def spanning(added: set[int] | None) -> Target:
    """Return a text in which SPAN reaches from the second line to the fourth, the third being empty."""
    return Target("a.py", None, "one\ntwo\n\nfour\nfive\n", None if added is None else frozenset(added))


LINES = st.lists(st.sampled_from(["", "a", "+++ b/x.py", "@@ -1 +1 @@", "-- a", "\\ No newline", "b"]), max_size=8)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES, LINES, st.sampled_from(["", "\n"]))
def test_the_added_lines_rebuild_the_new_file(repository: Path, before: list[str], after: list[str], end: str) -> None:
    """Whatever the lines hold, heads of diffs included: without the added ones what is left was there before."""
    file = repository / "x.py"
    file.write_text("\n".join(["begin", *before]) + end)
    git(repository, "add", ".")
    git(repository, "commit", "-q", "--allow-empty", "-m", "x")
    file.write_text("\n".join(["begin", *after]) + "\n")
    targets = list(Targets([], "HEAD"))
    added = targets[0].added if targets else frozenset()
    assert added is not None
    lines = ["begin", *after]
    assert all(1 <= number <= len(lines) for number in added)
    kept = [line for number, line in enumerate(lines, 1) if number not in added]
    old = iter(["begin", *before])
    assert all(line in old for line in kept), "a line that was not added was not there before, in this order"


def test_only_changed_files_are_read_and_only_with_their_added_lines(repository: Path) -> None:
    """Deleted files and deleted lines add nothing; a renamed file adds its new lines alone; any revision will do."""
    twenty = "".join(f"v{n} = {n}\n" for n in range(20))
    committed(repository, same="x = 1\n", gone="y = 2\n", shorter="a = 1\nb = 2\n", old=twenty)
    git(repository, "tag", "v1")
    (repository / "gone.py").unlink()
    (repository / "shorter.py").write_text("a = 1\n")
    git(repository, "mv", "old.py", "new name é.py")
    (repository / "new name é.py").write_text(twenty + "last = 1\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "second")
    (repository / "same.py").write_text("x = 1\nz = 3\n")
    found = {target.name: target.added for target in Targets([], "v1")}
    assert found == {"new name é.py": frozenset({21}), "same.py": frozenset({2})}
    assert {target.name for target in Targets([], "HEAD")} == {"same.py"}
    assert [target.name for target in Targets(["new name é.py"], "v1")] == ["new name é.py"]


def test_the_users_configuration_does_not_change_the_diff(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefixes, colours, relative paths and an external program may be set; run in a folder, all is still found."""
    (repository / "sub").mkdir()
    committed(repository, a="x = 1\n")
    for key, value in {
        "diff.noprefix": "true",
        "diff.mnemonicPrefix": "true",
        "diff.relative": "true",
        "diff.external": "false",
        "color.ui": "always",
        "diff.context": "5",
    }.items():
        git(repository, "config", key, value)
    (repository / "a.py").write_text("x = 1\ny = 2\n")
    monkeypatch.chdir(repository / "sub")
    (target,) = Targets([], "HEAD")
    assert target.added == {2}
    assert target.name == str(repository / "a.py")


def test_files_of_a_diff_that_are_no_text_are_counted(repository: Path) -> None:
    """They end nothing, and are said to have been passed over."""
    (repository / "latin.py").write_bytes(b"x = 1\n")
    committed(repository)
    (repository / "latin.py").write_bytes(b"x = 1\n# caf\xe9\n")
    targets = Targets([], "HEAD")
    assert list(targets) == []
    assert targets.skipped == {"not UTF-8": 1}


@pytest.mark.parametrize("revision", ["no-such", "", "--output=x", "HEAD:a.py", "HEAD..HEAD"])
def test_an_unknown_revision_is_named(repository: Path, revision: str) -> None:
    """What is no commit is an error that says so, never an option of git."""
    with pytest.raises(GitError, match="knows no revision"):
        list(Targets([], revision))
    assert list(repository.glob("x")) == []


def test_outside_a_repository_or_without_git_a_diff_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each error says what is the matter; a folder is still read without git."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(GitError, match="is in no git repository"):
        list(Targets([], "HEAD"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitError, match="git cannot be started"):
        list(Targets([], "HEAD"))
    (tmp_path / "a.py").write_text("x = 1\n")
    assert list(files_below(tmp_path)) == [tmp_path / "a.py"]


def test_a_folder_is_read_as_git_sees_it(repository: Path) -> None:
    """Ignored files are left out, new ones and those of a repository inside are not; links are not followed."""
    committed(repository, kept="x = 1\n")
    (repository / ".gitignore").write_text("build/\n*.gen.py\n")
    for name in ("new.py", "a.gen.py", "notes.md"):
        (repository / name).write_text("x = 1\n")
    for folder in ("build", "inner"):
        (repository / folder).mkdir()
        (repository / folder / "b.py").write_text("x = 1\n")
    git(repository / "inner", "init", "-q")
    (repository / "link.py").symlink_to("kept.py")
    found = {path.relative_to(repository).as_posix() for path in files_below(repository)}
    assert found == {"kept.py", "new.py", "inner/b.py"}
    assert list(files_below(repository / "build")) == [repository / "build" / "b.py"], "asked for by name"
    assert work_tree(repository / "build") == repository


def test_a_folder_without_git_is_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All source files but those in folders of packages and caches; what cannot be text is counted by reason."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    contents = {
        "a.py": b"x = 1\n",
        "deep/b.c": b"int x;\n",
        "node_modules/c.js": b"x\n",
        "binary.py": b"x\0y",
        "latin.py": b"\xe9",
        "huge.py": b"#" * ((4 << 20) + 1),
    }
    for name, data in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "dangling.py").symlink_to("gone")
    targets = Targets([str(tmp_path)])
    assert [target.name for target in targets] == [str(tmp_path / "a.py"), str(tmp_path / "deep" / "b.c")]
    assert targets.skipped == {"binary": 1, "not UTF-8": 1, "larger than 4 MiB": 1}


def test_a_file_that_was_named_must_be_good(tmp_path: Path) -> None:
    """It is not passed over."""
    (tmp_path / "a.py").write_bytes(b"\xe9")
    for name in ("a.py", "gone.py"):
        with pytest.raises(FileInputError, match=name):
            list(Targets([str(tmp_path / name)]))


@pytest.mark.parametrize("added", [{2}, {4}, {1, 2}, None])
def test_a_span_counts_when_it_has_text_of_an_added_line(added: set[int] | None) -> None:
    """Its first, its last, any line will do; without a diff every span counts."""
    assert spanning(added).counts(SPAN)


@pytest.mark.parametrize("added", [{3}, {1, 5}, set()])
def test_a_span_without_text_of_an_added_line_does_not_count(added: set[int]) -> None:
    """An empty line within the span was added, or a line beside it: the passage was there before."""
    assert not spanning(added).counts(SPAN)


def test_quoted_names_and_endings_without_a_line_end() -> None:
    """Git quotes some names as C does; its remark about a missing line end is no line."""
    diff = (
        b'diff --git "a/t\\t\\"\\303\\251.py" "b/x"\n--- a/x\n+++ "b/t\\t\\"\\303\\251.py"\n'
        b"@@ -1 +1,2 @@\n-a\n\\ No newline at end of file\n+b\n++++ b/evil.py\n\\ No newline at end of file\n"
        b"diff --git a/y b/y\n--- a/y\n+++ b/y\n@@ -3,2 +2,0 @@\n-a\n-b\n"
    )
    assert added_lines(diff) == {'t\t"é.py': {1, 2}, "y": frozenset()}
