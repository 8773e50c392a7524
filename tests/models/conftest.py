"""What the tests of models share: a home of their own, an engine that does as it is told, and the real weights."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from models.backend_llama import Engine
from models.cards import DEFAULT_MODEL, load_card
from models.errors import ContextOverflowError
from models.protocol import Done, GenerateRequest, TokenCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from models.scheduler import CancelFlag

# Far more than anything here takes, so that only what hangs runs into it.
DEADLINE_S = 30.0


class FakeEngine:
    """An engine whose answer is the prefix itself, letter by letter, except for the prefixes named here.

    "wait" runs until it is cancelled or `released`, "say, then wait" says that first; "overflow" and "crash" fail.
    `served` has what was asked for, `first_token_limits_ms` the time that it had.
    """

    threads = 1

    def __init__(self) -> None:
        """Be ready."""
        self.started = threading.Semaphore(0)
        self.released = threading.Event()
        self.served: list[str] = []
        self.first_token_limits_ms: list[float] = []
        self.closed = False

    def generate(self, request: GenerateRequest, cancel: CancelFlag, emit: Callable[[str], None]) -> Done:
        """Do what the prefix says."""
        prefix = request.prompt.prefix
        self.served.append(prefix)
        self.first_token_limits_ms.append(request.first_token_limit_ms)
        if prefix.startswith("say"):
            emit("say")
        self.started.release()
        if prefix == "overflow":
            raise ContextOverflowError("too long")
        if prefix == "crash":
            raise RuntimeError(prefix)
        while "wait" in prefix and not cancel.is_set() and not self.released.wait(0.001):
            pass
        if not cancel.is_set():
            for letter in prefix:
                emit(letter)
        timings_ms = {"prefill": 1.0, "decode": 2.0, "time_to_first_token": 1.5}
        return Done("cancelled" if cancel.is_set() else "stop", TokenCounts(3, 1, len(prefix)), timings_ms)

    def close(self) -> None:
        """Remember that."""
        self.closed = True

    def wait_started(self) -> None:
        """Wait until one more request runs."""
        assert self.started.acquire(timeout=DEADLINE_S)


@pytest.fixture
def fake_engine() -> FakeEngine:
    """Return an engine that does as it is told."""
    return FakeEngine()


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Set a STARCITE_HOME whose sockets have short enough addresses; pytest's own folders are too deep for that."""
    folder = Path(tempfile.mkdtemp(prefix="sc-"))
    monkeypatch.setenv("STARCITE_HOME", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def model_home(home: Path, weights: Path) -> Path:
    """Make a home that has the default model too, without writing to the user's own."""
    folder = home / "models" / DEFAULT_MODEL
    folder.mkdir(parents=True)
    (folder / weights.name).symlink_to(weights)
    record = weights.with_name(f"{weights.name}.json")  # else the weights are hashed again
    if record.exists():
        shutil.copy2(record, folder)
    return home


@pytest.fixture(scope="session")
def engine(weights: Path) -> Iterator[Engine]:
    """Load the default model, once for all tests that only generate with it."""
    engine = Engine(weights, load_card(DEFAULT_MODEL), prompt_tokens=1536)
    yield engine
    engine.close()
