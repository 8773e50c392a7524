"""Merging, forgetting and compacting: the results are builds of what they should hold, also after a crash."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attribution import operations, tombstones
from attribution.build import build, build_documents
from attribution.documents import Document, read
from attribution.errors import IndexExistsError, IndexFormatError, IndexWriteError, QueryError, SourceError
from attribution.fingerprint import GUARANTEES, K, fingerprints
from attribution.format import NO_TEXT, TEXT_MODES, Reader, SourceRecord
from attribution.index import Index, search
from attribution.normalise import text as normalised
from attribution.operations import Forgotten, compact, forget, merge
from attribution.postings import FREQUENT
from attribution.stream import StreamChecker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STDLIB = Path(os.__file__).parent
ANN = SourceRecord("ann/tool", "1", "https://github.com/ann/tool/blob/1/{path}", ("MIT",), license_conflict=False)
ANN2 = SourceRecord("Ann/lib", "2", "", ("MIT", "ISC"), license_conflict=True)
BOB = SourceRecord("bob/tool", "1", "", ("GPL-3.0-only",), license_conflict=False)
PACKAGE = SourceRecord("left-pad", "1.0", "https://github.com/ann/left-pad", ("ISC",), license_conflict=False)
SOURCES = [ANN, ANN2, BOB, PACKAGE]


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Let nobody wait for the disk: what is killed here leaves its writes with the system, and indexes are many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _descriptor: None)
        yield


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def text(seed: int, size: int = 400) -> str:
    """Return random lines."""
    rng = random.Random(seed)  # noqa: S311
    return "".join(rng.choice("abcdefghij    \n") for _ in range(size))


def write_optouts(tmp_path: Path, owners: Iterable[str] = (), repos: Iterable[str] = ()) -> Path:
    """Write a file of opt-outs."""
    path = tmp_path / "optouts.jsonl"
    entry = {"optout_owners": list(owners), "optout_repos": list(repos)}
    path.write_text(json.dumps(entry) + "\n", encoding="utf-8")
    return path


def names(index: Index, query: str) -> set[str]:
    """Return the names of the sources that are found for a text."""
    return {source.name for match in index.matches(query, min_run=50) for source in match.sources}


MODES = (*TEXT_MODES, NO_TEXT)
TEXTS = st.one_of(st.text(max_size=40), st.integers(0, 5).map(text), st.sampled_from(["ab" * 99, "", "é" * 60]))
DOCUMENTS = st.builds(Document, TEXTS, st.sampled_from(["a.py", "b/é.c", "\udc80.go"]), st.sampled_from(SOURCES))
CORPORA = st.lists(st.lists(DOCUMENTS, min_size=1, max_size=8), min_size=1, max_size=4)


@settings(deadline=None, max_examples=25)
@given(
    corpora=CORPORA,
    guarantee=st.sampled_from(sorted(GUARANTEES)),
    mode=st.sampled_from(MODES),
    chunk=st.sampled_from([1, 300, 1 << 26]),
)
def test_a_merge_is_the_build_of_the_union(
    corpora: list[list[Document]], guarantee: int, mode: str, chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Byte for byte, however documents are dealt out and repeated, in any order, in chunks of any size."""
    folder = tmp_path_factory.mktemp("merge")
    for number, corpus in enumerate(corpora):
        build_documents(corpus, folder / str(number), name=f"part {number}", guarantee=guarantee, text=mode)
    union = [document for corpus in corpora for document in corpus]
    build_documents(union, folder / "union", name="n", guarantee=guarantee, text=mode)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operations, "CHUNK_BYTES", chunk)
        merge([folder / str(number) for number in reversed(range(len(corpora)))], folder / "merged", name="n")
    assert contents(folder / "merged") == contents(folder / "union")


