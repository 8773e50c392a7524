"""What every backend that computes tokens here does alike: reuse of prompts, slices, healing, stops and time limits.

    request ─▶ fim.render ─▶ the cached prompt that shares most ─▶ cut ─▶ prefill in slices ─▶ one token after the other
                                                                           └─ cancelled? ─┘     └─ stop, length, time?

A backend gives the computation (`CachingEngine._compute`), its logits and the cut of a cache; it imports its library,
which this module does not.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from models import fim
from models.errors import ContextOverflowError
from models.protocol import Done, TokenCounts
from models.stream import TextStream
from models.timings import TokenClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from models.cards import Card
    from models.protocol import FinishReason, GenerateRequest
    from models.scheduler import CancelFlag

# For each cached prompt: a prompt of `fim.Limits` and as many generated tokens. A token takes 12 KiB (0.5B model).
CONTEXT_TOKENS = 2048
PROMPT_TOKENS = fim.Limits().prompt_tokens
# Prompts that stay in the cache beside each other, so that going to another file and back costs milliseconds: measured
# between two 1,400-token prompts, 9 ms and not 2.3 s.
CACHED_PROMPTS = 4
TOKENIZED_TEXTS = 32


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a generation is made where it is not an editor's: evaluations sample, and ask with the text before alone.

    `temperature` 0 is greedy; the same `seed` samples the same. `plain`: the prompt's prefix is all of the prompt, with
    no marker of fill-in-the-middle.
    """

    temperature: float = 0.0
    seed: int = 0
    plain: bool = False


GREEDY = Decoding()


class Tokens(Protocol):
    """A model's tokens: `pieces[id]` is a token's bytes, `is_special[id]` tells that it ends a text and is none itself.

    `stop_texts` are those of the card's stops that are no single tokens of this model.
    """

    @property
    def pieces(self) -> Sequence[bytes]:
        """The bytes of each token, empty for the special ones, so that these can never heal anything."""

    @property
    def is_special(self) -> Sequence[bool]:
        """Which tokens end a text."""

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """Stops that have to be looked for in the text."""

    @property
    def vocabulary(self) -> fim.Vocabulary:
        """What prompts are rendered with."""

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a text, in which what looks like a special token is text too."""


@dataclass(slots=True)
class CachedPrompt:
    """The tokens whose keys and values lie in the cache, as the sequence of this number."""

    sequence: int
    tokens: list[int] = field(default_factory=list)
    used_s: float = 0.0

    def shared(self, tokens: list[int]) -> int:
        """Return the length of the common beginning."""
        for i, (cached, token) in enumerate(zip(self.tokens, tokens, strict=False)):
            if cached != token:
                return i
        return min(len(self.tokens), len(tokens))


class Run:
    """What one generation has done so far, and what may end it."""

    def __init__(
        self, stops: tuple[str, ...], cancel: CancelFlag, emit: Callable[[str], None], request: GenerateRequest
    ) -> None:
        """Begin with nothing; the request has the limits of time."""
        self.clock = TokenClock()
        self.stream = TextStream(stops)
        self.generated = 0
        self._cancel = cancel
        self._emit = emit
        self._request = request

    def push(self, piece: bytes) -> None:
        """Take a token's bytes, and emit what is certain."""
        if text := self.stream.push(piece):
            self._emit(text)

    def flush(self) -> None:
        """Emit what was held back for a stop that did not come."""
        if text := self.stream.flush():
            self._emit(text)

    def interrupted_before_text(self) -> FinishReason | None:
        """Return what ends the prefill; whoever asks again goes on from the slice that it reached."""
        if self._cancel.is_set():
            return "cancelled"
        return "time" if self.clock.waited_ms() >= self._request.first_token_limit_ms else None

    def interrupted(self) -> FinishReason | None:
        """Return what ends the run behind its first token: a cancellation, or the time that it may write."""
        if self._cancel.is_set():
            return "cancelled"
        return "time" if self.clock.written_ms() >= self._request.time_limit_ms else None


