"""The door to the model: connects to the daemon of a model, or starts it, and generates.

    async with contextlib.aclosing(client.generate(request)) as events:
        async for event in events:
            ...  # Delta, Delta, Done

Nothing of the daemon is imported here and no model library is: a client is light and can be made anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models.errors import DaemonError, DaemonUnavailableError, DaemonVersionError, FrameError, ModelError
from models.paths import log_dir
from models.protocol import (
    PROTOCOL_VERSION,
    CancelMessage,
    ClientHello,
    DaemonHello,
    DaemonMessage,
    Delta,
    DeltaMessage,
    Done,
    DoneMessage,
    ErrorMessage,
    GenerateMessage,
    GenerateRequest,
    ShutdownMessage,
    StatusMessage,
    StatusQuery,
    daemon_message,
    decode,
    encode,
    error_from,
    read_frame,
)
from models.rendezvous import ERROR_WORD, READY_LINE, TAKEN_LINE, Rendezvous, rendezvous

# What a daemon that crashed wrote last; it is cut down before a new one is started.
MAX_STDERR_BYTES = 256 * 1024

_Event = Delta | Done | dict[str, Any] | ModelError


class Client:
    """One connection to a daemon, made by `connect`; its generations run beside each other.

    Where the connection is lost, everything under way and everything after raises `DaemonUnavailableError`; connect
    anew, which starts a new daemon where that is needed.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: DaemonHello) -> None:
        """Take an open connection whose hellos were exchanged; must be called on the running loop."""
        self.hello = hello
        self._reader = reader
        self._writer = writer
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Queue[_Event]] = {}
        self._lost: DaemonError | None = None
        self._receiver = asyncio.create_task(self._receive())

    @classmethod
    async def connect(cls, model_id: str, *, editor: str, spawn: bool = True, timeout_s: float = 60.0) -> Client:
        """Connect to the daemon of a model; where none listens, start one if `spawn`.

        Returns when the daemon answers, which is before its model is loaded. Raises `DaemonUnavailableError`,
        `DaemonVersionError`, and what a starting daemon finds wrong with the model: `UnknownModelError`, `CardError`.
        """
        meeting = rendezvous(model_id)
        try:
            async with asyncio.timeout(timeout_s):
                return cls(*await _meet_or_start(meeting, editor, spawn=spawn))
        except TimeoutError as error:
            raise DaemonUnavailableError(
                f"The daemon of {model_id} did not answer within {timeout_s:.0f} s: run 'starcite daemon stop'."
            ) from error

    @property
    def closed(self) -> bool:
        """Whether the connection is closed or lost; a new one has to be made then."""
        return self._lost is not None

    def generate(self, request: GenerateRequest) -> Generation:
        """Start a generation and return its events. Raises `FrameError` where the request is too large to send."""
        number, events = self._register()
        try:
            self._writer.write(encode(GenerateMessage(number, request)))
        except FrameError:
            self._forget(number)
            raise
        return Generation(self, number, events)

    async def loaded(self) -> None:
        """Wait until the model is loaded; a load that failed is tried again. Raises why it fails."""
        status = await self._ask(StatusQuery(next(self._ids), when_loaded=True))
        if error := status.get("error"):
            raise error_from(error["code"], error["message"])

    async def status(self) -> dict[str, Any]:
        """Return the daemon's status; its fields are those of `models.daemon.Daemon.status`."""
        return await self._ask(StatusQuery(next(self._ids)))

    async def shutdown(self) -> None:
        """End the daemon, also for everybody else, and wait until it has closed this connection."""
        await self._ask(ShutdownMessage(next(self._ids)))
        await asyncio.wait([self._receiver])

    async def close(self) -> None:
        """End the connection; generations under way end with it. May be called again."""
        self._fail(DaemonUnavailableError("The connection to the model daemon was closed: connect again."))
        self._receiver.cancel()
        await asyncio.wait([self._receiver])
        await _close(self._writer)

    def _register(self) -> tuple[int, asyncio.Queue[_Event]]:
        number = next(self._ids)
        return number, self._expect(number)

    def _expect(self, number: int) -> asyncio.Queue[_Event]:
        if self._lost is not None:
            raise type(self._lost)(*self._lost.args)
        events: asyncio.Queue[_Event] = asyncio.Queue()
        self._pending[number] = events
        return events

    def _forget(self, number: int) -> None:
        self._pending.pop(number, None)

    def _cancel(self, number: int) -> None:
        if self._lost is None:
            self._writer.write(encode(CancelMessage(number)))

    async def _ask(self, question: StatusQuery | ShutdownMessage) -> dict[str, Any]:
        events = self._expect(question.id)
        try:
            self._writer.write(encode(question))
            answer = await events.get()
        finally:
            self._forget(question.id)
        if isinstance(answer, ModelError):
            raise answer
        if not isinstance(answer, dict):
            raise FrameError("The daemon answered another question: run 'starcite daemon stop'.")
        return answer

    async def _receive(self) -> None:
        lost: DaemonError = DaemonUnavailableError("The model daemon ended: try again.")
        try:
            while (body := await read_frame(self._reader)) is not None:
                self._take(daemon_message(decode(body)))
        except OSError as error:
            lost = DaemonUnavailableError(f"The connection to the model daemon was lost ({error}): try again.")
        except FrameError as error:
            lost = error
        self._fail(lost)
        self._writer.close()

    def _take(self, message: DaemonMessage) -> None:
        event: _Event
        match message:
            case DeltaMessage():
                event = message.delta
            case DoneMessage():
                event = message.done
            case StatusMessage():
                event = message.status
            case ErrorMessage():
                event = error_from(message.code, message.message)
                if message.id is None:  # about the connection as a whole
                    raise FrameError(message.message)
            case DaemonHello():
                raise FrameError("The daemon said hello twice: run 'starcite daemon stop'.")
        if message.id in self._pending:
            self._pending[message.id].put_nowait(event)

    def _fail(self, error: DaemonError) -> None:
        self._lost = self._lost or error
        for events in self._pending.values():
            events.put_nowait(error)


