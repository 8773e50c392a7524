"""What every command shares on the terminal: how it is declared, its progress, its one line of complaint."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

FOUND = 1
BAD_INPUT = 2
INTERRUPTED = 130

Commands = Any  # argparse names the type of what add_subparsers returns only privately


def command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str
) -> argparse.ArgumentParser:
    """Add a command that is done by `run`; its example ends its help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=f"Example: {example}"
    )
    parser.set_defaults(run=run)
    return parser


def group(commands: Commands, name: str, summary: str, example: str) -> Commands:
    """Add a command that only holds others, and return where they are added."""
    parser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=f"Example: {example}"
    )
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def with_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


class Progress:
    """One line on stderr that is written over, at most ten times a second."""

    def __init__(self, label: str, total_bytes: int | None = None) -> None:
        """Begin every line with the label; `total_bytes`: how many there are to be read, where that is known."""
        self._label = label
        self._total_bytes = total_bytes
        self._started = time.monotonic()
        self._next = 0.0
        self._stage = ""

    def show(self, documents: int, size: int) -> None:
        """Show how much has been read, at which rate, and how long the rest will take where its size is known."""
        rate = size / max(time.monotonic() - self._started, 0.1)
        line = f"{self._label}: {documents:,} documents, {size / 1e6:.1f} MB, {rate / 1e6:.1f} MB/s"
        if self._total_bytes and rate:
            left = round(max(self._total_bytes - size, 0) / rate)
            line += f", {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        self._write(line)

    def show_bytes(self, done: int, total: int, source: str) -> None:
        """Show bytes as a bar, and where they come from."""
        bar = "█" * (done * 30 // total)
        self._write(f"{self._label} {bar:30} {done / 1e6:.0f} of {total / 1e6:.0f} MB from {source}")

    def show_steps(self, done: int, total: int) -> None:
        """Show how many of so many steps are done."""
        self._write(f"{self._label}: {done:,} of {total:,}")

    def show_packages(self, stage: str, done: int, total: int, size: int) -> None:
        """Show a stage, how many of its packages are done, and how long the rest takes at this rate."""
        if stage != self._stage:
            self._stage, self._started = stage, time.monotonic()
        spent = time.monotonic() - self._started
        left = round(spent / max(done, 1) * (total - done))
        read = f", {size / 1e6:.0f} MB, {size / 1e6 / max(spent, 0.1):.1f} MB/s" if size else ""
        self._write(
            f"{stage}: {done:,} of {total:,} packages{read}, {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        )

    def show_text(self, text: str) -> None:
        """Show a line of other words."""
        self._write(f"{self._label}: {text}")

    def clear(self) -> None:
        """Take the line away."""
        if self._next:
            sys.stderr.write("\r\x1b[K")

    def _write(self, line: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.1
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()


def complain(message: str, status: int) -> int:
    """Write one line to stderr and return the exit status that goes with it."""
    sys.stderr.write(f"starcite: {message}\n")
    return status
