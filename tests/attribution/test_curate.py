"""A corpus comes out of its manifest, the same bytes every time, or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from attribution import curate, documents, manifest, packages
from attribution.build import build
from attribution.collect import Collector
from attribution.curate import Caches, Wish
from attribution.decontaminate import Table
from attribution.downloads import Downloads
from attribution.errors import CorpusError, RegistryError
from attribution.index import Index
from attribution.registries import Registries
from tests.attribution.registry import code, sdist
from tests.attribution.test_decontaminate import PROBLEM

if TYPE_CHECKING:
    from attribution.manifest import Manifest
    from tests.attribution.registry import Registry

TOML = """
name = "demo"
decontamination = "clear.bin"
[profiles.small]
packages = 3
[profiles.all]
packages = 6
[[collect]]
registry = "pypi"
languages = ["Python"]
bytes = 1000000
seeds = "p0 p1 p2 p3"
[[collect]]
registry = "npm"
languages = ["JavaScript"]
bytes = 1000000
seeds = "j0 j1"
"""
SHARED = code("shared", 60)
PERSONAL = "# write to ada.lovelace@analytical.engine.org\n"


@pytest.fixture
def made(registry: Registry, tmp_path: Path) -> Manifest:
    """Return a manifest with the lock of six small packages, two of which share a file and one of which copies."""
    for number in range(4):
        files: dict[str, str | bytes] = {f"src/{name}.py": PERSONAL + code(f"{name}{number}", 60) for name in "ba"}
        files |= {"src/shared.py": SHARED} if number < 2 else {"src/copied.py": PROBLEM + code(f"copied{number}")}
        registry.add_pypi(f"p{number}", sdist(f"p{number}", "1.0", files))
    for number in range(2):
        registry.add_npm(f"j{number}", {"index.js": code(f"js{number}", 100)})
    problems = tmp_path / "problems.jsonl"
    problems.write_text(json.dumps({"prompt": PROBLEM}) + "\n")
    path = tmp_path / "demo.toml"
    path.write_text(TOML)
    (tmp_path / "clear.bin").write_bytes(Table.of_benchmarks([problems]).to_bytes())
    found = manifest.read(path)
    registries = Registries()
    collector = Collector(Downloads(tmp_path / "lock" / "a", registries), registries, tmp_path / "lock" / "c")
    manifest.write_lock(found.lock, collector.collected(found.collect))
    return found


def caches(tmp_path: Path, name: str = "cache") -> Caches:
    """Return empty caches of a name."""
    return Caches(Downloads(tmp_path / name / "archives"), tmp_path / name / "cleaned")


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of one side of a corpus."""
    return [json.loads(line) for path in sorted(folder.iterdir()) for line in path.read_bytes().splitlines()]


def test_an_index_of_it_has_the_id_that_a_model_of_it_names(made: Manifest, tmp_path: Path) -> None:
    """What is trained on is named as an index of exactly that names itself, and by nothing else."""
    facts = curate.build(made, tmp_path / "out", caches(tmp_path), Wish(profile="all"))
    build([tmp_path / "out" / "train"], tmp_path / "train", name="train")
    build([tmp_path / "out"], tmp_path / "both", name="both")
    with Index.open(tmp_path / "train") as train, Index.open(tmp_path / "both") as both:
        assert train.summary["corpus"] == facts["train"]["corpus"]
        assert both.summary["corpus"] != facts["train"]["corpus"]


def test_a_corpus_with_its_facts(made: Manifest, tmp_path: Path) -> None:
    """Rows carry text and source; personal data, benchmarks and near-duplicates are out; the facts count it all."""
    facts = curate.build(made, tmp_path / "out", caches(tmp_path), Wish(profile="all"))
    assert json.loads((tmp_path / "out" / "corpus.json").read_text()) == facts
    train, heldout = rows(tmp_path / "out" / "train"), rows(tmp_path / "out" / "heldout")
    everything = train + heldout
    assert (facts["name"], facts["documents"], facts["packages"]) == ("demo-all", len(everything), 6)
    assert facts["bytes"] == sum(len(row["text"].encode()) for row in everything)
    assert facts["left_out"] == {"contaminated by a benchmark": 2, "near-duplicate": 1}
    assert {row["repo_name"] for row in heldout} == set(facts["heldout"]["packages"])
    assert not {row["repo_name"] for row in heldout} & {row["repo_name"] for row in train}
    assert not any("ada.lovelace" in row["text"] or "longest_common_run" in row["text"] for row in everything)
    one = next(row for row in everything if row["repo_name"] == "p2")
    assert one | {"text": ""} == {
        "text": "",
        "repo_name": "p2",
        "path": "src/a.py",
        "revision": "1.0",
        "url": "",
        "licenses": ["MIT"],
        "language": "Python",
    }
    assert facts["by_language"].keys() == {"Python", "JavaScript"}
    assert sum(row["bytes"] for row in facts["by_license"].values()) == facts["bytes"]


