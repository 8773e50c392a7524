"""What each step of a build on many machines costs, and from that, what The Stack v2 would.

    python benchmarks/pipeline.py [--megabytes 60] [--guarantee 100] [--text compressed] [--json FILE]

One process runs every stage of `attribution.pipeline` on real code in five languages, as rows in parquet. Rates are of
the processor's time, so that what else the machine does counts little, in decimal megabytes of source text. Clusters
and order are reckoned by the document, the other stages by the byte; disks are taken to keep up. An index ends at
2**39 bytes of text, and one rank writes it: The Stack v2 is many indexes, built beside each other, searched together.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# Not this folder, whose attribution.py would be taken for our package of that name.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from attribution import corpus, dedup, documents, runs  # noqa: E402 - see above
from attribution.build import publish  # noqa: E402 - see above
from attribution.optout import OptOuts  # noqa: E402 - see above
from attribution.shards import Merge, Shard, chunks, combine, fingerprint_shard  # noqa: E402 - see above
from benchmarks.peers import corpora  # noqa: E402 - see above

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from attribution.documents import Document

STACK_V2_BYTES = 32.1e12
STACK_V2_DOCUMENTS = 3e9
"""Of the-stack-v2-dedup, by its card: 32.1 TB, and over 3 billion files."""
INDEXES = 64
MANY = 3_000_000


class Run:
    """One run: the figures so far, in seconds of the processor and bytes on disk."""

    def __init__(self, folder: Path, guarantee: int, text: str) -> None:
        """Begin without figures; `folder` is for what is written."""
        self.folder = folder
        self.guarantee = guarantee
        self.text = text
        self.seconds: dict[str, float] = {}
        self.bytes_on_disk: dict[str, int] = {}

    def timed(self, name: str, function: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the function returns
        """Return what a function returns, and add its time to that of a step."""
        start = time.process_time()
        value = function()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start
        return value

    def measure(self, source: Path) -> tuple[int, int]:
        """Run every step; return the documents and bytes of text that were read."""
        read: list[Document] = self.timed("read", lambda: list(self._read(source)))
        filters = corpus.Filters(
            corpus.allowed_licenses(["permissive", "NONE"]), dedup=True, redact=True, optouts=OptOuts(frozenset("x"))
        )
        counts: Counter[str] = Counter()
        self.timed("licences", lambda: sum(1 for _ in corpus.licensed(read, filters.allowed, counts)))
        signatures = self.folder / "signatures"
        signatures.mkdir()
        self.timed("sign", lambda: dedup.write_signatures(read, signatures))
        self.bytes_on_disk["signatures"] = size(signatures)
        self.timed("clusters", lambda: dedup.near_duplicates_among([dedup.Signatures.open(signatures)]))
        many = many_signatures()
        self.timed("clusters of many", lambda: dedup.near_duplicates_among([many]))
        clean: list[Document] = self.timed("redact, opt out", lambda: list(corpus.finished(read, filters, counts)))
        self._index(clean)
        return len(read), sum(len(document.text.encode("utf-8", "surrogatepass")) for document in read)

    def _read(self, source: Path) -> Iterable[Document]:
        return documents.read_part(source, Counter(), license_id=None, docs=False, unlicensed=True)

    def _index(self, found: list[Document]) -> None:
        parts = []
        for number, chunk in enumerate(chunks(found, runs.CHUNK_CHARS)):
            shard = self.timed("fingerprint", lambda chunk=chunk: fingerprint_shard(chunk, guarantee=self.guarantee))
            parts.append(self.folder / f"part-{number}")
            self.timed("write shard", lambda shard=shard: shard.save(parts[-1]))
        # Two ranks, whose documents follow each other in turns.
        shards = [
            self.timed(
                "write shard", lambda n=n: combine([Shard.open(part) for part in parts[n::2]], self.folder / f"{n}")
            )
            for n in range(2)
        ]
        self.bytes_on_disk["shards"] = sum(size(self.folder / f"{n}") for n in range(2))
        merge = self.timed("order", lambda: Merge(shards))
        blocks = self.timed("postings", lambda: list(merge.postings()))
        merge.postings = lambda: iter(blocks)  # type: ignore[method-assign]
        out = self.folder / "index"
        self.timed("index", lambda: publish(merge, out, text=self.text))
        self.bytes_on_disk["index"] = size(out)
        texts = [path for path in out.iterdir() if path.name.startswith(("text-", "originals-"))]
        self.bytes_on_disk["index without text"] = size(out) - sum(path.stat().st_size for path in texts)


def main() -> None:
    """Measure, print tables, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--guarantee", type=int, default=100, choices=(50, 100))
    parser.add_argument("--text", default="compressed", choices=("raw", "compressed", "none"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=corpora.folder()) as folder:
        source = as_parquet(options.megabytes, Path(folder))
        run = Run(Path(folder), options.guarantee, options.text)
        count, total = run.measure(source)
    result = {
        "machine": f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the end, numpy {np.__version__}",
        "documents": count,
        "bytes": total,
        "cpu_s": {name: round(seconds, 2) for name, seconds in run.seconds.items()},
        "MB/s": {name: round(total / 1e6 / seconds, 1) for name, seconds in run.seconds.items() if "many" not in name},
        "bytes on disk per byte": {name: round(value / total, 4) for name, value in run.bytes_on_disk.items()},
        "The Stack v2": stack_v2(run, count, total),
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def as_parquet(megabytes: int, folder: Path) -> Path:
    """Return a parquet file of documents, in the columns of The Stack."""
    wanted = megabytes * 1_000_000
    indexed = corpora.split(corpora.packages(2 * wanted), wanted).indexed
    found = [document for documents_of_language in indexed.values() for document in documents_of_language]
    rows = [
        {
            "content": document.text,
            "repo_name": f"{document.source.name}/{document.source.name}",
            "revision_id": document.source.revision,
            "path": document.path,
            "detected_licenses": list(document.source.licenses),
        }
        for document in found
    ]
    target = folder / "corpus.parquet"
    pq.write_table(pa.Table.from_pylist(rows), target, compression="zstd", row_group_size=1000)
    return target


def many_signatures() -> dedup.Signatures:
    """Return signatures that do not meet, of so many documents that sorting them leaves the caches."""
    bands = np.random.default_rng(1).integers(1 << 63, size=(MANY, dedup.BANDS), dtype=np.uint64)
    places = np.zeros((MANY, 2), dtype=np.int64)
    nothing = np.zeros(0, dtype=np.uint8)
    return dedup.Signatures(MANY, bands, np.zeros((MANY, dedup.PERMUTATIONS), dtype=np.uint32), nothing, places)


def stack_v2(run: Run, count: int, total: int) -> dict[str, Any]:
    """Return what The Stack v2 would cost at the rates of a run."""
    scale = dict.fromkeys(run.seconds, STACK_V2_BYTES / total)
    scale |= {"order": STACK_V2_DOCUMENTS / count, "clusters": 0.0, "clusters of many": STACK_V2_DOCUMENTS / MANY}
    hours = {name: seconds / 3600 * scale[name] for name, seconds in run.seconds.items()}
    once = sum(hours.values())
    again = hours["read"] + hours["licences"]  # near-duplicates are looked for in a reading of their own
    return {
        "core-hours": {
            "near-duplicates": round(again + hours["sign"] + hours["clusters of many"]),
            "the rest": round(once - hours["sign"] - hours["clusters of many"]),
        },
        "hours of the one rank that finds clusters": round(hours["clusters of many"], 1),
        f"hours of the ranks that order and write one of {INDEXES} indexes": {
            name: round(hours[name] / INDEXES, 2) for name in ("order", "index")
        },
        "TB on disk": {
            name: round(value / 1e12 * scale["order" if name == "signatures" else "read"], 2)
            for name, value in run.bytes_on_disk.items()
        },
    }


def size(folder: Path) -> int:
    """Return the bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.iterdir())


if __name__ == "__main__":
    main()
