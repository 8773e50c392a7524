"""A corpus folder, as `starcite corpus build` leaves it, read for training.

corpus.json                {"id": ..., "name": ..., "train": {"corpus": ...}}
train/part-NNNN.jsonl      a file a row: text, repo_name, path, ...; the files of a package follow each other
heldout/part-NNNN.jsonl    packages of which nothing is trained
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from models.starter.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Split = Literal["train", "heldout"]


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus on the disk; `id` is of all that is in it, `train_id` what an index of train/ names its corpus by."""

    folder: Path
    id: str
    name: str
    train_id: str


@dataclass(frozen=True, slots=True)
class Row:
    """One file of a package."""

    text: str
    repo_name: str
    path: str


def open_corpus(folder: Path) -> Corpus:
    """Return a corpus. Raises TrainingError where the folder holds none."""
    try:
        facts = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        corpus = Corpus(folder, str(facts["id"]), str(facts["name"]), str(facts["train"]["corpus"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder} is no corpus ({error}); make one with 'starcite corpus build'.") from error
    for split in ("train", "heldout"):
        if not any((folder / split).glob("part-*.jsonl")):
            raise TrainingError(f"{folder / split} holds no part-*.jsonl; build the corpus anew.")
    return corpus


def rows(corpus: Corpus, split: Split) -> Iterator[Row]:
    """Yield the files of a split in their order. Raises TrainingError, which names the line that is no row."""
    for part in sorted((corpus.folder / split).glob("part-*.jsonl")):
        with part.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                    yield Row(row["text"], row["repo_name"], row["path"])
                except (ValueError, KeyError, TypeError) as error:
                    raise TrainingError(f"{part}:{number} is no row ({error}); build the corpus anew.") from error
