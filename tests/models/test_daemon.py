"""The daemon over its socket, with an engine that does as it is told: nothing a client sends ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import daemon
from models.cards import DEFAULT_MODEL
from models.errors import DaemonUnavailableError, UnknownModelError
from models.protocol import (
    MAX_FRAME_BYTES,
    PROTOCOL_VERSION,
    CancelMessage,
    ClientHello,
    ClientMessage,
    DaemonHello,
    DaemonMessage,
    DeltaMessage,
    DoneMessage,
    ErrorMessage,
    FimPrompt,
    GenerateMessage,
    GenerateRequest,
    ShutdownMessage,
    StatusMessage,
    StatusQuery,
    daemon_message,
    decode,
    encode,
    read_frame,
)
from models.rendezvous import Rendezvous, rendezvous

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from conftest import FakeEngine

    from models.scheduler import Engine

DEADLINE_S = 30.0
MODEL = "fake"
pytestmark = pytest.mark.usefixtures("home")
HELLO = ClientHello(PROTOCOL_VERSION, "test", "editor")

_M = TypeVar("_M", bound=DaemonMessage)


def generate(number: int, prefix: str, editor: str = "") -> GenerateMessage:
    """Return a request whose prefix tells the fake engine what to do."""
    return GenerateMessage(number, GenerateRequest(FimPrompt(prefix, ""), editor=editor))


@dataclass
class Peer:
    """A client that says what it is told to, byte by byte if need be."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, *messages: ClientMessage) -> None:
        """Send messages."""
        for message in messages:
            self.writer.write(encode(message))

    def send_body(self, body: bytes) -> None:
        """Send a frame of any content."""
        self.writer.write(struct.pack(">I", len(body)) + body)

    async def next(self) -> DaemonMessage | None:
        """Return the next message, or None at the end of the connection."""
        body = await asyncio.wait_for(read_frame(self.reader), DEADLINE_S)
        return None if body is None else daemon_message(decode(body))

    async def expect(self, kind: type[_M]) -> _M:
        """Return the next message that is no delta, which must be of this kind."""
        while isinstance(message := await self.next(), DeltaMessage):
            pass
        assert isinstance(message, kind), message
        return message

    async def greet(self) -> DaemonHello:
        """Exchange hellos."""
        self.send(HELLO)
        return await self.expect(DaemonHello)

    async def close(self) -> None:
        """End the connection."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def connect(meeting: Rendezvous) -> Peer:
    """Connect to whoever listens."""
    return Peer(*await asyncio.open_unix_connection(meeting.socket_path))


@contextlib.asynccontextmanager
async def running(
    engine: Engine, *, idle_exit_s: float = DEADLINE_S, unload_after_s: float | None = None
) -> AsyncIterator[tuple[Rendezvous, asyncio.Task]]:
    """Run a daemon in this process, and end it afterwards if it still runs."""
    meeting = rendezvous(MODEL)
    ready = asyncio.Event()
    task = asyncio.create_task(
        daemon.serve(meeting, lambda: engine, idle_exit_s=idle_exit_s, unload_after_s=unload_after_s, ready=ready.set),
        name="daemon",
    )
    try:
        await asyncio.wait_for(ready.wait(), DEADLINE_S)
        yield meeting, task
    finally:
        if not task.done():
            with contextlib.suppress(OSError):
                peer = await connect(meeting)
                peer.send(ShutdownMessage(0))
                await peer.close()
        await asyncio.wait_for(task, DEADLINE_S)


async def test_a_generation(home: Path, fake_engine: FakeEngine) -> None:
    """A client greets, is greeted, and gets the text in deltas and a done, all with its id."""
    async with running(fake_engine) as (meeting, _):
        peer = await connect(meeting)
        hello = await peer.greet()
        assert (hello.protocol, hello.model, hello.pid) == (PROTOCOL_VERSION, MODEL, os.getpid())
        peer.send(generate(7, "ab"))
        events = [await peer.next() for _ in range(3)]
        assert [event.delta.text for event in events if isinstance(event, DeltaMessage)] == ["a", "b"]
        assert isinstance(events[2], DoneMessage)
        assert {event.id for event in events if isinstance(event, DeltaMessage | DoneMessage)} == {7}
        await peer.close()
    assert not (home / "run" / "fake.sock").exists()


WRONG_BODIES = [
    (b"", "frame"),
    (b"\xc1", "frame"),
    (b"\x93\x01\x02", "frame"),
    (msgpack.packb([1, 2]), "frame"),
    (msgpack.packb({"type": "dance", "id": 5}), "frame"),
    (msgpack.packb({"type": "cancel"}), "frame"),
    (msgpack.packb({"type": "hello", "protocol": 99, "client": "", "editor": ""}), "version"),
    (msgpack.packb({"type": "generate", "id": 5, "prompt": "text"}), "frame"),
]


@pytest.mark.parametrize(("body", "code"), WRONG_BODIES)
async def test_a_wrong_message_gets_an_error(fake_engine: FakeEngine, body: bytes, code: str) -> None:
    """What is no message is answered with an error, and the next message of the same client is understood."""
    async with running(fake_engine) as (meeting, _):
        peer = await connect(meeting)
        await peer.greet()
        peer.send_body(body)
        error = await peer.expect(ErrorMessage)
        assert error.code == code
        assert error.id == (5 if b"\xa2id" in body else None)
        peer.send(generate(1, "fine"))
        assert (await peer.expect(DoneMessage)).id == 1
        await peer.close()


@pytest.mark.parametrize("data", [struct.pack(">I", MAX_FRAME_BYTES + 1), b"\x00\x00", struct.pack(">I", 9) + b"\x80"])
async def test_lost_framing_ends_only_its_connection(fake_engine: FakeEngine, data: bytes) -> None:
    """An oversized or truncated frame is answered with an error and the end of that connection."""
    async with running(fake_engine) as (meeting, _):
        peer, other = await connect(meeting), await connect(meeting)
        await peer.greet()
        peer.writer.write(data)
        peer.writer.write_eof()
        assert (await peer.expect(ErrorMessage)).code == "frame"
        assert await peer.next() is None
        await other.greet()
        other.send(generate(1, "fine"))
        await other.expect(DoneMessage)
        await peer.close()
        await other.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies=st.lists(st.binary(max_size=60), max_size=5), tail=st.binary(max_size=20))
async def test_no_bytes_end_the_daemon(fake_engine: FakeEngine, bodies: list[bytes], tail: bytes) -> None:
    """Whatever bytes come, framed and not, the daemon answers the next client."""
    async with running(fake_engine) as (meeting, _):
        peer = await connect(meeting)
        for body in bodies:
            peer.send_body(body)
        peer.writer.write(tail)
        peer.writer.write_eof()
        while await peer.next() is not None:
            pass
        await peer.close()
        after = await connect(meeting)
        await after.greet()
        after.send(generate(1, "fine"))
        await after.expect(DoneMessage)
        await after.close()


async def test_a_generation_needs_a_hello(fake_engine: FakeEngine) -> None:
    """Nobody generates before the versions were compared, but status and shutdown need no version."""
    async with running(fake_engine) as (meeting, task):
        peer = await connect(meeting)
        peer.send(generate(1, "x"), StatusQuery(2))
        assert (await peer.expect(ErrorMessage)).id == 1
        assert (await peer.expect(StatusMessage)).id == 2
        peer.send(ShutdownMessage(3))
        assert (await peer.expect(StatusMessage)).id == 3
        assert await peer.next() is None
        await peer.close()
        await asyncio.wait_for(task, DEADLINE_S)
    assert fake_engine.closed


async def test_an_id_is_used_once_at_a_time(fake_engine: FakeEngine) -> None:
    """A second generation under the id of a running one is refused; the first goes on."""
    async with running(fake_engine) as (meeting, _):
        peer = await connect(meeting)
        await peer.greet()
        peer.send(generate(1, "wait"))
        await asyncio.to_thread(fake_engine.wait_started)
        peer.send(generate(1, "x"))
        assert "in use" in (await peer.expect(ErrorMessage)).message
        fake_engine.released.set()
        assert (await peer.expect(DoneMessage)).done.finish_reason == "stop"
        await peer.close()


async def test_superseding_is_within_a_connection(fake_engine: FakeEngine) -> None:
    """The newest request of an editor ends its older one; the same name on another connection is somebody else."""
    async with running(fake_engine) as (meeting, _):
        one, two = await connect(meeting), await connect(meeting)
        await one.greet()
        await two.greet()
        one.send(generate(1, "wait"))
        await asyncio.to_thread(fake_engine.wait_started)
        two.send(generate(1, "two"))
        one.send(generate(2, "other editor", editor="notebook"), StatusQuery(3))
        assert (await one.expect(StatusMessage)).status["queue_length"] >= 1
        one.send(generate(4, "new"))
        first = await one.expect(DoneMessage)
        assert (first.id, first.done.finish_reason) == (1, "cancelled")
        assert (await two.expect(DoneMessage)).done.finish_reason == "stop"
        rest = [await one.expect(DoneMessage) for _ in range(2)]
        assert [(message.id, message.done.finish_reason) for message in rest] == [(2, "stop"), (4, "stop")]
        await one.close()
        await two.close()


async def test_cancel_and_disconnect_free_the_engine(fake_engine: FakeEngine) -> None:
    """A cancel ends a running generation, and so does the end of its connection."""
    async with running(fake_engine) as (meeting, _):
        one, two = await connect(meeting), await connect(meeting)
        await one.greet()
        await two.greet()
        one.send(generate(1, "wait"))
        await asyncio.to_thread(fake_engine.wait_started)
        one.send(CancelMessage(99), CancelMessage(1))
        assert (await one.expect(DoneMessage)).done.finish_reason == "cancelled"
        one.send(generate(2, "wait"))
        await asyncio.to_thread(fake_engine.wait_started)
        await one.close()
        two.send(generate(1, "next"))
        assert (await two.expect(DoneMessage)).done.finish_reason == "stop"
        await two.close()


async def test_errors_of_the_engine_are_typed(fake_engine: FakeEngine) -> None:
    """What the engine raises reaches the client with its code and the id of the request."""
    async with running(fake_engine) as (meeting, _):
        peer = await connect(meeting)
        await peer.greet()
        peer.send(generate(1, "overflow"))
        error = await peer.expect(ErrorMessage)
        assert (error.id, error.code) == (1, "context_overflow")
        peer.send(generate(2, "crash"))
        error = await peer.expect(ErrorMessage)
        assert (error.id, error.code) == (2, "backend")
        await peer.close()


async def test_status(fake_engine: FakeEngine) -> None:
    """The status says what the daemon is, what it did and what it costs."""
    async with running(fake_engine) as (meeting, _):
        peer = await connect(meeting)
        await peer.greet()
        peer.send(generate(1, "x"))
        await peer.expect(DoneMessage)
        peer.send(StatusQuery(2, when_loaded=True))
        status = (await peer.expect(StatusMessage)).status
        assert status["state"] == "ready"
        assert status["model"] == MODEL
        assert status["pid"] == os.getpid()
        assert status["protocol"] == PROTOCOL_VERSION
        assert status["requests"] == {"received": 1, "finished": 1, "cancelled": 0, "failed": 0, "refused": 0}
        assert status["memory_bytes"] > 1_000_000
        assert status["threads"] == 1
        assert status["last"]["tokens"]["generated"] == 1
        assert status["error"] is None
        assert status["unload_after_s"] is None
        total = status["histograms"]["interactive"]["total"]
        assert (total["count"], len(total["counts"])) == (1, len(status["histogram_bounds_ms"]) + 1)
        await peer.close()


async def test_an_unused_model_is_unloaded(fake_engine: FakeEngine) -> None:
    """The daemon stays and says so; who asks for the status leaves it so, who greets as an editor has it loaded."""
    async with running(fake_engine, unload_after_s=0.05) as (meeting, _):
        peer = await connect(meeting)
        peer.send(ClientHello(PROTOCOL_VERSION, "test", ""))
        await peer.expect(DaemonHello)

        async def state() -> str:
            peer.send(StatusQuery(1))
            return str((await peer.expect(StatusMessage)).status["state"])

        async with asyncio.timeout(DEADLINE_S):
            while await state() != "unloaded":
                pass
        assert fake_engine.closed
        peer.send(ClientHello(PROTOCOL_VERSION, "test", ""))
        await peer.expect(DaemonHello)
        assert await state() == "unloaded"
        peer.send(HELLO)
        await peer.expect(DaemonHello)
        assert await state() != "unloaded"
        peer.send(generate(2, "x"))
        assert (await peer.expect(DoneMessage)).done.finish_reason == "stop"
        await peer.close()


@pytest.mark.parametrize(("text", "seconds"), [("", daemon.UNLOAD_AFTER_S), ("90.5", 90.5), ("0", None)])
def test_the_environment_says_when_to_unload(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float | None) -> None:
    """Seconds, nothing for the default, 0 for never."""
    monkeypatch.setenv("STARCITE_UNLOAD_AFTER_S", text)
    assert daemon._unload_after_s() == seconds


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_wrong_time_to_unload_is_an_error(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A daemon that cannot read the time does not start, and says what to write."""
    monkeypatch.setenv("STARCITE_UNLOAD_AFTER_S", text)
    with pytest.raises(DaemonUnavailableError, match=r"STARCITE_UNLOAD_AFTER_S is .* set it to seconds"):
        daemon.run(DEFAULT_MODEL)


