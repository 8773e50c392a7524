"""Small corpora on disk for the tests of `attribution`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from attribution import downloads
from tests.attribution.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


@pytest.fixture
def write_tree(tmp_path: Path) -> Callable[[str, Mapping[str, str | bytes]], Path]:
    """Return a function that writes files below a new folder and returns the folder."""

    def write(name: str, files: Mapping[str, str | bytes]) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return write


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """Return a registry on loopback that pip and npm are set up for; failures are tried again at once."""
    served = Registry()
    monkeypatch.setenv("PIP_INDEX_URL", f"{served.url}/simple")
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", served.url)
    monkeypatch.setattr(downloads, "RETRY_DELAY_S", 0)
    yield served
    served.close()
