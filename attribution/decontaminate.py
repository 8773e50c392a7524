"""Documents that hold a piece of a benchmark's problems or solutions, found by word 10-grams.

    words     those of near-duplicates: letters, digits and _ in lower case; layout and punctuation do not count
    grams     hashes of ten words in a row of a problem, and of all words of a docstring or solution of six to nine
    left out  of a table: grams without two different words of three letters, which are counts rather than language
    contaminated  a document with one gram of a table: any copied passage of ten words is found, wherever it begins

A table is hashes only, so that it can be given to others who must not train on the benchmarks either:

    magic       8 bytes   "STARCDEC"
    lengths     u32       how many lengths of grams there are
    per length  u32 words, u32 padding, u64 count, then u64 hashes (count,), ascending; all little-endian
"""

from __future__ import annotations

import gzip
import json
import re
import struct
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attribution.dedup import grams_of, word_hashes
from attribution.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    U64 = npt.NDArray[np.uint64]

WORDS_PER_GRAM = 10
SHORTEST_WORDS = 6
MIN_DISTINCT_WORDS = 2
MAGIC = b"STARCDEC"

_FIELDS = (
    *("prompt", "eval_prompt", "canonical_solution", "ground_truth", "suffix", "test"),  # HumanEval's kind and SAFIM
    *("text", "code", "test_list", "solution", "content"),  # MBPP, and files of anyone's own
)
_WORD = re.compile(r"[A-Za-z0-9_\u0080-\U0010ffff]+")
_LETTERS = re.compile(r"[a-z_]{3,}")


class Table:
    """The grams of some benchmarks, by their length in words."""

    def __init__(self, grams: Mapping[int, U64]) -> None:
        """Hold sorted hashes by length."""
        self.grams = {length: grams[length] for length in sorted(grams) if len(grams[length])}

    def __or__(self, other: Table) -> Table:
        """Return what either holds."""
        nothing = np.empty(0, dtype=np.uint64)
        lengths = self.grams.keys() | other.grams.keys()
        return Table({n: np.union1d(self.grams.get(n, nothing), other.grams.get(n, nothing)) for n in lengths})

    def __len__(self) -> int:
        """Return the number of grams."""
        return sum(map(len, self.grams.values()))

    def meets(self, text: str) -> bool:
        """Return whether a text holds one of the grams."""
        words = word_hashes(text)
        return any(_any_in(grams_of(words, length), known) for length, known in self.grams.items())

    def to_bytes(self) -> bytes:
        """Return the table as a file."""
        parts = [MAGIC, struct.pack("<I", len(self.grams))]
        for length, known in self.grams.items():
            parts += [struct.pack("<IIQ", length, 0, len(known)), known.astype("<u8").tobytes()]
        return b"".join(parts)

    @classmethod
    def from_file(cls, path: Path) -> Table:
        """Read a table. Raises `CorpusError`."""
        try:
            data = path.read_bytes()
            return cls(dict(_tables(data)))
        except OSError as error:
            raise CorpusError(f"{path} cannot be read ({error.strerror}); restore it, or make it anew.") from error
        except (ValueError, struct.error) as error:
            raise CorpusError(f"{path} is no whole table of benchmarks; restore it, or make it anew.") from error

    @classmethod
    def of_benchmarks(cls, paths: Iterable[Path]) -> Table:
        """Make the table of the problems in files of JSON lines (.jsonl, .jsonl.gz). Raises `CorpusError`."""
        found: dict[int, set[int]] = defaultdict(set)
        for path in paths:
            for row in _rows(path):
                for text in _texts(row):
                    length, grams = _telling(text)
                    found[length] |= grams
        return cls({length: np.array(sorted(grams), dtype=np.uint64) for length, grams in found.items()})


def _any_in(grams: U64, known: U64) -> bool:
    places = np.searchsorted(known, grams)
    places[places == len(known)] = 0
    return bool(np.any(known[places] == grams))


def _texts(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a problem consists of."""
    for field in _FIELDS:
        value = row.get(field)
        yield from (text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str))


def _telling(text: str) -> tuple[int, set[int]]:
    """Return the length of a text's grams, and those of them that say something."""
    words = [word.lower() for word in _WORD.findall(text)]
    length = min(len(words), WORDS_PER_GRAM)
    if length < SHORTEST_WORDS:
        return WORDS_PER_GRAM, set()
    grams = grams_of(word_hashes(text), length).tolist()
    return length, {gram for at, gram in enumerate(grams) if _tells(words[at : at + length])}


def _tells(words: list[str]) -> bool:
    return len({word for word in words if _LETTERS.search(word)}) >= MIN_DISTINCT_WORDS


def _tables(data: bytes) -> Iterator[tuple[int, U64]]:
    if not data.startswith(MAGIC):
        raise ValueError
    (lengths,) = struct.unpack_from("<I", data, len(MAGIC))
    at = len(MAGIC) + 4
    for _ in range(lengths):
        length, _, count = struct.unpack_from("<IIQ", data, at)
        at += 16
        yield length, np.frombuffer(data, "<u8", count, at).astype(np.uint64)
        at += 8 * count


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if path.name.endswith(".gz")
            else path.open(encoding="utf-8") as file
        ):
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise CorpusError(f"{path}, line {number}: it is no JSON object; correct the line.")
                    yield row
    except (OSError, EOFError) as error:
        raise CorpusError(f"{path} cannot be read ({error}); give a file of JSON lines.") from error
    except ValueError as error:
        raise CorpusError(f"{path} is not JSON lines ({error}); correct it.") from error