def test_rows_lie_in_the_order_of_lock_and_paths(made: Manifest, tmp_path: Path) -> None:
    """A package's files stand together, sorted; packages stand as in the lock."""
    curate.build(made, tmp_path / "out", caches(tmp_path), Wish(profile="all"))
    order = [package.name for package in manifest.read_lock(made.lock)]
    keys = [(order.index(row["repo_name"]), row["path"]) for row in rows(tmp_path / "out" / "train")]
    assert keys == sorted(keys)


def test_the_rows_are_read_as_documents_with_sources(made: Manifest, tmp_path: Path) -> None:
    """What the index reads of the rows is what was written."""
    curate.build(made, tmp_path / "out", caches(tmp_path), Wish(profile="all"))
    skipped: Counter[str] = Counter()
    read = list(documents.read([tmp_path / "out" / "train"], skipped))
    written = rows(tmp_path / "out" / "train")
    assert [document.text for document in read] == [row["text"] for row in written]
    by_name = {document.source.name: document.source for document in read}
    source = by_name.get("j0") or by_name["j1"]
    assert (source.revision, source.url, source.licenses) == ("1.0.0", f"https://example.org/{source.name}", ("MIT",))
    assert not skipped


def test_two_builds_give_the_same_bytes(made: Manifest, tmp_path: Path) -> None:
    """Whatever is in the caches, and where an older corpus stood."""
    curate.build(made, tmp_path / "one", caches(tmp_path), Wish(limit=2))
    curate.build(made, tmp_path / "one", caches(tmp_path), Wish(profile="all"))
    curate.build(made, tmp_path / "two", caches(tmp_path, "other"), Wish(profile="all"))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_the_id_is_of_the_content(made: Manifest, tmp_path: Path) -> None:
    """Another profile has another id; the manifest's own id is compared."""
    small = curate.build(made, tmp_path / "small", caches(tmp_path), Wish())
    everything = curate.build(made, tmp_path / "all", caches(tmp_path), Wish(profile="all"))
    assert small["id"] != everything["id"]
    known = replace(made, profiles=(replace(made.profiles[0], id=small["id"]),))
    assert curate.build(known, tmp_path / "small", caches(tmp_path), Wish()) == small
    wrong = replace(made, profiles=(replace(made.profiles[0], id="0" * 64),))
    with pytest.raises(CorpusError, match="the rules have changed"):
        curate.build(wrong, tmp_path / "new", caches(tmp_path), Wish())
    assert not (tmp_path / "new").exists()