async def test_shutdown_ends_what_runs_as_cancelled(fake_engine: FakeEngine) -> None:
    """Of a daemon that is told to end, a running generation still gets its done."""
    async with running(fake_engine) as (meeting, _):
        peer, boss = await connect(meeting), await connect(meeting)
        await peer.greet()
        peer.send(generate(1, "wait"))
        await asyncio.to_thread(fake_engine.wait_started)
        boss.send(ShutdownMessage(1))
        assert (await peer.expect(DoneMessage)).done.finish_reason == "cancelled"
        assert await peer.next() is None
        await peer.close()
        await boss.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals_end_it(fake_engine: FakeEngine, number: signal.Signals) -> None:
    """A signal ends the daemon in order: its socket is gone, its engine freed."""
    async with running(fake_engine) as (meeting, task):
        os.kill(os.getpid(), number)
        await asyncio.wait_for(asyncio.shield(task), DEADLINE_S)
        assert not meeting.socket_path.exists()
    assert fake_engine.closed


async def test_it_ends_when_idle(fake_engine: FakeEngine) -> None:
    """A daemon to which nobody is connected ends after its time, and not while somebody is."""
    async with running(fake_engine, idle_exit_s=0.2) as (meeting, task):
        peer = await connect(meeting)
        await peer.greet()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), 0.5)
        await peer.close()
        await asyncio.wait_for(asyncio.shield(task), DEADLINE_S)
        assert not meeting.socket_path.exists()


