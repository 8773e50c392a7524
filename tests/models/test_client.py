"""The client, against a daemon in this process and against ones that it starts."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from models import client as client_module
from models import daemon
from models.cards import DEFAULT_MODEL
from models.client import Client, stop_daemon
from models.errors import (
    ContextOverflowError,
    DaemonUnavailableError,
    DaemonVersionError,
    FrameError,
    NotPulledError,
    UnknownModelError,
)
from models.protocol import (
    MAX_FRAME_BYTES,
    PROTOCOL_VERSION,
    DaemonHello,
    DaemonMessage,
    Done,
    FimPrompt,
    GenerateRequest,
    encode,
    read_frame,
)
from models.rendezvous import rendezvous

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from conftest import FakeEngine

    from models.client import Generation

DEADLINE_S = 30.0
FAKE = "fake"


def request(prefix: str, **options: object) -> GenerateRequest:
    """Return a request whose prefix tells the fake engine what to do."""
    return GenerateRequest(FimPrompt(prefix, ""), **options)  # type: ignore[arg-type]


async def answer(generation: Generation) -> tuple[str, Done]:
    """Return the text and the end of a generation."""
    text = ""
    async for event in generation:
        if isinstance(event, Done):
            return text, event
        text += event.text
    raise AssertionError("no done")


@pytest.fixture
async def fake_daemon(home: Path, fake_engine: FakeEngine) -> AsyncIterator[None]:  # noqa: ARG001 - sets the environment
    """Run a daemon of the fake engine in this process."""
    ready = asyncio.Event()
    task = asyncio.create_task(daemon.serve(rendezvous(FAKE), lambda: fake_engine, ready=ready.set))
    await asyncio.wait_for(ready.wait(), DEADLINE_S)
    yield
    await stop_daemon(FAKE)
    await asyncio.wait_for(task, DEADLINE_S)


@pytest.fixture
async def connected(fake_daemon: None) -> AsyncIterator[Client]:  # noqa: ARG001 - runs it
    """Connect to the fake daemon."""
    client = await Client.connect(FAKE, editor="test", spawn=False, timeout_s=DEADLINE_S)
    yield client
    await client.close()


@pytest.fixture
async def spawning(home: Path) -> AsyncIterator[Path]:
    """End the daemon that a test starts, whatever becomes of the test, and wait until its process is gone."""
    yield home
    await stop_daemon(DEFAULT_MODEL)
    await asyncio.wait_for(asyncio.to_thread(wait_for_lock), DEADLINE_S)


def wait_for_lock() -> None:
    """Wait until no process holds the lock of the default model's daemon."""
    with rendezvous(DEFAULT_MODEL).lock_path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