@settings(deadline=None, max_examples=25)
@given(
    documents=st.lists(DOCUMENTS, min_size=1, max_size=12),
    owners=st.sets(st.sampled_from(["ann", "bob", "x"])),
    mode=st.sampled_from(MODES),
)
def test_a_compacted_index_is_the_build_without(
    documents: list[Document], owners: set[str], mode: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Byte for byte, tombstones included: there are none. Forgetting twice, or once for two, is the same."""
    folder = tmp_path_factory.mktemp("compact")
    build_documents(documents, folder / "index", name="n", text=mode)
    for owner in sorted(owners):
        forget(folder / "index", write_optouts(folder, [owner]))
    ann = {"ann/tool", "Ann/lib", "left-pad"} if "ann" in owners else set()
    out = ann | ({"bob/tool"} if "bob" in owners else set())
    kept = [document for document in documents if document.source.name not in out]
    if not kept:
        with pytest.raises(SourceError, match="delete the folder"):
            compact(folder / "index")
        return
    build_documents(kept, folder / "without", name="n", text=mode)
    report = compact(folder / "index")
    assert contents(folder / "index") == contents(folder / "without")
    assert report.bytes_after == sum(map(len, contents(folder / "without").values()))
    assert compact(folder / "index").removed == Forgotten(0, 0)
    assert contents(folder / "index") == contents(folder / "without")


def test_an_open_index_forgets(tmp_path: Path) -> None:
    """Sources vanish from an index that is already open, those of the same text that remain stay, and so on opening."""
    build_documents(
        [Document(text(1), "a.py", ANN), Document(text(1), "b.py", BOB), Document(text(2), "c.py", PACKAGE)],
        tmp_path / "index",
    )
    with Index.open(tmp_path / "index") as index:
        assert names(index, text(1)) == {"ann/tool", "bob/tool"}
        (match,) = index.matches(text(2))
        assert match.sources[0].name == "left-pad"
        assert index.excerpt(match.sources[0]) is not None
        assert forget(tmp_path / "index", write_optouts(tmp_path, ["ANN"])) == Forgotten(2, 2)
        assert names(index, text(1)) == {"bob/tool"}
        assert index.matches(text(2)) == []
        assert index.excerpt(match.sources[0]) is None
        with Index.open(tmp_path / "index") as again:
            assert names(again, text(1)) == {"bob/tool"}
            assert operations.forgotten(again.reader) == Forgotten(2, 2)
        assert forget(tmp_path / "index", write_optouts(tmp_path, repos=["Bob/Tool"])) == Forgotten(3, 3)
        assert index.matches(text(1)) == []


def test_a_run_inside_a_forgotten_one_is_found(tmp_path: Path) -> None:
    """A shorter copy is reported when the longer one, which held it, is forgotten; counts leave the forgotten out."""
    build_documents([Document(text(1), "a.py", ANN), Document(text(1)[100:300], "b.py", BOB)], tmp_path / "index")
    with Index.open(tmp_path / "index") as index:
        assert [match.sources[0].name for match in index.matches(text(1))] == ["ann/tool"]
        forget(tmp_path / "index", write_optouts(tmp_path, ["ann"]))
        (match,) = index.matches(text(1))
        assert (match.sources[0].name, match.source_count) == ("bob/tool", 1)
        assert match.start >= 100
        assert match.end <= 300


def test_a_stream_forgets(tmp_path: Path) -> None:
    """While a text is typed, a run of a source that is forgotten counts for nothing, nor does it hide a shorter one."""
    line = "# " + "-" * 90 + "\n"  # so common that it is looked up as a whole text is
    build_documents([Document(text(1) + line, "a.py", ANN), Document(line + text(2), "b.py", BOB)], tmp_path / "index")
    with Index.open(tmp_path / "index") as index:
        forget(tmp_path / "index", write_optouts(tmp_path, ["ann"]))
        watch = StreamChecker([index], "", 80)
        told = [match for character in text(1) + line + text(2) if (match := watch.feed(character))]
    assert {source.name for match in told for source in match.sources} == {"bob/tool"}
    assert (told[0].run, told[0].start >= len(text(1).rstrip())) == (80, True)


def test_an_index_that_was_open_all_along(tmp_path: Path) -> None:
    """Forgotten and compacted between two searches: the second one finds nothing of it, and reads the new files."""
    build_documents([Document(text(1), "a.py", ANN), Document(text(2), "b.py", BOB)], tmp_path / "index")
    with Index.open(tmp_path / "index") as index:
        assert names(index, text(1)) == {"ann/tool"}
        forget(tmp_path / "index", write_optouts(tmp_path, ["ann"]))
        compact(tmp_path / "index")
        assert index.matches(text(1)) == []
        assert names(index, text(2)) == {"bob/tool"}
        assert index.summary["documents"] == 1


def test_several_indexes_forget_each_for_itself(tmp_path: Path) -> None:
    """Searched together, an index that has forgotten a source does not hide the same source in another."""
    for name in "ab":
        build_documents([Document(text(1), "a.py", ANN), Document(text(1), "b.py", BOB)], tmp_path / name)
    forget(tmp_path / "a", write_optouts(tmp_path, ["ann"]))
    with Index.open(tmp_path / "a") as a, Index.open(tmp_path / "b") as b:
        (match,) = search([a, b], text(1))
        assert ({source.name for source in match.sources}, match.source_count) == ({"ann/tool", "bob/tool"}, 2)
        forget(tmp_path / "b", write_optouts(tmp_path, ["ann"]))
        (match,) = search([a, b], text(1))
        assert [source.name for source in match.sources] == ["bob/tool"]


@pytest.mark.parametrize("mode", MODES)
def test_compacting_leaves_no_trace(tmp_path: Path, mode: str) -> None:
    """No file holds a name, a path, an opt-out, a stretch of the text or a fingerprint of what was forgotten.

    What another source holds as well stays: the text that both have, with the other's name. The secret stands in many
    documents, so that its keys are written out; others are packed, in bytes that are those of a build without it.
    """
    secret, shared = "q8z" * 5 + text(5, 3000), text(6)
    source = SourceRecord("ann-7f3/private-9c1", "cafe77", "https://github.com/ann-7f3/x", (), license_conflict=False)
    kept = [Document(shared, "b.py", BOB), Document(text(7), "c.py", BOB)]
    copies = [Document(f"{secret}{n}", f"path-5d2/{n}.py", source) for n in range(FREQUENT + 1)]
    build_documents([*copies, Document(shared, "path-5d2/x.py", source), *kept], tmp_path / "index", text=mode)
    data = normalised(secret).data
    words = [word.encode() for word in ("ann-7f3", "private-9c1", "cafe77", "path-5d2", copies[0].text)]
    words += [data[start : start + 16].tobytes() for start in range(0, len(data) - 16, 7)]
    words += [int(key).to_bytes(4, "little") for key in fingerprints(data, K, GUARANTEES[50]).keys]

    def found() -> set[bytes]:
        held = [Reader(tmp_path / "index").stored(n) for n in range(documents())]
        packed = [each.path + (zlib.decompress(each.original) if each.original else b"") for each in held]
        whole = b"\n".join([*contents(tmp_path / "index").values(), *packed])
        return {word for word in words if word in whole}

    def documents() -> int:
        return Reader(tmp_path / "index").facts.documents

    there = {"raw": words, "compressed": [*words[:5], *words[-50:]], "none": [*words[:4], *words[-50:]]}[mode]
    assert found() >= set(there)
    assert mode != "none" or words[4] not in found()
    forget(tmp_path / "index", write_optouts(tmp_path, ["ann-7f3"]))
    compact(tmp_path / "index")
    assert (found(), documents()) == (set(), 2)
    build_documents(kept, tmp_path / "new", name="index", text=mode)
    assert contents(tmp_path / "index") == contents(tmp_path / "new")
    with Index.open(tmp_path / "index") as index:
        assert names(index, shared) == {"bob/tool"}
        index.verify()


def test_a_merge_forgets(tmp_path: Path) -> None:
    """What one index was asked to forget is taken from none, and the result names no opt-out."""
    documents = [Document(text(1), "a.py", ANN), Document(text(2), "b.py", BOB)]
    build_documents(documents, tmp_path / "a")
    build_documents([*documents, Document(text(3), "c.py", PACKAGE)], tmp_path / "b")
    build_documents(documents[1:], tmp_path / "expected", name="merged")
    forget(tmp_path / "a", write_optouts(tmp_path, ["ann"]))
    report = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    assert report.skipped == {"given twice": 1, "opted out": 3}
    assert contents(tmp_path / "merged") == contents(tmp_path / "expected")


def test_an_opt_out_during_a_merge_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that is asked to forget after it was read hands that on to the merged one."""
    build_documents([Document(text(1), "a.py", ANN), Document(text(2), "b.py", BOB)], tmp_path / "a")
    publish = operations.publish

    def late(*args: object, **options: object) -> object:
        forget(tmp_path / "a", write_optouts(tmp_path, ["ann"]))
        return publish(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(operations, "publish", late)
    merge([tmp_path / "a"], tmp_path / "merged")
    with Index.open(tmp_path / "merged") as index:
        assert index.matches(text(1)) == []
        assert names(index, text(2)) == {"bob/tool"}


def test_an_opt_out_during_a_compaction_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for while the new index is written is in force in it; compacting again removes that too."""
    documents = [Document(text(n), "a.py", source) for n, source in enumerate([ANN, BOB, PACKAGE])]
    documents[2] = Document(text(2), "c.py", SourceRecord("carl/x", "1", "", (), license_conflict=False))
    build_documents(documents, tmp_path / "index", name="n")
    build_documents(documents[2:], tmp_path / "rest", name="n")
    forget(tmp_path / "index", write_optouts(tmp_path, ["ann"]))
    publish = operations.publish

    def late(*args: object, **options: object) -> object:
        forget(tmp_path / "index", write_optouts(tmp_path, ["bob"]))
        return publish(*args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, Index.open(tmp_path / "index") as index:
        patch.setattr(operations, "publish", late)
        compact(tmp_path / "index")
        assert index.summary["documents"] == 2
        assert index.matches(text(1)) == []
        assert names(index, text(2)) == {"carl/x"}
    compact(tmp_path / "index")
    assert contents(tmp_path / "index") == contents(tmp_path / "rest")


def test_an_index_replaced_during_a_compaction_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compaction does not put an older index in the place of a newer one."""
    build_documents([Document(text(1), "a.py", ANN), Document(text(2), "b.py", BOB)], tmp_path / "index")
    forget(tmp_path / "index", write_optouts(tmp_path, ["ann"]))
    publish = operations.publish

    def late(*args: object, **options: object) -> object:
        build_documents([Document(text(9), "z.py", BOB)], tmp_path / "index", overwrite=True)
        return publish(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(operations, "publish", late)
    with pytest.raises(IndexWriteError, match="replaced by another index meanwhile"):
        compact(tmp_path / "index")
    with Index.open(tmp_path / "index") as index:
        assert names(index, text(9)) == {"bob/tool"}


def test_a_new_build_in_the_same_place_still_forgets(tmp_path: Path) -> None:
    """Building over an index does not bring back whom it has forgotten; what covers nothing any more is dropped."""
    documents = [Document(text(1), "a.py", ANN), Document(text(2), "b.py", BOB)]
    build_documents(documents, tmp_path / "index")
    forget(tmp_path / "index", write_optouts(tmp_path, ["ann"]))
    build_documents([*documents, Document(text(3), "c.py", BOB)], tmp_path / "index", overwrite=True)
    with Index.open(tmp_path / "index") as index:
        assert index.matches(text(1)) == []
        assert names(index, text(3)) == {"bob/tool"}
        index.verify()
        build_documents(documents[1:], tmp_path / "index", overwrite=True)
        assert names(index, text(2)) == {"bob/tool"}
    assert tombstones.FILE not in contents(tmp_path / "index")


def test_wrong_use(tmp_path: Path) -> None:
    """Indexes that do not go together, occupied outputs and folders without index are errors that change nothing."""
    build_documents([Document(text(1), "a.py", ANN)], tmp_path / "a")
    build_documents([Document(text(1), "a.py", ANN)], tmp_path / "b", guarantee=100)
    before = contents(tmp_path / "a"), contents(tmp_path / "b")
    optouts = write_optouts(tmp_path, ["ann"])
    with pytest.raises(QueryError, match="build them alike"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    build_documents([Document(text(1), "a.py", ANN)], tmp_path / "b", text="compressed", overwrite=True)
    with pytest.raises(QueryError, match="its text compressed"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    before = contents(tmp_path / "a"), contents(tmp_path / "b")
    with pytest.raises(QueryError, match="nothing to merge"):
        merge([], tmp_path / "out")
    with pytest.raises(IndexExistsError):
        merge([tmp_path / "a"], tmp_path / "b")
    for nothing in (tmp_path, tmp_path / "none", optouts):
        with pytest.raises(IndexFormatError):
            merge([tmp_path / "a", nothing], tmp_path / "out")
        with pytest.raises(IndexFormatError):
            forget(nothing, optouts)
        with pytest.raises(IndexFormatError):
            compact(nothing)
    assert (contents(tmp_path / "a"), contents(tmp_path / "b")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "optouts.jsonl"]


# The child runs an operation in a fork of its own for each point, and dies before its n-th change of the file system.
CRASHES = """
import os, shutil, signal, sys
from pathlib import Path
from attribution.build import merge_shards
from attribution.format import Reader
from attribution.operations import _entries, compact, forget, merge
from attribution.shards import fingerprint_shard

os.fsync = lambda descriptor: None
folder, optouts, operation = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "fcntl.flock"}
merge([folder / "start" / "index"], folder / "warm")  # so that no child has to load compiled kernels
shutil.rmtree(folder / "warm")
survived = False
point = 0
while not survived:
    case = folder / f"crash-{point}"
    shutil.copytree(folder / "start", case)
    child = os.fork()
    if not child:
        left = point
        def hook(event, args):
            global left
            if event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & os.O_CREAT):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        if operation == "merge":
            merge([case / "index", case / "other"], case / "merged", name="n")
        elif operation == "forget":
            forget(case / "index", optouts)
        elif operation == "build":
            merge_shards([fingerprint_shard(_entries(Reader(folder / "all"), None))], case / "index", overwrite=True)
        else:
            compact(case / "index")
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    survived = not os.WIFSIGNALED(status)
    assert not survived or status == 0
    point += 1
print(point)
"""


def crash_everywhere(tmp_path: Path, operation: str) -> list[Path]:
    """Kill an operation before each of its changes, each time in a fresh copy of `start`; return the copies."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", CRASHES, str(tmp_path), str(tmp_path / "optouts.jsonl"), operation]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return [tmp_path / f"crash-{point}" for point in range(int(done.stdout))]


def start(tmp_path: Path) -> None:
    """Write the indexes that operations are killed on, and the opt-outs."""
    documents = [Document(text(n), f"{n}.py", source) for n, source in enumerate([ANN, BOB, PACKAGE])]
    build_documents(documents[:2], tmp_path / "start" / "index", name="n")
    build_documents(documents[1:], tmp_path / "start" / "other", name="n")
    write_optouts(tmp_path, ["ann"])


def answers(index: Index) -> tuple[set[str], ...]:
    """Return which sources are found for each text."""
    return tuple(names(index, text(n)) for n in range(3))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_killed_forget_has_happened_or_not(tmp_path: Path) -> None:
    """Wherever it is killed, the index answers as before or as after, and forgetting again goes through."""
    start(tmp_path)
    crashed = crash_everywhere(tmp_path, "forget")
    seen = []
    for case in crashed:
        with Index.open(case / "index") as index:
            index.verify()
            seen.append(answers(index))
            forget(case / "index", tmp_path / "optouts.jsonl")
            assert answers(index) == (set(), {"bob/tool"}, set())
        assert set(contents(case / "index")) == {*contents(tmp_path / "start" / "index"), tombstones.FILE}
    before, after = ({"ann/tool"}, {"bob/tool"}, set()), (set(), {"bob/tool"}, set())
    assert seen == sorted(seen, key=[before, after].index)
    assert {seen[0] == before, seen[-1] == after} == {True}
    assert len(crashed) >= 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_killed_compaction_forgets_all_the_same(tmp_path: Path) -> None:
    """Wherever it is killed, nothing forgotten is found, and compacting again leaves the build without it."""
    start(tmp_path)
    forget(tmp_path / "start" / "index", tmp_path / "optouts.jsonl")
    build_documents([Document(text(1), "1.py", BOB)], tmp_path / "without", name="n")
    crashed = crash_everywhere(tmp_path, "compact")
    for case in crashed:
        with Index.open(case / "index") as index:
            index.verify()
            assert answers(index) == (set(), {"bob/tool"}, set())
            compact(case / "index")
            assert answers(index) == (set(), {"bob/tool"}, set())
        assert contents(case / "index") == contents(tmp_path / "without")
        assert sorted(path.name for path in case.iterdir()) == ["index", "other"]
    assert len(crashed) >= 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_killed_build_over_an_index_goes_on_forgetting(tmp_path: Path) -> None:
    """Wherever a build is killed that replaces an index, the old or the new one answers, without the forgotten."""
    start(tmp_path)
    forget(tmp_path / "start" / "index", tmp_path / "optouts.jsonl")
    carl = SourceRecord("carl/tool", "1", "", (), license_conflict=False)
    documents = [Document(text(n), f"{n}.py", source) for n, source in enumerate([ANN, BOB, carl])]
    build_documents(documents, tmp_path / "all")
    seen = []
    for case in crash_everywhere(tmp_path, "build"):
        with Index.open(case / "index") as index:
            index.verify()
            seen.append(answers(index))
    before, after = (set(), {"bob/tool"}, set()), (set(), {"bob/tool"}, {"carl/tool"})
    assert seen == sorted(seen, key=[before, after].index)
    assert (seen[0], seen[-1]) == (before, after)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_killed_merge_leaves_nothing_half_done(tmp_path: Path) -> None:
    """Wherever it is killed, there is no output or the whole; merging again takes what was left out of the way."""
    start(tmp_path)
    crashed = crash_everywhere(tmp_path, "merge")
    whole = contents(crashed[-1] / "merged")
    there = [(case / "merged").exists() for case in crashed]
    assert there == sorted(there)
    assert {there[0], there[-1]} == {False, True}
    for case in crashed:
        assert contents(case / "index") == contents(tmp_path / "start" / "index")
        if (case / "merged").exists():
            shutil.rmtree(case / "merged")
        merge([case / "index", case / "other"], case / "merged", name="n")
        assert contents(case / "merged") == whole
        assert sorted(path.name for path in case.iterdir()) == ["index", "merged", "other"]


@pytest.mark.parametrize("operation", ["forget", "compact"])
def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    """An operation that cannot write says so and leaves the index, its tombstones and the folder as they were."""
    start(tmp_path)
    folder = tmp_path / "start" / "index"
    if operation == "compact":
        forget(folder, tmp_path / "optouts.jsonl")
    before = contents(folder)
    for allowed in range(3):
        left = allowed

        def full(_descriptor: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            try:
                forget(folder, tmp_path / "optouts.jsonl") if operation == "forget" else compact(folder)
            except IndexWriteError as error:
                assert "No space left on device" in str(error)  # noqa: PT017
                if operation == "compact" or allowed == 0:
                    assert contents(folder) == before
        assert sorted(path.name for path in folder.parent.iterdir()) == ["index", "other"]


def test_opting_out_of_a_real_index_takes_less_than_a_second(tmp_path: Path) -> None:
    """The standard library is gone from an open index within a second of the wish, and from its files after."""
    build([STDLIB], tmp_path / "index")
    query = (STDLIB / "textwrap.py").read_text("utf-8")[1000:1800]
    own = Document(text(1), "a.py", BOB)
    build_documents([own], tmp_path / "own")
    merge([tmp_path / "index", tmp_path / "own"], tmp_path / "both")
    with Index.open(tmp_path / "both") as index:
        assert names(index, query) == {"cpython"}
        started = time.perf_counter()
        forget(tmp_path / "both", write_optouts(tmp_path, ["Python"]))
        assert index.matches(query, min_run=50) == []
        assert time.perf_counter() - started < 1
        assert names(index, text(1)) == {"bob/tool"}
    compact(tmp_path / "both")
    build_documents([own], tmp_path / "alone", name="both")
    assert contents(tmp_path / "both") == contents(tmp_path / "alone")


def test_halves_of_the_standard_library_merge_to_the_whole(tmp_path: Path) -> None:
    """Real files in two indexes, some in both: the union has the bytes of one build."""
    documents = list(read([STDLIB], Counter()))
    build_documents(documents, tmp_path / "whole", name="n")
    build_documents(documents[::2], tmp_path / "a")
    build_documents(documents[1::2] + documents[:100], tmp_path / "b")
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "merged", name="n")
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
