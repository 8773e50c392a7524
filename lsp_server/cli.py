"""The `starcite` command: it parses and prints, and knows nothing that a library call could know.

Exit status: 0 fine; 1 the command found what it looks for (`check`, `doctor`); 2 wrong use or bad input, with one line
on stderr; 3 the daemon or the model is not available. `check` has a module of its own; what looks after indexes, the
daemon and models is in `manage`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import logging.handlers
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from attribution.errors import AttributionError
from lsp_server import __version__, corpora, languages, manage, report, terminal
from lsp_server.check import add_check
from lsp_server.documents import Snapshot, offset_of, read_source
from lsp_server.errors import StarciteError
from lsp_server.evaluate import add_eval
from lsp_server.train import add_train
from models import paths
from models.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lsp_server.completion import Completion

LOG_BYTES = 2_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; argparse itself exits with 2 where the words are wrong."""
    options = _parser().parse_args(arguments)
    # What goes wrong is said in the answer or in our one line; the server alone keeps a log.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return terminal.INTERRUPTED
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (StarciteError, ModelError) as error:
        return terminal.complain(str(error), error.exit_status)
    except AttributionError as error:
        return terminal.complain(str(error), terminal.BAD_INPUT)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="starcite",
        description="Local code completion that cites its sources.",
        epilog="Example: starcite complete src/app.py --at 12:9",
    )
    parser.add_argument("--version", action="version", version=f"starcite {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (
        _add_lsp,
        _add_complete,
        add_check,
        manage.add_index,
        corpora.add_corpus,
        manage.add_daemon,
        manage.add_models,
        add_eval,
        add_train,
        _add_doctor,
    ):
        add(commands)
    return parser


# --- lsp -----------------------------------------------------------------------------------------------------------


def _add_lsp(commands: terminal.Commands) -> None:
    parser = terminal.command(commands, "lsp", _lsp, "run the language server", "starcite lsp --stdio")
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
    gc.disable()  # the protocol's 600 classes are here to stay: looking through them again and again takes 50 ms
    from lsp_server import server

    gc.freeze()
    gc.enable()
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
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"))
    logging.getLogger().addHandler(handler)


# --- complete ------------------------------------------------------------------------------------------------------


def _add_complete(commands: terminal.Commands) -> None:
    parser = terminal.command(
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
    terminal.with_json(parser)


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
        session.corpora.open()
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
            report.sentence(completion.checked, completion.references),
            *(report.heading(match) for match in completion.references),
        ]
    )


def _marked(text: str) -> str:
    """Return the inserted text so that it stands out: in colour on a terminal, between brackets elsewhere."""
    if not sys.stdout.isatty():
        return f"⟦{text}⟧"
    return "\n".join(f"\x1b[30;42m{line}\x1b[0m" for line in text.split("\n"))


# --- doctor --------------------------------------------------------------------------------------------------------


def _add_doctor(commands: terminal.Commands) -> None:
    parser = terminal.command(
        commands, "doctor", _doctor, "say what works on this machine, what does not, and what to do", "starcite doctor"
    )
    terminal.with_json(parser)


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
    return 0 if all(finding.good for finding in findings) else terminal.FOUND