@contextlib.asynccontextmanager
async def impostor(*, answers: list[DaemonMessage], ends: bool) -> AsyncIterator[None]:
    """Listen in a daemon's place, answer the first frames with these, and after one more end the connection or not."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for message in answers:
            await read_frame(reader)
            writer.write(encode(message))
        while await read_frame(reader) is not None and not ends:
            pass
        writer.close()

    server = await asyncio.start_unix_server(serve, rendezvous(FAKE).socket_path)
    async with server:
        yield


async def test_a_generation(connected: Client) -> None:
    """A generation yields its text and then its end, and nothing after that."""
    generation = connected.generate(request("hello"))
    text, done = await answer(generation)
    assert text == "hello"
    assert done.finish_reason == "stop"
    assert [event async for event in generation] == []
    assert connected.hello.model == FAKE


async def test_generations_run_beside_each_other(connected: Client) -> None:
    """Generations of one connection are told apart, whoever is first."""
    texts = [f"text {number}" for number in range(5)]
    generations = [connected.generate(request(text, editor=text)) for text in texts]
    assert [text for text, _ in await asyncio.gather(*map(answer, reversed(generations)))] == texts[::-1]


async def test_the_newest_supersedes(connected: Client, fake_engine: FakeEngine) -> None:
    """A newer generation of the same editor makes the older one end as cancelled."""
    older = connected.generate(request("wait"))
    await asyncio.to_thread(fake_engine.wait_started)
    newer = connected.generate(request("new"))
    assert (await answer(older))[1].finish_reason == "cancelled"
    assert (await answer(newer))[0] == "new"


async def test_ways_to_end_a_generation(connected: Client, fake_engine: FakeEngine) -> None:
    """Closing the iterator, cancelling its task, and asking it to cancel all free the engine."""
    closed = connected.generate(request("wait closed"))
    await asyncio.to_thread(fake_engine.wait_started)
    await closed.aclose()
    await closed.aclose()
    assert [event async for event in closed] == []

    task = asyncio.create_task(answer(connected.generate(request("wait task"))))
    await asyncio.to_thread(fake_engine.wait_started)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    cancelled = connected.generate(request("wait cancel"))
    await asyncio.to_thread(fake_engine.wait_started)
    await cancelled.cancel()
    assert (await answer(cancelled))[1].finish_reason == "cancelled"
    await cancelled.cancel()

    assert (await answer(connected.generate(request("next"))))[0] == "next"
    assert (await connected.status())["requests"]["cancelled"] == 3


async def test_errors_are_raised_where_they_belong(connected: Client) -> None:
    """An error of one generation is raised by its iterator, and the connection goes on."""
    with pytest.raises(ContextOverflowError, match="too long"):
        await answer(connected.generate(request("overflow")))
    with pytest.raises(FrameError, match="less context"):
        connected.generate(request("x" * MAX_FRAME_BYTES))
    await connected.loaded()
    assert (await answer(connected.generate(request("fine"))))[0] == "fine"
    assert not connected.closed


async def test_shutdown(connected: Client) -> None:
    """A shutdown returns when the daemon has let go; after that the connection says so."""
    await connected.shutdown()
    assert connected.closed
    with pytest.raises(DaemonUnavailableError):
        connected.generate(request("x"))
    with pytest.raises(DaemonUnavailableError):
        await Client.connect(FAKE, editor="test", spawn=False)


async def test_a_closed_client(connected: Client, fake_engine: FakeEngine) -> None:
    """Closing ends what is under way, and may be done twice."""
    pending = connected.generate(request("wait"))
    await asyncio.to_thread(fake_engine.wait_started)
    await connected.close()
    await connected.close()
    with pytest.raises(DaemonUnavailableError):
        await answer(pending)
    with pytest.raises(DaemonUnavailableError):
        await connected.status()


@pytest.mark.usefixtures("home")
async def test_a_lost_connection_fails_everything_under_way() -> None:
    """Where the daemon dies, all its generations raise, and so does whatever is asked later."""
    async with impostor(answers=[DaemonHello(PROTOCOL_VERSION, FAKE, 1, "1")], ends=True):
        client = await Client.connect(FAKE, editor="test", spawn=False)
        generations = [client.generate(request("x")) for _ in range(3)]
        for generation in generations:
            with pytest.raises(DaemonUnavailableError):
                await answer(generation)
        assert client.closed
        with pytest.raises(DaemonUnavailableError):
            await client.status()
        await client.close()


@pytest.mark.usefixtures("home")
async def test_a_daemon_of_another_version() -> None:
    """A daemon that says another version is not used."""
    async with impostor(answers=[DaemonHello(PROTOCOL_VERSION + 1, FAKE, 1, "9")], ends=False):
        with pytest.raises(DaemonVersionError, match="starcite daemon stop"):
            await Client.connect(FAKE, editor="test", spawn=False)


@pytest.mark.usefixtures("fake_daemon")
async def test_a_client_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of another version is refused, but can end the daemon."""
    monkeypatch.setattr(client_module, "PROTOCOL_VERSION", PROTOCOL_VERSION + 1)
    with pytest.raises(DaemonVersionError, match="starcite daemon stop"):
        await Client.connect(FAKE, editor="test", spawn=False)
    assert await stop_daemon(FAKE)
    assert not await stop_daemon(FAKE)


@pytest.mark.usefixtures("home")
async def test_a_daemon_that_does_not_answer() -> None:
    """A daemon that accepts and says nothing is given up in time."""
    async with impostor(answers=[], ends=False):
        with pytest.raises(DaemonUnavailableError, match="did not answer"):
            await Client.connect(FAKE, editor="test", timeout_s=0.1)


@pytest.mark.usefixtures("home")
async def test_a_daemon_that_ends_before_its_hello() -> None:
    """Who accepts and ends is as good as nobody."""
    async with impostor(answers=[], ends=True):
        with pytest.raises(DaemonUnavailableError, match="No daemon"):
            await Client.connect(FAKE, editor="test", spawn=False)


async def test_a_daemon_is_started_and_outlives_us(spawning: Path) -> None:
    """Who finds no daemon starts one, in a session of its own, and every client after meets the same one."""
    client = await Client.connect(DEFAULT_MODEL, editor="test", timeout_s=DEADLINE_S)
    pid = client.hello.pid
    assert os.getsid(pid) != os.getsid(0)
    assert os.getpgid(pid) != os.getpgid(0)
    await client.close()
    again = await Client.connect(DEFAULT_MODEL, editor="test", spawn=False)
    assert again.hello.pid == pid
    await again.close()
    assert (spawning / "log" / f"daemon-{DEFAULT_MODEL}.log").exists()


