"""Builds on many machines: the bytes of a build on one, whatever fails in between."""

from __future__ import annotations

import inspect
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

pytest.importorskip("datatrove", reason="builds on many machines need the extra `corpus`")

from attribution import documents, pipeline, runs
from attribution.build import BuildReport, build
from attribution.errors import IndexExistsError, PipelineError, SourceError
from attribution.optout import OptOuts
from attribution.pipeline import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    WriteTree = Callable[[str, Mapping[str, str | bytes]], Path]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def code(seed: int, lines: int = 60) -> str:
    """Return text like code, the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311
    words = ["return", "value", "índex", "if", "self.items", "=", "+", "(", ")", "'text'", "\t", "count"]
    return "\n".join(" ".join(rng.choices(words, k=8)) for _ in range(lines))


def row(seed: int, repo: str, licence: str, **fields: object) -> str:
    """Return a line of a data set; rows of seeds that differ by 100 are near-duplicates."""
    text = code(seed % 100) + f"\n# ask {repo.replace('/', '.')}@example.com, release {seed // 100}\n"
    place = {"repo_name": repo, "path": f"{seed}.py", "detected_licenses": [licence] if licence else []}
    return json.dumps({"content": text} | place | fields) + "\n"


@pytest.fixture
def sources(write_tree: WriteTree, tmp_path: Path) -> list[Path]:
    """Return folders, an archive and a folder of rows, documents that stand in two of them, and unreadable ones."""
    licence = {
        "LICENSE": "MIT License\n\nPermission is hereby granted, free of charge, to any person obtaining a copy\n"
    }
    one = write_tree("one", {f"{n}.py": code(n) for n in range(5)} | licence)
    two = write_tree("two", {f"lib/{n}.js": code(n) for n in range(3, 9)} | {"bad.py": b"\0"})
    archive = tmp_path / "three-1.0.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(20, 24):
            file.writestr(f"three-1.0/{number}.c", code(number))
    mixed = [row(1, "a/x", "GPL-3.0-only"), row(40, "a/y", "MIT"), row(41, "b/x", "MIT"), "damaged\n"]
    rows = write_tree(
        "rows",
        {
            "0.jsonl": "".join(mixed),
            "1.jsonl": row(140, "c/y", "MIT") + row(42, "c/z", "") + row(240, "a/z", "BSD-3-Clause"),
            "inner.zip": b"",
        },
    )
    return [one, two, archive, rows, write_tree("four", {"x.go": code(30, lines=400)})]


def single(sources: list[Path], out: Path, **options: Any) -> BuildReport:  # noqa: ANN401
    """Build on one machine, as what a pipeline is compared with."""
    return build(sources, out, name="n", **options)


@pytest.mark.parametrize("tasks", [1, 2, 3, 7])
def test_bytes_are_those_of_one_machine(sources: list[Path], tmp_path: Path, tasks: int) -> None:
    """Index and report equal those of `build`, also with more ranks than sources; nothing is left beside the index."""
    wanted = single(sources, tmp_path / "one.idx")
    report = pipeline.run_local(sources, tmp_path / "many" / "i", workers=1, tasks=tasks, name="n")
    assert contents(tmp_path / "many" / "i") == contents(tmp_path / "one.idx")
    assert replace(report, out=wanted.out) == wanted
    assert [path.name for path in (tmp_path / "many").iterdir()] == ["i"]


CORPUS: Options = {
    "allow_license": ["permissive", "NONE"],
    "dedup": True,
    "renamed": True,
    "redact": True,
    "optouts": OptOuts(owners=frozenset({"b"})),
}


@pytest.mark.parametrize("tasks", [1, 2, 3])
@pytest.mark.parametrize("without", [None, "dedup"])
def test_filters_decide_as_on_one_machine(sources: list[Path], tmp_path: Path, tasks: int, without: str | None) -> None:
    """Licences, near-duplicates across ranks, personal data, opt-outs: the same bytes, the same reasons counted."""
    options = Options({key: value for key, value in CORPUS.items() if key != without})  # type: ignore[misc]
    wanted = single(sources, tmp_path / "one.idx", **options)
    report = pipeline.run_local(sources, tmp_path / "i", workers=1, tasks=tasks, name="n", **options)
    assert contents(tmp_path / "i") == contents(tmp_path / "one.idx")
    assert replace(report, out=wanted.out) == wanted
    if without is None:
        reasons = {"near-duplicate", "opted out", "licence not allowed", "row that is not a JSON object", "binary"}
        assert {reason for reason in reasons if not report.skipped.get(reason)} == set()


def test_options_are_those_of_the_build() -> None:
    """What `build` can be asked for, a pipeline can, and by the same names; only how it is run differs."""
    asked = set(inspect.signature(build).parameters) - {"sources", "out", "jobs", "progress"}
    assert set(Options.__annotations__) == asked


def test_worker_processes(sources: list[Path], tmp_path: Path) -> None:
    """Two processes at a time, with the other guarantee, texts and the other stream, give the same bytes."""
    options = Options(guarantee=100, text="compressed", renamed=True)
    single(sources, tmp_path / "one.idx", **options)
    pipeline.run_local(sources, tmp_path / "i", workers=2, tasks=3, name="n", **options)
    assert contents(tmp_path / "i") == contents(tmp_path / "one.idx")


def test_chunks_and_blocks_change_nothing(sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that holds one document at a time, and postings that are passed on by sevens, give the same bytes."""
    single(sources, tmp_path / "one.idx", renamed=True)
    monkeypatch.setattr(runs, "CHUNK_CHARS", 1)
    monkeypatch.setattr(runs, "SHARDS_PER_MERGE", 2)
    monkeypatch.setattr(pipeline, "_GATHERED_POSTINGS", 7)
    pipeline.run_local(sources, tmp_path / "i", workers=1, tasks=2, name="n", renamed=True)
    assert contents(tmp_path / "i") == contents(tmp_path / "one.idx")


