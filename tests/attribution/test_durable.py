"""Files that are replaced in one step, locks and workspaces that end with their process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attribution.durable import locked, replace_synced, workspace


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the bytes are brought to the disk, then the name is given to them, then the folder is brought there."""
    steps: list[str] = []
    replace = Path.replace
    inodes = {tmp_path.stat().st_ino: "sync folder"}
    monkeypatch.setattr(os, "fsync", lambda fd: steps.append(inodes.get(os.fstat(fd).st_ino, "sync file")))
    monkeypatch.setattr(Path, "replace", lambda path, to: (steps.append("replace"), replace(path, to))[1])
    (tmp_path / "file").write_bytes(b"old")
    replace_synced(tmp_path / "file", b"new")
    assert steps == ["sync file", "replace", "sync folder"]
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"new")]


def test_a_workspace_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    """Of two who work beside the same folder, neither removes the other's files; at the end both are gone."""
    with workspace(tmp_path / "index") as one, workspace(tmp_path / "index") as two:
        assert one != two
        (one / "file").write_bytes(b"")
        (two / "file").write_bytes(b"")
    assert list(tmp_path.iterdir()) == []


def test_the_workspace_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    """The next who works beside the same folder removes it, and not that of another folder."""
    script = """
import os, signal, sys
from pathlib import Path
from attribution.durable import workspace
with workspace(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    for name in ("index", "index2"):
        subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], check=False, timeout=60)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert [name.rpartition("-")[0] for name in left] == [".index.work", ".index2.work"]
    with workspace(tmp_path / "index"):
        assert left[0] not in {path.name for path in tmp_path.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == left[1:]


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_a_lock_excludes_and_leaves_nothing(tmp_path: Path) -> None:
    """Who does not wait is told that another holds the folder; after that it is free, and empty as before."""
    with locked(tmp_path), pytest.raises(BlockingIOError), locked(tmp_path, wait=False):
        pass
    with locked(tmp_path, wait=False):
        assert list(tmp_path.iterdir()) == []
