"""One engine thread, a bounded queue, and the newest request of an editor."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from typing import TYPE_CHECKING

import pytest

from models.errors import BackendError, ContextOverflowError, DaemonBusyError, DaemonUnavailableError, NotPulledError
from models.protocol import Delta, Done, FimPrompt, GenerateRequest, Priority
from models.scheduler import CancelFlag, Scheduler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import FakeEngine

    from models.scheduler import Event, Job

DEADLINE_S = 30.0


def request(prefix: str, priority: Priority = "interactive") -> GenerateRequest:
    """Return a request whose prefix tells the fake engine what to do."""
    return GenerateRequest(FimPrompt(prefix, ""), priority=priority)


class Sink:
    """What a job delivered."""

    def __init__(self) -> None:
        """Have nothing yet."""
        self.events: list[Event] = []
        self.ended = asyncio.Event()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        assert not self.ended.is_set(), "nothing may follow the end"
        self.events.append(event)
        if not isinstance(event, Delta):
            self.ended.set()

    async def end(self) -> Event:
        """Wait for the last event."""
        await asyncio.wait_for(self.ended.wait(), DEADLINE_S)
        return self.events[-1]

    async def reason(self) -> str:
        """Wait for the end and return its reason."""
        end = await self.end()
        assert isinstance(end, Done), end
        return end.finish_reason


@pytest.fixture
async def scheduler(fake_engine: FakeEngine) -> AsyncIterator[Scheduler]:
    """Run a scheduler with room for two waiting requests."""
    scheduler = Scheduler(lambda: fake_engine, asyncio.get_running_loop(), max_queued=2)
    scheduler.start()
    yield scheduler
    await scheduler.stop()


async def run_waiting(scheduler: Scheduler, engine: FakeEngine, key: str, prefix: str = "wait") -> tuple[Job, Sink]:
    """Submit a request and wait until it runs."""
    sink = Sink()
    job = scheduler.submit(key, request(prefix), sink)
    await asyncio.to_thread(engine.wait_started)
    return job, sink


async def test_text_comes_in_order_with_timings(scheduler: Scheduler) -> None:
    """A request's deltas come in order, its end last, timed from its arrival."""
    sink = Sink()
    scheduler.submit("a", request("hello"), sink)
    end = await sink.end()
    assert [event.text for event in sink.events if isinstance(event, Delta)] == list("hello")
    assert isinstance(end, Done)
    assert end.finish_reason == "stop"
    assert end.timings_ms["time_to_first_token"] == pytest.approx(1.5 + end.timings_ms["queue"])
    assert scheduler.last == end


async def test_the_newest_request_supersedes(scheduler: Scheduler, fake_engine: FakeEngine) -> None:
    """Of an editor's requests only the newest is answered, whether the older ones run or wait."""
    _, running = await run_waiting(scheduler, fake_engine, "a", "wait 1")
    waiting, newest = Sink(), Sink()
    scheduler.submit("a", request("wait 2"), waiting)
    scheduler.submit("a", request("new"), newest)
    assert [await sink.reason() for sink in (running, waiting, newest)] == ["cancelled", "cancelled", "stop"]
    assert fake_engine.served[-1] == "new"
    assert scheduler.counts.received == 3
    assert scheduler.counts.cancelled == 2


async def test_editors_do_not_supersede_each_other(scheduler: Scheduler, fake_engine: FakeEngine) -> None:
    """Another editor's request waits and leaves the running one alone."""
    _, first = await run_waiting(scheduler, fake_engine, "a")
    second = Sink()
    scheduler.submit("b", request("other"), second)
    assert scheduler.state == "busy"
    assert scheduler.queue_length == 1
    fake_engine.released.set()
    assert [await first.reason(), await second.reason()] == ["stop", "stop"]


async def test_background_gives_way(scheduler: Scheduler, fake_engine: FakeEngine) -> None:
    """A background request neither ends an interactive one nor goes before one."""
    _, running = await run_waiting(scheduler, fake_engine, "a")
    background, interactive = Sink(), Sink()
    scheduler.submit("a", request("background", "background"), background)
    scheduler.submit("b", request("interactive"), interactive)
    fake_engine.released.set()
    assert [await sink.reason() for sink in (running, interactive, background)] == ["stop"] * 3
    assert fake_engine.served == ["wait", "interactive", "background"]


