"""Where a daemon and its clients meet: a folder that only the user can enter, a lock, a socket, and a line on a pipe.

    runtime_dir()/<model id>.lock     locked (flock) by the one daemon of this model as long as it lives; never removed
    runtime_dir()/<model id>.sock     its socket, there while it listens

A client that finds nobody listening starts a daemon, which writes one line to the pipe that it inherits: "ready",
"taken" (another daemon has the lock), or "error <code> <sentence>".
"""

from __future__ import annotations

import os
import re
import socket
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.errors import DaemonUnavailableError, UnknownModelError
from models.paths import runtime_dir

if TYPE_CHECKING:
    from pathlib import Path

READY_LINE = "ready"
TAKEN_LINE = "taken"
ERROR_WORD = "error"

_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,35}")


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """The files of one model's daemon."""

    model_id: str
    folder: Path

    @property
    def lock_path(self) -> Path:
        """The file whose lock makes a daemon the only one."""
        return self.folder / f"{self.model_id}.lock"

    @property
    def socket_path(self) -> Path:
        """The socket."""
        return self.folder / f"{self.model_id}.sock"


def rendezvous(model_id: str) -> Rendezvous:
    """Return where the daemon of a model is met, in a folder that is made where there is none.

    Raises `UnknownModelError` for what cannot be an id, and `DaemonUnavailableError` where this system has no Unix
    sockets or the folder is not the user's alone: whoever owns it could listen in our place.
    """
    if not _MODEL_ID.fullmatch(model_id):
        raise UnknownModelError(f"{model_id[:60]!r} is not the id of a model: see 'starcite models list'.")
    if not hasattr(socket, "AF_UNIX"):
        # Windows: a named pipe or an authenticated loopback socket would do; neither is written, so nothing is claimed.
        raise DaemonUnavailableError("The model daemon needs Unix sockets: use Linux, macOS, or WSL on Windows.")
    return Rendezvous(model_id, _private_folder(runtime_dir()))


def _private_folder(folder: Path) -> Path:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            _require_private(folder)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DaemonUnavailableError(f"The folder {folder} cannot be used ({reason}): set STARCITE_HOME.") from error
    return folder


def _require_private(folder: Path) -> None:
    """Raise unless the folder is a real one of this user; take others' rights to it away where it has any."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise DaemonUnavailableError(f"{folder} is not a folder but a link or a file: remove it, then try again.")
    if found.st_uid != os.getuid():
        raise DaemonUnavailableError(f"The folder {folder} belongs to another user: set STARCITE_HOME to one of yours.")
    if stat.S_IMODE(found.st_mode) != stat.S_IRWXU:
        folder.chmod(stat.S_IRWXU)
