"""Documents -> shards on disk, chunk by chunk, on all cores; a build that was killed goes on where it was.

    documents ──cut──▶ chunk ──name──▶ is a run of that name there?  yes: nothing to do
                                                                     no: a worker filters, fingerprints, sorts, saves it

A run is the shard of one chunk. Its name is the SHA-256 of the chunk's documents and of all that decides what is made
of them. So a run that is found was made of the same text by the same rules, whatever has happened to the sources since:
the names are the journal, and it cannot be wrong. A second start reads the sources again, which costs a tenth of the
work, and does the rest once. A run appears under its name in one step, after its bytes are on the disk.

Memory: the parent holds a chunk for each worker and two more; a worker holds one, and about eight times as much to sort
it. How many workers there are, and in which order they end, changes no byte: a merge has one order.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections import Counter, deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attribution import corpus
from attribution.durable import locked, write_synced
from attribution.errors import IndexWriteError
from attribution.fingerprint import GUARANTEES, K
from attribution.lexemes import LEXER_VERSION
from attribution.normalise import NORMALISER_VERSION
from attribution.shards import LAYOUT, Shard, combine, fingerprint_shard, source_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from attribution.documents import Document

CHUNK_CHARS = 16 << 20
SHARDS_PER_MERGE = 256
"""More runs than these are first combined: each needs eleven mapped files."""

_COUNTS = ".counts.json"
_NAME_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Rules:
    """All that decides, besides its documents, what is in a run."""

    guarantee: int = 50
    filters: corpus.Filters = field(default_factory=corpus.Filters)
    renamed: bool = False

    def digest(self) -> bytes:
        """Return a digest of the rules and of the versions of what applies them."""
        streams = LEXER_VERSION if self.renamed else 0
        versions = (LAYOUT, streams, NORMALISER_VERSION, K, GUARANTEES[self.guarantee], corpus.VERSION)
        return hashlib.sha256(repr((versions, self.guarantee, self.filters.identity())).encode()).digest()


@contextlib.contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """Hold the folder beside an index in which it is built; what is in it goes when all went well.

    Raises `IndexWriteError` for what the disk does, and if another build of the same index is under way: not waited
    for, because a script that starts workers without a guard is in each of them that other build.
    """
    folder = out.parent / f".{out.name}.build"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, wait=False):
            yield folder
            shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError as error:
        raise IndexWriteError(f"{out}: another build of it is under way; wait for its end.") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise IndexWriteError(
            f"{folder}: the build cannot go on ({reason}); free space or choose another folder."
        ) from error


def make_runs(
    chunks: Iterable[Sequence[Document]], folder: Path, rules: Rules, jobs: int, skipped: Counter[str]
) -> list[Shard]:
    """Return the shards of chunks, made by `jobs` processes; count what the filters leave out.

    Raises `OSError`, and `IndexWriteError` if a worker was killed.
    """
    rules_digest = rules.digest()
    runs = []
    with _workers(jobs) as submit:
        for chunk in chunks:
            run = folder / _name(chunk, rules_digest)
            runs.append(run)
            if not run.exists():
                submit(run, chunk, rules)
    for run in dict.fromkeys(runs):
        skipped.update(json.loads(run.with_name(run.name + _COUNTS).read_bytes()))
    return _few([Shard.open(run) for run in runs], [run.name for run in runs], folder)


def shard_of(chunk: Sequence[Document], rules: Rules, skipped: Counter[str]) -> Shard:
    """Return the shard of a chunk in memory, and count what the filters leave out."""
    kept = corpus.finished(chunk, rules.filters, skipped)
    return fingerprint_shard(kept, guarantee=rules.guarantee, renamed=rules.renamed)


def make_run(run: Path, chunk: Sequence[Document], rules: Rules) -> None:
    """Make one run. What it counts is on the disk before it is."""
    skipped: Counter[str] = Counter()
    shard = shard_of(chunk, rules, skipped)
    write_synced(run.with_name(run.name + _COUNTS), json.dumps(skipped, sort_keys=True).encode("ascii"))
    shard.save(run)


def _name(chunk: Sequence[Document], rules_digest: bytes) -> str:
    digest = hashlib.sha256(rules_digest)
    for document in chunk:
        text = document.text.encode("utf-8", "surrogatepass")
        about = repr((document.path, source_key(document.source), len(text))).encode("utf-8", "backslashreplace")
        digest.update(b"%d:" % len(about) + about)
        digest.update(text)
    return digest.hexdigest()[:_NAME_DIGITS]


def _few(shards: list[Shard], names: list[str], folder: Path) -> list[Shard]:
    """Return shards, at most `SHARDS_PER_MERGE`, that hold the same: groups of them combined, as often as needed."""
    while len(shards) > SHARDS_PER_MERGE:
        groups = range(0, len(shards), SHARDS_PER_MERGE)
        grouped = ["+".join(names[start : start + SHARDS_PER_MERGE]) for start in groups]
        names = [hashlib.sha256(group.encode()).hexdigest()[:_NAME_DIGITS] for group in grouped]
        shards = [
            Shard.open(folder / name) if (folder / name).exists() else combine(group, folder / name)
            for name, group in zip(names, (shards[start : start + SHARDS_PER_MERGE] for start in groups), strict=True)
        ]
    return shards


# --- workers ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _workers(jobs: int) -> Iterator[functools.partial[None]]:
    """Yield what has a run made: here for one job, else by processes, as many at once and one waiting for each."""
    if jobs == 1:
        yield functools.partial(make_run)
        return
    waiting: deque[Future[None]] = deque()
    context = multiprocessing.get_context("spawn")  # threads of a caller, an editor's server say, make forks unsafe
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker)
    slots = threading.BoundedSemaphore(2 * jobs)

    def submit(run: Path, chunk: Sequence[Document], rules: Rules) -> None:
        slots.acquire()
        future = pool.submit(make_run, run, chunk, rules)
        future.add_done_callback(lambda _: slots.release())
        waiting.append(future)
        while waiting and waiting[0].done():
            waiting.popleft().result()

    try:
        yield functools.partial(submit)
        for future in waiting:
            future.result()
    except BrokenProcessPool as error:
        raise IndexWriteError(
            "A worker of the build was ended from outside, maybe for want of memory; build again with fewer jobs: "
            "what is done is kept."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it, however it ends: a worker that waits would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - only workers come here

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
