"""The queue between the socket's event loop and the one thread that runs the model.

    event loop                                    engine thread (niced)
    submit ─▶ queue, bounded, newest of an editor ─▶ take ─▶ Engine.generate(request, flag, emit)
    sink(Delta | Done | ModelError) ◀─ call_soon_threadsafe ◀─ emit, outcome

A context of the model is not thread safe, and small models on a CPU gain nothing from batching requests (two together
take as long as one after the other), so one thread serves one request at a time. Which: the most urgent, of equally
urgent ones that of the editor that was served the longest ago. A newer request makes an older one of its editor end,
and a less urgent one of anybody give way. Both is a byte that the inference library itself reads (`CancelFlag`), hence
quick in the middle of a prefill too; the engine keeps what it computed, so that giving way costs next to nothing.

A model that nobody asked for during a while is unloaded, and loaded again when somebody comes (`wake`) or asks.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import logging
import os
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

from models.errors import BackendError, DaemonBusyError, DaemonUnavailableError, ModelError
from models.protocol import Delta, Done, FinishReason, GenerateRequest, Priority, TokenCounts
from models.timings import Histogram

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

# A queued request waits for at most one running answer of each other editor; more than this is not an editor's need.
MAX_QUEUED_REQUESTS = 16
# Below the editor, above idle work: measured, the event loop's worst lag falls from 30-115 ms to 3-6 ms.
ENGINE_NICENESS = 10
# Of more editors than this it is not kept whose turn it is.
KNOWN_EDITORS = 64

State: TypeAlias = Literal["loading", "ready", "busy", "unloaded", "failed"]
Event: TypeAlias = Delta | Done | ModelError

log = logging.getLogger(__name__)


class CancelFlag:
    """A flag that Python sets and that C reads: two bytes, 0 0 to go on and 1 0 to end.

    Seen as a C string its length is 0 or 1, so that libc's `strlen` is an abort callback that needs no interpreter
    lock. Measured on a 2,000-token prefill: it ends the computation after 2 ms (median), a Python callback after 2-19.
    """

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        """Make a flag that is not set."""
        self._bytes = ctypes.create_string_buffer(2)

    def set(self) -> None:
        """Ask for the end; there is no way back."""
        self._bytes[0] = b"\x01"

    def is_set(self) -> bool:
        """Tell whether the end was asked for."""
        return self._bytes[0] != b"\x00"

    @property
    def address(self) -> int:
        """The address of the two bytes, valid as long as the flag lives."""
        return ctypes.addressof(self._bytes)


class Engine(Protocol):
    """A loaded model, used by one thread only; `models.backend_llama.Engine` is one."""

    @property
    def threads(self) -> int:
        """The number of threads that generate."""

    def generate(self, request: GenerateRequest, cancel: CancelFlag, emit: Callable[[str], None]) -> Done:
        """Give the new text to `emit` as it comes and return the end.

        `timings_ms` holds what `models.timings.TokenClock` does, from the call on; so do the request's limits of time.
        Raises `ModelError`, after which the engine can be used again.
        """

    def close(self) -> None:
        """Free the model."""


@dataclass(eq=False, slots=True)
class Job:
    """A request on its way; `sink` is called on the event loop, with one `Done` or `ModelError` as the last call.

    `interrupted_s` is when a running one was told to end, or to give way. `unwanted`: it must not go on later.
    """

    key: str
    request: GenerateRequest
    sink: Callable[[Event], None]
    cancel: CancelFlag = field(default_factory=CancelFlag)
    submitted_s: float = field(default_factory=time.perf_counter)
    interrupted_s: float | None = None
    unwanted: bool = False
    has_text: bool = False
    expiry: asyncio.TimerHandle | None = None

    @property
    def urgency(self) -> int:
        """A larger number goes first."""
        return -get_args(Priority).index(self.request.priority)

    def age_ms(self) -> float:
        """Return the time since the arrival."""
        return (time.perf_counter() - self.submitted_s) * 1000

    def interrupt(self) -> None:
        """Have the engine return; the first call counts."""
        self.interrupted_s = self.interrupted_s or time.perf_counter()
        self.cancel.set()

    def rewind(self) -> None:
        """Make it one that waits again."""
        self.cancel, self.interrupted_s = CancelFlag(), None


@dataclass(slots=True)
class Counts:
    """How many requests there were, by their end."""

    received: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    refused: int = 0


class Scheduler:
    """Runs one engine in a thread of its own; every method is the event loop's and returns at once."""

    def __init__(
        self,
        load: Callable[[], Engine],
        loop: asyncio.AbstractEventLoop,
        max_queued: int = MAX_QUEUED_REQUESTS,
        unload_after_s: float | None = None,
    ) -> None:
        """Take what loads the model, which is called in the engine thread, and where events are delivered.

        The model is unloaded when there was no request for `unload_after_s`, never where that is None.
        """
        self._load = load
        self._loop = loop
        self._max_queued = max_queued
        self._unload_after_s = unload_after_s
        self._changed = threading.Condition()
        self._queue: deque[Job] = deque()
        self._running: Job | None = None
        self._stopping = False
        self._engine: Engine | None = None
        self._unloaded = False
        self._load_error: ModelError | None = None
        self._last: Done | None = None
        self._waiters: list[Callable[[], None]] = []
        self._turns: dict[str, int] = {}
        self._turn = itertools.count()
        self._histograms: dict[Priority, dict[str, Histogram]] = {kind: {} for kind in get_args(Priority)}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.counts = Counts()

    @property
    def state(self) -> State:
        """The model's state; "failed" where the last attempt to load it failed."""
        if self._engine is not None:
            return "busy" if self._running or self._queue else "ready"
        if self._unloaded and not self._queue and not self._waiters:
            return "unloaded"
        return "failed" if self._load_error and not self._running else "loading"

    @property
    def load_error(self) -> ModelError | None:
        """Why the model could not be loaded."""
        return self._load_error

    @property
    def threads(self) -> int:
        """The number of threads that generate, 0 where the model is not loaded."""
        engine = self._engine
        return engine.threads if engine else 0

    @property
    def unload_after_s(self) -> float | None:
        """The time without a request after which the model is unloaded."""
        return self._unload_after_s

    @property
    def queue_length(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    @property
    def last(self) -> Done | None:
        """The end of the last generation that was not cancelled."""
        return self._last

    def histograms(self) -> dict[str, dict[str, Any]]:
        """Return for each priority the histogram of each of `Done.timings_ms`, of the requests that were not cancelled.

        "cancel_to_free" is of those that were ended, or had to give way, while they ran: the time until the model was
        free for the next.
        """
        with self._changed:
            return {
                kind: {name: histogram.to_map() | {"counts": [*histogram.counts]} for name, histogram in named.items()}
                for kind, named in self._histograms.items()
            }

    def start(self) -> None:
        """Start the engine thread, which loads the model first."""
        self._thread.start()

    def wake(self) -> None:
        """Load the model again in the background if it was unloaded: somebody came who will want it."""
        if self._engine is None and self._load_error is None:
            self.call_when_loaded(lambda: None)

    def call_when_loaded(self, call: Callable[[], None]) -> None:
        """Call back on the event loop when the model is loaded, or could not be: where it failed, it is tried again."""
        with self._changed:
            if self._engine is not None:
                self._loop.call_soon(call)
                return
            self._waiters.append(call)
            self._changed.notify()

    def submit(self, key: str, request: GenerateRequest, sink: Callable[[Event], None]) -> Job:
        """Queue a request; those of the same `key` that it supersedes end with the reason "cancelled".

        Where the queue is full of less urgent ones, the newest of the least urgent is refused in its place. Raises
        `DaemonBusyError` where there is none, and `DaemonUnavailableError` where the scheduler stops.
        """
        job = Job(key, request, sink)
        with self._changed:
            self.counts.received += 1
            if self._running and _supersedes(job, self._running):
                self._running.unwanted = True
                self._running.interrupt()
            self._drop([old for old in self._queue if _supersedes(job, old)])
            if self._stopping:
                raise DaemonUnavailableError("The daemon is ending: try again in a moment.")
            self._make_room(job)
            if self._running and self._running.urgency < job.urgency:
                self._running.interrupt()
            self._queue.append(job)
            self._changed.notify()
        job.expiry = self._loop.call_later(request.first_token_limit_ms / 1000, self._expire, job)
        return job

    def cancel(self, job: Job) -> None:
        """End a job early: at once where it waits, within milliseconds where it runs, not at all where it ended."""
        with self._changed:
            job.unwanted = True
            job.interrupt()
            if job in self._queue:
                self._drop([job])

    async def stop(self) -> None:
        """End all jobs as cancelled, free the model and end the thread; returns when that is done."""
        with self._changed:
            self._stopping = True
            self._drop(list(self._queue))
            if self._running:
                self._running.interrupt()
            self._changed.notify()
        if self._thread.ident is not None:
            await self._loop.run_in_executor(None, self._thread.join)

    def _make_room(self, job: Job) -> None:
        """Refuse a less urgent request or else, with an error, this one; the lock is held."""
        if len(self._queue) < self._max_queued:
            return
        self.counts.refused += 1
        busy = DaemonBusyError(f"The model is busy with {len(self._queue)} other requests: try again in a moment.")
        least = min(reversed(self._queue), key=lambda waiting: waiting.urgency)
        if least.urgency >= job.urgency:
            raise busy
        self._queue.remove(least)
        self._end(least, busy)

    def _expire(self, job: Job) -> None:
        """End a job whose time for a first token is over before its turn; of a running one the engine knows."""
        with self._changed:
            if job in self._queue:
                self._drop([job], "time")

    def _drop(self, jobs: list[Job], reason: FinishReason = "cancelled") -> None:
        """End jobs that still wait; the lock is held."""
        for job in jobs:
            self._queue.remove(job)
            done = _untouched(job, reason)
            self._count(job, done)
            self._end(job, done)

    def _end(self, job: Job, event: Done | ModelError) -> None:
        def deliver() -> None:
            if job.expiry:
                job.expiry.cancel()
            job.sink(event)

        # Later and not now: this may be the engine thread, or a sink may come back to the scheduler, which is locked.
        self._loop.call_soon_threadsafe(deliver)

    def _run(self) -> None:
        """Be the engine thread."""
        if sys.platform == "linux":  # where a thread has a niceness of its own; the model's other threads inherit it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), ENGINE_NICENESS)
        self._try_load()
        while (job := self._take()) is not None:
            outcome = self._serve(job)
            with self._changed:
                self._running = None
                if job.interrupted_s is not None:
                    self._record(job, "cancel_to_free", (time.perf_counter() - job.interrupted_s) * 1000)
                if self._goes_on_later(job, outcome):
                    self._turns.pop(job.key, None)  # it gave its turn away
                    job.rewind()
                    self._queue.append(job)
                    continue
                self._count(job, outcome)
            self._end(job, outcome)
        if self._engine is not None:
            self._engine.close()

    def _take(self) -> Job | None:
        """Wait for the next job and return it, None where the scheduler stops.

        In the meantime the model is loaded where somebody waits for that, and unloaded where nobody came for a while.
        """
        while True:
            with self._changed:
                if not self._changed.wait_for(self._is_wanted, self._unload_after_s if self._engine else None):
                    unused, self._engine = self._engine, None
                elif self._stopping:
                    return None
                elif not self._waiters:
                    return self._next()
                else:
                    unused = None
            if unused:
                unused.close()
                del unused
                _give_back_memory()
                self._unloaded = True
                log.info("model unloaded: there was no request for %.0f s", self._unload_after_s)
            else:
                self._try_load()

    def _is_wanted(self) -> bool:
        return bool(self._queue or self._waiters or self._stopping)

    def _next(self) -> Job:
        """Take the job whose turn it is out of the queue; the lock is held."""
        job = max(self._queue, key=lambda waiting: (waiting.urgency, -self._turns.get(waiting.key, -1)))
        self._queue.remove(job)
        self._turns.pop(job.key, None)
        self._turns[job.key] = next(self._turn)
        if len(self._turns) > KNOWN_EDITORS:
            del self._turns[next(iter(self._turns))]
        self._running = job
        return job

    def _goes_on_later(self, job: Job, outcome: Done | ModelError) -> bool:
        """Tell whether a job that gave way can be served from the beginning, nobody having seen any of it."""
        gave_way = isinstance(outcome, Done) and outcome.finish_reason == "cancelled" and not job.unwanted
        return gave_way and not job.has_text and not self._stopping

    def _serve(self, job: Job) -> Done | ModelError:
        # After a failed load each request tries again: the weights may have been pulled in the meantime.
        if self._engine is None:
            self._try_load()
        if self._engine is None:
            return self._load_error or DaemonUnavailableError("The model is not loaded: see the daemon's log.")
        queue_ms = job.age_ms()
        if job.cancel.is_set():
            return _untouched(job, "cancelled")

        def emit(text: str) -> None:
            job.has_text = True
            self._loop.call_soon_threadsafe(job.sink, Delta(text))

        left_ms = max(0.0, job.request.first_token_limit_ms - queue_ms)
        try:
            done = self._engine.generate(replace(job.request, first_token_limit_ms=left_ms), job.cancel, emit)
        except ModelError as error:
            log.warning("request failed: %s", error)
            return error
        except Exception as error:  # the thread must outlive any defect of one request
            log.exception("request failed")
            return BackendError(f"The model failed ({type(error).__name__}): see the daemon's log, then try again.")
        timings_ms = {"queue": queue_ms} | done.timings_ms | {"total": job.age_ms()}
        if "time_to_first_token" in timings_ms:
            timings_ms["time_to_first_token"] += queue_ms
        return replace(done, timings_ms=timings_ms)

    def _try_load(self) -> None:
        started_s = time.perf_counter()
        self._unloaded = False
        try:
            self._engine = self._load()
        except ModelError as error:
            self._load_error = error
            log.warning("model not loaded: %s", error)
        except Exception as error:  # what a broken library raises; the daemon still has to say so
            log.exception("model not loaded")
            self._load_error = BackendError(f"The model could not be loaded ({type(error).__name__}: {error}).")
        else:
            self._load_error = None
            log.info("model loaded in %.0f ms", (time.perf_counter() - started_s) * 1000)
        with self._changed:
            waiters, self._waiters = self._waiters, []
        for call in waiters:
            self._loop.call_soon_threadsafe(call)

    def _count(self, job: Job, outcome: Done | ModelError) -> None:
        """Count an end and its times; the lock is held."""
        if isinstance(outcome, ModelError):
            self.counts.failed += 1
        elif outcome.finish_reason == "cancelled":
            self.counts.cancelled += 1
        else:
            self.counts.finished += 1
            self._last = outcome
            for name, value_ms in outcome.timings_ms.items():
                self._record(job, name, value_ms)

    def _record(self, job: Job, name: str, value_ms: float) -> None:
        self._histograms[job.request.priority].setdefault(name, Histogram()).add(value_ms)


def _give_back_memory() -> None:
    """Give the system what Python and the C library keep of freed objects: of the 0.5B model 110 MB become 57."""
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _supersedes(new: Job, old: Job) -> bool:
    return new.key == old.key and new.urgency >= old.urgency


def _untouched(job: Job, reason: FinishReason) -> Done:
    """Return the end of a job of which the engine has done nothing."""
    waited_ms = job.age_ms()
    return Done(reason, TokenCounts(0, 0, 0), {"queue": waited_ms, "total": waited_ms})
