"""One engine thread, a bounded queue, and the newest request of an editor."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BackendError, ContextOverflowError, DaemonBusyError, DaemonUnavailableError, NotPulledError
from models.protocol import Delta, Done, FimPrompt, GenerateRequest, Priority
from models.scheduler import CancelFlag, Scheduler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

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


def _never_loaded() -> FakeEngine:
    raise AssertionError


async def until(holds: Callable[[], bool]) -> None:
    """Let the other tasks and threads run until something holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.to_thread(os.sched_yield)


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


async def test_the_more_urgent_go_first(scheduler: Scheduler, fake_engine: FakeEngine) -> None:
    """What waits is served by urgency and not by arrival, and ends nothing that is more urgent."""
    _, running = await run_waiting(scheduler, fake_engine, "a")
    warm_up, prefetch = Sink(), Sink()
    scheduler.submit("a", request("warm-up", "warm-up"), warm_up)
    scheduler.submit("b", request("prefetch", "prefetch"), prefetch)
    fake_engine.released.set()
    assert [await sink.reason() for sink in (running, prefetch, warm_up)] == ["stop"] * 3
    assert fake_engine.served == ["wait", "prefetch", "warm-up"]


@pytest.mark.parametrize("priority", ["prefetch", "warm-up"])
async def test_what_runs_gives_way_and_goes_on_later(
    scheduler: Scheduler, fake_engine: FakeEngine, priority: Priority
) -> None:
    """A request for nobody stops for another editor's interactive one, and is then served as if nothing had been."""
    yielding, urgent = Sink(), Sink()
    scheduler.submit("a", request("wait", priority), yielding)
    await asyncio.to_thread(fake_engine.wait_started)
    scheduler.submit("b", request("urgent"), urgent)
    assert await urgent.reason() == "stop"
    assert not yielding.events
    fake_engine.released.set()
    assert await yielding.reason() == "stop"
    assert fake_engine.served == ["wait", "urgent", "wait"]
    assert scheduler.histograms()[priority]["cancel_to_free"]["count"] == 1
    assert scheduler.counts.cancelled == 0


async def test_a_text_is_not_begun_twice(scheduler: Scheduler, fake_engine: FakeEngine) -> None:
    """A prefetch that gives way after its first text ends as cancelled, with what it has."""
    yielding, urgent = Sink(), Sink()
    scheduler.submit("a", request("say, then wait", "prefetch"), yielding)
    await asyncio.to_thread(fake_engine.wait_started)
    scheduler.submit("b", request("urgent"), urgent)
    assert [await urgent.reason(), await yielding.reason()] == ["stop", "cancelled"]
    assert [event.text for event in yielding.events if isinstance(event, Delta)] == ["say"]
    assert fake_engine.served == ["say, then wait", "urgent"]


async def test_an_editors_own_request_ends_its_prefetch(scheduler: Scheduler, fake_engine: FakeEngine) -> None:
    """What an editor asked for in advance is not gone on with once it asks in earnest."""
    prefetch, urgent = Sink(), Sink()
    scheduler.submit("a", request("wait", "prefetch"), prefetch)
    await asyncio.to_thread(fake_engine.wait_started)
    scheduler.submit("a", request("urgent"), urgent)
    assert [await prefetch.reason(), await urgent.reason()] == ["cancelled", "stop"]
    assert fake_engine.served == ["wait", "urgent"]


async def test_editors_take_turns(scheduler: Scheduler, fake_engine: FakeEngine) -> None:
    """Who types without a pause, and so is always the last to come, is served in turn with the others."""
    _, first = await run_waiting(scheduler, fake_engine, "b")
    sinks = [Sink() for _ in range(3)]
    scheduler.submit("a", request("a, superseded"), sinks[0])
    scheduler.submit("b", request("b again"), sinks[1])
    scheduler.submit("a", request("a"), sinks[2])
    assert [await sink.reason() for sink in (first, *sinks)] == ["cancelled", "cancelled", "stop", "stop"]
    assert fake_engine.served == ["wait", "a", "b again"]


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=6), min_size=8, max_size=12))
async def test_nobody_starves(typed: list[list[str]]) -> None:
    """However often the others ask between two turns, who always has a request is served in every fourth turn."""
    scheduler = Scheduler(_never_loaded, asyncio.get_running_loop())
    served = ""
    for keys in typed:
        for key in ("a", "b", "c", "d", *keys):
            scheduler.submit(key, request("x"), Sink())
        served += scheduler._next().key
    assert all(set(served[turn : turn + 4]) == set("abcd") for turn in range(len(served) - 3))


