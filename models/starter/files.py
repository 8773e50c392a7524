"""Files that are either there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write to, which takes the place of `path` when all is written and on the disk. Raises OSError."""
    new = path.with_name(f".{path.name}.new")
    with new.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def replace_text(path: Path, text: str) -> None:
    """Put a text in the place of a file. Raises OSError."""
    with replacing(path) as file:
        file.write(text.encode())
