"""A home with the real model and a small index of the standard library, for the tests of server and command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from attribution.build import build
from models.cards import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator

STARCITE = Path(sys.executable).with_name("starcite")
STDLIB = Path(sysconfig.get_path("stdlib"))
MODULES = ("textwrap.py", "heapq.py", "bisect.py", "shlex.py", "statistics.py")


@pytest.fixture(scope="session")
def small_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an index named `stdlib-part` over a few modules of the standard library."""
    folder = tmp_path_factory.mktemp("index")
    source = folder / "source"
    source.mkdir()
    for name in MODULES:
        shutil.copy(STDLIB / name, source)
    build([source], folder / "stdlib-part", name="stdlib-part", license="PSF-2.0")
    return folder / "stdlib-part"


@pytest.fixture
def bare_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an empty STARCITE_HOME whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="sc-") as folder:
        monkeypatch.setenv("STARCITE_HOME", folder)
        yield Path(folder)
        subprocess.run([STARCITE, "daemon", "stop"], capture_output=True, check=False)


@pytest.fixture(scope="session")
def model_home(small_index: Path, weights: Path) -> Iterator[Path]:
    """Return a STARCITE_HOME with the default model and the small index; its daemon ends with the session."""
    with tempfile.TemporaryDirectory(prefix="sc-") as folder:
        home = Path(folder)
        (home / "models").mkdir()
        (home / "models" / DEFAULT_MODEL).symlink_to(weights.parent)
        (home / "indexes").mkdir()
        (home / "indexes" / "stdlib-part").symlink_to(small_index)
        yield home
        subprocess.run(
            [STARCITE, "daemon", "stop"], env=os.environ | {"STARCITE_HOME": folder}, capture_output=True, check=False
        )
