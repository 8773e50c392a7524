"""Where daemons and clients meet is a folder that nobody else can enter."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from models.errors import DaemonUnavailableError, UnknownModelError
from models.rendezvous import rendezvous

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("home")


def test_the_folder_is_the_users_alone() -> None:
    """The folder is made so, and made so again where it was opened to others."""
    folder = rendezvous("m").folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    rendezvous("m")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_link_is_refused(home: Path) -> None:
    """A link could lead to a folder of somebody else, so it is no place to meet."""
    (home / "elsewhere").mkdir()
    (home / "run").symlink_to(home / "elsewhere")
    with pytest.raises(DaemonUnavailableError, match="link"):
        rendezvous("m")


def test_a_foreign_folder_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of another user, that user could listen in our place and read the code."""
    rendezvous("m")
    monkeypatch.setattr(os, "getuid", lambda: home.stat().st_uid + 1)
    with pytest.raises(DaemonUnavailableError, match="another user"):
        rendezvous("m")


def test_a_file_in_its_place(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the folder cannot be made, the error says why and what to do."""
    (home / "run").write_text("")
    with pytest.raises(DaemonUnavailableError, match="remove it"):
        rendezvous("m")
    monkeypatch.setenv("STARCITE_HOME", str(home / "run"))
    with pytest.raises(DaemonUnavailableError, match="set STARCITE_HOME"):
        rendezvous("m")


@pytest.mark.parametrize("model_id", ["", "../m", "a/b", ".m", "m\0", "x" * 37])
def test_ids_name_files_of_the_folder(model_id: str) -> None:
    """What is no id never becomes a path."""
    with pytest.raises(UnknownModelError):
        rendezvous(model_id)


def test_without_unix_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no Unix sockets the error says so, instead of failing somewhere later."""
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(DaemonUnavailableError, match="WSL"):
        rendezvous("m")
