"""The model daemon: one process a user and model, which every editor's server talks to on a Unix socket.

    run ─▶ lock, listen, say ready ─▶ connections ─▶ scheduler ─▶ engine thread
                                          └── messages of `models.protocol`, each answered; a wrong one with an error

The socket listens before the model is loaded, so that connecting is instant. Of two daemons started at once the one
that gets the lock lives: it alone may remove what an earlier one left behind. It ends when nobody was connected for a
while, when told to, and on SIGTERM or SIGINT; what runs then ends as cancelled. Editors stay connected for days, so the
model's memory is given back earlier, when nobody asked for anything for a while, and loaded again when somebody does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import logging.handlers
import math
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.cards import load_card
from models.errors import BackendError, DaemonUnavailableError, DaemonVersionError, FrameError, ModelError
from models.paths import log_dir, models_dir
from models.protocol import (
    PROTOCOL_VERSION,
    CancelMessage,
    ClientHello,
    ClientMessage,
    DaemonHello,
    DaemonMessage,
    Delta,
    DeltaMessage,
    Done,
    DoneMessage,
    ErrorMessage,
    GenerateMessage,
    ShutdownMessage,
    StatusMessage,
    StatusQuery,
    client_message,
    decode,
    encode,
    error_code,
    message_id,
    read_frame,
)
from models.rendezvous import ERROR_WORD, READY_LINE, TAKEN_LINE, Rendezvous, rendezvous
from models.scheduler import Engine, Scheduler
from models.timings import BOUNDS_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from models.scheduler import Event, Job

IDLE_EXIT_S = 30 * 60.0
UNLOAD_AFTER_S = 15 * 60.0
UNLOAD_VARIABLE = "STARCITE_UNLOAD_AFTER_S"
# How often a daemon without clients looks whether its socket is still there.
SOCKET_CHECK_S = 60.0
# A peer that connects and says nothing must not keep the daemon alive.
HELLO_TIMEOUT_S = 10.0
MAX_LOG_BYTES = 1024 * 1024

log = logging.getLogger("models.daemon")  # also where this module is __main__


def run(model_id: str, *, idle_exit_s: float = IDLE_EXIT_S, ready: Callable[[], None] = lambda: None) -> bool:
    """Be the daemon of a model until it ends, and return True; return False at once where there is one.

    `ready` is called when the socket listens. Raises `UnknownModelError` and `CardError` for the model, and
    `DaemonUnavailableError` where the runtime folder cannot be used. That the model cannot be loaded is no error here:
    each request is answered with it, and tries again. Raises `DaemonUnavailableError` too where the environment's time
    of unloading cannot be read.
    """
    load_card(model_id)
    unload_after_s = _unload_after_s()
    meeting = rendezvous(model_id)
    with _locked(meeting) as locked:
        if not locked:
            return False
        with _logging_to_file(model_id):
            asyncio.run(
                serve(
                    meeting,
                    lambda: load_engine(model_id),
                    idle_exit_s=idle_exit_s,
                    unload_after_s=unload_after_s,
                    ready=ready,
                )
            )
        return True


async def serve(
    meeting: Rendezvous,
    load: Callable[[], Engine],
    *,
    idle_exit_s: float = IDLE_EXIT_S,
    unload_after_s: float | None = None,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve one engine at a meeting point, whose lock the caller holds, until the daemon ends."""
    daemon = Daemon(meeting, load, idle_exit_s, unload_after_s)
    with contextlib.closing(_listen(meeting.socket_path)) as listener:
        daemon.start()
        server = await asyncio.start_unix_server(daemon.serve_connection, sock=listener)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, daemon.end)
        log.info("daemon %d of %s listens", os.getpid(), meeting.model_id)
        ready()
        await daemon.wait_for_end()
        # Nobody new comes from here on; who finds no socket tries to start a daemon until our lock is free.
        meeting.socket_path.unlink(missing_ok=True)
        server.close()
        await daemon.stop()
        log.info("daemon %d ended", os.getpid())


