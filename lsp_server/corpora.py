"""The commands that make a training corpus out of its manifest; like `cli` they only parse and print."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsp_server import terminal
from models import paths

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from attribution.curate import Caches


def add_corpus(commands: terminal.Commands) -> None:
    """Add `starcite corpus`."""
    group = terminal.group(
        commands,
        "corpus",
        "build a training corpus of permissive packages, the same bytes every time",
        "starcite corpus build models/starter/corpus.toml --limit 50 --out ./corpus",
    )
    build = terminal.command(
        group,
        "build",
        _build,
        "fetch the locked packages of a manifest, clean them, and write rows of text with their sources",
        "starcite corpus build models/starter/corpus.toml --profile seedling --out ./corpus",
    )
    build.add_argument("--out", metavar="DIR", type=Path, required=True, help="where to put it")
    build.add_argument("--profile", metavar="P", help="how much of it (default: the manifest's first profile)")
    build.add_argument("--limit", metavar="N", type=int, help="only the first N packages")
    build.add_argument(
        "--decontaminate",
        metavar="F",
        nargs="+",
        type=Path,
        default=(),
        help="keep clear of these problems too (.jsonl[.gz])",
    )
    build.add_argument("--optouts", metavar="F", type=Path, help="leave out who opted out, as in index build")
    build.add_argument(
        "--allow-missing", action="store_true", help="go on without packages that their registry does not have any more"
    )
    lock = terminal.command(
        group,
        "lock",
        _lock,
        "choose packages anew: ask the registries, and write the manifest's lock",
        "starcite corpus lock models/starter/corpus.toml",
    )
    lock.add_argument(
        "--skip",
        metavar="REGISTRY",
        choices=("pypi", "npm", "debian"),
        nargs="+",
        default=(),
        help="do without pypi, npm or debian",
    )
    lock.add_argument(
        "--keep", action="store_true", help="keep the locked packages, and note anew what today's rules make of them"
    )
    for parser in (build, lock):
        parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="the manifest (.toml), its lock beside it")
        terminal.with_json(parser)
    benchmarks = terminal.command(
        group,
        "benchmarks",
        _benchmarks,
        "make the table by which corpora are kept clear of benchmarks' problems",
        "starcite corpus benchmarks HumanEval.jsonl.gz mbpp.jsonl --out decontamination.bin",
    )
    benchmarks.add_argument("problems", metavar="F", nargs="+", type=Path, help="problems, as .jsonl or .jsonl.gz")
    benchmarks.add_argument("--out", metavar="TABLE", type=Path, required=True, help="where to put the table")
    terminal.with_json(benchmarks)


def _caches() -> Caches:
    from attribution.curate import Caches
    from attribution.downloads import Downloads

    return Caches(Downloads(paths.cache_dir() / "archives"), paths.cache_dir() / "cleaned")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say of what cannot be written, the caches included, what to do."""
    from attribution.errors import CorpusError

    try:
        yield
    except OSError as error:
        raise CorpusError(
            f"{path} cannot be written ({error.strerror}); free some space or give another folder, and run this again: "
            "what was fetched is kept."
        ) from error


def _build(options: argparse.Namespace) -> int:
    from attribution import curate, manifest

    if options.limit is not None and options.limit < 1:
        return terminal.complain("--limit needs at least 1 package; give 1 or more", terminal.BAD_INPUT)
    wish = curate.Wish(
        profile=options.profile,
        limit=options.limit,
        benchmarks=tuple(options.decontaminate),
        optouts=options.optouts,
        allow_missing=options.allow_missing,
    )
    started = time.monotonic()
    progress = terminal.Progress("corpus")
    facts = curate.build(
        manifest.read(options.manifest),
        options.out,
        _caches(),
        wish,
        progress=progress.show_packages if sys.stderr.isatty() else None,
    )
    progress.clear()
    if options.json:
        print(
            json.dumps(
                {"version": 1, "corpus": str(options.out), "seconds": round(time.monotonic() - started, 2)} | facts
            )
        )
    else:
        _print_facts(options.out, facts, time.monotonic() - started)
    return 0


def _print_facts(out: Path, facts: dict[str, Any], seconds: float) -> None:
    size = f"{facts['documents']:,} documents, {facts['bytes'] / 1e6:.1f} MB of {facts['packages']:,} packages"
    print(f"{out}: {size} in {seconds:.0f} s")
    print(f"  id {facts['id']}")
    held = facts["heldout"]
    print(
        f"  held out: {held['documents']:,} documents, {held['bytes'] / 1e6:.1f} MB of {len(held['packages'])} packages"
    )
    for title, table in (("language", facts["by_language"]), ("licence", facts["by_license"])):
        for name, row in table.items():
            print(f"  {title:9} {name:30} {row['documents']:9,} documents {row['bytes'] / 1e6:8.1f} MB")
    for reason, number in facts["left_out"].items():
        print(f"  left out {number:,}: {reason}")


def _lock(options: argparse.Namespace) -> int:
    from attribution import manifest
    from attribution.collect import Collector, relocked
    from attribution.registries import Registries

    wanted = manifest.read(options.manifest)
    caches = _caches()
    collector = Collector(caches.downloads, Registries(), caches.cleaned)
    progress = terminal.Progress("collecting")
    with _writing(wanted.lock):
        if options.keep:
            found = list(relocked(manifest.read_lock(wanted.lock), caches.downloads, caches.cleaned))
        else:
            found = collector.collected(
                (kind for kind in wanted.collect if kind.registry not in options.skip),
                progress=(lambda kind, done, total: progress.show_bytes(min(done, total), total, kind))
                if sys.stderr.isatty()
                else None,
            )
        progress.clear()
        manifest.write_lock(wanted.lock, found)
    left_out = dict(collector.left_out.most_common())
    if options.json:
        print(json.dumps({"version": 1, "lock": str(wanted.lock), "packages": len(found), "left_out": left_out}))
        return 0
    print(f"{wanted.lock}: {len(found):,} packages")
    for reason, number in left_out.items():
        print(f"  left out {number:,}: {reason}")
    return 0


def _benchmarks(options: argparse.Namespace) -> int:
    from attribution.decontaminate import Table
    from attribution.durable import replace_synced

    table = Table.of_benchmarks(options.problems)
    data = table.to_bytes()
    with _writing(options.out):
        replace_synced(options.out, data)
    if options.json:
        print(json.dumps({"version": 1, "table": str(options.out), "grams": len(table), "bytes": len(data)}))
    else:
        print(f"{options.out}: {len(table):,} grams, {len(data):,} bytes")
    return 0
