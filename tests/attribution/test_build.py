"""Building: the same bytes from the same documents, a full report, and the real standard library."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from attribution import runs
from attribution.build import build, build_documents
from attribution.documents import Document, read
from attribution.errors import IndexWriteError, SourceError
from attribution.format import SourceRecord
from attribution.index import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    WriteTree = Callable[[str, Mapping[str, str | bytes]], Path]

STDLIB = Path(os.__file__).parent
SOURCES = [SourceRecord(name, "1", "", ("MIT",), license_conflict=False) for name in "ab"]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def lines(seed: int) -> str:
    """Return random text."""
    rng = random.Random(seed)  # noqa: S311
    return "".join(rng.choice("abcdefgh é\n") for _ in range(300))


def test_builds_are_byte_identical(tmp_path: Path) -> None:
    """The order of documents and the place of the index change no byte; other content changes the corpus id."""
    documents = [Document(lines(n), f"{n}.py", SOURCES[n % 2]) for n in range(12)]
    build_documents(documents, tmp_path / "one", name="n")
    random.Random(3).shuffle(documents)  # noqa: S311
    build_documents([*documents, documents[0]], tmp_path / "deeper" / "two", name="n")
    assert contents(tmp_path / "one") == contents(tmp_path / "deeper" / "two")
    report = build_documents(documents[1:], tmp_path / "three", name="n")
    wider = build_documents(documents, tmp_path / "four", name="other", guarantee=100)
    with Index.open(tmp_path / "one") as index:
        assert report.corpus != index.summary["corpus"] == wider.corpus


def test_listing_order_does_not_matter(write_tree: WriteTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two folders given in either order, and listed in any order, give the same index."""
    one = write_tree("one", {f"{n}.py": lines(n) for n in range(9)})
    two = write_tree("two", {f"d/{n}.py": lines(n + 5) for n in range(9)})
    build([one, two], tmp_path / "i1", name="n")
    original = os.scandir

    class Reversed:
        def __init__(self, folder: Path) -> None:
            with original(folder) as scan:
                self.entries = list(scan)[::-1]

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    build([two, one], tmp_path / "i2", name="n")
    monkeypatch.undo()
    assert contents(tmp_path / "i1") == contents(tmp_path / "i2")


def test_the_report(write_tree: WriteTree, tmp_path: Path) -> None:
    """The report counts what was indexed, what was skipped and what lies on disk; progress is told as it is made."""
    folder = write_tree("p", {"a.py": "é = 1\n", "b.py": b"\0", "c.py": "x = 2\n"})
    seen: list[tuple[int, int]] = []
    report = build([folder, folder], tmp_path / "i", progress=lambda documents, size: seen.append((documents, size)))
    assert (report.documents, report.sources, report.bytes, report.normalised_bytes) == (2, 1, 13, 7)
    assert report.skipped == {"binary": 2, "given twice": 2}
    assert report.index_bytes == sum(len(data) for data in contents(tmp_path / "i").values())
    assert seen == [(1, 7), (2, 13), (3, 20), (4, 26)]


def test_duplicates_keep_all_their_sources(tmp_path: Path) -> None:
    """The same text in two sources is reported with both, though their licences differ."""
    other = SourceRecord("c", "2", "", ("GPL-3.0-only",), license_conflict=False)
    build_documents([Document(lines(1), "x.py", SOURCES[0]), Document(lines(1), "y.py", other)], tmp_path / "i")
    with Index.open(tmp_path / "i") as index:
        (match,) = index.matches(lines(1))
    assert [(source.name, source.path, source.licenses) for source in match.sources] == [
        ("a", "x.py", ("MIT",)),
        ("c", "y.py", ("GPL-3.0-only",)),
    ]


def test_wrong_use(write_tree: WriteTree, tmp_path: Path) -> None:
    """No source code, an unknown guarantee and a licence that is none are errors, and nothing is written."""
    folder = write_tree("p", {"a.png": b"\x89PNG"})
    with pytest.raises(SourceError, match="No source code"):
        build([folder], tmp_path / "i")
    with pytest.raises(SourceError, match="choose 50 or 100"):
        build([folder], tmp_path / "i", guarantee=60)
    with pytest.raises(SourceError, match="SPDX"):
        build([folder], tmp_path / "i", license="my own")
    assert not (tmp_path / "i").exists()


