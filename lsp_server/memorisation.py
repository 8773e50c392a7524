"""Whether a model recites its training data, and whether the index finds all that it recites.

A model is shown how passages of its training begin and writes on, from left to right and into a gap, greedily and
sampled. What it writes is looked up in the index, and in the corpus itself by suffix arrays (`attribution.oracle`),
which share nothing with the index: every window of `guarantee` characters that stands in a document must lie in a
match, nothing else may, and the sources that a match names must hold it.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from attribution import oracle
from models import evaluation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from attribution.index import Index, Match, Source
    from models.evaluation import Engine, Text

PROMPT_TOKENS: Final = (20, 100, 400)
GENERATED_TOKENS = 128
TEMPERATURE = 0.8
RECITED_CHARACTERS: Final = (50, 80, 150)

# How much of the true continuation is looked up to tell how many documents hold it; how much a FIM prompt leaves out.
_PASSAGE_CHARS = 300
_LEAST_PASSAGE = 100
_GAP_CHARS = 600
# Files that are drawn for each prompt that is wanted: of 72 files of a corpus without near-duplicates none had a common
# passage where the cursor was put.
_CANDIDATES = 50


@dataclass(frozen=True, slots=True)
class Prompt:
    """The beginning of a passage of a training file, what follows the gap after it, and how frequent the passage is.

    `tokens` is the length of the prefix. `copies` is the number of documents that hold the beginning of what stands in
    the gap, by the index, which has missed it where that is 0.
    """

    prefix: str
    suffix: str
    tokens: int
    copies: int


@dataclass(frozen=True, slots=True)
class Writing:
    """What a model wrote: `kind` is "plain" or "fim"; `sampled` with a temperature, or greedily."""

    prompt: Prompt
    kind: str
    sampled: bool
    generation: evaluation.Generation

    @property
    def text(self) -> str:
        """The prompt's prefix and what was written."""
        return self.prompt.prefix + self.generation.text


@dataclass(frozen=True, slots=True)
class Checked:
    """The matches of a writing with its left context and alone, with the milliseconds that each search took."""

    with_context: list[Match]
    alone: list[Match]
    elapsed_ms: tuple[float, float]


class Verdict(NamedTuple):
    """A writing beside the truth: `recited` is the longest run in what was written, in normalised characters."""

    writing: Writing
    recited: int
    with_context: oracle.Comparison
    alone: oracle.Comparison


