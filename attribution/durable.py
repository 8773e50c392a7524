"""Files that a crash cannot leave half written, and a lock that ends with its process."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk. Raises `OSError`."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_synced(path: Path, data: bytes) -> None:
    """Put a file in the place of another in one step: a crash leaves the one or the other. Raises `OSError`.

    The caller holds the folder's lock: the half-written file always has the same name, so that the next call removes
    what a crash left of it.
    """
    new = path.with_name(half_written(path.name))
    try:
        write_synced(new, data)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    sync_folder(path.parent)


def half_written(name: str) -> str:
    """Return the name under which `replace_synced` writes a file."""
    return f".{name}.new"


def sync_folder(path: Path) -> None:
    """Wait until a folder's list of names is on the disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a folder against others who ask for it too; the lock leaves no file and ends with the process.

    Where the system has no `flock` (Windows), the caller goes on without. Raises `BlockingIOError` if another holds the
    folder and it is not waited for.
    """
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """Make a folder beside another that is to be made, and remove it at the end, unless it has been moved by then.

    The folders that killed processes left of the kind are removed first. Raises `OSError`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_workspaces(target)
    folder = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
    try:
        with locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale_workspaces(target: Path) -> None:
    """Remove the workspaces beside a folder whose process does not live any more. Raises `OSError`."""
    for path in list(target.parent.iterdir()):
        if path.name.startswith(_prefix(target)):
            _remove_unless_used(path)


def _prefix(target: Path) -> str:
    return f".{target.name}.work-"


def _remove_unless_used(folder: Path) -> None:
    """Remove a workspace that nobody has locked; where there are no locks, none is."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