class CachingEngine(ABC):
    """A model in memory with the prompts it saw last. Not thread safe: one thread makes, uses and closes it."""

    threads: int

    def __init__(  # what the two backends measure differently
        self,
        card: Card,
        tokens: Tokens,
        *,
        context_tokens: int,
        prompt_tokens: int,
        cached_prompts: int,
        slice_tokens: int,
    ) -> None:
        """Take the tokens of a loaded model, and the bounds in tokens of each of `cached_prompts` prompts.

        `slice_tokens` are computed at once: a cancelled prefill ends behind a slice at the latest.
        """
        self._card = card
        self._tokens = tokens
        self._context_tokens = context_tokens
        self._prompt_tokens = prompt_tokens
        self._slice_tokens = slice_tokens
        self._heal_table = fim.HealTable(tokens.pieces)
        self._prompts = [CachedPrompt(sequence) for sequence in range(cached_prompts)]

    @abstractmethod
    def close(self) -> None:
        """Free the model; the engine cannot be used any more."""

    @abstractmethod
    def _compute(self, prompt: CachedPrompt, tokens: Sequence[int], *, logits_from: int) -> bool:
        """Run the model over the next tokens of a prompt; return False where the cancel flag ended it.

        There are logits behind the tokens from the number `logits_from` on. Whatever happens, `prompt.tokens` are
        afterwards the tokens that the cache holds. Raises `ContextOverflowError` and `BackendError`.
        """

    @abstractmethod
    def _logits(self, i: int) -> NDArray[np.float32]:
        """Return what the last computation says of the token behind its i-th, shape (vocabulary,)."""

    @abstractmethod
    def _cut(self, prompt: CachedPrompt, length: int) -> None:
        """Forget a cached prompt from position `length` on, or all of it where its model cannot forget a part."""

    def _likeliest(self) -> int:
        """Return the likeliest token behind the last."""
        return int(self._logits(-1).argmax())

    def generate(
        self, request: GenerateRequest, cancel: CancelFlag, emit: Callable[[str], None], decoding: Decoding = GREEDY
    ) -> Done:
        """Generate what stands at the cursor, give the text to `emit` as it comes, and return the end.

        With `max_tokens` 0 only the prompt is computed, so that a later request finds it in the cache.
        The text starts at the cursor: where the last typed token is healed, the bytes that were typed already are not
        part of it. It never holds a special token, a stop string, or half a character. Raises `ContextOverflowError`
        where the prompt cannot be made to fit, and `BackendError`; the engine can be used afterwards.
        """
        run = Run((*request.stop, *self._tokens.stop_texts), cancel, emit, request)
        max_tokens = min(request.max_tokens, self._context_tokens - self._prompt_tokens)
        limits = fim.Limits(prompt_tokens=self._prompt_tokens, generate_tokens=max_tokens)
        render = fim.render_plain if decoding.plain else fim.render
        rendered = render(request.prompt, self._card, self._tokens.vocabulary, limits)
        prompt = self._reuse(rendered.tokens)
        reused = len(prompt.tokens)
        reason = self._prefill(prompt, rendered.tokens, run)
        run.clock.prefilled()
        if reason is None:
            reason = self._decode(prompt, rendered.heal, max_tokens, run, decoding) if max_tokens else "length"
        return Done(reason, TokenCounts(len(rendered.tokens), reused, run.generated), run.clock.timings_ms())

    def cut(self, text: str, tokens: int) -> str:
        """Return the beginning of a text that so many of the model's tokens make, all of it if it has not more."""
        pieces = [self._tokens.pieces[token] for token in self._tokens.tokenize(text)[:tokens]]
        return b"".join(pieces).decode("utf-8", "ignore")

    def log_probabilities(self, context: str, text: str) -> NDArray[np.float64]:
        """Return the natural logarithm of the probability of each token of `text` behind `context`, shape (tokens,).

        The two are tokenised apart, so that models of different vocabularies are asked for the same bytes. Neither may
        be empty. Raises ContextOverflowError where the model's context does not hold both.
        """
        given = self._tokens.tokenize(context)
        tokens = [*given, *self._tokens.tokenize(text)]
        if len(tokens) > self._context_tokens:
            raise ContextOverflowError(f"A text of {len(tokens)} tokens is too long to be scored: cut it into parts.")
        prompt = min(self._prompts, key=lambda cached: cached.used_s)
        self._cut(prompt, 0)
        found = np.zeros(len(tokens) - 1)
        for start in range(0, len(found), self._slice_tokens):
            end = min(start + self._slice_tokens, len(found))
            first = min(max(start, len(given) - 1), end)
            self._compute(prompt, tokens[start:end], logits_from=first - start)
            for i in range(first, end):
                logits = self._logits(i - start)
                highest = logits.max()
                found[i] = logits[tokens[i + 1]] - highest - np.log(np.exp(logits - highest).sum(dtype=np.float64))
        return found[len(given) - 1 :]

    def _reuse(self, tokens: list[int]) -> CachedPrompt:
        """Return the cached prompt to continue, cut to what it shares with `tokens`; one token is always left over."""
        prompt = max(self._prompts, key=lambda cached: cached.shared(tokens))
        if 2 * prompt.shared(tokens) < min(len(prompt.tokens), len(tokens)):  # another file's: it may be wanted again
            prompt = min(self._prompts, key=lambda cached: cached.used_s)
        prompt.used_s = time.perf_counter()
        self._cut(prompt, min(prompt.shared(tokens), len(tokens) - 1))
        return prompt

    def _prefill(self, prompt: CachedPrompt, tokens: list[int], run: Run) -> FinishReason | None:
        """Compute the tokens that are not cached yet; return a reason where the run ended before the last."""
        while len(prompt.tokens) < len(tokens):
            if reason := run.interrupted_before_text():
                return reason
            start = len(prompt.tokens)
            end = min(start + self._slice_tokens, len(tokens))
            last = end - start - 1 if end == len(tokens) else self._slice_tokens
            if not self._compute(prompt, tokens[start:end], logits_from=last):
                return "cancelled"
        return None

    def _decode(self, prompt: CachedPrompt, heal: bytes, max_tokens: int, run: Run, decoding: Decoding) -> FinishReason:
        """Choose, emit and compute one token after the other until something ends it."""
        noise = np.random.default_rng(decoding.seed) if decoding.temperature else None
        while True:
            token = self._choose(heal, noise, decoding.temperature)
            run.clock.token()
            if token is None or self._tokens.is_special[token]:
                run.flush()
                return "stop"
            piece = self._tokens.pieces[token]
            run.generated += 1
            run.push(piece[len(heal) :])
            heal = self._heal_table.advance(heal, piece)
            if run.stream.stopped:
                return "stop"
            reason = "length" if run.generated >= max_tokens else run.interrupted()
            if reason is None and not self._compute(prompt, [token], logits_from=0):
                reason = "cancelled"
            if reason is not None:
                run.flush()
                return reason

    def _choose(self, heal: bytes, noise: np.random.Generator | None, temperature: float) -> int | None:
        """Return the likeliest token, or a sampled one, among those that agree with the bytes to heal, if any.

        The largest of the logits with Gumbel noise is a sample of their softmax (Gumbel, 1954).
        """
        if noise is None and not heal:
            return self._likeliest()
        logits = self._logits(-1)
        if noise is not None:
            logits = logits / np.float32(temperature) + noise.gumbel(size=logits.size).astype(np.float32)
        if not heal:
            return int(logits.argmax())
        allowed = np.asarray(self._heal_table.allowed(heal))
        return int(allowed[logits[allowed].argmax()]) if allowed.size else None


def usable_cores() -> int:
    """Return the number of cores that this process may use, which is not the machine's in a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