async def test_time_for_the_first_token_ends_a_wait(scheduler: Scheduler, fake_engine: FakeEngine) -> None:
    """A request whose time is over before its turn ends as late, and the engine never sees it."""
    _, running = await run_waiting(scheduler, fake_engine, "a")
    late = Sink()
    scheduler.submit("b", replace(request("late"), first_token_limit_ms=1), late)
    assert await late.reason() == "time"
    fake_engine.released.set()
    assert await running.reason() == "stop"
    assert fake_engine.served == ["wait"]


async def test_the_engine_has_what_is_left_of_the_time(scheduler: Scheduler, fake_engine: FakeEngine) -> None:
    """The time for the first token counts from the arrival: the engine is told what the wait has left of it."""
    _, running = await run_waiting(scheduler, fake_engine, "a")
    sink = Sink()
    scheduler.submit("b", replace(request("x"), first_token_limit_ms=60_000), sink)
    fake_engine.released.set()
    await running.end()
    end = await sink.end()
    assert isinstance(end, Done)
    assert fake_engine.first_token_limits_ms[-1] == pytest.approx(60_000 - end.timings_ms["queue"])


async def test_times_are_counted_by_priority(scheduler: Scheduler) -> None:
    """Each time of a finished request is in the histogram of its priority, and in no other."""
    sink = Sink()
    scheduler.submit("a", request("x", "prefetch"), sink)
    end = await sink.end()
    assert isinstance(end, Done)
    found = scheduler.histograms()
    assert set(found["prefetch"]) == set(end.timings_ms)
    assert not found["interactive"]
    assert found["prefetch"]["total"]["max_ms"] == end.timings_ms["total"] > end.timings_ms["queue"]


async def test_a_full_queue_makes_room_for_the_more_urgent(scheduler: Scheduler, fake_engine: FakeEngine) -> None:
    """An interactive request is refused for no one's warm-up: the newest of these is, with the same error."""
    await run_waiting(scheduler, fake_engine, "a")
    sinks = {key: Sink() for key in "bcd"}
    for key in "bc":
        scheduler.submit(key, request("x", "warm-up"), sinks[key])
    scheduler.submit("d", request("y"), sinks["d"])
    assert isinstance(await sinks["c"].end(), DaemonBusyError)
    fake_engine.released.set()
    assert [await sinks[key].reason() for key in "bd"] == ["stop", "stop"]
    assert scheduler.counts.refused == 1


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


class TestUnloading:
    """The model's memory is given back while nobody needs it."""

    async def test_the_next_request_loads_it(self, fake_engine: FakeEngine) -> None:
        """An unused model is freed; a request then gets its answer from a new one."""
        engines: list[FakeEngine] = []

        def load() -> FakeEngine:
            engines.append(type(fake_engine)())
            return engines[-1]

        scheduler = Scheduler(load, asyncio.get_running_loop(), unload_after_s=0.001)
        scheduler.start()
        await until(lambda: scheduler.state == "unloaded")
        assert scheduler.threads == 0
        assert engines[0].closed
        sink = Sink()
        scheduler.submit("a", request("x"), sink)
        assert await sink.reason() == "stop"
        await until(lambda: scheduler.state == "unloaded")
        assert [engine.served for engine in engines] == [[], ["x"]]
        await scheduler.stop()

    async def test_who_comes_loads_it(self, fake_engine: FakeEngine) -> None:
        """A newcomer has it loaded again, once, and where it is loaded nothing happens."""
        loaded = threading.Semaphore(0)

        def load() -> FakeEngine:
            loaded.release()
            return fake_engine

        scheduler = Scheduler(load, asyncio.get_running_loop(), unload_after_s=0.2)
        scheduler.start()
        assert await asyncio.to_thread(loaded.acquire, timeout=DEADLINE_S)
        scheduler.wake()
        assert not loaded.acquire(blocking=False)
        await until(lambda: scheduler.state == "unloaded")
        scheduler.wake()
        assert scheduler.state == "loading"
        assert await asyncio.to_thread(loaded.acquire, timeout=DEADLINE_S)
        await scheduler.stop()

    async def test_what_runs_keeps_it(self, fake_engine: FakeEngine) -> None:
        """A request that takes longer than the time of unloading has its model."""
        scheduler = Scheduler(lambda: fake_engine, asyncio.get_running_loop(), unload_after_s=0.001)
        scheduler.start()
        _, running = await run_waiting(scheduler, fake_engine, "a")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(running.ended.wait()), 0.05)
        assert scheduler.state == "busy"
        fake_engine.released.set()
        assert await running.reason() == "stop"
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