async def test_it_ends_when_nobody_can_reach_it(fake_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon whose socket was removed is of no use to anybody and ends."""
    monkeypatch.setattr(daemon, "SOCKET_CHECK_S", 0.05)
    async with running(fake_engine) as (meeting, task):
        meeting.socket_path.unlink()
        await asyncio.wait_for(asyncio.shield(task), DEADLINE_S / 2)


async def test_a_silent_peer_is_let_go(fake_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who connects and says nothing is told so and does not keep the daemon alive."""
    monkeypatch.setattr(daemon, "HELLO_TIMEOUT_S", 0.05)
    async with running(fake_engine, idle_exit_s=0.05) as (meeting, task):
        peer = await connect(meeting)
        assert (await peer.expect(ErrorMessage)).code == "frame"
        assert await peer.next() is None
        await peer.close()
        await asyncio.wait_for(asyncio.shield(task), DEADLINE_S)


async def test_a_stale_socket_is_replaced(fake_engine: FakeEngine) -> None:
    """What a killed daemon left in the folder does not keep a new one from listening."""
    meeting = rendezvous(MODEL)
    meeting.socket_path.write_bytes(b"")
    meeting.socket_path.with_suffix(".new").write_bytes(b"")
    async with running(fake_engine) as (meeting, _):
        peer = await connect(meeting)
        await peer.greet()
        await peer.close()


async def test_a_socket_that_cannot_be_made(home: Path, fake_engine: FakeEngine) -> None:
    """A folder in which no socket can be made is an error that says which and what to do."""
    meeting = Rendezvous("fake", home / ("x" * 120))
    with pytest.raises(DaemonUnavailableError, match="STARCITE_HOME"):
        await daemon.serve(meeting, lambda: fake_engine)


def test_an_unknown_model_is_an_error() -> None:
    """There is no daemon of a model without a card."""
    with pytest.raises(UnknownModelError):
        daemon.run("no-such-model")


def test_logs_are_bounded(home: Path) -> None:
    """A daemon's log is turned over before it grows without end."""
    with daemon._logging_to_file(MODEL):
        for _ in range(3):
            daemon.log.info("%s", "x" * (daemon.MAX_LOG_BYTES // 2))
    sizes = [path.stat().st_size for path in (home / "log").iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= daemon.MAX_LOG_BYTES
