"""A corpus as tokens on the disk: made once a run, then read by mmap from any place.

<split>.tokens      the tokens of all files, one behind the other, as 16-bit numbers
<split>.json        for each file its package, its path and its number of tokens; and the bytes of text in all
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from models.starter.corpus import rows
from models.starter.errors import TrainingError
from models.starter.files import replace_text, replacing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from models.starter.corpus import Corpus, Row, Split

# So much text is tokenised at once, on all cores.
_BATCH_CHARS = 4_000_000


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a split: those of file `i` are `ids[starts[i]:starts[i + 1]]`; `repos[i]` numbers its package."""

    ids: NDArray[np.uint16]
    starts: NDArray[np.int64]
    repos: NDArray[np.int64]
    repo_names: list[str]
    paths: list[str]
    text_bytes: int


def write_tokens(corpus: Corpus, split: Split, tokenizer: Tokenizer, folder: Path) -> None:
    """Tokenise a split into a folder; what a killed call left is written over. Raises TrainingError, OSError."""
    names: list[str] = []
    files: list[tuple[int, str, int]] = []
    text_bytes = 0
    with replacing(folder / f"{split}.tokens") as out:
        for batch in _batches(rows(corpus, split)):
            texts = [row.text for row in batch]
            text_bytes += sum(len(text.encode()) for text in texts)
            for row, encoding in zip(batch, tokenizer.encode_batch_fast(texts), strict=True):
                if not names or names[-1] != row.repo_name:
                    names.append(row.repo_name)
                files.append((len(names) - 1, row.path, len(encoding.ids)))
                out.write(np.array(encoding.ids, dtype=np.uint16).tobytes())
    if not any(count for _, _, count in files):
        raise TrainingError(f"{corpus.folder / split} holds no text; build the corpus anew.")
    # Last: where this file is, all is.
    facts = {"repo_names": names, "files": files, "text_bytes": text_bytes}
    replace_text(folder / f"{split}.json", json.dumps(facts))


def has_tokens(folder: Path, split: Split) -> bool:
    """Return whether a split was tokenised into a folder."""
    return (folder / f"{split}.json").is_file()


def read_tokens(folder: Path, split: Split) -> Tokens:
    """Return the tokens of a split."""
    facts = json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
    repos, paths, counts = zip(*facts["files"], strict=True)
    starts = np.concatenate([[0], np.cumsum(np.array(counts, dtype=np.int64))])
    ids = np.memmap(folder / f"{split}.tokens", dtype=np.uint16, mode="r")
    return Tokens(ids, starts, np.array(repos), facts["repo_names"], list(paths), facts["text_bytes"])


def _batches(source: Iterator[Row]) -> Iterator[list[Row]]:
    chars = 0

    def place(row: Row) -> int:
        nonlocal chars
        chars += len(row.text)
        return chars // _BATCH_CHARS

    for _, batch in groupby(source, place):
        yield list(batch)
