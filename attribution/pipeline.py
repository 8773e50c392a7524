"""The build on many machines, as a datatrove pipeline (extra `corpus`): the bytes that `build` writes on one.

    shards    read ─▶ fingerprint ─▶ write a shard     a rank reads every world_size-th source
    order     which document comes where               one rank
    postings  merge the shards' postings               a rank has a range of the hashes
    index     put the parts together, publish          one rank

    if __name__ == "__main__":                         # the worker processes import the script that they are started by
        run_local(["a.parquet", "b.parquet"], "stack", workers=8, tasks=64)

`run_ray` does the same on a Ray cluster whose machines share the folder that the index is written to and have this
package installed. What lies between the stages is kept beside the index, as `.<name>.pipeline`, until it is published:
the same call takes up a run that was ended, and leaves out the ranks that had ended (datatrove's `completions/`).

Documents go from step to step as datatrove's `Document`s, whose metadata say where they come from.

What to know of datatrove 0.10.1 and Ray 2.60: Ray's executor returns as if nothing had been when a rank failed, and an
executor that depends on it then waits for ever. Therefore each stage is looked at here before the next one begins. It
also waits for ever for resources that no machine has, and when a warning is made an error, which ends the thread that
submits tasks. The local executor waits for ever for a worker process that the system has killed.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from datatrove.data import Document
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from attribution import documents
from attribution.build import BuildReport, publish
from attribution.errors import PipelineError
from attribution.format import SourceRecord
from attribution.shards import KEY_LIMIT, MANIFEST, Merge, Order, Shard, chunks, combine, fingerprint_shard
from attribution.writer import check_output

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

    import numpy.typing as npt

    Documents = Iterable[Document] | None

CHUNK_CHARS = 64 << 20
"""A rank holds about eight bytes for each character of a chunk of documents."""
MAX_TASKS = 1 << 16
MEMORY_PER_RANK_GB = 1
_GATHERED_POSTINGS = 1 << 22


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for; see `build`."""

    name: str
    guarantee: int = 50
    license: str | None = None
    docs: bool = False
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class _Job:
    """What is built of what. All machines share the folder `work`."""

    sources: tuple[Path, ...]
    out: Path
    work: Path
    options: Options

    def shards(self) -> list[Shard]:
        """Return the shards of all ranks, always in the same order."""
        return [Shard.open(manifest.parent) for manifest in sorted((self.work / "shards").glob(f"*/{MANIFEST}"))]

    def order(self) -> Order:
        """Return what `FindOrder` found."""
        with np.load(self.work / "order.npz") as saved:
            corpus, repeated = str(saved["corpus"]), int(saved["repeated"])
            return Order(saved["shard_of"], saved["number_of"], corpus, repeated)


class _Executor(Protocol):
    """What is used of datatrove's executors."""

    def run(self) -> object:
        """Run what is not complete."""

    def get_incomplete_ranks(self, *, skip_completed: bool) -> list[int]:
        """Return the ranks that did not end."""


# --- steps -----------------------------------------------------------------------------------------------------------


class _Step(PipelineStep):  # type: ignore[misc]  # datatrove has no types
    """A step of a job; the steps of a stage count what they leave out in the same `counts`, by reason."""

    type = "starcite"

    def __init__(self, job: _Job, counts: Counter[str]) -> None:
        super().__init__()
        self.job = job
        self.counts = counts