def draw_prompts(engine: Engine, index: Index, texts: Iterable[Text], count: int, seed: int) -> list[Prompt]:
    """Return prompts from training files, as many of common passages as of rare ones where there are so many.

    The lengths come in turn. A corpus with fewer passages gives fewer prompts.
    """
    chance = random.Random(seed)  # noqa: S311 - a sample that can be drawn again, not a secret
    texts = evaluation.sample(texts, count * _CANDIDATES, seed)
    chosen: list[Prompt] = []
    for tokens in PROMPT_TOKENS:
        wanted = len(range(PROMPT_TOKENS.index(tokens), count, len(PROMPT_TOKENS)))
        drawn = (_draw(engine, index, text.text, tokens, chance) for text in texts)
        fitting = [prompt for prompt in drawn if prompt]
        common = [prompt for prompt in fitting if prompt.copies > 1][: wanted // 2]
        rare = [prompt for prompt in fitting if prompt.copies <= 1][: wanted - len(common)]
        chosen += [*common, *rare]
    return chosen


def _draw(engine: Engine, index: Index, text: str, tokens: int, chance: random.Random) -> Prompt | None:
    """Return a prompt from some line start of a text, None where too little follows that."""
    text = text.replace("\r\n", "\n")
    start = text.rfind("\n", 0, chance.randrange(len(text) + 1)) + 1
    prefix = engine.cut(text[start:], tokens)
    rest = text[start + len(prefix) :]
    gap = rest.find("\n", _GAP_CHARS)
    if len(prefix) < tokens or gap < 0 or len(oracle.normalised(rest[:_PASSAGE_CHARS])) < _LEAST_PASSAGE:
        return None
    return Prompt(prefix, rest[gap:], tokens, _copies(index, rest[:_PASSAGE_CHARS]))


def _copies(index: Index, passage: str) -> int:
    """Return how many documents hold a passage of the corpus, at least; 0 where the index does not have it whole."""
    whole = len(oracle.normalised(passage))
    found = index.matches(passage, min_run=int(index.summary["guarantee"]))
    return max((match.source_count for match in found if match.run == whole), default=0)


def write(engine: Engine, prompts: Sequence[Prompt], sampled: int, seed: int) -> Iterator[Writing]:
    """Yield what a model writes for each prompt: plain and FIM, once greedily and `sampled` times not."""
    for number, prompt in enumerate(prompts):
        for suffix, kind in ((None, "plain"), (prompt.suffix, "fim")):
            wish = evaluation.Wish(prompt.prefix, suffix, GENERATED_TOKENS)
            yield Writing(prompt, kind, sampled=False, generation=evaluation.generate(engine, wish))
            for turn in range(sampled):
                one = replace(wish, temperature=TEMPERATURE, seed=seed + number * sampled + turn)
                yield Writing(prompt, kind, sampled=True, generation=evaluation.generate(engine, one))


def check(index: Index, writing: Writing, guarantee: int) -> Checked:
    """Look a writing up, as the product does: with what stands before it, and alone."""
    started = time.perf_counter()
    with_context = index.matches(writing.text, min_run=guarantee, start=len(writing.prompt.prefix))
    between = time.perf_counter()
    alone = index.matches(writing.generation.text, min_run=guarantee)
    ended = time.perf_counter()
    return Checked(with_context, alone, ((between - started) * 1000, (ended - between) * 1000))


def judge(
    writings: Sequence[Writing], checked: Sequence[Checked], documents: Iterable[str], guarantee: int
) -> list[Verdict]:
    """Compare what the index found with what stands in the documents, which are read once.

    Raises MissingPackageError without the package that makes suffix arrays.
    """
    all_runs = oracle.longest_runs([writing.text for writing in writings], documents)
    verdicts = []
    for writing, found, runs in zip(writings, checked, all_runs, strict=True):
        start = len(writing.prompt.prefix)
        # How far a run goes depends on what follows, not on what stands before: these are the runs of the text alone.
        own = runs[len(oracle.normalised(writing.prompt.prefix)) :]
        verdicts.append(
            Verdict(
                writing,
                int(own.max(initial=0)),
                oracle.compare(writing.text, _spans(found.with_context), runs, guarantee, start),
                oracle.compare(writing.generation.text, _spans(found.alone), own, guarantee),
            )
        )
    return verdicts


def _spans(matches: list[Match]) -> list[tuple[int, int]]:
    return [(match.start, match.end) for match in matches]


class Sources(NamedTuple):
    """How many sources were named, and the first of those whose lines do not hold what they are named for."""

    named: int
    wrong: int
    examples: tuple[str, ...]


def check_sources(
    writings: Sequence[Writing], checked: Sequence[Checked], texts: Callable[[], Iterable[Text]]
) -> Sources:
    """Compare each source that a match names with the lines that stand there in the corpus."""
    claims: dict[tuple[str, str, str], list[tuple[Source, str]]] = {}
    for writing, found in zip(writings, checked, strict=True):
        for text, matches in ((writing.text, found.with_context), (writing.generation.text, found.alone)):
            for match in matches:
                held = oracle.normalised(text[match.start : match.end])
                for source in match.sources:
                    claims.setdefault((source.name, source.revision, source.path), []).append((source, held))
    named = sum(map(len, claims.values()))
    # A corpus may hold several texts of one name; a source is right if one of them holds the span.
    for text_of in texts():
        place = (text_of.name, text_of.revision, text_of.path.lstrip("/"))
        if place in claims:
            claims[place] = [claim for claim in claims[place] if not _holds(text_of.text, *claim)]
    wrong = [source for left in claims.values() for source, _ in left]
    return Sources(named, len(wrong), tuple(f"{source.name} {source.path}" for source in wrong[:3]))


def _holds(text: str, source: Source, held: str) -> bool:
    return held in oracle.normalised(oracle.lines(text, source.start_line, source.end_line))


def rates(verdicts: Iterable[Verdict]) -> dict[str, float]:
    """Return the number of writings and the share that recites at least so many characters beyond the prompt."""
    recited = np.array([verdict.recited for verdict in verdicts])
    shares = {str(least): float((recited >= least).mean()) for least in RECITED_CHARACTERS} if len(recited) else {}
    return {"writings": len(recited)} | shares


def groups(verdicts: Sequence[Verdict]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the rates by how frequent the passage is, by the prompt's length and kind, greedy and sampled."""
    keys: dict[str, Callable[[Writing], str]] = {
        "all": lambda _: "all",
        "documents that hold the passage": lambda writing: _frequency(writing.prompt.copies),
        "prompt tokens": lambda writing: str(writing.prompt.tokens),
        "prompt": lambda writing: writing.kind,
        "decoding": lambda writing: f"temperature {TEMPERATURE}" if writing.sampled else "greedy",
    }
    found = {}
    for name, key in keys.items():
        values = dict.fromkeys(key(verdict.writing) for verdict in verdicts)
        found[name] = {value: rates(v for v in verdicts if key(v.writing) == value) for value in sorted(values)}
    return found


def _frequency(copies: int) -> str:
    return "1" if copies <= 1 else "2 to 5" if copies <= 5 else "6 and more"  # noqa: PLR2004 - the classes themselves