def test_a_run_is_taken_up_after_a_rank_failed(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks that had ended are not run again, the others are, and the bytes are the same."""
    read: list[str] = []
    original = documents.read_part

    def failing(path: Path, *arguments: Any, **options: Any) -> Iterator[documents.Document]:  # noqa: ANN401
        read.append(path.name)
        found = original(path, *arguments, **options)
        if path.name == "1.jsonl" and len(read) < 10:
            yield next(found)
            raise OSError(path.name)
        yield from found

    monkeypatch.setattr(documents, "read_part", failing)
    with pytest.raises(OSError, match=r"1\.jsonl"):
        pipeline.run_local(sources, tmp_path / "i", workers=1, tasks=3, name="n")
    assert not (tmp_path / "i").exists()
    assert read == ["one", "0.jsonl", "two", "1.jsonl"]  # and nothing of the third rank
    read += 10 * [""]
    pipeline.run_local(sources, tmp_path / "i", workers=1, tasks=3, name="n")
    assert read[14:] == ["two", "1.jsonl", "three-1.0.zip", "four"]
    monkeypatch.undo()
    single(sources, tmp_path / "one.idx")
    assert contents(tmp_path / "i") == contents(tmp_path / "one.idx")


def test_every_stage_is_taken_up(sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose every stage fails once, at the end of its last rank, gives the same bytes in the end."""
    last_steps = [
        pipeline.WriteSignatures,
        pipeline.FindNearDuplicates,
        pipeline.WriteShard,
        pipeline.FindOrder,
        pipeline.MergePostings,
    ]
    failed: set[str] = set()

    def failing(step: type[pipeline._Step]) -> Callable[..., Iterator[Any]]:
        run = step.run

        def once(self: pipeline._Step, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:  # noqa: ANN401
            yield from run(self, data, rank, world_size)
            if rank == world_size - 1 and step.name not in failed:
                failed.add(step.name)
                raise OSError(step.name)

        return once

    for step in last_steps:
        monkeypatch.setattr(step, "run", failing(step))
    for step in last_steps:
        with pytest.raises(OSError, match=step.name):
            pipeline.run_local(sources, tmp_path / "i", workers=1, tasks=2, name="n", **CORPUS)
    pipeline.run_local(sources, tmp_path / "i", workers=1, tasks=2, name="n", **CORPUS)
    single(sources, tmp_path / "one.idx", **CORPUS)
    assert contents(tmp_path / "i") == contents(tmp_path / "one.idx")


KILLED = """
from attribution.pipeline import run_local
if __name__ == "__main__":
    run_local({sources!r}, {out!r}, workers=2, tasks=2, name="n")
"""


@pytest.mark.skipif(os.name != "posix", reason="named pipes and signals")
def test_a_run_that_was_killed_is_taken_up(sources: list[Path], tmp_path: Path) -> None:
    """Worker processes end with a run that is killed, though they would go on for ever; the next takes it up."""
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    given = [sources[0], pipe]
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(sources=list(map(str, given)), out=str(tmp_path / "i")))
    run = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        with pipe.open("wb", buffering=0) as writer:  # as soon as a worker reads
            ended = select.poll()
            ended.register(writer, select.POLLERR)
            assert not ended.poll(0)
            run.kill()
            assert ended.poll(20_000), "the worker still reads"
    finally:
        os.killpg(run.pid, signal.SIGKILL)  # datatrove's manager process stays
        run.wait()
    with ThreadPoolExecutor() as pool:
        written = pool.submit(pipe.write_text, row(50, "a/y", "MIT"))
        pipeline.run_local(given, tmp_path / "i", workers=1, tasks=2, name="n")
        written.result()
        pool.submit(pipe.write_text, row(50, "a/y", "MIT"))
        single(given, tmp_path / "one.idx")
    assert contents(tmp_path / "i") == contents(tmp_path / "one.idx")


def test_another_job_begins_anew(sources: list[Path], tmp_path: Path) -> None:
    """What a run that was ended left is not taken for another job's: of other options, or of a file that changed."""
    for change in ({"guarantee": 100}, {"redact": True}, {}):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline.WriteIndex, "run", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                pipeline.run_local(sources, tmp_path / "i", workers=1, tasks=2, name="n")
        if not change:
            (sources[3] / "0.jsonl").write_text(row(50, "a/y", "MIT"))
        options = cast("Options", change)
        pipeline.run_local(sources, tmp_path / "i", workers=1, tasks=2, name="n", overwrite=True, **options)
        single(sources, tmp_path / "one.idx", overwrite=True, **options)
        assert contents(tmp_path / "i") == contents(tmp_path / "one.idx")
        shutil.rmtree(tmp_path / "i")


def test_sources_that_change_between_two_readings(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source with other documents when it is read again is an error: what to drop was decided for the former."""
    find = pipeline.FindNearDuplicates.run

    def change(*arguments: Any) -> Iterator[Any]:  # noqa: ANN401
        (sources[0] / "late.py").write_text(code(60))
        yield from find(*arguments)

    monkeypatch.setattr(pipeline.FindNearDuplicates, "run", change)
    with pytest.raises(SourceError, match="one was changed while it was read; build again"):
        pipeline.run_local(sources, tmp_path / "i", workers=1, tasks=2, dedup=True)


def test_wrong_use(sources: list[Path], write_tree: WriteTree, tmp_path: Path) -> None:
    """An index that is there is not overwritten unasked; no ranks, or sources without code, are errors."""
    pipeline.run_local(sources[:1], tmp_path / "i", workers=1)
    with pytest.raises(IndexExistsError):
        pipeline.run_local(sources, tmp_path / "i", workers=1)
    report = pipeline.run_local(sources[4:], tmp_path / "i", workers=1, overwrite=True)
    assert report.documents == 1
    with pytest.raises(PipelineError, match="ranks"):
        pipeline.run_local(sources, tmp_path / "j", workers=1, tasks=0)
    with pytest.raises(SourceError, match="late does not exist"):
        pipeline.run_local([*sources, tmp_path / "late"], tmp_path / "j", workers=1)
    with pytest.raises(SourceError, match="SPDX"):
        pipeline.run_local(sources, tmp_path / "j", workers=1, license="my own")
    with pytest.raises(SourceError, match="No source code"):
        pipeline.run_local([write_tree("empty", {"a.png": b"\x89PNG"})], tmp_path / "j", workers=1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Connect to a Ray cluster of two machines with one CPU each, both of them here."""
    token = tmp_path_factory.mktemp("ray") / "token"
    token.write_text("0" * 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")  # read when Ray is imported; without it, it writes to the home folder
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        ray = pytest.importorskip("ray", reason="builds on a Ray cluster need the extra `corpus`")
        from ray.cluster_utils import Cluster  # noqa: PLC0415

        machine = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
        machines = Cluster(initialize_head=True, head_node_args=machine)
        try:
            machines.add_node(**machine)
            ray.init(address=machines.address, log_to_driver=False)
            yield
        finally:
            ray.shutdown()
            machines.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_ray_cluster(sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines give the same bytes as one; too little memory for a rank is an error."""
    wanted = single(sources, tmp_path / "one.idx", **CORPUS)
    report = pipeline.run_ray(sources, tmp_path / "i", workers=2, tasks=3, name="n", **CORPUS)
    assert contents(tmp_path / "i") == contents(tmp_path / "one.idx")
    assert replace(report, out=wanted.out) == wanted
    monkeypatch.setattr(pipeline, "MEMORY_PER_RANK_GB", 1 << 20)
    with pytest.raises(PipelineError, match="No machine"):
        pipeline.run_ray(sources, tmp_path / "j", workers=2, name="n")


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_rank_that_fails_on_a_ray_cluster(tmp_path: Path, write_tree: WriteTree) -> None:
    """It is said where its log is, though Ray's executor says nothing; the same call takes the run up."""
    rows = write_tree("rows", {"0.parquet": b"no parquet"})
    with pytest.raises(PipelineError, match=r"1 of 2 ranks of the stage 'shards' failed; read .*task_00000\.log"):
        pipeline.run_ray([rows], tmp_path / "i", workers=2, tasks=2)
    log = (tmp_path / ".i.pipeline" / "logs" / "shards" / "logs" / "task_00000.log").read_text("utf-8")
    assert "0.parquet cannot be read" in log