def test_parts_end_at_their_size(made: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No part is larger, unless one row is; together they are the same rows."""
    curate.build(made, tmp_path / "one", caches(tmp_path), Wish(profile="all"))
    monkeypatch.setattr(curate, "PART_BYTES", 20_000)
    facts = curate.build(made, tmp_path / "many", caches(tmp_path), Wish(profile="all"))
    assert rows(tmp_path / "one" / "train") == rows(tmp_path / "many" / "train")
    parts = sorted((tmp_path / "many" / "train").iterdir())
    assert len(parts) > 1
    assert all(part.stat().st_size <= 20_000 for part in parts)
    assert [row["file"] for row in facts["train"]["parts"]] == [f"train/{part.name}" for part in parts]


def test_more_problems_and_optouts(made: Manifest, tmp_path: Path) -> None:
    """A user's own problems and opt-outs are left out too."""
    problems = tmp_path / "mine.jsonl"
    problems.write_text(json.dumps({"text": code("a3", 60)}) + "\n")
    optouts = tmp_path / "optouts.jsonl"
    optouts.write_text('{"optout_repos": ["p0"]}\n')
    wish = Wish(profile="all", benchmarks=(problems,), optouts=optouts)
    facts = curate.build(made, tmp_path / "out", caches(tmp_path), wish)
    assert facts["left_out"]["contaminated by a benchmark"] == 3
    assert facts["left_out"]["opted out"] == 3


def test_a_package_that_is_gone(registry: Registry, made: Manifest, tmp_path: Path) -> None:
    """It is named, and nothing is published; asked to, the build goes on without it and counts it."""
    registry.files["/simple/p1/"] = b""
    with pytest.raises(RegistryError, match=r"1 of 6 locked packages.*p1 1\.0 \(pypi\).*--allow-missing"):
        curate.build(made, tmp_path / "out", caches(tmp_path), Wish(profile="all"))
    assert not (tmp_path / "out").exists()
    facts = curate.build(made, tmp_path / "out", caches(tmp_path), Wish(profile="all", allow_missing=True))
    assert facts["packages"] == 5
    assert facts["left_out"]["package that its registry does not have any more"] == 1


def test_other_bytes_than_locked(registry: Registry, made: Manifest, tmp_path: Path) -> None:
    """An archive that was changed is refused by its digest."""
    registry.files["/packages/p1-1.0.tar.gz"] += b"!"
    with pytest.raises(RegistryError, match="another digest"):
        curate.build(made, tmp_path / "out", caches(tmp_path), Wish(profile="all"))


def test_other_rules_than_locked(made: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that comes out otherwise than the lock says ends the build."""
    monkeypatch.setattr(packages, "MAX_PACKAGE_BYTES", 1000)
    with pytest.raises(CorpusError, match="lock --keep"):
        curate.build(made, tmp_path / "out", caches(tmp_path), Wish())


def test_a_full_disk(made: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said what to do; an older corpus stays, and no half one is left beside it."""
    curate.build(made, tmp_path / "out", caches(tmp_path), Wish(limit=2))
    before = tree(tmp_path / "out")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(curate._Side, "write", full)
    with pytest.raises(CorpusError, match="free some space and run this again"):
        curate.build(made, tmp_path / "out", caches(tmp_path), Wish())
    assert tree(tmp_path / "out") == before
    assert not list(tmp_path.glob(".out.work-*"))


def test_what_is_no_corpus_is_not_overwritten(made: Manifest, tmp_path: Path) -> None:
    """A folder of someone's is left alone."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(CorpusError, match="holds something that is no corpus"):
        curate.build(made, tmp_path / "mine", caches(tmp_path), Wish())


KILLED = """
import os, signal, sys
from pathlib import Path
from attribution import curate, manifest
from attribution.downloads import Downloads
where, stop = Path(sys.argv[1]), sys.argv[2]
def progress(stage, done, total, size):
    if f"{stage} {done}" == stop:
        os.kill(os.getpid(), signal.SIGKILL)
caches = curate.Caches(Downloads(where / "cache" / "archives"), where / "cache" / "cleaned")
curate.build(manifest.read(where / "demo.toml"), where / "out", caches, curate.Wish(profile="all"), progress)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("stop", ["fetching and cleaning 3", "comparing 2", "writing 5"])
def test_a_killed_build_goes_on(registry: Registry, made: Manifest, tmp_path: Path, stop: str) -> None:
    """Nothing is published; the next build fetches only what is missing, and gives the same bytes."""
    environment = os.environ | {"PYTHONPATH": str(Path(curate.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, stop], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    fetched = {path for path in registry.asked if path.startswith("/packages/")}
    registry.asked.clear()
    curate.build(made, tmp_path / "out", caches(tmp_path), Wish(profile="all"))
    kept = {path for path in registry.asked if path.startswith("/packages/")}
    assert kept == set() if stop != "fetching and cleaning 3" else len(kept) < len(fetched) + 4
    curate.build(made, tmp_path / "other", caches(tmp_path, "other"), Wish(profile="all"))
    assert tree(tmp_path / "out") == tree(tmp_path / "other")
    assert not list(tmp_path.glob(".out.work-*"))