class Generation:
    """The events of one generation, to be iterated once: deltas, and a `Done` as the last.

    Iterating raises what the daemon answers: `DaemonBusyError`, `ContextOverflowError`, `NotPulledError`,
    `BackendError`, …, and `DaemonUnavailableError` where the connection is lost. `aclose`, or cancelling the task that
    iterates, ends the generation.
    """

    def __init__(self, client: Client, number: int, events: asyncio.Queue[_Event]) -> None:
        """Be made by `Client.generate`."""
        self._client = client
        self._number = number
        self._events = events
        self._finished = False

    def __aiter__(self) -> Generation:
        """Return the iterator, which this is."""
        return self

    async def __anext__(self) -> Delta | Done:
        """Return the next event."""
        if self._finished:
            raise StopAsyncIteration
        try:
            event = await self._events.get()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if isinstance(event, Delta):
            return event
        self._finish()
        if isinstance(event, ModelError):
            raise event
        if not isinstance(event, Done):
            raise FrameError("The daemon answered another question: run 'starcite daemon stop'.")
        return event

    async def cancel(self) -> None:
        """Ask for the end, and go on iterating: the `Done` that comes says "cancelled", or that it was over already."""
        if not self._finished:
            self._client._cancel(self._number)  # noqa: SLF001 - the same module

    async def aclose(self) -> None:
        """End the generation; there are no more events. May be called again."""
        await self.cancel()
        self._finish()

    def _finish(self) -> None:
        self._finished = True
        self._client._forget(self._number)  # noqa: SLF001 - the same module


async def stop_daemon(model_id: str, *, timeout_s: float = 10.0) -> bool:
    """End the daemon of a model, of whatever version; return whether there was one.

    Raises `DaemonUnavailableError` where it does not end in time.
    """
    meeting = rendezvous(model_id)
    try:
        reader, writer = await asyncio.open_unix_connection(os.fspath(meeting.socket_path))
    except OSError:
        return False
    try:
        writer.write(encode(ShutdownMessage(0)))
        async with asyncio.timeout(timeout_s):
            while await read_frame(reader) is not None:
                pass
    except (OSError, FrameError):
        pass  # it ended in the middle of an answer
    except TimeoutError as error:
        raise DaemonUnavailableError(f"The daemon of {model_id} does not end: kill its process.") from error
    finally:
        await _close(writer)
    return True


