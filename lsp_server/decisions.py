"""The log of decisions: a line of JSON for each suggestion that had references, and never its text.

    {"version": 1, "time": "2026-11-20T08:01:41+00:00", "event": "shown|blocked|accepted", "model": "…", "file": "…",
     "corpora": ["<id>"], "decision": "allow|annotate|block", "sha256": "<of the text>", "references": [Match…]}

Lines are only ever added. When the file is full it is set aside under a name of its own and a new one begun; of those
set aside the oldest are removed. Writing is a thread's work, so that no key waits for the disk, and several servers may
share a file: each line is one write at its end.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lsp_server.completion import Completion

LOGGER = logging.getLogger(__name__)

FILE_NAME = "decisions.jsonl"
FILE_BYTES = 4_000_000
KEPT_FILES = 8
FLUSH_LIMIT_S = 5.0

Event = Literal["shown", "blocked", "accepted"]


class DecisionLog:
    """An append-only log in a folder; without a folder to write to there is a warning and no log."""

    def __init__(self, folder: Path, file_bytes: int = FILE_BYTES) -> None:
        """Write to the folder, which is created when the first line is written."""
        self._folder = folder
        self._file_bytes = file_bytes
        self._lines: queue.SimpleQueue[bytes | threading.Event | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None

    def add(self, event: Event, completion: Completion, file: str) -> None:
        """Note what was done with a suggestion; returns at once."""
        entry = {
            "version": 1,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "event": event,
            "model": completion.model,
            "file": file,
            "corpora": [index["corpus"] for index in completion.checked.indexes],
            "decision": completion.decision,
            "sha256": completion.sha256,
            "references": [match.to_json() for match in completion.references],
        }
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="decisions", daemon=True)
            self._writer.start()
        self._lines.put(json.dumps(entry).encode() + b"\n")

    def flush(self) -> None:
        """Wait until all that was added is written, or for five seconds."""
        if self._writer:
            written = threading.Event()
            self._lines.put(written)
            written.wait(FLUSH_LIMIT_S)

    def latest(self, event: Event, limit: int) -> list[dict[str, Any]]:
        """Return the latest entries of an event, the newest first; a line that is damaged is passed over."""
        self.flush()
        found: list[dict[str, Any]] = []
        for line in self._lines_backwards():
            if len(found) >= limit:
                break
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("event") == event:
                found.append(entry)
        return found

    def close(self) -> None:
        """Write what is left and end the thread."""
        if self._writer:
            self._lines.put(None)
            self._writer.join(FLUSH_LIMIT_S)
            self._writer = None

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            if isinstance(line, threading.Event):
                line.set()
                continue
            try:
                self._append(line)
            except OSError as error:
                LOGGER.warning("decision log: %s", error)

    def _append(self, line: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / FILE_NAME
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line)
            full = os.fstat(descriptor).st_size >= self._file_bytes
        finally:
            os.close(descriptor)
        if full:
            path.rename(self._folder / f"decisions-{time.time_ns()}-{os.getpid()}.jsonl")
            for old in self._set_aside()[KEPT_FILES:]:
                old.unlink(missing_ok=True)

    def _set_aside(self) -> list[Path]:
        """Return the files that are full, the newest first."""
        return sorted(self._folder.glob("decisions-*.jsonl"), key=lambda path: path.name, reverse=True)

    def _lines_backwards(self) -> Iterator[str]:
        for path in (self._folder / FILE_NAME, *self._set_aside()):
            try:
                text = path.read_text("utf-8", "replace")
            except OSError:
                continue
            yield from reversed(text.splitlines())
