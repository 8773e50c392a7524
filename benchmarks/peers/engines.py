"""What is measured beside Starcite, each behind the same two questions: which runs does it flag, and at what size.

Tiles       the method of Data Portraits (Marone and Van Durme 2023), written here from its description: blanks
            collapsed, every 50th 50-gram of a document in a Bloom filter of 0.1 % (rbloom), all 50-grams of a query
            looked up, hits 50 apart chained; a chain ends at the first miss
Scanoss     scanoss-winnowing from the package index: 30-grams of letters and digits, windows of 64, CRC-32C
InfiniGram  infini-gram from the package index, over the bytes of the same normalised texts: a suffix array, exact.
            Its indexer imports transformers even without a tokenizer, hence the stand-in
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Protocol

from attribution.index import MIN_RUN

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from attribution.index import Index, Match


TILE = 50
TILE_ERROR_RATE = 0.001
SEPARATOR = 255

_SPACE = dict.fromkeys(code for code in range(0x3001) if chr(code).isspace())
_FOLD = str.maketrans("\"'`", "'''")


def normalised(text: str) -> str:
    """Return the text without white space and with one kind of quote, by Python's own means: the check of ours."""
    return text.translate(_SPACE).translate(_FOLD)


class Engine(Protocol):
    """An engine over one corpus: `bytes` is its index's size, `columns` the thresholds that it is judged at."""

    columns: tuple[str, ...]
    bytes: int

    def flags(self, text: str) -> tuple[bool, ...]:
        """Return whether the text is flagged at each threshold."""
        ...


class Starcite:
    """Ours: what is found, at the guarantee, at the default, with possible renamed copies if it has them; what alerts.

    Whatever is found is listed. An alert, by default, is a run of 80 or a renamed copy that is not of the class common.
    """

    def __init__(self, index: Index) -> None:
        """Wrap an open index."""
        self.index = index
        self.renames = "renamed" in inspect.signature(index.matches).parameters
        renamed = ("+ renamed", "alerts + renamed") if self.renames else ()
        self.columns = ("starcite >=50", "starcite >=80", "alerts", *renamed)
        self.bytes = sum(path.stat().st_size for path in index.reader.folder.rglob("*") if path.is_file())

    def matches(self, text: str, *, renamed: bool = False, min_run: int = MIN_RUN) -> list[Match]:
        """Return what the index finds, with the second stream where it is asked for and there."""
        options: dict[str, Any] = {"renamed": True} if renamed and self.renames else {}
        return self.index.matches(text, min_run=min_run, **options)

    def flags(self, text: str) -> tuple[bool, ...]:
        """Return whether a run of 50, of 80, and one that alerts, is found; and these two with renamed copies."""
        found = self.matches(text, min_run=50)
        long = [match for match in found if match.run >= MIN_RUN]
        flags = (bool(found), bool(long), alerts(long))
        if not self.renames:
            return flags
        both = self.matches(text, renamed=True)
        return (*flags, bool(both), alerts(both))


def alerts(found: Iterable[Match]) -> bool:
    """Return whether one of the matches is not of the class common, which policies allow by default."""
    return any(match.classification != "common" for match in found)