class ReadSources(_Step):
    """Reads every world_size-th source, beginning with that of the rank's number."""

    name = "read sources"

    def run(self, data: Documents = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents; `id` says which of which source it is."""
        yield from data or ()
        options = self.job.options
        for number in range(rank, len(self.job.sources), world_size):
            source = [self.job.sources[number]]
            found = documents.read(source, self.counts, license_id=options.license, docs=options.docs)
            for ordinal, document in enumerate(found):
                self.stat_update("documents")
                self.stat_update("characters", value=len(document.text))
                yield _packed(document, f"{number}/{ordinal}")


class WriteShard(_Step):
    """Writes a rank's documents as one shard, and holds no more than a chunk of them."""

    name = "write shard"

    def run(self, data: Documents = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: ARG002
        """Yield nothing."""
        folder = self.job.work / "shards" / f"{rank:05d}"
        parts = folder.with_name(f"{folder.name}-parts")
        for stale in (folder, parts):  # of a rank that was ended
            shutil.rmtree(stale, ignore_errors=True)
        made: list[Path] = []
        for chunk in chunks(map(_unpacked, data or ()), CHUNK_CHARS):
            made.append(parts / f"{len(made):05d}")
            fingerprint_shard(chunk, guarantee=self.job.options.guarantee).save(made[-1])
        if made:
            combine([Shard.open(part) for part in made], folder)
            shutil.rmtree(parts)
        folder.mkdir(exist_ok=True, parents=True)
        (folder / "counts.json").write_text(json.dumps(self.counts), encoding="ascii")
        yield from ()


class FindOrder(_Step):
    """Finds the place of every document in the index."""

    name = "find order"

    def run(self, data: Documents = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: ARG002
        """Yield nothing."""
        order = Merge(self.job.shards()).order
        np.savez(
            self.job.work / "order.npz",
            allow_pickle=False,
            shard_of=order.shard_of,
            number_of=order.number_of,
            corpus=np.array(order.corpus),
            repeated=np.array(order.repeated),
        )
        yield from ()


class MergePostings(_Step):
    """Merges the postings whose hashes begin as the rank says."""

    name = "merge postings"

    def run(self, data: Documents = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: ARG002
        """Yield nothing."""
        merge = Merge(self.job.shards(), self.job.order())
        folder = self.job.work / "postings"
        folder.mkdir(exist_ok=True)
        low, high = (number * KEY_LIMIT // world_size for number in (rank, rank + 1))
        with (folder / f"{rank:05d}.keys").open("wb") as keys, (folder / f"{rank:05d}.positions").open("wb") as places:
            for bounds in merge.key_ranges(low, high):
                block = merge.postings_between(*bounds)
                keys.write(block[0].tobytes())
                places.write(block[1].tobytes())
        yield from ()


class WriteIndex(_Step):
    """Puts the parts together and publishes the index."""

    name = "write index"

    def run(self, data: Documents = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: ARG002
        """Yield nothing."""
        job = self.job
        for counts in sorted((job.work / "shards").glob("*/counts.json")):
            self.counts.update(json.loads(counts.read_bytes()))
        merge = _Gathered(job.shards(), job.order(), job.work / "postings")
        options = job.options
        report = publish(merge, job.out, name=options.name, overwrite=options.overwrite, skipped=self.counts)
        (job.work / "report.json").write_text(json.dumps(asdict(report), default=str), encoding="utf-8")
        yield from ()


class _Gathered(Merge):
    """A merge whose postings are merged already."""

    def __init__(self, shards: list[Shard], order: Order, folder: Path) -> None:
        super().__init__(shards, order)
        self._folder = folder

    def postings(self) -> Iterator[tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]]:
        """Yield what the ranks of `MergePostings` wrote, in the order of the hashes, in blocks."""
        for path in sorted(self._folder.glob("*.keys")):
            with path.open("rb") as keys, path.with_suffix(".positions").open("rb") as positions:
                while len(block := np.fromfile(keys, dtype=np.uint32, count=_GATHERED_POSTINGS)):
                    yield block, np.fromfile(positions, dtype=np.uint64, count=len(block))


def _packed(document: documents.Document, number: str) -> Document:
    """Return a document in datatrove's form; all that its metadata hold is plain, so that any writer takes it."""
    return Document(document.text, number, metadata={"path": document.path, **asdict(document.source)})


def _unpacked(document: Document) -> documents.Document:
    fields = dict(document.metadata)
    path = fields.pop("path")
    return documents.Document(document.text, path, SourceRecord(**fields))


# --- runs ------------------------------------------------------------------------------------------------------------


def run_local(
    sources: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    workers: int,
    tasks: int | None = None,
    **options: Any,  # noqa: ANN401 - the fields of `Options`
) -> BuildReport:
    """Build an index with so many processes of this machine; `tasks` is into how many ranks the work is divided.

    `options` are the fields of `Options`. Raises what `build` raises, and `PipelineError`.
    """

    def executor(stage: str, steps: list[_Step], ranks: int, depends: Any) -> _Executor:  # noqa: ANN401
        made: _Executor = LocalPipelineExecutor(
            steps, tasks=ranks, workers=min(workers, ranks), logging_dir=stage, depends=depends
        )
        return made

    return _run(_job(sources, out, options), workers if tasks is None else tasks, executor)


def run_ray(
    sources: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    workers: int,
    tasks: int | None = None,
    **options: Any,  # noqa: ANN401 - the fields of `Options`
) -> BuildReport:
    """Build an index on the Ray cluster that the caller is connected to, or else on one of this machine's own.

    At most `workers` ranks run at a time, each on one CPU with `MEMORY_PER_RANK_GB`. Otherwise as `run_local`.
    """
    import ray  # noqa: PLC0415 - half a second, and not needed locally

    def executor(stage: str, steps: list[_Step], ranks: int, depends: Any) -> _Executor:  # noqa: ANN401
        made: _Executor = RayPipelineExecutor(
            steps,
            tasks=ranks,
            workers=min(workers, ranks),
            logging_dir=stage,
            depends=depends,
            mem_per_cpu_gb=MEMORY_PER_RANK_GB,
        )
        return made

    if not ray.is_initialized():
        ray.init()
    if not any(_has_room(node) for node in ray.nodes()):  # type: ignore[no-untyped-call]  # Ray's decorators hide it
        raise PipelineError(
            f"No machine of the Ray cluster has a CPU and {MEMORY_PER_RANK_GB} GB for a rank; add one that has."
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="placement_group", category=DeprecationWarning)
        return _run(_job(sources, out, options), workers if tasks is None else tasks, executor)


def _has_room(node: dict[str, Any]) -> bool:
    resources = node["Resources"]
    return bool(
        node["Alive"] and resources.get("CPU", 0) >= 1 and resources.get("memory", 0) >= MEMORY_PER_RANK_GB << 30
    )


def _job(sources: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str], options: dict[str, Any]) -> _Job:
    target = Path(out).resolve()
    return _Job(
        sources=tuple(Path(source).resolve() for source in sources),
        out=target,
        work=target.with_name(f".{target.name}.pipeline"),
        options=Options(**{"name": target.name} | {key: value for key, value in options.items() if value is not None}),
    )


def _run(job: _Job, tasks: int, executor: Callable[[str, list[_Step], int, Any], _Executor]) -> BuildReport:
    if not 1 <= tasks <= MAX_TASKS:
        raise PipelineError(f"{tasks} ranks cannot be run; ask for 1 to {MAX_TASKS}.")
    _begin(job, tasks)
    before = None
    for stage, steps, ranks in _stages(job, tasks):
        logs = job.work / "logs" / stage
        current = executor(str(logs), steps, ranks, before)
        current.run()
        if failed := current.get_incomplete_ranks(skip_completed=True):
            raise PipelineError(
                f"{len(failed)} of {ranks} ranks of the stage '{stage}' failed; "
                f"read {logs}/logs/task_{failed[0]:05d}.log, and run the same again: what has ended is kept."
            )
        before = current
    report = json.loads((job.work / "report.json").read_bytes())
    shutil.rmtree(job.work)
    return BuildReport(**(report | {"out": job.out}))


def _begin(job: _Job, tasks: int) -> None:
    """Make the folder for what lies between, or take up the one that is there if it is of the same job."""
    stamps = [(source.stat().st_size, source.stat().st_mtime_ns) if source.is_file() else () for source in job.sources]
    asked = json.dumps({"job": asdict(job), "tasks": tasks, "stamps": stamps}, default=str, sort_keys=True)
    description = job.work / "job.json"
    if not description.is_file() or description.read_text("utf-8") != asked:
        check_output(job.out, overwrite=job.options.overwrite)
        shutil.rmtree(job.work, ignore_errors=True)
        job.work.mkdir(parents=True)
        description.write_text(asked, encoding="utf-8")


def _stages(job: _Job, tasks: int) -> Iterator[tuple[str, list[_Step], int]]:
    """Yield the name, the steps and the number of ranks of each stage."""
    counts: Counter[str] = Counter()
    yield "shards", [ReadSources(job, counts), WriteShard(job, counts)], tasks
    yield "order", [FindOrder(job, Counter())], 1
    yield "postings", [MergePostings(job, Counter())], tasks
    yield "index", [WriteIndex(job, Counter())], 1