class Daemon:
    """The connections of one daemon and what they asked for; used on the event loop only."""

    def __init__(
        self, meeting: Rendezvous, load: Callable[[], Engine], idle_exit_s: float, unload_after_s: float | None = None
    ) -> None:
        """Take what `serve` takes; `start` must be called on the running loop."""
        self._meeting = meeting
        self._load = load
        self._idle_exit_s = idle_exit_s
        self._unload_after_s = unload_after_s
        self._started_s = time.monotonic()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._idle_timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start loading the model, and the time after which an unused daemon ends."""
        self._loop = asyncio.get_running_loop()
        self.scheduler = Scheduler(self._load, self._loop, unload_after_s=self._unload_after_s)
        self.scheduler.start()
        self._watch_idleness()

    def end(self) -> None:
        """Make `wait_for_end` return."""
        self._ended.set()

    async def wait_for_end(self) -> None:
        """Wait until the daemon is told to end, or was unused for long enough."""
        await self._ended.wait()

    async def stop(self) -> None:
        """End all generations as cancelled, deliver that, and close the connections."""
        if self._idle_timer:
            self._idle_timer.cancel()
        await self.scheduler.stop()
        for connection in list(self._connections):
            connection.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)

    def hello(self) -> DaemonHello:
        """Return this daemon's hello."""
        return DaemonHello(PROTOCOL_VERSION, self._meeting.model_id, os.getpid(), version("starcite"))

    def status(self) -> dict[str, Any]:
        """Return what the status message holds, all of it plain values.

        `state` is "loading", "ready", "busy", "unloaded" (until somebody asks) or "failed", and `error` says why it
        failed; `memory_bytes` is the resident memory with the mapped weights; `last` has the tokens and timings of the
        last finished generation; `histograms` has those of all, as `Scheduler.histograms` and `models.timings` say,
        where the i-th of "counts" is of the times up to the i-th of `histogram_bounds_ms`.
        """
        scheduler, last, error = self.scheduler, self.scheduler.last, self.scheduler.load_error
        return {
            "state": scheduler.state,
            "model": self._meeting.model_id,
            "pid": os.getpid(),
            "version": version("starcite"),
            "protocol": PROTOCOL_VERSION,
            "uptime_s": time.monotonic() - self._started_s,
            "connections": len(self._connections),
            "requests": asdict(scheduler.counts),
            "queue_length": scheduler.queue_length,
            "memory_bytes": _resident_bytes(),
            "unload_after_s": scheduler.unload_after_s,
            "threads": scheduler.threads,
            "last": {"tokens": asdict(last.tokens), "timings_ms": last.timings_ms} if last else None,
            "error": {"code": error_code(error), "message": str(error)} if error else None,
            "histogram_bounds_ms": list(BOUNDS_MS),
            "histograms": scheduler.histograms(),
        }

    async def serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client until it or the daemon ends the connection."""
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        task = asyncio.current_task()
        if task:
            self._tasks.add(task)
        self._watch_idleness()
        try:
            await connection.serve()
        except OSError as error:
            log.info("connection lost: %s", error)
        finally:
            connection.cancel_all()
            connection.close()
            self._connections.discard(connection)
            if task:
                self._tasks.discard(task)
            self._watch_idleness()

    def _watch_idleness(self) -> None:
        if self._idle_timer:
            self._idle_timer.cancel()
        self._idle_timer = None if self._connections else self._look_later(self._loop.time() + self._idle_exit_s)

    def _look_later(self, end_s: float) -> asyncio.TimerHandle:
        return self._loop.call_at(min(end_s, self._loop.time() + SOCKET_CHECK_S), self._look, end_s)

    def _look(self, end_s: float) -> None:
        """End at the end of the idle time, or earlier where nobody can come any more: the socket was removed."""
        if self._loop.time() >= end_s or not self._meeting.socket_path.exists():
            self.end()
        else:
            self._idle_timer = self._look_later(end_s)


class _Connection:
    """One client: its messages are answered in order, its generations as they come."""

    def __init__(self, daemon: Daemon, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._daemon = daemon
        self._reader = reader
        self._writer = writer
        self._hello: ClientHello | None = None
        self._jobs: dict[int, Job] = {}

    async def serve(self) -> None:
        timeout_s: float | None = HELLO_TIMEOUT_S
        while True:
            try:
                body = await asyncio.wait_for(read_frame(self._reader), timeout_s)
            except (FrameError, TimeoutError) as error:
                message = str(error) or f"No message came within {HELLO_TIMEOUT_S:.0f} s."
                self._send(ErrorMessage(error_code(FrameError(message)), message))
                return
            if body is None:
                return
            self._take(body)
            timeout_s = None
            # A client that does not read its answers is not read either.
            await self._writer.drain()

    def close(self) -> None:
        self._writer.close()

    def cancel_all(self) -> None:
        for job in self._jobs.values():
            self._daemon.scheduler.cancel(job)

    def _take(self, body: bytes) -> None:
        """Answer one frame whose bounds are known: whatever is wrong in it, the next one can be read."""
        number = None
        try:
            fields = decode(body)
            number = message_id(fields)
            self._answer(client_message(fields))
        except ModelError as error:
            self._send(ErrorMessage(error_code(error), str(error), number))

    def _answer(self, message: ClientMessage) -> None:
        match message:
            case ClientHello():
                self._greet(message)
            case GenerateMessage():
                self._generate(message)
            case CancelMessage():
                if job := self._jobs.get(message.id):
                    self._daemon.scheduler.cancel(job)
            case StatusQuery():
                if message.when_loaded:
                    self._daemon.scheduler.call_when_loaded(lambda: self._send_status(message.id))
                else:
                    self._send_status(message.id)
            case ShutdownMessage():
                self._send_status(message.id)
                self._daemon.end()

    def _greet(self, hello: ClientHello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            raise DaemonVersionError(
                f"The daemon speaks protocol {PROTOCOL_VERSION} and the client {hello.protocol}: another version of "
                "Starcite runs; stop it with 'starcite daemon stop'."
            )
        self._hello = hello
        if hello.editor:  # it will generate; who only asks for the status must not cost the model's memory
            self._daemon.scheduler.wake()
        self._send(self._daemon.hello())

    def _generate(self, message: GenerateMessage) -> None:
        if self._hello is None:
            raise FrameError("A hello must come before a generate.")
        if message.id in self._jobs:
            raise FrameError(f"The id {message.id} is in use: choose another.")
        # Two windows of an editor are two connections, which must not supersede each other whatever they are called.
        key = f"{id(self)}:{message.request.editor or self._hello.editor}"
        self._jobs[message.id] = self._daemon.scheduler.submit(
            key, message.request, lambda event: self._deliver(message.id, event)
        )

    def _deliver(self, number: int, event: Event) -> None:
        match event:
            case Delta():
                self._send(DeltaMessage(number, event))
                return
            case Done():
                self._send(DoneMessage(number, event))
            case ModelError():
                self._send(ErrorMessage(error_code(event), str(event), number))
        del self._jobs[number]

    def _send_status(self, number: int) -> None:
        self._send(StatusMessage(number, self._daemon.status()))

    def _send(self, message: DaemonMessage) -> None:
        if not self._writer.is_closing():
            self._writer.write(encode(message))


def _unload_after_s() -> float | None:
    """Return the environment's time after which an unused model is unloaded, or ours; None for never, which is 0."""
    text = os.environ.get(UNLOAD_VARIABLE, "")
    try:
        seconds = float(text) if text else UNLOAD_AFTER_S
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= threading.TIMEOUT_MAX:
        raise DaemonUnavailableError(f"{UNLOAD_VARIABLE} is {text[:40]!r}: set it to seconds, or to 0 for never.")
    return seconds or None


