"""Registries are asked as their clients are set up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from attribution import registries
from attribution.errors import RegistryError
from attribution.registries import NotFoundError, Registries
from tests.attribution.registry import code, sdist

if TYPE_CHECKING:
    from tests.attribution.registry import Registry


def test_pypi(registry: Registry) -> None:
    """A release has its digest, its address made absolute, what it states and what it wants."""
    sha256 = registry.add_pypi(
        "demo", sdist("demo", "1.0", {"a.py": code("a")}), wants=("Other_Thing[x]>=1; extra == 'y'",)
    )
    release = Registries().release("pypi", "Demo")
    assert (release.name, release.version, release.sha256) == ("demo", "1.0", sha256)
    assert release.url == f"{registry.url}/packages/demo-1.0.tar.gz"
    assert (release.stated, release.wants) == ({"MIT"}, ("other-thing",))
    assert Registries().address("pypi", "demo", "1.0", sha256) == release.url


def test_pypi_without_source(registry: Registry) -> None:
    """A project of wheels only has nothing for us."""
    registry.files["/pypi/demo/json"] = json.dumps({"info": {"name": "demo", "version": "1"}, "urls": []}).encode()
    with pytest.raises(NotFoundError, match="no source distribution"):
        Registries().release("pypi", "demo")


def test_npm(registry: Registry) -> None:
    """A package of npm has the digest of its tarball."""
    registry.add_npm("demo", {"index.js": code("a")})
    release = Registries().release("npm", "demo")
    assert (release.version, len(release.sha512), release.stated) == ("1.0.0", 128, {"MIT"})
    assert Registries().address("npm", "demo", "1.0.0", "") == release.url


def test_gone(registry: Registry) -> None:
    """A name that the registry lacks, and an archive that its page does not list, are gone."""
    with pytest.raises(NotFoundError, match="gone"):
        Registries().release("npm", "demo")
    registry.add_pypi("demo", b"x")
    with pytest.raises(NotFoundError, match="no archive of demo"):
        Registries().address("pypi", "demo", "1.0", "0" * 64)


def test_unreachable(registry: Registry) -> None:
    """No connection is said with what to do."""
    registry.close()
    with pytest.raises(RegistryError, match="run this again") as told:
        Registries().release("npm", "demo")
    assert not isinstance(told.value, NotFoundError)


@pytest.mark.parametrize("page", [b"<html>", b"[]"])
def test_no_json(registry: Registry, page: bytes) -> None:
    """An index without the JSON interface is named."""
    registry.files["/pypi/demo/json"] = page
    with pytest.raises(RegistryError, match="JSON"):
        Registries().release("pypi", "demo")


def test_no_address_of_the_web() -> None:
    """A configured file: address is not opened."""
    with pytest.raises(RegistryError, match="no address of the web"):
        registries.get("file:///etc/hosts")


def test_pip_is_asked_where_its_environment_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pip's files come before what pip is built with."""
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    said = {"config": "global.index-url='http://127.0.0.1:1/simple/'\n", "-c": "http://127.0.0.1:2/simple\n"}
    monkeypatch.setattr(registries, "_said", lambda command: next((said[word] for word in command if word in said), ""))
    assert Registries()._simple == "http://127.0.0.1:1/simple"
    said["config"] = "global.timeout='3'\n"
    assert Registries()._simple == "http://127.0.0.1:2/simple"
    said["-c"] = ""
    with pytest.raises(RegistryError, match="PIP_INDEX_URL"):
        _ = Registries()._simple


def test_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apt's lists give address, version and digest; another digest than the locked one is another package."""
    row = "'http://127.0.0.1/golang-a-dev_1%3a2-1_all.deb' golang-a-dev_1%3a2-1_all.deb 10 SHA256:" + "a" * 64
    answers = {"apt-cache": "golang-a-dev\ngolang-a\n", "apt-get": row + "\n"}
    monkeypatch.setattr(registries, "_said", lambda command: answers[command[0]])
    known = Registries()
    assert known.names("debian", "golang-", "-dev") == ["golang-a-dev"]
    assert known.release("debian", "golang-a-dev").version == "1:2-1"
    assert known.address("debian", "golang-a-dev", "1:2-1", "a" * 64).endswith(".deb")
    with pytest.raises(NotFoundError, match="no 1:1-1 any more"):
        known.address("debian", "golang-a-dev", "1:1-1", "b" * 64)
    answers["apt-cache"] = ""
    with pytest.raises(RegistryError, match="apt-get update"):
        Registries().names("debian", "golang-", "-dev")
    with pytest.raises(RegistryError, match="name seeds"):
        known.names("pypi", "a", "b")
