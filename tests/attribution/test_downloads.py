"""Archives are fetched once and are what they should be."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from attribution import downloads
from attribution.downloads import Downloads
from attribution.errors import RegistryError
from attribution.registries import NotFoundError, Registries
from tests.attribution.registry import code, sdist

if TYPE_CHECKING:
    from pathlib import Path

    from tests.attribution.registry import Registry

DATA = sdist("demo", "1.0", {"a.py": code("a")})


def test_an_archive_is_fetched_once(registry: Registry, tmp_path: Path) -> None:
    """The second time nothing is asked."""
    sha256 = registry.add_pypi("demo", DATA)
    store = Downloads(tmp_path)
    path = store.locked("pypi", "demo", "1.0", "demo-1.0.tar.gz", sha256)
    assert path.read_bytes() == DATA
    assert path.name.endswith(".tar.gz")
    asked = len(registry.asked)
    assert store.locked("pypi", "demo", "1.0", "demo-1.0.tar.gz", sha256) == path
    assert len(registry.asked) == asked


def test_other_bytes_are_refused(registry: Registry, tmp_path: Path) -> None:
    """What has not the locked digest is tried again, refused, and not kept."""
    sha256 = registry.add_pypi("demo", DATA)
    registry.files["/packages/demo-1.0.tar.gz"] = DATA + b"!"
    with pytest.raises(RegistryError, match="another digest"):
        Downloads(tmp_path).locked("pypi", "demo", "1.0", "demo-1.0.tar.gz", sha256)
    assert registry.asked.count("/packages/demo-1.0.tar.gz") == downloads.ATTEMPTS
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_npm_is_compared_by_its_own_digest(registry: Registry, tmp_path: Path) -> None:
    """The registry's sha512 is what a first download is compared with; sha256 is what comes back."""
    sha256 = registry.add_npm("demo", {"index.js": code("a")})
    release = Registries().release("npm", "demo")
    path, found = Downloads(tmp_path).released(release)
    assert found == sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    for wrong in (replace(release, sha512="0" * 128), replace(release, sha512="")):
        with pytest.raises(RegistryError, match="another digest"):
            Downloads(tmp_path / "new").released(wrong)


def test_what_is_gone_is_not_tried_again(registry: Registry, tmp_path: Path) -> None:
    """A 404 stays one."""
    sha256 = registry.add_pypi("demo", DATA)
    del registry.files["/packages/demo-1.0.tar.gz"]
    with pytest.raises(NotFoundError):
        Downloads(tmp_path).locked("pypi", "demo", "1.0", "demo-1.0.tar.gz", sha256)
    assert registry.asked.count("/packages/demo-1.0.tar.gz") == 1


def test_too_large(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive without end is broken off."""
    sha256 = registry.add_pypi("demo", DATA)
    monkeypatch.setattr(downloads, "MAX_ARCHIVE_BYTES", 100)
    with pytest.raises(NotFoundError, match="larger than"):
        Downloads(tmp_path).locked("pypi", "demo", "1.0", "demo-1.0.tar.gz", sha256)


def test_what_a_crash_left_is_removed(tmp_path: Path) -> None:
    """Old parts go, those of a download that may still run stay."""
    old, new = tmp_path / ".part-old", tmp_path / ".part-new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    Downloads(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)