class Tiles:
    """See the module."""

    columns = ("tiles 1 hit", "tiles 2 in a row")

    def __init__(self, texts: Iterable[str]) -> None:
        """Fill the filter. Raises `ImportError` without rbloom."""
        from rbloom import Bloom  # noqa: PLC0415 - a peer may be missing

        blank = [collapsed(text) for text in texts]
        count = sum(len(text) // TILE for text in blank)
        self.filter = Bloom(max(1, count), TILE_ERROR_RATE)
        for text in blank:
            self.filter.update(text[i : i + TILE] for i in range(0, len(text) - TILE + 1, TILE))
        self.bytes = self.filter.size_in_bits // 8

    def flags(self, text: str) -> tuple[bool, ...]:
        """Return whether one tile is found, and whether two neighbouring ones are."""
        blank = collapsed(text)
        hits = [blank[i : i + TILE] in self.filter for i in range(len(blank) - TILE + 1)]
        return any(hits), any(a and b for a, b in zip(hits, hits[TILE:], strict=False))


def collapsed(text: str) -> str:
    """Return the text with Data Portraits' normalisation."""
    text = re.sub(r"[^\S\n]+", " ", re.sub(r"\n+", "\n", text))
    return re.sub(r"\n ", "\n", text).strip()


class Scanoss:
    """See the module."""

    columns = ("scanoss 1 hit", "scanoss 2 in a row")

    def __init__(self, texts: Iterable[str]) -> None:
        """Fingerprint the texts. Raises `ImportError` without scanoss-winnowing."""
        from scanoss_winnowing.winnowing import Winnowing  # noqa: PLC0415 - a peer may be missing

        self._winnowing = Winnowing(all_extensions=True)
        self.known = {key for text in texts for key in self._hashes(text)}
        self.bytes = 4 * len(self.known)  # no format of its own: four bytes a hash, without any source

    def flags(self, text: str) -> tuple[bool, ...]:
        """Return whether one hash is found, and whether two in a row are."""
        hits = [key in self.known for key in self._hashes(text)]
        return any(hits), any(a and b for a, b in itertools.pairwise(hits))

    def _hashes(self, text: str) -> list[str]:
        lines = self._winnowing.wfp_for_contents("a.txt", False, text.encode("utf-8", "replace")).splitlines()  # noqa: FBT003
        return [key for line in lines if line[:1].isdigit() for key in line.partition("=")[2].split(",")]


_STAND_IN = """
import types
utils = types.SimpleNamespace(logging=types.SimpleNamespace(set_verbosity=lambda level: None))
"""


class InfiniGram:
    """See the module."""

    def __init__(self, texts: Iterable[str], folder: Path) -> None:
        """Index the texts in a folder. Raises `ImportError` without infini-gram, `RuntimeError` where it fails."""
        from infini_gram.engine import InfiniGramEngine  # noqa: PLC0415 - a peer may be missing

        data, index = folder / "data", folder / "index"
        data.mkdir(parents=True)
        with (data / "texts.jsonl").open("w") as file:
            file.writelines(json.dumps({"text": normalised(text)}) + "\n" for text in texts)
        (folder / "transformers.py").write_text(_STAND_IN)
        options = ["--data_dir", data, "--save_dir", index, "--token_dtype", "u8", "--cpus", "2", "--mem", "8"]
        command = [sys.executable, "-m", "infini_gram.indexing", *map(str, options), "--ulimit", "1024"]
        environment = os.environ | {"PYTHONPATH": str(folder)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        self.bytes = sum(path.stat().st_size for path in index.rglob("*") if path.is_file())
        self._engine = InfiniGramEngine(
            str(index),
            eos_token_id=SEPARATOR - 1,
            vocab_size=SEPARATOR,
            token_dtype="u8",  # noqa: S106 - no password
            version=4,
        )

    def spans(self, query: bytes, least: int, max_count: int) -> list[tuple[int, int]]:
        """Return the maximal spans of normalised bytes that stand in the corpus, at least `least` long."""
        answer: dict[str, Any] = self._engine.attribute(
            input_ids=list(query), delim_ids=[], min_len=least, max_cnt=max_count, enforce_bow=False
        )
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return [(span["l"], span["r"]) for span in answer["spans"]]


def missing() -> dict[str, str]:
    """Return the peers that are not installed, each with what to do."""
    modules = {"tiles": "rbloom", "scanoss": "scanoss_winnowing", "infini-gram": "infini_gram"}
    return {
        name: f"skipped: {module} is not installed (pip install 'starcite[bench]')"
        for name, module in modules.items()
        if importlib.util.find_spec(module) is None
    }
