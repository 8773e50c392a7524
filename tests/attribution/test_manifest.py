"""Manifests and locks are read, and say what is wrong with them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attribution import manifest
from attribution.errors import CorpusError
from attribution.licenses import PERMISSIVE
from attribution.packages import Package

STARTER = Path(__file__).parent.parent.parent / "models" / "starter" / "corpus.toml"
HEAD = "name = 'x'\n[profiles.a]\npackages = 1\n"
PACKAGE = Package("pypi", "a", "1", "a.tar.gz", "a" * 64, ("MIT",), 3, "0" * 16)


def test_the_starter_models_manifest() -> None:
    """Its lock has as many packages as its profiles need, each once, all permissive, and no address of a registry."""
    found = manifest.read(STARTER)
    locked = manifest.read_lock(found.lock)
    assert max(profile.packages for profile in found.profiles) == len(locked)
    assert len({(package.registry, package.name) for package in locked}) == len(locked)
    assert len({package.sha256 for package in locked}) == len(locked)
    for package in locked:
        assert package.licenses, package.label
        assert set(package.licenses) <= PERMISSIVE, package.label
        assert package.files, package.label
    assert "://" not in found.lock.read_text() + STARTER.read_text()


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Line by line."""
    path = tmp_path / "x.lock.jsonl"
    manifest.write_lock(path, [PACKAGE])
    assert manifest.read_lock(path) == [PACKAGE]


@pytest.mark.parametrize("line", ["nothing", "{}", "[]", manifest.lock_line(PACKAGE).replace("pypi", "cpan"), "3"])
def test_a_damaged_lock(tmp_path: Path, line: str) -> None:
    """The line is named."""
    path = tmp_path / "x.lock.jsonl"
    path.write_text(f"{manifest.lock_line(PACKAGE)}\n{line}\n")
    with pytest.raises(CorpusError, match="line 2"):
        manifest.read_lock(path)


def test_no_lock(tmp_path: Path) -> None:
    """It is said how one is made."""
    with pytest.raises(CorpusError, match="starcite corpus lock"):
        manifest.read_lock(tmp_path / "x.lock.jsonl")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "cannot be read"),
        ("name =", "is no TOML"),
        ("name = 'x'", "is no manifest"),
        ("name = 'x'\n[profiles]", "is no manifest"),
        (f"{HEAD}odd = 2", "is no manifest"),
        (f"{HEAD}[[collect]]\nregistry = 'cpan'\nlanguages = []\nbytes = 1", "is no manifest"),
    ],
)
def test_a_bad_manifest(tmp_path: Path, text: str | None, told: str) -> None:
    """It is named, with what is wrong."""
    path = tmp_path / "x.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CorpusError, match=re.escape(f"{path} {told}")):
        manifest.read(path)


def test_profiles(tmp_path: Path) -> None:
    """The first is the default; an unknown one is answered with those that there are."""
    path = tmp_path / "x.toml"
    path.write_text("name = 'x'\n[profiles.a]\npackages = 1\n[profiles.b]\npackages = 2\n")
    found = manifest.read(path)
    assert found.profile(None).name == "a"
    assert found.profile("b").packages == 2
    with pytest.raises(CorpusError, match="it has a, b"):
        found.profile("c")
