"""How good and how fast a model is at the rest of a line, beside others and beside n-grams with copy; bits per byte.

A line is asked for as an editor asks: by the daemon's prompt and engine, greedily, to the end of the line. The same
lines and cuts go to every model, in turns, so that what else runs on the machine slows all of them alike.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import time
import zlib
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from models import backends
from models.cards import load_card
from models.errors import EvaluationDataError
from models.generation import Decoding
from models.ngram import NgramModel, predict_next
from models.paths import models_dir
from models.protocol import FimPrompt, GenerateRequest
from models.scheduler import CancelFlag
from models.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from models.generation import CachingEngine

    Engine: TypeAlias = CachingEngine  # for callers, who need not know which library it is

Cut = Literal["line start", "mid-line", "mid-word"]
CUTS: Final = get_args(Cut)

MAX_LINE_TOKENS = 96
# What is scored of a text, and what stands before it: together within a context of 2,048 tokens for any tokenizer that
# makes at least 1.2 bytes a token of it.
SCORED_BYTES = 2_000
CONTEXT_BYTES = 400
# Text around the cursor beyond this is not shown to the n-grams; a prompt of a model holds less.
COPY_CHARS = 8_000
MAX_LEXEMES = 1 << 20

_TIME_LIMIT_MS = 600_000.0
_MIN_LINE_CHARS = 4
_BETWEEN_WORDS = re.compile(r"(?<=\S)(?<!\w)(?=\S)|(?<=\w)(?!\w)(?=.*\S)")
_IN_WORD = re.compile(r"(?<=\w)(?=\w)")
_LEXEME = re.compile(r"\n[ \t]*| ?\w+| ?[^\w\s]|\s")


@dataclass(frozen=True, slots=True)
class Text:
    """A text of a corpus, with the language that its results are counted under, and the place that it is from."""

    text: str
    language: str
    name: str = ""
    revision: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A cursor in a text: `rest` is what stands from it to its line's end, `suffix` what follows, from the break."""

    prefix: str
    rest: str
    suffix: str
    language: str
    cut: Cut


# --- lines and cuts --------------------------------------------------------------------------------------------------


def sample(texts: Iterable[Text], count: int, seed: int) -> list[Text]:
    """Return a uniform sample of texts, the same for the same seed and texts, by one pass that holds only it."""
    chance = random.Random(seed)  # noqa: S311 - a sample that can be drawn again, not a secret
    kept: list[Text] = []
    for seen, text in enumerate(texts):
        if seen < count:
            kept.append(text)
        elif (place := chance.randint(0, seen)) < count:
            kept[place] = text
    return kept


def cut_lines(texts: Sequence[Text], count: int, seed: int) -> list[Line]:
    """Return `count` cursors at most, one in each text in turn, each kind of cut in turn; the seed fixes them all."""
    chance = random.Random(seed)  # noqa: S311 - as above
    found: list[Line] = []
    for turn in range(count):
        text = texts[turn % len(texts)] if texts else None
        if text and (line := _cut_line(text, CUTS[turn % len(CUTS)], chance)):
            found.append(line)
    return found


def _cut_line(text: Text, cut: Cut, chance: random.Random) -> Line | None:
    body = text.text.replace("\r\n", "\n")
    lines = [found for found in re.finditer(r"[^\n]+", body) if len(found.group().strip()) >= _MIN_LINE_CHARS]
    chance.shuffle(lines)
    for line in lines:
        if (place := _place(line.group(), cut, chance)) is not None:
            at = line.start() + place
            return Line(body[:at], body[at : line.end()], body[line.end() :], text.language, cut)
    return None


def _place(line: str, cut: Cut, chance: random.Random) -> int | None:
    """Return where in a line the cursor stands, None where the line has no such place."""
    if cut == "line start":
        return 0
    pattern = _IN_WORD if cut == "mid-word" else _BETWEEN_WORDS
    places = [found.start() for found in pattern.finditer(line)]
    return chance.choice(places) if places else None