@pytest.fixture(scope="module")
def stdlib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an index of this interpreter's standard library."""
    out = tmp_path_factory.mktemp("stdlib") / "index"
    build([STDLIB], out)
    return out


def test_windows_of_the_standard_library_are_found(stdlib: Path) -> None:
    """300 windows of 50 to 300 characters, laid out anew and in other quotes, are found with the file they are from."""
    from collections import Counter  # noqa: PLC0415

    rng = random.Random(4)  # noqa: S311
    documents = [document for document in read([STDLIB], Counter()) if len("".join(document.text.split())) > 400]
    with Index.open(stdlib) as index:
        assert index.reader.sources[0].name == "cpython"
        for _ in range(300):
            document = rng.choice(documents)
            characters = "".join(document.text.split())
            size = rng.randint(50, 300)
            start = rng.randrange(len(characters) - size)
            window = characters[start : start + size].replace('"', "'")
            text = "".join(character + rng.choice(["", "", "", " ", "\n    ", "\t"]) for character in window)
            found = index.matches(text, min_run=50)
            assert any(match.run == size for match in found), (document.path, start, size)
            holders = {source.path for match in found for source in match.sources if match.run == size}
            assert document.path in holders or found[0].source_count > len(found[0].sources)


@pytest.mark.slow
def test_all_windows_of_a_module_are_found(stdlib: Path) -> None:
    """Each of the windows of exactly 50 characters of a module is found: the guarantee has no exceptions."""
    characters = "".join((STDLIB / "textwrap.py").read_text("utf-8").split())
    with Index.open(stdlib) as index:
        for start in range(len(characters) - 49):
            assert index.matches(characters[start : start + 50], min_run=50)


# --- runs: many processes, many chunks, and builds that are killed ----------------------------------------------------


def tree_of(write_tree: WriteTree) -> Path:
    """Write a folder of 60 files in which some texts stand twice."""
    return write_tree("tree", {f"d{n % 7}/{n}.py": lines(n % 50) for n in range(60)})


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let six files or so make a chunk, and three runs be merged at once."""
    monkeypatch.setattr(runs, "CHUNK_CHARS", 2000)
    monkeypatch.setattr(runs, "SHARDS_PER_MERGE", 3)


def test_chunks_change_no_byte(write_tree: WriteTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that was built by runs, combined in several rounds, is the one that was built in memory."""
    tree = tree_of(write_tree)
    whole = build([tree, tree], tmp_path / "whole", name="n")
    for limit in (900, 9000):
        monkeypatch.setattr(runs, "CHUNK_CHARS", limit)
        monkeypatch.setattr(runs, "SHARDS_PER_MERGE", 3)
        parts = build([tree, tree], tmp_path / "index" / str(limit), name="n")
        assert contents(parts.out) == contents(whole.out)
        assert parts.skipped == whole.skipped == {"given twice": 60}
        assert [path.name for path in (tmp_path / "index").iterdir() if path.name.startswith(".")] == []


@pytest.mark.usefixtures("small_chunks")
def test_processes_change_no_byte(write_tree: WriteTree, tmp_path: Path) -> None:
    """Two workers give the bytes and the counts that one gives."""
    tree = tree_of(write_tree)
    one = build([tree], tmp_path / "one", name="n", redact=True)
    two = build([tree], tmp_path / "two", name="n", redact=True, jobs=2)
    assert contents(one.out) == contents(two.out)
    assert one.skipped == two.skipped


