"""Where Starcite keeps its files: weights, indexes, logs and sockets.

`STARCITE_HOME`, where set, holds everything under one folder; otherwise each system's own folders are used, as
platformdirs gives them. Nothing is created here: who writes creates.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import tempfile
from pathlib import Path

import platformdirs

# A Unix socket's address holds 107 bytes on Linux and 103 on macOS, the name of the socket in the folder included.
MAX_RUNTIME_DIR_BYTES = 60


def data_dir() -> Path:
    """Return the folder of weights and indexes."""
    home = os.environ.get("STARCITE_HOME")
    return Path(home).absolute() if home else Path(platformdirs.user_data_dir("starcite", appauthor=False))


def models_dir() -> Path:
    """Return the folder that holds one folder a model."""
    return data_dir() / "models"


def indexes_dir() -> Path:
    """Return the folder whose sub-folders are the indexes that are searched by default."""
    return data_dir() / "indexes"


def cache_dir() -> Path:
    """Return the folder of what can be fetched or made again: the archives of corpora, and what was cleaned of them."""
    home = os.environ.get("STARCITE_HOME")
    return Path(home).absolute() / "cache" if home else Path(platformdirs.user_cache_dir("starcite", appauthor=False))


def embedded_dir() -> Path:
    """Return the folder of the model that comes with Starcite: card, weights, and `index`, of all it was trained on."""
    return Path(__file__).parent / "starter" / "embedded"


def log_dir() -> Path:
    """Return the folder of the server's and the daemon's logs."""
    home = os.environ.get("STARCITE_HOME")
    return Path(home).absolute() / "log" if home else Path(platformdirs.user_log_dir("starcite", appauthor=False))


def runtime_dir() -> Path:
    """Return the folder of sockets and locks, short enough for the address of a Unix socket.

    The folder must be one that only its owner can enter; `models.daemon` creates it so and refuses any other.
    """
    home, system = os.environ.get("STARCITE_HOME"), os.environ.get("XDG_RUNTIME_DIR")
    if home:
        base = Path(home).absolute() / "run"
    elif system:
        base = Path(system) / "starcite"
    else:  # platformdirs warns here, and names a folder that other products share
        base = Path(tempfile.gettempdir()) / f"starcite-{os.getuid() if hasattr(os, 'getuid') else getpass.getuser()}"
    if len(os.fsencode(base)) <= MAX_RUNTIME_DIR_BYTES:
        return base
    digest = hashlib.sha256(os.fsencode(base)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"starcite-{digest}"
