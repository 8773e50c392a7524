"""Where Starcite keeps its files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from models import paths


def test_one_variable_roots_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With STARCITE_HOME, every folder lies below it."""
    monkeypatch.setenv("STARCITE_HOME", str(tmp_path))
    assert paths.data_dir() == tmp_path
    assert paths.models_dir() == tmp_path / "models"
    assert paths.indexes_dir() == tmp_path / "indexes"
    assert paths.log_dir() == tmp_path / "log"


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that is named relative to the current folder stays the same when a daemon changes its folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STARCITE_HOME", "home")
    assert paths.models_dir() == tmp_path / "home" / "models"


def test_the_systems_folders_are_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, the folders are the user's own, all named after the product, and none is made by asking."""
    monkeypatch.delenv("STARCITE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert "starcite" in paths.data_dir().parts
    assert paths.models_dir().parent == paths.data_dir()
    assert "starcite" in paths.log_dir().parts
    assert not any(tmp_path.iterdir())


def test_sockets_lie_below_a_short_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of sockets is below the home if its name is short enough for the address of a socket."""
    monkeypatch.setenv("STARCITE_HOME", "/h")
    assert paths.runtime_dir() == Path("/h/run")


@pytest.mark.parametrize("home", ["/" + "a" * 200, "/" + "ä" * 31])
def test_a_long_home_gets_a_short_folder_of_sockets(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long name, counted in bytes, gets a short folder that is its own and always the same."""
    monkeypatch.setenv("STARCITE_HOME", home)
    folder = paths.runtime_dir()
    assert len(os.fsencode(folder.name)) <= paths.MAX_RUNTIME_DIR_BYTES
    assert paths.runtime_dir() == folder
    monkeypatch.setenv("STARCITE_HOME", home + "b")
    assert paths.runtime_dir() != folder