def load_engine(model_id: str) -> Engine:
    """Load the weights of a model as its card says now; called in the engine thread."""
    # Here and not above: the socket has to listen before seconds of imports and of loading.
    from models import backends  # noqa: PLC0415
    from models.store import Store  # noqa: PLC0415

    card, store = load_card(model_id), Store(models_dir())
    choice = backends.choose(card, store)
    log.info("%s", choice)
    try:
        return backends.open_engine(choice.card, store, device=choice.device)
    except BackendError as error:
        if choice.card == card:
            raise
        log.warning("the GGUF file is used instead: %s", error)
        return backends.open_engine(card, store)


@contextlib.contextmanager
def _locked(meeting: Rendezvous) -> Iterator[bool]:
    """Hold the lock of the one daemon, or give False where another does; the system frees it however we end."""
    import fcntl  # noqa: PLC0415 - not on Windows, where `rendezvous` has said so already

    descriptor = os.open(meeting.lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = True
    except BlockingIOError:
        locked = False
    try:
        yield locked
    finally:
        os.close(descriptor)


def _listen(path: Path) -> socket.socket:
    """Listen at `path`, which appears when connecting works; what an earlier daemon left there is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh = path.with_suffix(".new")
    try:
        fresh.unlink(missing_ok=True)
        listener.bind(os.fspath(fresh))
        listener.listen(64)
        fresh.rename(path)
    except OSError as error:
        listener.close()
        raise DaemonUnavailableError(f"The socket {path} cannot be made ({error}): set STARCITE_HOME.") from error
    return listener


@contextlib.contextmanager
def _logging_to_file(model_id: str) -> Iterator[None]:
    folder = log_dir()
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(
        folder / f"daemon-{model_id}.log", maxBytes=MAX_LOG_BYTES, backupCount=1, encoding="utf-8", delay=True
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger("models")
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def _resident_bytes() -> int:
    import resource  # noqa: PLC0415 - not on Windows

    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes, and the peak


def main(arguments: list[str] | None = None) -> int:
    """Be a daemon until it ends and return the exit status.

    With a ready descriptor, as `models.client` starts it, in the background: what goes wrong is said there. Without
    one in the foreground: raises what `run` raises, and `DaemonUnavailableError` where a daemon runs already.
    """
    parser = argparse.ArgumentParser(prog="models.daemon")
    parser.add_argument("--model", required=True)
    parser.add_argument("--ready-descriptor", type=int, help="a pipe that takes one line of `models.rendezvous`")
    parser.add_argument("--idle-exit-s", type=float, default=IDLE_EXIT_S)
    options = parser.parse_args(arguments)
    # A failed assertion in the library must end the process; it would start a debugger on it otherwise.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    if options.ready_descriptor is None:
        if not run(options.model, idle_exit_s=options.idle_exit_s):
            raise DaemonUnavailableError(
                f"A daemon of {options.model} runs already: use that one, or stop it with 'starcite daemon stop'."
            )
        return 0
    # The client waits for its child, so the child goes and the daemon is nobody's: no zombie in a long-lived editor.
    if os.fork():
        return 0
    return _run_in_background(options.model, options.idle_exit_s, options.ready_descriptor)


def _run_in_background(model_id: str, idle_exit_s: float, descriptor: int) -> int:
    def say(line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # the client may be gone; others will come
            os.write(descriptor, f"{line}\n".encode())
        os.close(descriptor)

    try:
        if not run(model_id, idle_exit_s=idle_exit_s, ready=lambda: say(READY_LINE)):
            say(TAKEN_LINE)
    except ModelError as error:
        say(f"{ERROR_WORD} {error_code(error)} {error}")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