def humaneval_lines(path: Path, count: int, seed: int) -> list[Line]:
    """Return cursors in a sample of a file of HumanEval-Infilling's single lines, each kind of cut in turn.

    Raises EvaluationDataError where the file cannot be read as that.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            rows = [json.loads(line) for line in stream]
        tasks = [(str(row["prompt"]), str(row["canonical_solution"]), str(row["suffix"])) for row in rows]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise EvaluationDataError(
            f"{path} cannot be read as HumanEval-Infilling ({error}); give one of its .jsonl.gz files."
        ) from error
    chance = random.Random(seed)  # noqa: S311 - as above
    chance.shuffle(tasks)
    found: list[Line] = []
    for prompt, solution, suffix in tasks:
        if len(found) == count:
            break
        line, cut = solution.removesuffix("\n"), CUTS[len(found) % len(CUTS)]
        place = None if "\n" in line else _place(line, cut, chance)
        if place is not None:
            found.append(Line(prompt + line[:place], line[place:], "\n" + suffix, "python", cut))
    return found


# --- what a model generates ------------------------------------------------------------------------------------------


def open_engine(model_id: str, threads: int | None = None) -> Engine:
    """Load a model that is on this machine, on the CPU, with room for one prompt. Raises ModelError."""
    return backends.open_engine(load_card(model_id), Store(models_dir()), threads=threads, cached_prompts=1)


@dataclass(frozen=True, slots=True)
class Generation:
    """What a model wrote, and what it took.

    `prompt_tokens` were computed, the cached ones left out. `computed` is the number of tokens that were computed one
    by one, which is what `decode_ms` is the time of. Milliseconds are of the wall clock, `cpu_s` of this process.
    """

    text: str
    prompt_tokens: int = 0
    computed: int = 0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    first_token_ms: float = 0.0
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What a model is asked to write: behind `prefix` alone where `suffix` is None, else what stands between the two.

    `temperature` 0 is greedy; the same `seed` samples the same.
    """

    prefix: str
    suffix: str | None
    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0


def generate(engine: Engine, wish: Wish) -> Generation:
    """Let a model write. Raises ModelError."""
    texts: list[str] = []
    request = GenerateRequest(
        FimPrompt(wish.prefix, wish.suffix or ""),
        wish.max_tokens,
        wish.stop,
        first_token_limit_ms=_TIME_LIMIT_MS,
        time_limit_ms=_TIME_LIMIT_MS,
    )
    decoding = Decoding(wish.temperature, wish.seed, plain=wish.suffix is None)
    cpu_s = time.process_time()
    done = engine.generate(request, CancelFlag(), texts.append, decoding)
    return Generation(
        text="".join(texts),
        prompt_tokens=done.tokens.prompt - done.tokens.prompt_reused,
        computed=max(0, done.tokens.generated - 1),
        prefill_ms=done.timings_ms["prefill"],
        decode_ms=done.timings_ms["decode"],
        first_token_ms=done.timings_ms.get("time_to_first_token", 0.0),
        cpu_s=time.process_time() - cpu_s,
    )


def complete(engine: Engine, line: Line) -> Generation:
    """Let a model write the rest of a line as in an editor. Raises ModelError."""
    return generate(engine, Wish(line.prefix, line.suffix, MAX_LINE_TOKENS, stop=("\n",)))


def is_exact(line: Line, text: str) -> bool:
    """Return whether a text is the rest of the line, but for white space at its end."""
    return text.rstrip() == line.rest.rstrip()


# --- n-grams with copy -----------------------------------------------------------------------------------------------


