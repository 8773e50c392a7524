"""The build on many machines, as a datatrove pipeline (extra `corpus`): the bytes that `build` writes on one.

    signatures  read ─▶ licences ─▶ sign                 a rank has every world_size-th part of the sources
    clusters    find near-duplicates among all           one rank
    shards      read ─▶ licences ─▶ drop near-duplicates ─▶ redact, opt out ─▶ fingerprint, write a shard
    order       which document comes where               one rank
    postings    merge the shards' postings               a rank has a range of the hashes
    index       put the parts together, publish          one rank

    if __name__ == "__main__":                           # worker processes import the script that they are started by
        run_local(["stack/data"], "stack", workers=8, tasks=64, allow_license=["permissive"], dedup=True)

The first two stages are left out where near-duplicates stay. `run_ray` does the same on a Ray cluster whose machines
share the folders of the sources and of the index, and have this package installed. What lies between the stages is kept
beside the index, as `.<name>.pipeline`, until that is published: the same call takes up a run that was ended, without
the ranks that had ended (datatrove's `completions/`).

A rank holds a chunk of documents or a block of postings; that which finds near-duplicates, 50 bytes for every document.
Documents go from step to step as datatrove's `Document`s, whose metadata say where they come from.

What to know of datatrove 0.10.1 and Ray 2.60: Ray's executor returns as if nothing had been when a rank failed, and an
executor that depends on it then waits for ever. Therefore each stage is looked at here before the next one begins. It
also waits for ever for resources that no machine has, and when a warning is made an error, which ends the thread that
submits tasks. The local executor waits for ever for a worker process that the system has killed.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import multiprocess
import numpy as np
from datatrove.data import Document
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from attribution import corpus, dedup, documents, runs
from attribution.build import BuildReport, check_license, publish
from attribution.errors import DamagedSourceError, PipelineError, SourceError
from attribution.format import SourceRecord
from attribution.shards import (
    KEY_LIMIT,
    MANIFEST,
    Merge,
    Order,
    Shard,
    characters,
    check_guarantee,
    chunks,
    combine,
    fingerprint_shard,
)
from attribution.writer import check_output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy.typing as npt

    from attribution.optout import OptOuts

    Documents = Iterable[Document] | None
    Postings = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]

MAX_TASKS = 1 << 12
"""A merge maps eleven files of every rank's shard; Linux allows a process 65,530 mappings."""
MEMORY_PER_RANK_GB = 1
_GATHERED_POSTINGS = 1 << 22
_STREAMS = ("", "renamed_")


class Options(TypedDict, total=False):
    """The options of `build` that a pipeline has too."""

    name: str | None
    guarantee: int
    text: str
    renamed: bool
    license: str | None
    docs: bool
    allow_license: Iterable[str] | None
    dedup: bool
    redact: bool
    detect_secrets: bool
    optouts: OptOuts | None
    overwrite: bool


@dataclass(frozen=True, slots=True)
class _Job:
    """What is built of what, by what rules. All machines share the folder `work`.

    `passed` counts what was left out when the sources were divided into parts.
    """

    parts: tuple[Path, ...]
    passed: dict[str, int]
    out: Path
    work: Path
    name: str
    rules: runs.Rules
    text: str
    license: str | None
    docs: bool
    overwrite: bool

    def signatures(self, part: int) -> Path:
        """Return the folder of the signatures of a part."""
        return self.work / "signatures" / f"{part:08d}"

    def shards(self) -> list[Shard]:
        """Return the shards of all ranks, always in the same order."""
        return [Shard.open(manifest.parent) for manifest in sorted((self.work / "shards").glob(f"*/{MANIFEST}"))]

    def order(self) -> Order:
        """Return what `FindOrder` found."""
        with np.load(self.work / "order.npz") as saved:
            corpus_id, repeated = str(saved["corpus"]), int(saved["repeated"])
            return Order(saved["shard_of"], saved["number_of"], corpus_id, repeated)


# --- steps -----------------------------------------------------------------------------------------------------------


