"""How long a check takes, and what a build takes.

    python -m benchmarks.peers.speed OUT GUARANTEE JOBS SOURCE...     one build in a process of its own; prints JSON

Other work on the machine shows in elapsed times; the processor's time of the thread that asks stands beside them.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attribution import kernels
from attribution.build import build, build_documents
from attribution.fingerprint import GUARANTEES, K
from attribution.index import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from attribution.documents import Document

ROOT = Path(__file__).resolve().parents[2]
WARM_UP = 50
_POLL_S = 0.1
_TEXT_KINDS = {"text", "originals"}


def percentiles(ask: Callable[[str], object], queries: Sequence[str]) -> dict[str, float]:
    """Return percentiles of the elapsed and of the processor's time of each query, and how many were answered."""
    for query in queries[:WARM_UP]:
        ask(query)
    elapsed, used, found = [], [], 0
    for query in queries:
        start, start_used = time.perf_counter_ns(), time.thread_time_ns()
        found += bool(ask(query))
        used.append((time.thread_time_ns() - start_used) / 1e6)
        elapsed.append((time.perf_counter_ns() - start) / 1e6)
    return {
        "n": len(queries),
        "p50_ms": round(float(np.percentile(elapsed, 50)), 3),
        "p99_ms": round(float(np.percentile(elapsed, 99)), 3),
        "p50_cpu_ms": round(float(np.percentile(used, 50)), 3),
        "p99_cpu_ms": round(float(np.percentile(used, 99)), 3),
        "found %": round(100 * found / len(queries), 1),
    }


def rates(indexed: Sequence[Document], folder: Path) -> dict[str, float]:
    """Return megabytes of source per second of one processor: fingerprinting, and a build in memory with writing."""
    size = sum(len(document.text.encode("utf-8", "replace")) for document in indexed) / 1e6
    raw = [document.text.encode("utf-8", "surrogatepass") for document in indexed]
    fingerprinting = min(_cpu_s(lambda: _fingerprint(raw)) for _ in range(3))
    building = min(
        _cpu_s(lambda: build_documents(iter(indexed), folder, name="rates", overwrite=True)) for _ in range(2)
    )
    return {
        "fingerprint_mb_per_cpu_s": round(size / fingerprinting, 1),
        "build_mb_per_cpu_s": round(size / building, 1),
    }


def _fingerprint(raw: Sequence[bytes]) -> None:
    for data in raw:
        kernels.prints(kernels.normalised(data)[0], K, GUARANTEES[50])


def _cpu_s(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def opening(folder: Path) -> dict[str, float]:
    """Return how long it takes to open an index that the system has in its cache."""
    times = []
    for _ in range(20):
        start = time.perf_counter_ns()
        Index.open(folder).close()
        times.append((time.perf_counter_ns() - start) / 1e6)
    return {"p50_ms": round(float(np.median(times)), 2), "max_ms": round(max(times), 2)}


def built(sources: Sequence[Path], out: Path, guarantee: int, jobs: int) -> dict[str, Any]:
    """Build an index in a process of its own; return rates and the memory of the largest process.

    Pages of mapped files are no one's memory: the system drops them when it needs room; they stand apart.
    """
    command = [sys.executable, "-m", "benchmarks.peers.speed", str(out), str(guarantee), str(jobs), *map(str, sources)]
    start, anonymous = time.perf_counter(), 0
    with tempfile.TemporaryFile() as printed, subprocess.Popen(command, stdout=printed, cwd=ROOT) as process:
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            anonymous = max(anonymous, _anonymous_bytes(process.pid))
            time.sleep(_POLL_S)
        _, status, used = ended
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        printed.seek(0)
        said = printed.read()
    if process.returncode:
        raise RuntimeError(f"the build ended with {process.returncode}")
    report: dict[str, Any] = json.loads(said)
    megabytes, cpu = report["bytes"] / 1e6, used.ru_utime + used.ru_stime
    return report | {
        "jobs": jobs,
        "guarantee": guarantee,
        "corpus_mb": round(megabytes, 1),
        "elapsed_s": round(seconds, 1),
        "mb_per_s": round(megabytes / seconds, 1),
        "mb_per_cpu_s": round(megabytes / cpu, 1),
        "largest_process_mb": round(anonymous / 1e6),
        "with_mapped_files_mb": round(used.ru_maxrss / 1e3),
    }


def _anonymous_bytes(parent: int) -> int:
    """Return the memory of the largest of a process and its children that is not a mapped file's; 0 but on Linux."""
    largest = 0
    for folder in (Path(f"/proc/{number}") for number in (parent, *_children(parent))):
        try:
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
            largest = max(largest, int(status["RssAnon"].split()[0]) * 1024)
        except (OSError, KeyError):
            continue
    return largest


def _children(parent: int) -> list[int]:
    try:
        return [int(number) for number in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except OSError:
        return []


def sizes(folder: Path, corpus_bytes: int) -> dict[str, float]:
    """Return index bytes per corpus byte: the text of the documents, the lexeme stream, and all the rest."""
    files = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    text = sum(size for path, size in files.items() if path.name.partition("-")[0] in _TEXT_KINDS)
    renamed = sum(size for path, size in files.items() if path.name.startswith("renamed"))
    return {
        "index_per_corpus_byte": round((sum(files.values()) - text - renamed) / corpus_bytes, 4),
        "renamed_per_corpus_byte": round(renamed / corpus_bytes, 4),
        "text_per_corpus_byte": round(text / corpus_bytes, 4),
    }


def parts(folder: Path, corpus_bytes: int) -> dict[str, float]:
    """Return bytes per corpus byte of each kind of file."""
    found: dict[str, float] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        kind = path.name.partition("-")[0]
        found[kind] = found.get(kind, 0) + path.stat().st_size / corpus_bytes
    return {kind: round(share, 4) for kind, share in found.items()}


def _main() -> None:
    out, guarantee, jobs, *sources = sys.argv[1:]
    options: dict[str, Any] = {"jobs": int(jobs)} if "jobs" in inspect.signature(build).parameters else {}
    if sources[0].startswith("@"):
        sources = Path(sources[0][1:]).read_text().split("\n")
    report = build([Path(source) for source in sources], out, guarantee=int(guarantee), **options)
    print(json.dumps({"bytes": report.bytes, "documents": report.documents, "sources": report.sources}))


if __name__ == "__main__":
    _main()
