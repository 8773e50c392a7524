"""What the index costs: building it, keeping it, opening it, asking it.

    python benchmarks/attribution.py [--corpus DIR]... [--guarantee 50|100] [--json FILE]

The corpus is this interpreter's standard library unless others are given. Matching texts are cut from the corpus at
random places. Texts that do not match are the same ones with every small letter shifted by one; whatever of them
still matches (numbers, lines of dashes) is answered like anything else. Each text is asked once, after 50 to warm up.
Elapsed times depend on what else the machine does; the processor's time is given beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from attribution import documents, normalise
from attribution.build import build
from attribution.fingerprint import GUARANTEES, K, fingerprints
from attribution.index import Index

SIZES_CHARS = (200, 400, 1200)
TEXTS = 1000
SEED = 20_240_601
SHIFTED = str.maketrans("abcdefghijklmnopqrstuvwxyz", "bcdefghijklmnopqrstuvwxyza")


def main() -> None:
    """Measure, print a table, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, action="append", metavar="DIR")
    parser.add_argument("--guarantee", type=int, choices=sorted(GUARANTEES), default=50)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    corpus = options.corpus or [Path(os.__file__).parent]
    with tempfile.TemporaryDirectory() as folder:
        result = measure(corpus, Path(folder) / "index", options.guarantee)
    for name, value in result.items():
        print(f"{name:40} {value}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(corpus: list[Path], out: Path, guarantee: int) -> dict[str, Any]:
    """Return all figures, by name and unit."""
    texts = [document.text for document in documents.read(corpus, Counter())]
    start = time.perf_counter()
    report = build(corpus, out, guarantee=guarantee)
    seconds = time.perf_counter() - start
    opening = [timed_ms(lambda: Index.open(out).close()) for _ in range(20)]
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "python": f"{platform.python_version()}, numpy {np.__version__}",
        "guarantee": guarantee,
        "documents": report.documents,
        "corpus_mb": round(report.bytes / 1e6, 2),
        "normalised_mb": round(report.normalised_bytes / 1e6, 2),
        "build_mb_per_s": round(report.bytes / 1e6 / seconds, 1),
        "index_bytes_per_corpus_byte": round(report.index_bytes / report.bytes, 3),
        "postings_per_normalised_byte": round(report.postings / report.normalised_bytes, 4),
        "open_ms_p50": round(float(np.median(opening)), 2),
        "open_ms_max": round(max(opening), 2),
    }
    return result | rates(texts, guarantee) | latencies(out, texts, guarantee)


def rates(texts: list[str], guarantee: int) -> dict[str, float]:
    """Return megabytes per second of the two steps that see every byte, best of three."""
    data = np.concatenate([normalise.text(text).data for text in texts])
    size = sum(len(text) for text in texts)
    normalising = min(timed_ms(lambda: [normalise.text(text) for text in texts]) for _ in range(3))
    hashing = min(timed_ms(lambda: fingerprints(data, K, GUARANTEES[guarantee])) for _ in range(3))
    return {
        "normalise_mb_per_s": round(size / normalising / 1e3, 1),
        "fingerprint_mb_per_s": round(len(data) / hashing / 1e3, 1),
    }


def latencies(out: Path, texts: list[str], guarantee: int) -> dict[str, float]:
    """Return percentiles of one check, for texts that match and texts that do not."""
    rng = random.Random(SEED)  # noqa: S311 - samples, not secrets
    result: dict[str, float] = {}
    with Index.open(out) as index:
        least = max(80, guarantee)
        for size in SIZES_CHARS:
            long_enough = [text for text in texts if len(text) > size]
            weights = [len(text) for text in long_enough]
            matching = [cut(rng, text, size) for text in rng.choices(long_enough, weights, k=TEXTS)]
            for kind, queries in (("match", matching), ("novel", [text.translate(SHIFTED) for text in matching])):
                for query in queries[:50]:
                    index.matches(query, min_run=least)
                result |= {f"check_{kind}_{size}_chars_{name}": v for name, v in asked(index, queries, least).items()}
    return result


def asked(index: Index, queries: list[str], least: int) -> dict[str, float]:
    """Return percentiles of the elapsed and of the processor time of each query, and how many queries matched."""
    found = 0
    elapsed, used = [], []
    for query in queries:
        start, start_used = time.perf_counter(), time.thread_time()
        found += bool(index.matches(query, min_run=least))
        used.append((time.thread_time() - start_used) * 1e3)
        elapsed.append((time.perf_counter() - start) * 1e3)
    return {
        "p50_ms": round(float(np.percentile(elapsed, 50)), 3),
        "p99_ms": round(float(np.percentile(elapsed, 99)), 3),
        "p50_cpu_ms": round(float(np.percentile(used, 50)), 3),
        "p99_cpu_ms": round(float(np.percentile(used, 99)), 3),
        "max_cpu_ms": round(max(used), 3),
        "found_share": round(found / len(queries), 3),
    }


def cut(rng: random.Random, text: str, size: int) -> str:
    """Return a random piece of a text."""
    start = rng.randrange(len(text) - size)
    return text[start : start + size]


def timed_ms(function: Any) -> float:  # noqa: ANN401 - any callable without arguments
    """Return how long a call took."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    main()