class _Step(PipelineStep):  # type: ignore[misc]  # datatrove has no types
    """A step of a job; the steps of a stage count what they leave out in the same `counts`, by reason."""

    type = "starcite"

    def __init__(self, job: _Job, counts: Counter[str]) -> None:
        super().__init__()
        self.job = job
        self.counts = counts

    def __call__(self, data: Documents = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Run the step, in a process that ends with the one that began it: no other may take the rank up meanwhile."""
        _end_with_parent()
        found: Iterator[Document] = self.run(data, rank, world_size)
        return found


class ReadSources(_Step):
    """Reads every world_size-th part of the sources, beginning with that of the rank's number."""

    name = "read sources"

    def run(self, data: Documents = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents; `id` is the number of the part, a slash, and the number within it."""
        yield from data or ()
        for part in range(rank, len(self.job.parts), world_size):
            for number, document in enumerate(self._part(self.job.parts[part])):
                self.stat_update("documents")
                self.stat_update("characters", value=len(document.text))
                yield _packed(document, f"{part}/{number}")

    def _part(self, path: Path) -> Iterator[documents.Document]:
        allowed = self.job.rules.filters.allowed
        unlicensed = allowed is not None and corpus.UNLICENSED in allowed
        try:
            yield from documents.read_part(
                path, self.counts, license_id=self.job.license, docs=self.job.docs, unlicensed=unlicensed
            )
        except DamagedSourceError:
            if len(self.job.parts) == 1:
                raise
            self.counts["damaged source"] += 1


class KeepLicensed(_Step):
    """Leaves out what has a licence that is not allowed, or none."""

    name = "keep licensed"

    def run(self, data: Documents = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: ARG002
        """Yield the documents that may be used."""
        allowed = self.job.rules.filters.allowed
        for document in data or ():
            if any(corpus.licensed([_unpacked(document)], allowed, self.counts)):
                self.stat_update("documents")
                yield document


class WriteSignatures(_Step):
    """Writes the MinHash signatures of the documents of each part."""

    name = "write signatures"

    def run(self, data: Documents = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: ARG002
        """Yield nothing."""
        for part, found in groupby(data or (), _part_of):
            folder = self.job.signatures(part)
            shutil.rmtree(folder, ignore_errors=True)  # of a rank that was ended
            folder.mkdir(parents=True)
            dedup.write_signatures(map(_unpacked, found), folder)
        yield from ()


class FindNearDuplicates(_Step):
    """Finds the near-duplicates among the documents of all parts, in the order of the parts, as one machine does."""

    name = "find near-duplicates"

    def run(self, data: Documents = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: ARG002
        """Yield nothing."""
        folders = sorted(self.job.signatures(0).parent.glob("*"))
        found = dedup.near_duplicates_among([dedup.Signatures.open(folder) for folder in folders])
        for folder, dropped in zip(folders, found, strict=True):
            np.save(folder / "dropped.npy", dropped, allow_pickle=False)
        yield from ()


class DropNearDuplicates(_Step):
    """Leaves out what `FindNearDuplicates` found."""

    name = "drop near-duplicates"

    def run(self, data: Documents = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: ARG002
        """Yield the documents that are kept. Raises `SourceError` if a source is not what it was."""
        for part, found in groupby(data or (), _part_of):
            decisions = self.job.signatures(part) / "dropped.npy"
            dropped = np.load(decisions).tolist() if decisions.exists() else []
            number = -1
            for number, document in enumerate(found):
                if number < len(dropped) and not dropped[number]:
                    self.stat_update("documents")
                    yield document
            if number + 1 != len(dropped):
                raise SourceError(f"{self.job.parts[part]} was changed while it was read; build again.")
            self.counts["near-duplicate"] += sum(dropped)


class RedactAndOptOut(_Step):
    """Leaves out opted-out sources, and puts placeholders where personal data and keys were."""

    name = "redact and opt out"

    def run(self, data: Documents = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: ARG002
        """Yield the documents as they may be indexed."""
        for document in data or ():
            for finished in corpus.finished([_unpacked(document)], self.job.rules.filters, self.counts):
                self.stat_update("documents")
                yield _packed(finished, document.id)


class WriteShard(_Step):
    """Writes a rank's documents as one shard, and holds no more than a chunk of them."""

    name = "write shard"

    def run(self, data: Documents = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: ARG002
        """Yield nothing."""
        folder = self.job.work / "shards" / f"{rank:05d}"
        parts = folder.with_name(f"{folder.name}-parts")
        for stale in (folder, parts):  # of a rank that was ended
            shutil.rmtree(stale, ignore_errors=True)
        made: list[Shard] = []
        for chunk in chunks(map(_unpacked, data or ()), runs.CHUNK_CHARS, characters):
            part = parts / f"{len(made):06d}"
            rules = self.job.rules
            fingerprint_shard(chunk, guarantee=rules.guarantee, renamed=rules.renamed).save(part)
            made.append(Shard.open(part))
        for level in range(len(made)):
            if len(made) <= runs.SHARDS_PER_MERGE:
                break
            groups = range(0, len(made), runs.SHARDS_PER_MERGE)
            made = [combine(made[at : at + runs.SHARDS_PER_MERGE], parts / f"{level}-{at:06d}") for at in groups]
        if made:
            combine(made, folder)
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
        for stream in _STREAMS:
            keys_path, positions_path = (folder / f"{rank:05d}.{stream}{name}" for name in ("keys", "positions"))
            with keys_path.open("wb") as keys, positions_path.open("wb") as positions:
                for bounds in merge.key_ranges(low, high, stream):
                    block = merge.postings_between(*bounds, stream)
                    keys.write(block[0].tobytes())
                    positions.write(block[1].tobytes())
        yield from ()


class WriteIndex(_Step):
    """Puts the parts together and publishes the index."""

    name = "write index"

    def run(self, data: Documents = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: ARG002
        """Yield nothing."""
        job = self.job
        self.counts.update(job.passed)
        for counts in sorted((job.work / "shards").glob("*/counts.json")):
            self.counts.update(json.loads(counts.read_bytes()))
        merge = _Gathered(job.shards(), job.order(), job.work / "postings")
        report = publish(merge, job.out, name=job.name, text=job.text, overwrite=job.overwrite, skipped=self.counts)
        (job.work / "report.json").write_text(json.dumps(asdict(report), default=str), encoding="utf-8")
        yield from ()


class _Gathered(Merge):
    """A merge whose postings are merged already."""

    def __init__(self, shards: list[Shard], order: Order, folder: Path) -> None:
        super().__init__(shards, order)
        self._folder = folder

    def postings(self) -> Iterator[Postings]:
        """Yield what the ranks of `MergePostings` wrote, in the order of the hashes, in blocks."""
        return self._gathered("")

    def lexemes(self) -> Iterator[Postings]:
        """Yield the postings of the other stream in the same way."""
        return self._gathered("renamed_")

    def _gathered(self, stream: str) -> Iterator[Postings]:
        for path in sorted(self._folder.glob(f"*.{stream}keys")):
            with path.open("rb") as keys, path.with_suffix(f".{stream}positions").open("rb") as positions:
                while len(block := np.fromfile(keys, dtype=np.uint32, count=_GATHERED_POSTINGS)):
                    yield block, np.fromfile(positions, dtype=np.uint64, count=len(block))


@cache
def _end_with_parent() -> None:
    def wait() -> None:
        parent.join()
        os._exit(1)

    if (parent := multiprocess.parent_process()) is not None:
        threading.Thread(target=wait, daemon=True).start()


def _part_of(document: Document) -> int:
    """Return the number of the part that a document is of."""
    return int(document.id.partition("/")[0])


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
    **options: Unpack[Options],
) -> BuildReport:
    """Build an index with so many processes of this machine; `tasks` is into how many ranks the work is divided.

    `options` are those of `build`. Raises what `build` raises, and `PipelineError`.
    """

    def executor(stage: str, steps: list[_Step], ranks: int, depends: Any) -> Any:  # noqa: ANN401 - no types  # noqa: ANN401
        return LocalPipelineExecutor(
            steps, tasks=ranks, workers=min(workers, ranks), logging_dir=stage, depends=depends
        )

    return _run(_job(sources, out, options), workers if tasks is None else tasks, executor)


def run_ray(
    sources: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    workers: int,
    tasks: int | None = None,
    **options: Unpack[Options],
) -> BuildReport:
    """Build an index on the Ray cluster that the caller is connected to, or else on one of this machine's own.

    At most `workers` ranks run at a time, each on one CPU with `MEMORY_PER_RANK_GB`. Otherwise as `run_local`.
    """
    import ray  # noqa: PLC0415 - half a second, and not needed locally

    def executor(stage: str, steps: list[_Step], ranks: int, depends: Any) -> Any:  # noqa: ANN401 - no types  # noqa: ANN401
        return RayPipelineExecutor(
            steps,
            tasks=ranks,
            workers=min(workers, ranks),
            logging_dir=stage,
            depends=depends,
            mem_per_cpu_gb=MEMORY_PER_RANK_GB,
        )

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


def _job(sources: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str], options: Options) -> _Job:
    """Return the job, checked as `build` checks it."""
    license_id, words = options.get("license"), options.get("allow_license")
    check_license(license_id)
    allowed = None if words is None else corpus.allowed_licenses(words)
    filters = corpus.Filters(
        allowed,
        dedup=options.get("dedup", False),
        redact=options.get("redact", False),
        detect_secrets=options.get("detect_secrets", False),
        optouts=options.get("optouts"),
    )
    guarantee = options.get("guarantee", 50)
    check_guarantee(guarantee)
    target = Path(out).absolute()
    docs = options.get("docs", False)
    passed: Counter[str] = Counter()
    parts = documents.parts([Path(source).absolute() for source in sources], passed, docs=docs)
    return _Job(
        parts=tuple(parts),
        passed=dict(passed),
        out=target,
        work=target.with_name(f".{target.name}.pipeline"),
        name=options.get("name") or target.name,
        rules=runs.Rules(guarantee, filters, options.get("renamed", False)),
        text=options.get("text", "raw"),
        license=license_id,
        docs=docs,
        overwrite=options.get("overwrite", False),
    )


def _run(job: _Job, tasks: int, executor: Callable[[str, list[_Step], int, Any], Any]) -> BuildReport:
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
    stamps = [(part.stat().st_size, part.stat().st_mtime_ns) if part.is_file() else () for part in job.parts]
    filters = job.rules.filters
    rules = [job.rules.digest().hex(), sorted(filters.allowed or ()), filters.allowed is None, filters.dedup]
    asked = json.dumps(
        [tasks, *map(str, job.parts), stamps, job.name, rules, job.text, job.license, job.docs, job.overwrite],
        sort_keys=True,
    )
    description = job.work / "job.json"
    if not description.is_file() or description.read_text("utf-8") != asked:
        check_output(job.out, overwrite=job.overwrite)
        shutil.rmtree(job.work, ignore_errors=True)
        job.work.mkdir(parents=True)
        description.write_text(asked, encoding="utf-8")


def _stages(job: _Job, tasks: int) -> Iterator[tuple[str, list[_Step], int]]:
    """Yield the name, the steps and the number of ranks of each stage."""
    licensed = [] if job.rules.filters.allowed is None else [KeepLicensed]
    if job.rules.filters.dedup:
        yield "signatures", _steps(job, [ReadSources, *licensed, WriteSignatures]), tasks
        yield "clusters", _steps(job, [FindNearDuplicates]), 1
    different = [DropNearDuplicates] if job.rules.filters.dedup else []
    yield "shards", _steps(job, [ReadSources, *licensed, *different, RedactAndOptOut, WriteShard]), tasks
    yield "order", _steps(job, [FindOrder]), 1
    yield "postings", _steps(job, [MergePostings]), tasks
    yield "index", _steps(job, [WriteIndex]), 1


def _steps(job: _Job, kinds: Iterable[type[_Step]]) -> list[_Step]:
    """Return the steps of a stage, which count together."""
    counts: Counter[str] = Counter()
    return [kind(job, counts) for kind in kinds]