async def test_the_queue_is_bounded(scheduler: Scheduler, fake_engine: FakeEngine) -> None:
    """A request beyond the bound is refused; one that supersedes a waiting one is not."""
    await run_waiting(scheduler, fake_engine, "a")
    sinks = {key: Sink() for key in "bc"}
    for key, sink in sinks.items():
        scheduler.submit(key, request("x"), sink)
    with pytest.raises(DaemonBusyError, match="2 other requests"):
        scheduler.submit("d", request("x"), Sink())
    scheduler.submit("b", request("y"), Sink())
    assert await sinks["b"].reason() == "cancelled"
    assert scheduler.counts.refused == 1


async def test_cancel(scheduler: Scheduler, fake_engine: FakeEngine) -> None:
    """A cancelled job ends once, running or waiting, and cancelling it again does nothing."""
    job, running = await run_waiting(scheduler, fake_engine, "a")
    waiting = Sink()
    other = scheduler.submit("b", request("x"), waiting)
    for cancelled in (other, job, job):
        scheduler.cancel(cancelled)
    assert [await waiting.reason(), await running.reason()] == ["cancelled", "cancelled"]
    scheduler.cancel(job)
    assert fake_engine.served == ["wait"]


async def test_a_failed_request_harms_no_other(scheduler: Scheduler) -> None:
    """What an engine raises is the answer to that request alone, a defect as a BackendError."""
    for prefix, kind in (("overflow", ContextOverflowError), ("crash", BackendError)):
        sink = Sink()
        scheduler.submit("a", request(prefix), sink)
        assert isinstance(await sink.end(), kind)
    sink = Sink()
    scheduler.submit("a", request("fine"), sink)
    assert await sink.reason() == "stop"
    assert scheduler.counts.failed == 2


async def test_stopping_ends_everything(fake_engine: FakeEngine) -> None:
    """Stopping ends what runs and what waits as cancelled, frees the engine and refuses more."""
    scheduler = Scheduler(lambda: fake_engine, asyncio.get_running_loop())
    scheduler.start()
    _, running = await run_waiting(scheduler, fake_engine, "a")
    waiting = Sink()
    scheduler.submit("b", request("x"), waiting)
    await scheduler.stop()
    assert [await running.reason(), await waiting.reason()] == ["cancelled", "cancelled"]
    assert fake_engine.closed
    with pytest.raises(DaemonUnavailableError):
        scheduler.submit("a", request("x"), Sink())


async def test_requests_wait_for_the_model(fake_engine: FakeEngine) -> None:
    """While the model is loaded the loop is free, and requests wait for it."""
    go = threading.Event()

    def load() -> FakeEngine:
        assert go.wait(DEADLINE_S)
        return fake_engine

    scheduler = Scheduler(load, asyncio.get_running_loop())
    scheduler.start()
    sink, loaded = Sink(), asyncio.Event()
    scheduler.submit("a", request("x"), sink)
    scheduler.call_when_loaded(loaded.set)
    assert scheduler.state == "loading"
    assert scheduler.threads == 0
    go.set()
    await asyncio.wait_for(loaded.wait(), DEADLINE_S)
    assert await sink.reason() == "stop"
    assert scheduler.state == "ready"
    assert scheduler.threads == 1
    await scheduler.stop()


async def test_a_failed_load_is_tried_again(fake_engine: FakeEngine) -> None:
    """Each request after a failed load tries anew and is answered with why it fails, until it does not."""
    errors = [NotPulledError("pull it"), NotPulledError("pull it"), OSError("disk")]

    def load() -> FakeEngine:
        if errors:
            raise errors.pop(0)
        return fake_engine

    scheduler = Scheduler(load, asyncio.get_running_loop())
    scheduler.start()
    sinks = [Sink() for _ in range(3)]
    loaded = asyncio.Event()
    scheduler.submit("a", request("x"), sinks[0])
    assert isinstance(await sinks[0].end(), NotPulledError)
    assert scheduler.state == "failed"
    assert isinstance(scheduler.load_error, NotPulledError)
    scheduler.submit("a", request("x"), sinks[1])
    assert isinstance(await sinks[1].end(), BackendError)
    scheduler.call_when_loaded(loaded.set)
    await asyncio.wait_for(loaded.wait(), DEADLINE_S)
    assert scheduler.load_error is None
    scheduler.submit("a", request("x"), sinks[2])
    assert await sinks[2].reason() == "stop"
    await scheduler.stop()


def test_c_reads_the_flag() -> None:
    """The flag is a C string of length 0 until it is set, and of length 1 from then on."""
    flag = CancelFlag()
    strlen = ctypes.CDLL(None).strlen
    assert not flag.is_set()
    assert strlen(ctypes.c_void_p(flag.address)) == 0
    flag.set()
    flag.set()
    assert flag.is_set()
    assert strlen(ctypes.c_void_p(flag.address)) == 1
