"""How long a person waits: cold, at the next key, and along a suggestion, through the whole pipeline.

In each of our own modules a line is typed again, key by key, at its own place, with the real model and the installed
indexes. Prints a table, and JSON with --json. The machine's other load shows in these figures: run it on a quiet one.

    python benchmarks/completion.py --quick
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
from collections import defaultdict
from pathlib import Path

sys.path.pop(0)  # this folder, whose attribution.py would be taken for our package of that name

from lsp_server.documents import Snapshot
from lsp_server.session import Session

ROOT = Path(__file__).resolve().parents[1]
KEYS = 8


def places(count: int) -> list[tuple[Path, str, int, int]]:
    """Return files, their texts, and where in each the typing begins and the line ends."""
    found = []
    for path in sorted((ROOT / "lsp_server").glob("*.py")):
        text = path.read_text()
        starts = [offset + 1 for offset, character in enumerate(text) if character == "\n"]
        lines = [(start, text.find("\n", start)) for start in starts[len(starts) // 2 :]]
        line = next(((start, end) for start, end in lines if text[start:end].startswith("    return ")), None)
        if line:
            found.append((path, text, line[0] + len("    return "), line[1]))
    return found[:count]


async def measure(count: int) -> dict[str, dict[str, float]]:
    """Return the percentiles of each kind of request, in milliseconds."""
    times: dict[str, list[float]] = defaultdict(list)
    session = Session(f"benchmark-{os.getpid()}")
    session.corpora.open()
    await (await session.client(session.model)).loaded()
    fresh = f"# {os.getpid()}\n"  # else an earlier run's prompts are still in the daemon's cache
    for path, text, start, end in places(count):
        for typed in range(min(KEYS, end - start)):
            now = fresh + text[: start + typed] + text[end:]
            completion = await session.complete(
                Snapshot(path.as_uri(), "python", typed, now), len(fresh) + start + typed, automatic=False
            )
            assert completion
            spent = completion.timings_ms
            kind = "cold file" if typed == 0 else "next key" if completion.origin == "model" else "along a suggestion"
            times[f"{kind}: total"].append(spent["total"])
            if completion.origin == "model":
                times[f"{kind}: first token"].append(spent["time_to_first_token"])
            times["check"].append(spent["check"])
            times["our own code, without model and check"].append(
                spent["context"] + spent["prompt"] + spent["postprocess"]
            )
    await session.aclose()
    return {name: percentiles(values) for name, values in sorted(times.items())}


def percentiles(values: list[float]) -> dict[str, float]:
    """Return count, median, 95th percentile and maximum."""
    ranked = sorted(values)
    return {
        "n": len(ranked),
        "p50_ms": round(statistics.median(ranked), 2),
        "p95_ms": round(ranked[int(len(ranked) * 0.95)], 2),
        "max_ms": round(ranked[-1], 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four places instead of twelve")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    rows = asyncio.run(measure(4 if options.quick else 12))
    print(f"{'':40} {'n':>5} {'p50 ms':>9} {'p95 ms':>9} {'max ms':>9}")
    for name, row in rows.items():
        print(f"{name:40} {row['n']:5} {row['p50_ms']:9.2f} {row['p95_ms']:9.2f} {row['max_ms']:9.2f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
