"""A lock is chosen out of what registries have."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from attribution import collect, packages
from attribution.collect import Collector, mixed, relocked
from attribution.downloads import Downloads
from attribution.errors import CorpusError, RegistryError
from attribution.manifest import Collect
from attribution.packages import Package
from attribution.registries import Registries
from tests.attribution.registry import code, sdist

if TYPE_CHECKING:
    from pathlib import Path

    from tests.attribution.registry import Registry

PYTHON = Collect("pypi", ("Python",), 10**6, seeds=("a", "gone", "copyleft", "bare", "tiny"), follow=True)


def collector(folder: Path) -> Collector:
    """Return a collector that keeps everything below a folder."""
    registries = Registries()
    return Collector(Downloads(folder / "archives", registries), registries, folder / "cleaned")


def test_permissive_packages_are_followed_to_what_they_want(registry: Registry, tmp_path: Path) -> None:
    """Seeds lead to dependencies; what is not taken is counted by its reason."""
    registry.add_pypi("a", sdist("a", "1.0", {"a.py": code("a", 100)}), wants=("b",))
    registry.add_pypi("b", sdist("b", "1.0", {"b.py": code("b", 100)}), wants=("a",))
    registry.add_pypi("bare", sdist("bare", "1.0", {"c.py": code("c", 100)}, text=""))
    registry.add_pypi("tiny", sdist("tiny", "1.0", {"c.py": code("c", 10)}))
    registry.add_pypi("copyleft", b"never fetched")
    page = json.loads(registry.files["/pypi/copyleft/json"])
    page["info"]["license_expression"] = "GPL-3.0-only"
    registry.files["/pypi/copyleft/json"] = json.dumps(page).encode()
    collecting = collector(tmp_path)
    told: list[tuple[str, int, int]] = []
    found = collecting.collected([PYTHON], progress=lambda *facts: told.append(facts))
    assert [(package.name, package.licenses, package.files) for package in found] == [
        ("a", ("MIT",), 1),
        ("b", ("MIT",), 1),
    ]
    assert collecting.left_out == {
        "no such package, or no source archive": 1,
        "licence not permissive by its metadata": 1,
        "package without a licence file": 1,
        "little text": 1,
    }
    assert "/packages/copyleft-1.0.tar.gz" not in registry.asked
    assert told[-1][0::2] == ("Python", 10**6)


def test_enough_is_enough(registry: Registry, tmp_path: Path) -> None:
    """No more packages are taken than give the text that is wanted; none is taken for two kinds."""
    for name in ("a", "b"):
        registry.add_pypi(name, sdist(name, "1.0", {"m.py": code(name, 100)}))
    kind = replace(PYTHON, bytes=100, seeds=("a", "b"))
    found = collector(tmp_path).collected([kind, replace(kind, seeds=("a",))])
    assert [package.name for package in found] == ["a"]


def test_names_out_of_a_package(registry: Registry, tmp_path: Path) -> None:
    """A list in an npm package names candidates."""
    for name in ("x", "y"):
        registry.add_npm(name, {"index.js": code(name, 100)})
    registry.add_npm("names", {"lib/top.js": "export const top = [\n  'x',\n  \"y\",\n]\n"})
    kind = Collect("npm", ("JavaScript",), 10**6, list="names:lib/top.js")
    assert {package.name for package in collector(tmp_path).collected([kind])} == {"x", "y"}
    with pytest.raises(CorpusError, match=r"names has no lib/none\.js"):
        collector(tmp_path).collected([replace(kind, list="names:lib/none.js")])


def test_large_archives_are_passed_over(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is larger than a candidate may be is not fetched."""
    registry.add_pypi("a", sdist("a", "1.0", {"a.py": code("a", 100)}))
    monkeypatch.setattr(collect, "MAX_ARCHIVE_BYTES", 10)
    collecting = collector(tmp_path)
    assert collecting.collected([PYTHON]) == []
    assert collecting.left_out["archive too large"] == 1


def test_an_odd_answer_is_counted(registry: Registry, tmp_path: Path) -> None:
    """A registry's page without the fields that it should have ends nothing."""
    registry.files["/pypi/a/json"] = b"{}"
    registry.add_pypi("b", sdist("b", "1.0", {"b.py": code("b", 100)}))
    collecting = collector(tmp_path)
    assert [package.name for package in collecting.collected([replace(PYTHON, seeds=("a", "b"))])] == ["b"]
    assert collecting.left_out == {"registry did not answer as expected": 1}


def test_a_lock_is_not_made_without_a_connection(registry: Registry, tmp_path: Path) -> None:
    """Where most questions have no answer, an almost empty lock would be worse than none."""
    registry.close()
    with pytest.raises(RegistryError, match="see to the connection"):
        collector(tmp_path).collected([replace(PYTHON, seeds=("a", "b"))])


def test_a_lock_is_noted_anew(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages stay, with what other rules make of them; one of which too little is left goes."""
    for name in ("a", "b"):
        registry.add_pypi(name, sdist(name, "1.0", {f"{part}.py": code(name + part, 60) for part in ("x", "y")}))
    before = collector(tmp_path).collected([replace(PYTHON, seeds=("a", "b"))])
    assert list(relocked(before, Downloads(tmp_path / "archives"), tmp_path / "cleaned")) == before
    registry.files.clear()
    monkeypatch.setattr(packages, "MAX_PACKAGE_BYTES", 9_000)
    monkeypatch.setattr(collect, "MIN_PACKAGE_BYTES", 5_000)
    after = list(relocked(before, Downloads(tmp_path / "archives"), tmp_path / "other"))
    assert [(one.name, one.files) for one in after] == [("a", 1), ("b", 1)]
    assert all(old.sha256 == new.sha256 and old.digest != new.digest for old, new in zip(before, after, strict=True))
    monkeypatch.setattr(collect, "MIN_PACKAGE_BYTES", 50_000)
    assert list(relocked(before, Downloads(tmp_path / "archives"), tmp_path / "other")) == []


def test_kinds_are_mixed_in_proportion() -> None:
    """Every beginning of the lock has about the same share of each kind."""
    package = Package("pypi", "p", "1", "p.tar.gz", "a" * 64, ("MIT",), 1, "d")
    many = [(replace(package, name=f"a{number}"), 10) for number in range(90)]
    few = [(replace(package, name=f"b{number}"), 10) for number in range(10)]
    names = [one.name for one in mixed([many, few])]
    assert len(names) == 100
    for end in range(20, 100, 20):
        assert sum(name.startswith("b") for name in names[:end]) == end // 10
    assert [name for name in names if name.startswith("a")] == [one.name for one, _ in many]