@pytest.mark.usefixtures("spawning")
async def test_weights_that_are_not_here() -> None:
    """Without weights there is a daemon all the same: it says what to do, to each request and in its status."""
    client = await Client.connect(DEFAULT_MODEL, editor="test", timeout_s=DEADLINE_S)
    with pytest.raises(NotPulledError, match="starcite models pull"):
        await client.loaded()
    with pytest.raises(NotPulledError, match="starcite models pull"):
        await answer(client.generate(request("x")))
    status = await client.status()
    assert status["state"] == "failed"
    assert status["error"]["code"] == "not_pulled"
    await client.close()


@pytest.mark.usefixtures("spawning")
async def test_four_at_once_start_one_daemon() -> None:
    """Clients that all find no daemon end up with one and the same."""
    clients = await asyncio.gather(
        *(Client.connect(DEFAULT_MODEL, editor=f"test {number}", timeout_s=DEADLINE_S) for number in range(4))
    )
    assert len({client.hello.pid for client in clients}) == 1
    assert (await clients[0].status())["connections"] == 4
    for client in clients:
        await client.close()


@pytest.mark.usefixtures("spawning")
async def test_a_killed_daemon_is_replaced() -> None:
    """After a crash, which leaves a socket behind, the next client starts a new daemon."""
    client = await Client.connect(DEFAULT_MODEL, editor="test", timeout_s=DEADLINE_S)
    os.kill(client.hello.pid, signal.SIGKILL)
    with pytest.raises(DaemonUnavailableError):
        await client.status()
    await client.close()
    assert rendezvous(DEFAULT_MODEL).socket_path.exists()
    again = await Client.connect(DEFAULT_MODEL, editor="test", timeout_s=DEADLINE_S)
    assert again.hello.pid != client.hello.pid
    await again.close()


async def test_nothing_is_imported_from_the_workspace(spawning: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workspace with a folder called `models`, as current folder and on PYTHONPATH, is not what is started."""
    workspace = spawning / "workspace"
    (workspace / "models").mkdir(parents=True)
    for name in ("__init__.py", "daemon.py"):
        (workspace / "models" / name).write_text("raise SystemExit('the wrong one')\n")
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("PYTHONPATH", str(workspace))
    client = await Client.connect(DEFAULT_MODEL, editor="test", timeout_s=DEADLINE_S)
    await client.close()


async def test_a_relative_home(spawning: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon means the same folder as we do by a STARCITE_HOME that is relative."""
    monkeypatch.chdir(spawning.parent)
    monkeypatch.setenv("STARCITE_HOME", spawning.name)
    client = await Client.connect(DEFAULT_MODEL, editor="test", timeout_s=DEADLINE_S)
    await client.close()
    assert (spawning / "run" / f"{DEFAULT_MODEL}.sock").exists()


@pytest.mark.usefixtures("home")
async def test_a_start_that_fails_says_why(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process dies at once its last words are the reason; what it finds wrong is raised as such."""
    with pytest.raises(UnknownModelError, match="no-such-model"):
        await Client.connect("no-such-model", editor="test", timeout_s=DEADLINE_S)
    broken = home / "python"
    broken.write_text("#!/bin/sh\necho first >&2\necho no such library >&2\nexit 1\n")
    broken.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(DaemonUnavailableError, match=r"no such library.*starcite doctor"):
        await Client.connect(DEFAULT_MODEL, editor="test", timeout_s=DEADLINE_S)


@pytest.mark.usefixtures("home")
async def test_last_words_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of last words starts anew when it is long."""
    monkeypatch.setattr(client_module, "MAX_STDERR_BYTES", 10)
    path = client_module._errors_path("m")
    path.write_text("x" * 11)
    assert client_module._errors_path("m") == path
    assert not path.exists()


@pytest.mark.model
@pytest.mark.usefixtures("model_home")
async def test_two_editors_share_the_model(spawning: Path) -> None:  # noqa: ARG001 - ends the daemon
    """Two clients of one daemon each get their own completion from the real model."""
    one, two = [await Client.connect(DEFAULT_MODEL, editor=name, timeout_s=DEADLINE_S) for name in ("one", "two")]
    await one.loaded()
    add, sub = await asyncio.gather(
        answer(one.generate(request("def add(a, b):\n    return ", stop=("\n",)))),
        answer(two.generate(request("def sub(a, b):\n    return ", stop=("\n",)))),
    )
    assert [add[0], sub[0]] == ["a + b", "a - b"]
    assert one.hello.pid == two.hello.pid
    status = await one.status()
    assert status["state"] == "ready"
    assert status["requests"]["finished"] == 2
    await one.close()
    await two.close()