class Baseline:
    """A 5-gram model of lexemes with copy from the file, which completes lines as a model does."""

    def __init__(self, ngrams: NgramModel, words: list[str]) -> None:
        """Take the counts, and the lexeme of each number; use `Baseline.train`."""
        self.ngrams = ngrams
        self._words = words
        self._ids = {word: number for number, word in enumerate(words)}
        self._sorted = sorted(range(len(words)), key=words.__getitem__)
        self._sorted_words = [words[number] for number in self._sorted]

    @classmethod
    def train(cls, texts: Iterable[str], max_lexemes: int = MAX_LEXEMES) -> Baseline:
        """Count the lexemes of texts, which are read once; those that come after `max_lexemes` others are unknown."""
        ids: dict[str, int] = {"": 0}  # the unknown one, which is never said

        def numbers(text: str) -> list[int]:
            found = []
            for word in _LEXEME.findall(text):
                number = ids.get(word, 0)
                if not number and len(ids) < max_lexemes:
                    number = ids[word] = len(ids)
                found.append(number)
            return found

        ngrams = NgramModel.train(numbers(text.replace("\r\n", "\n")) for text in texts)
        return cls(ngrams, list(ids))

    def complete(self, line: Line) -> str:
        """Return the rest of a line, greedily; the lexeme that the cursor stands behind may have been begun only."""
        before, after = _LEXEME.findall(line.prefix[-COPY_CHARS:]), _LEXEME.findall(line.suffix[:COPY_CHARS])
        local = _Local(self._ids, len(self._words))
        heal = before.pop() if before else ""
        context, following = local.numbers(before), local.numbers(after)
        allowed = np.array([*self._starting_with(heal), *local.starting_with(heal)]) if heal else None
        written = ""
        while len(context) < len(before) + MAX_LINE_TOKENS:
            found = predict_next(self.ngrams, context, following, allowed)
            word = local.word(found.token, self._words) if found else ""
            written += word
            if found is None or not word or "\n" in written[len(heal) :]:
                break
            context.append(found.token)
            allowed = None
        return written[len(heal) :].partition("\n")[0]

    def _starting_with(self, start: str) -> list[int]:
        first, last = (bisect_left(self._sorted_words, edge) for edge in (start, start + chr(0x10FFFF)))
        return self._sorted[first:last]


class _Local:
    """Numbers for the lexemes of one file that the training did not know."""

    def __init__(self, ids: dict[str, int], first: int) -> None:
        self._ids = ids
        self._first = first
        self._own: dict[str, int] = {}
        self._words: list[str] = []

    def numbers(self, words: list[str]) -> list[int]:
        return [self._number(word) for word in words]

    def _number(self, word: str) -> int:
        number = self._ids.get(word)
        if number is None:
            number = self._own.setdefault(word, self._first + len(self._own))
            if number == self._first + len(self._words):
                self._words.append(word)
        return number

    def word(self, number: int, words: list[str]) -> str:
        """Return a lexeme, empty for the unknown one and for the end of a text."""
        if number < len(words):
            return words[number]
        return self._words[number - self._first] if number - self._first < len(self._words) else ""

    def starting_with(self, start: str) -> list[int]:
        return [number for word, number in self._own.items() if word.startswith(start)]


# --- bits per byte ---------------------------------------------------------------------------------------------------


class Passage(NamedTuple):
    """Text to be scored behind some context, each of whole lines."""

    context: str
    text: str
    language: str


@dataclass(slots=True)
class Bits:
    """What a model needed for texts: `value` is bits per byte of UTF-8."""

    bits: float = 0.0
    bytes: int = 0
    tokens: int = 0

    def add(self, other: Bits) -> None:
        """Add what was needed for other texts."""
        self.bits += other.bits
        self.bytes += other.bytes
        self.tokens += other.tokens

    @property
    def value(self) -> float:
        """The bits per byte, 0 where nothing was scored."""
        return self.bits / self.bytes if self.bytes else 0.0


def passages(texts: Iterable[Text]) -> Iterator[Passage]:
    """Yield the beginning of each text: its first lines as context, then what is scored; not of too short ones."""
    for text in texts:
        lines = text.text.replace("\r\n", "\n").splitlines(keepends=True)
        context, rest = _lines_within(lines, CONTEXT_BYTES)
        scored, _ = _lines_within(rest, SCORED_BYTES)
        if context and scored:
            yield Passage(context, scored, text.language)


def _lines_within(lines: list[str], limit: int) -> tuple[str, list[str]]:
    """Return the first lines, `limit` bytes of them at most, and the other lines."""
    size = 0
    for number, line in enumerate(lines):
        size += len(line.encode("utf-8", "replace"))
        if size > limit:
            return "".join(lines[:number]), lines[number:]
    return "".join(lines), []


def score(engine: Engine, passage: Passage) -> Bits:
    """Return the bits that a model needs for a passage. Raises ModelError."""
    logs = engine.log_probabilities(passage.context, passage.text)
    return Bits(-float(logs.sum()) / float(np.log(2)), len(passage.text.encode("utf-8", "replace")), len(logs))
