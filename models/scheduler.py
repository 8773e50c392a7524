"""The queue between the socket's event loop and the one thread that runs the model.

    event loop                                    engine thread (niced)
    submit ─▶ queue, bounded, newest of an editor ─▶ take ─▶ Engine.generate(request, flag, emit)
    sink(Delta | Done | ModelError) ◀─ call_soon_threadsafe ◀─ emit, outcome

A context of the model is not thread safe, and small models on a CPU gain nothing from batching requests (two together
take as long as one after the other), so one thread serves one request at a time and a newer one makes the older end.
Ending is a byte that the inference library itself reads (`CancelFlag`), hence quick in the middle of a prefill too.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from models.errors import BackendError, DaemonBusyError, DaemonUnavailableError, ModelError
from models.protocol import Delta, Done, GenerateRequest, TokenCounts

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

# A queued request waits for at most one running answer of each other editor; more than this is not an editor's need.
MAX_QUEUED_REQUESTS = 16
# Below the editor, above idle work: measured, the event loop's worst lag falls from 30-115 ms to 3-6 ms.
ENGINE_NICENESS = 10

State: TypeAlias = Literal["loading", "ready", "busy", "failed"]
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

        `timings_ms` holds "prefill", "decode" and, where a token was chosen, "time_to_first_token" from the call.
        Raises `ModelError`, after which the engine can be used again.
        """

    def close(self) -> None:
        """Free the model."""


@dataclass(eq=False, slots=True)
class Job:
    """A request on its way; `sink` is called on the event loop, with one `Done` or `ModelError` as the last call."""

    key: str
    request: GenerateRequest
    sink: Callable[[Event], None]
    cancel: CancelFlag = field(default_factory=CancelFlag)
    submitted_s: float = field(default_factory=time.perf_counter)


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
        self, load: Callable[[], Engine], loop: asyncio.AbstractEventLoop, max_queued: int = MAX_QUEUED_REQUESTS
    ) -> None:
        """Take what loads the model, which is called in the engine thread, and where events are delivered."""
        self._load = load
        self._loop = loop
        self._max_queued = max_queued
        self._changed = threading.Condition()
        self._queue: deque[Job] = deque()
        self._running: Job | None = None
        self._stopping = False
        self._engine: Engine | None = None
        self._load_error: ModelError | None = None
        self._last: Done | None = None
        self._waiters: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.counts = Counts()

    @property
    def state(self) -> State:
        """The model's state; "failed" where the last attempt to load it failed."""
        if self._engine is None:
            return "failed" if self._load_error and not self._running else "loading"
        return "busy" if self._running or self._queue else "ready"

    @property
    def load_error(self) -> ModelError | None:
        """Why the model could not be loaded."""
        return self._load_error

    @property
    def threads(self) -> int:
        """The number of threads that generate, 0 until the model is loaded."""
        return self._engine.threads if self._engine else 0

    @property
    def queue_length(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    @property
    def last(self) -> Done | None:
        """The end of the last generation that was not cancelled."""
        return self._last

    def start(self) -> None:
        """Start the engine thread, which loads the model first."""
        self._thread.start()

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

        Raises `DaemonBusyError` where the queue is full and `DaemonUnavailableError` where the scheduler stops.
        """
        job = Job(key, request, sink)
        with self._changed:
            self.counts.received += 1
            superseded = [old for old in self._queue if _supersedes(job, old)]
            if self._running and _supersedes(job, self._running):
                self._running.cancel.set()
            self._drop(superseded)
            if self._stopping:
                raise DaemonUnavailableError("The daemon is ending: try again in a moment.")
            if len(self._queue) >= self._max_queued:
                self.counts.refused += 1
                raise DaemonBusyError(
                    f"The model is busy with {len(self._queue)} other requests: try again in a moment."
                )
            self._queue.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """End a job early: at once where it waits, within milliseconds where it runs, not at all where it ended."""
        with self._changed:
            job.cancel.set()
            if job in self._queue:
                self._drop([job])

    async def stop(self) -> None:
        """End all jobs as cancelled, free the model and end the thread; returns when that is done."""
        with self._changed:
            self._stopping = True
            self._drop(list(self._queue))
            if self._running:
                self._running.cancel.set()
            self._changed.notify()
        if self._thread.ident is not None:
            await self._loop.run_in_executor(None, self._thread.join)

    def _drop(self, jobs: list[Job]) -> None:
        """End jobs that still wait; the lock is held."""
        for job in jobs:
            self._queue.remove(job)
            self.counts.cancelled += 1
            queue_ms = (time.perf_counter() - job.submitted_s) * 1000
            timings_ms = {"queue": queue_ms, "prefill": 0.0, "decode": 0.0}
            # Later and not now, because a sink may come back to the scheduler, whose lock is held.
            self._deliver(job, Done("cancelled", TokenCounts(0, 0, 0), timings_ms))

    def _deliver(self, job: Job, event: Event) -> None:
        self._loop.call_soon_threadsafe(job.sink, event)

    def _run(self) -> None:
        """Be the engine thread."""
        if sys.platform == "linux":  # where a thread has a niceness of its own; the model's other threads inherit it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), ENGINE_NICENESS)
        self._try_load()
        while (job := self._take()) is not None:
            outcome = self._serve(job)
            with self._changed:
                self._running = None
                self._count(outcome)
            self._deliver(job, outcome)
        if self._engine is not None:
            self._engine.close()

    def _take(self) -> Job | None:
        """Wait for the next job; those that a person waits for go first. None where the scheduler stops.

        In the meantime the model is loaded where somebody waits for that.
        """
        while not self._wait_for_job():
            self._try_load()
        with self._changed:
            if self._stopping:
                return None
            job = next((job for job in self._queue if job.request.priority == "interactive"), self._queue[0])
            self._queue.remove(job)
            self._running = job
            return job

    def _wait_for_job(self) -> bool:
        """Return True where there is a job or the scheduler stops, False where somebody waits for the model."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._stopping or self._waiters)
            return not self._waiters or self._stopping

    def _serve(self, job: Job) -> Done | ModelError:
        queue_ms = (time.perf_counter() - job.submitted_s) * 1000
        # After a failed load each request tries again: the weights may have been pulled in the meantime.
        if self._engine is None:
            self._try_load()
        if self._engine is None:
            return self._load_error or DaemonUnavailableError("The model is not loaded: see the daemon's log.")
        try:
            done = self._engine.generate(job.request, job.cancel, lambda text: self._deliver(job, Delta(text)))
        except ModelError as error:
            log.warning("request failed: %s", error)
            return error
        except Exception as error:  # the thread must outlive any defect of one request
            log.exception("request failed")
            return BackendError(f"The model failed ({type(error).__name__}): see the daemon's log, then try again.")
        timings_ms = {"queue": queue_ms} | done.timings_ms
        if "time_to_first_token" in timings_ms:
            timings_ms["time_to_first_token"] += queue_ms
        return replace(done, timings_ms=timings_ms)

    def _try_load(self) -> None:
        started_s = time.perf_counter()
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

    def _count(self, outcome: Done | ModelError) -> None:
        if isinstance(outcome, ModelError):
            self.counts.failed += 1
        elif outcome.finish_reason == "cancelled":
            self.counts.cancelled += 1
        else:
            self.counts.finished += 1
            self._last = outcome


def _supersedes(new: Job, old: Job) -> bool:
    return new.key == old.key and (new.request.priority == "interactive" or old.request.priority == "background")
