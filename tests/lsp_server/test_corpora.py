"""`starcite corpus` as a person runs it, against a registry on loopback."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from attribution import downloads
from lsp_server.cli import main
from tests.attribution.registry import Registry, code, sdist

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOML = """
name = "demo"
[profiles.demo]
packages = 2
[[collect]]
registry = "pypi"
languages = ["Python"]
bytes = 1000000
seeds = "a b"
"""


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Registry]:
    """Return a registry with two packages, a manifest beside it, and a home that is empty."""
    registry = Registry()
    monkeypatch.setenv("PIP_INDEX_URL", f"{registry.url}/simple")
    monkeypatch.setenv("STARCITE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(downloads, "RETRY_DELAY_S", 0)
    for name in ("a", "b"):
        registry.add_pypi(name, sdist(name, "1.0", {f"{name}.py": code(name, 100)}))
    (tmp_path / "demo.toml").write_text(TOML)
    yield registry
    registry.close()


def test_lock_and_build(served: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The lock is written beside the manifest; the corpus is built from it, with its facts as JSON or as lines."""
    manifest, out = str(tmp_path / "demo.toml"), str(tmp_path / "out")
    assert main(["corpus", "lock", manifest, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packages"] == 2
    assert main(["corpus", "build", manifest, "--out", out, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["name"], answer["documents"], answer["corpus"]) == ("demo-demo", 2, out)
    asked = len(served.asked)
    assert main(["corpus", "build", manifest, "--out", out, "--limit", "1"]) == 0
    assert "1 documents" in capsys.readouterr().out
    assert len(served.asked) == asked
    before = (tmp_path / "demo.lock.jsonl").read_bytes()
    assert main(["corpus", "lock", manifest, "--keep"]) == 0
    assert "2 packages" in capsys.readouterr().out
    assert (tmp_path / "demo.lock.jsonl").read_bytes() == before
    assert len(served.asked) == asked
    assert main(["corpus", "lock", manifest, "--skip", "pypi"]) == 0
    assert "0 packages" in capsys.readouterr().out


def test_benchmarks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of problems is written, and the corpus can be told of a file of them."""
    problems = tmp_path / "p.jsonl"
    problems.write_text(json.dumps({"prompt": code("problem")}) + "\n")
    assert main(["corpus", "benchmarks", str(problems), "--out", str(tmp_path / "t.bin"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["bytes"] == (tmp_path / "t.bin").stat().st_size
    assert answer["grams"] > 50
    assert main(["corpus", "benchmarks", str(problems), "--out", str(tmp_path / "t.bin")]) == 0
    assert "grams" in capsys.readouterr().out


def test_a_table_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named, with what to do."""
    problems = tmp_path / "p.jsonl"
    problems.write_text(json.dumps({"prompt": code("problem")}) + "\n")
    assert main(["corpus", "benchmarks", str(problems), "--out", str(tmp_path / "none" / "t.bin")]) == 2
    assert "t.bin cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--limit", "0"], "--limit needs at least 1 package"),
        (["--profile", "large"], "has no profile 'large'; it has demo."),
        ([], "make it: starcite corpus lock."),
    ],
)
def test_bad_input(
    served: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    """One line says what to do, and nothing is asked of a registry."""
    assert main(["corpus", "build", str(tmp_path / "demo.toml"), "--out", str(tmp_path / "out"), *words]) == 2
    said = capsys.readouterr()
    assert told in said.err
    assert said.err.count("\n") == 1
    assert not served.asked
    assert not (tmp_path / "out").exists()
