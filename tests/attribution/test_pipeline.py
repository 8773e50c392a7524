"""Builds on many machines: the bytes of a build on one, whatever fails in between."""

from __future__ import annotations

import random
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("datatrove", reason="builds on many machines need the extra `corpus`")

from attribution import pipeline
from attribution.build import BuildReport, build
from attribution.errors import IndexExistsError, PipelineError, SourceError

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


@pytest.fixture
def sources(write_tree: WriteTree, tmp_path: Path) -> list[Path]:
    """Return folders and an archive with documents that stand in two of them, an unreadable one, and licences."""
    licence = {
        "LICENSE": "MIT License\n\nPermission is hereby granted, free of charge, to any person obtaining a copy\n"
    }
    one = write_tree("one", {f"{n}.py": code(n) for n in range(5)} | licence)
    two = write_tree("two", {f"lib/{n}.js": code(n) for n in range(3, 9)} | {"bad.py": b"\0"})
    archive = tmp_path / "three-1.0.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(20, 24):
            file.writestr(f"three-1.0/{number}.c", code(number))
    return [one, two, archive, write_tree("four", {"x.go": code(30, lines=400)})]


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


def test_worker_processes(sources: list[Path], tmp_path: Path) -> None:
    """Two processes at a time, in chunks and blocks, with the other guarantee, give the same bytes."""
    single(sources, tmp_path / "one.idx", guarantee=100)
    pipeline.run_local(sources, tmp_path / "i", workers=2, tasks=3, name="n", guarantee=100)
    assert contents(tmp_path / "i") == contents(tmp_path / "one.idx")


def test_chunks_and_blocks_change_nothing(sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that holds one document at a time, and postings that are passed on by sevens, give the same bytes."""
    single(sources, tmp_path / "one.idx")
    monkeypatch.setattr(pipeline, "CHUNK_CHARS", 1)
    monkeypatch.setattr(pipeline, "_GATHERED_POSTINGS", 7)
    pipeline.run_local(sources, tmp_path / "i", workers=1, tasks=2, name="n")
    assert contents(tmp_path / "i") == contents(tmp_path / "one.idx")


def test_a_run_is_taken_up_after_a_rank_failed(sources: list[Path], tmp_path: Path) -> None:
    """Ranks that had ended are not run again, the others are, and the bytes are the same."""
    missing = tmp_path / "late"
    with pytest.raises(SourceError, match="late"):
        pipeline.run_local([*sources, missing], tmp_path / "i", workers=1, tasks=5, name="n")
    assert not (tmp_path / "i").exists()
    shards = tmp_path / ".i.pipeline" / "shards"
    ended = {path: path.stat().st_mtime_ns for path in shards.glob("*/*")}
    assert len({path.parent for path in ended}) == 4
    for path in shards.glob("00000/*"):
        path.touch()
        ended[path] = path.stat().st_mtime_ns
    missing.mkdir()
    (missing / "late.py").write_text(code(50))
    kept: dict[Path, int] = {}

    def remember(job: pipeline._Job) -> list[Any]:
        kept.update({path: path.stat().st_mtime_ns for path in ended})
        return original(job)

    original = pipeline._Job.shards
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline._Job, "shards", remember)
        pipeline.run_local([*sources, missing], tmp_path / "i", workers=1, tasks=5, name="n")
    assert kept == ended
    single([*sources, missing], tmp_path / "one.idx")
    assert contents(tmp_path / "i") == contents(tmp_path / "one.idx")


def test_every_stage_is_taken_up(sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that fails once in each of its stages, halfway, gives the same bytes in the end."""
    single(sources, tmp_path / "one.idx")
    failed: set[str] = set()

    def failing(step: type[pipeline._Step]) -> Callable[..., Iterator[Any]]:
        run = step.run

        def once(self: pipeline._Step, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:  # noqa: ANN401
            yield from run(self, data, rank, world_size)
            if rank == world_size - 1 and step.name not in failed:
                failed.add(step.name)
                raise PipelineError(step.name)

        return once

    for step in pipeline._Step.__subclasses__():
        if step is not pipeline.WriteIndex:
            monkeypatch.setattr(step, "run", failing(step))
    for _ in range(len(pipeline._Step.__subclasses__()) - 1):
        with pytest.raises(PipelineError):
            pipeline.run_local(sources, tmp_path / "i", workers=1, tasks=2, name="n")
    pipeline.run_local(sources, tmp_path / "i", workers=1, tasks=2, name="n")
    assert contents(tmp_path / "i") == contents(tmp_path / "one.idx")


def test_another_job_begins_anew(sources: list[Path], tmp_path: Path) -> None:
    """What an ended run left is not taken for another job's: other sources, options, or a file that changed."""
    with pytest.raises(SourceError):
        pipeline.run_local([*sources, tmp_path / "late"], tmp_path / "i", workers=1, tasks=2, name="n")
    pipeline.run_local(sources[1:], tmp_path / "i", workers=1, tasks=2, name="n", guarantee=100)
    single(sources[1:], tmp_path / "one.idx", guarantee=100)
    assert contents(tmp_path / "i") == contents(tmp_path / "one.idx")


def test_wrong_use(sources: list[Path], write_tree: WriteTree, tmp_path: Path) -> None:
    """An index that is there is not overwritten unasked; no ranks, or sources without code, are errors."""
    pipeline.run_local(sources[:1], tmp_path / "i", workers=1)
    with pytest.raises(IndexExistsError):
        pipeline.run_local(sources, tmp_path / "i", workers=1)
    report = pipeline.run_local(sources[3:], tmp_path / "i", workers=1, overwrite=True)
    assert report.documents == 1
    with pytest.raises(PipelineError, match="ranks"):
        pipeline.run_local(sources, tmp_path / "j", workers=1, tasks=0)
    with pytest.raises(SourceError, match="No source code"):
        pipeline.run_local([write_tree("empty", {"a.png": b"\x89PNG"})], tmp_path / "j", workers=1)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connect to a Ray cluster of two machines with one CPU each, both of them here."""
    token = tmp_path / "token"
    token.write_text("0" * 64)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # read when Ray is imported
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
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
    """Two machines give the same bytes; a rank that fails there is said, and taken up; so is a want of machines."""
    missing = tmp_path / "late"
    with pytest.raises(PipelineError, match=r"1 of 5 ranks of the stage 'shards' failed.*task_00004\.log"):
        pipeline.run_ray([*sources, missing], tmp_path / "i", workers=2, tasks=5, name="n")
    missing.mkdir()
    (missing / "late.py").write_text(code(50))
    report = pipeline.run_ray([*sources, missing], tmp_path / "i", workers=2, tasks=5, name="n")
    wanted = single([*sources, missing], tmp_path / "one.idx")
    assert contents(tmp_path / "i") == contents(tmp_path / "one.idx")
    assert replace(report, out=wanted.out) == wanted
    monkeypatch.setattr(pipeline, "MEMORY_PER_RANK_GB", 1 << 20)
    with pytest.raises(PipelineError, match="No machine"):
        pipeline.run_ray(sources, tmp_path / "j", workers=2, name="n")