_Met = tuple[asyncio.StreamReader, asyncio.StreamWriter, DaemonHello]


async def _meet_or_start(meeting: Rendezvous, editor: str, *, spawn: bool) -> _Met:
    """Return a connection that was greeted, after starting a daemon where nobody greets.

    A daemon that finds the lock taken means that another is about to listen, or about to end. So this is tried until
    it works or the caller's time is over; each turn takes as long as starting an interpreter.
    """
    while True:
        try:
            return await _meet(meeting, editor)
        except OSError as error:
            if not spawn:
                raise DaemonUnavailableError(
                    f"No daemon of {meeting.model_id} runs: start it with 'starcite daemon start'."
                ) from error
        line = await _spawn(meeting.model_id)
        if line.startswith(ERROR_WORD):
            _, code, message = line.split(" ", 2)
            raise error_from(code, message)
        if line not in (READY_LINE, TAKEN_LINE):
            raise DaemonUnavailableError(f"The model daemon did not start ({line}): run 'starcite doctor'.")


async def _meet(meeting: Rendezvous, editor: str) -> _Met:
    """Connect and exchange hellos. Raises OSError where nobody listens, or who listened ended before a hello."""
    reader, writer = await asyncio.open_unix_connection(os.fspath(meeting.socket_path))
    try:
        return reader, writer, await _greet(reader, writer, editor)
    except BaseException:
        await _close(writer)
        raise


async def _spawn(model_id: str) -> str:
    """Start a daemon that outlives this process, and return what it says about its start."""
    reading, writing = os.pipe()
    errors_path = _errors_path(model_id)
    # -I: neither the current folder, which may hold a folder called `models`, nor PYTHONPATH is imported from.
    command = [sys.executable, "-I", "-m", "models.daemon", "--model", model_id, "--ready-descriptor", str(writing)]
    try:
        with errors_path.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(writing,),
                start_new_session=True,
                cwd="/",
                env=_environment(),
            )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    line = await _read_line(reading)
    await process.wait()  # it forked the daemon and is gone
    return line or _last_line(errors_path)


def _environment() -> dict[str, str]:
    """Return our environment, with a STARCITE_HOME that means the same in another folder."""
    home = os.environ.get("STARCITE_HOME")
    return dict(os.environ) | ({"STARCITE_HOME": str(Path(home).absolute())} if home else {})


async def _read_line(descriptor: int) -> str:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    try:
        return (await reader.readline()).decode("utf-8", "replace").strip()
    finally:
        transport.close()


def _errors_path(model_id: str) -> Path:
    """Return the file of what a daemon's process writes outside its log, emptied where it is long."""
    folder = log_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"daemon-{model_id}.stderr"
        if path.exists() and path.stat().st_size > MAX_STDERR_BYTES:
            path.unlink()
    except OSError as error:
        raise DaemonUnavailableError(
            f"The folder {folder} cannot be used ({error.strerror}): set STARCITE_HOME."
        ) from error
    return path


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines else "it said nothing"


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, editor: str) -> DaemonHello:
    writer.write(encode(ClientHello(PROTOCOL_VERSION, f"starcite {version('starcite')}", editor)))
    body = await read_frame(reader)
    if body is None:
        raise ConnectionResetError("it ended")
    match answer := daemon_message(decode(body)):
        case DaemonHello(protocol=protocol) if protocol == PROTOCOL_VERSION:
            return answer
        case DaemonHello(protocol=protocol):
            raise DaemonVersionError(
                f"The daemon speaks protocol {protocol} and the client {PROTOCOL_VERSION}: another version of Starcite "
                "runs; stop it with 'starcite daemon stop'."
            )
        case ErrorMessage():
            raise error_from(answer.code, answer.message)
        case _:
            raise FrameError("The daemon did not say hello: run 'starcite daemon stop'.")


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