@pytest.mark.usefixtures("small_chunks")
def test_finished_runs_are_not_made_again(
    write_tree: WriteTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build that failed goes on with its finished runs, and only with those of the same text and the same rules."""
    tree = tree_of(write_tree)
    build([tree], tmp_path / "undisturbed", name="n")
    made: list[str] = []
    original = runs.make_run

    def counted(run: Path, chunk: Sequence[Document], rules: runs.Rules) -> None:
        if len(made) == 4:
            raise OSError(28, "No space left on device")
        made.append(run.name)
        original(run, chunk, rules)

    monkeypatch.setattr(runs, "make_run", counted)
    with pytest.raises(IndexWriteError, match="No space left on device"):
        build([tree], tmp_path / "index", name="n")
    assert not (tmp_path / "index").exists()
    first = list(made)
    made.clear()
    with pytest.raises(IndexWriteError):
        build([tree], tmp_path / "index", name="n", guarantee=100)
    assert not set(made) & set(first)
    made[:] = ["-"] * 9
    build([tree], tmp_path / "index", name="n")
    assert contents(tmp_path / "index") == contents(tmp_path / "undisturbed")
    assert not set(made) & set(first)
    assert not (tmp_path / ".index.build").exists()


KILLED = """
import os, signal, sys
from attribution import runs
from attribution.build import build

runs.CHUNK_CHARS = 2000
original = runs.make_run
left = int(sys.argv[3])

def killing(run, chunk, rules):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    original(run, chunk, rules)

runs.make_run = killing
build([sys.argv[1]], sys.argv[2], name="n")
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.usefixtures("small_chunks")
def test_a_killed_build_goes_on(write_tree: WriteTree, tmp_path: Path) -> None:
    """A build that is killed after one run, and again after two more, gives the bytes of an undisturbed one."""
    tree = tree_of(write_tree)
    build([tree], tmp_path / "undisturbed", name="n")
    for left in (1, 2):
        command = [sys.executable, "-c", KILLED, str(tree), str(tmp_path / "index"), str(left)]
        assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
        assert not (tmp_path / "index").exists()
    finished = [path.name for path in (tmp_path / ".index.build").iterdir() if "." not in path.name]
    assert len(finished) == 3
    build([tree], tmp_path / "index", name="n")
    assert contents(tmp_path / "index") == contents(tmp_path / "undisturbed")
    assert not (tmp_path / ".index.build").exists()


PARENT = """
import multiprocessing, os, pathlib, signal, sys
from attribution import runs
from attribution.build import build

def die_after_a_run(documents, size):
    work = pathlib.Path(sys.argv[2]).with_name(".index.build")
    if work.is_dir() and any("." not in path.name for path in work.iterdir()):
        print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

runs.CHUNK_CHARS = 2000
if __name__ == "__main__":
    build([sys.argv[1]], sys.argv[2], name="n", jobs=2, progress=die_after_a_run)
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for processes that are not its children")
@pytest.mark.usefixtures("small_chunks")
def test_workers_end_with_a_killed_parent(write_tree: WriteTree, tmp_path: Path) -> None:
    """When the parent is killed its workers end, nothing is published, and a new start gives the undisturbed bytes."""
    tree = write_tree("tree", {f"{n}.py": lines(n) for n in range(100)})
    (tmp_path / "parent.py").write_text(PARENT, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "parent.py"), str(tree), str(tmp_path / "index")]
    killed = subprocess.run(command, check=False, timeout=60, stdout=subprocess.PIPE)
    assert killed.returncode == -signal.SIGKILL
    workers = [int(word) for word in killed.stdout.split()]
    assert len(workers) == 2
    assert all(map(has_ended, workers))
    assert not (tmp_path / "index").exists()
    build([tree], tmp_path / "index", name="n")
    build([tree], tmp_path / "undisturbed", name="n")
    assert contents(tmp_path / "index") == contents(tmp_path / "undisturbed")


def has_ended(process: int) -> bool:
    """Return whether a process ends within half a minute."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 30)[0])
    finally:
        os.close(descriptor)


@pytest.mark.usefixtures("small_chunks")
def test_a_worker_that_is_killed(write_tree: WriteTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is ended from outside is an error that says what to do, and no wait for ever."""
    monkeypatch.setattr(runs, "make_run", _exit)
    with pytest.raises(IndexWriteError, match="build again with fewer jobs"):
        build([tree_of(write_tree)], tmp_path / "index", jobs=2)


@pytest.mark.skipif(os.name != "posix", reason="flock")
@pytest.mark.usefixtures("small_chunks")
def test_two_builds_of_one_index_do_not_meet(write_tree: WriteTree, tmp_path: Path) -> None:
    """The second is told so at once: a script without a guard would else wait for itself in its own worker."""
    with runs.work_folder(tmp_path / "index"), pytest.raises(IndexWriteError, match="another build of it is under way"):
        build([tree_of(write_tree)], tmp_path / "index")


def _exit(*_: object) -> None:
    os._exit(9)


def test_the_guard_of_the_command() -> None:
    """Workers import the command's file under another name: it then does nothing."""
    source = (Path(__file__).parents[2] / "bin" / "starcite").read_text("utf-8")
    assert 'if __name__ == "__main__":' in source
