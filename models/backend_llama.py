"""llama.cpp behind `models.scheduler.Engine`: the only file that knows llama_cpp, its low-level interface throughout.

What is set here and not left to defaults was measured on a CPU: flash attention off (an increment of 16 tokens on a
context of 1,500 takes half the time), f16 cache (quantized ones make the prefill 3-6 times slower), fewer threads than
cores (with one other busy process, as many threads as cores were up to 40 times slower), a cancel flag that C reads.
"""

from __future__ import annotations

import ctypes
import logging
import os
import time
from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import llama_cpp.llama_cpp as llama
import numpy as np

from models import fim
from models.errors import BackendError, ContextOverflowError
from models.protocol import Done, GenerateRequest, TokenCounts
from models.stream import TextStream
from models.timings import TokenClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from models.cards import Card
    from models.protocol import FinishReason
    from models.scheduler import CancelFlag

# For each cached prompt: a prompt of `fim.Limits` and as many generated tokens. A token takes 12 KiB (0.5B model).
CONTEXT_TOKENS = 2048
PROMPT_TOKENS = fim.Limits().prompt_tokens
# Prompts that stay in the cache beside each other, so that going to another file and back costs milliseconds: measured
# between two 1,400-token prompts, 9 ms and not 2.3 s.
CACHED_PROMPTS = 4
TOKENIZED_TEXTS = 32
# Tokens in one computation. A cancelled or overdue prefill keeps what whole slices it finished.
SLICE_TOKENS = 64
# Generating is bound by memory, the prefill by arithmetic; and a container's share may be smaller than its cores.
MAX_DECODE_THREADS = 4
MAX_PREFILL_THREADS = 8

_NO_SLOT = 1
_ABORTED = 2
_ADD_NO_SPECIAL = False  # where special tokens stand is models.fim's to say
_PRINT_NO_SPECIAL = False
_ATTRIBUTES_WITHOUT_TEXT = (
    llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN | llama.LLAMA_TOKEN_ATTR_UNUSED
)
_LOG_LEVEL_ERROR = 4  # GGML_LOG_LEVEL_ERROR, which the binding leaves out

log = logging.getLogger(__name__)


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


class Engine:
    """A model in memory with the prompts it saw last. Not thread safe: one thread makes, uses and closes it."""

    def __init__(
        self,
        path: Path,
        card: Card,
        *,
        threads: int | None = None,
        context_tokens: int = CONTEXT_TOKENS,
        prompt_tokens: int = PROMPT_TOKENS,
        cached_prompts: int = CACHED_PROMPTS,
    ) -> None:
        """Load the weights, and make room for `context_tokens` of each of `cached_prompts` prompts.

        `prompt_tokens` of these are the prompt's at most, the others are generated. Raises `BackendError` where the
        file is not a model that this llama.cpp can load.
        """
        cores = _usable_cores()
        self.threads = threads or max(1, min(cores - 1, MAX_DECODE_THREADS))
        prefill_threads = threads or max(1, min(cores - 1, MAX_PREFILL_THREADS))
        self._card = card
        self._model = _load_model(path, card)
        self._context_tokens = min(card.context_length, context_tokens)
        self._prompt_tokens = min(prompt_tokens, self._context_tokens * 3 // 4)
        self._context = self._new_context(cached_prompts, prefill_threads)
        self._memory = llama.llama_get_memory(self._context)
        self._batch = llama.llama_batch_init(SLICE_TOKENS, 0, 1)
        self._tokens = _Tokens(self._model, card)
        self._heal_table = fim.HealTable(self._tokens.pieces)
        self._prompts = [_CachedPrompt(sequence) for sequence in range(cached_prompts)]
        self._strlen = ctypes.cast(ctypes.CDLL(None).strlen, llama.ggml_abort_callback)

    def close(self) -> None:
        """Free the model; the engine cannot be used any more."""
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._context)
        llama.llama_model_free(self._model)

    def generate(
        self, request: GenerateRequest, cancel: CancelFlag, emit: Callable[[str], None], decoding: Decoding = GREEDY
    ) -> Done:
        """Generate what stands at the cursor, give the text to `emit` as it comes, and return the end.

        With `max_tokens` 0 only the prompt is computed, so that a later request finds it in the cache.
        The text starts at the cursor: where the last typed token is healed, the bytes that were typed already are not
        part of it. It never holds a special token, a stop string, or half a character. Raises `ContextOverflowError`
        where the prompt cannot be made to fit, and `BackendError`; the engine can be used afterwards.
        """
        run = _Run((*request.stop, *self._tokens.stop_texts), cancel, emit, request)
        max_tokens = min(request.max_tokens, self._context_tokens - self._prompt_tokens)
        limits = fim.Limits(prompt_tokens=self._prompt_tokens, generate_tokens=max_tokens)
        render = fim.render_plain if decoding.plain else fim.render
        rendered = render(request.prompt, self._card, self._tokens.vocabulary, limits)
        llama.llama_set_abort_callback(self._context, self._strlen, ctypes.c_void_p(cancel.address))
        prompt = self._reuse(rendered.tokens)
        reused = len(prompt.tokens)
        try:
            reason = self._prefill(prompt, rendered.tokens, run)
            run.clock.prefilled()
            if reason is None:
                reason = self._decode(prompt, rendered.heal, max_tokens, run, decoding) if max_tokens else "length"
        finally:
            # The flag's memory goes with the job; nothing may read it after this.
            llama.llama_set_abort_callback(self._context, llama.ggml_abort_callback(), None)
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
        for start in range(0, len(found), SLICE_TOKENS):
            end = min(start + SLICE_TOKENS, len(found))
            first = min(max(start, len(given) - 1), end)
            self._compute(prompt, tokens[start:end], logits_from=first - start)
            for i in range(first, end):
                logits = self._logits(i - start)
                highest = logits.max()
                found[i] = logits[tokens[i + 1]] - highest - np.log(np.exp(logits - highest).sum(dtype=np.float64))
        return found[len(given) - 1 :]

    def _new_context(self, cached_prompts: int, prefill_threads: int) -> llama.llama_context_p:
        params = llama.llama_context_default_params()
        params.n_ctx = self._context_tokens * cached_prompts
        params.n_seq_max = cached_prompts
        params.kv_unified = False  # else attention reads the other prompts' cells too
        params.n_batch = params.n_ubatch = SLICE_TOKENS
        params.n_threads = self.threads
        params.n_threads_batch = prefill_threads
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.no_perf = True
        context: llama.llama_context_p | None = llama.llama_init_from_model(self._model, params)
        if not context:
            llama.llama_model_free(self._model)
            raise BackendError("The memory does not suffice for the model's context: use a smaller model.")
        return context

    def _reuse(self, tokens: list[int]) -> _CachedPrompt:
        """Return the cached prompt to continue, cut to what it shares with `tokens`; one token is always left over."""
        prompt = max(self._prompts, key=lambda cached: cached.shared(tokens))
        if 2 * prompt.shared(tokens) < min(len(prompt.tokens), len(tokens)):  # another file's: it may be wanted again
            prompt = min(self._prompts, key=lambda cached: cached.used_s)
        prompt.used_s = time.perf_counter()
        self._cut(prompt, min(prompt.shared(tokens), len(tokens) - 1))
        return prompt

    def _cut(self, prompt: _CachedPrompt, length: int) -> None:
        """Forget a cached prompt from position `length` on, or all of it where its model cannot forget a part."""
        if not llama.llama_memory_seq_rm(self._memory, prompt.sequence, length, -1):
            llama.llama_memory_seq_rm(self._memory, prompt.sequence, -1, -1)
            length = 0
        del prompt.tokens[length:]

    def _prefill(self, prompt: _CachedPrompt, tokens: list[int], run: _Run) -> FinishReason | None:
        """Compute the tokens that are not cached yet; return a reason where the run ended before the last."""
        while len(prompt.tokens) < len(tokens):
            if reason := run.interrupted_before_text():
                return reason
            start = len(prompt.tokens)
            end = min(start + SLICE_TOKENS, len(tokens))
            last = end - start - 1 if end == len(tokens) else SLICE_TOKENS
            if not self._compute(prompt, tokens[start:end], logits_from=last):
                return "cancelled"
        return None

    def _decode(
        self, prompt: _CachedPrompt, heal: bytes, max_tokens: int, run: _Run, decoding: Decoding
    ) -> FinishReason:
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
        logits = self._logits(-1)
        if noise is not None:
            logits = logits / np.float32(temperature) + noise.gumbel(size=logits.size).astype(np.float32)
        if not heal:
            return int(logits.argmax())
        allowed = np.asarray(self._heal_table.allowed(heal))
        return int(allowed[logits[allowed].argmax()]) if allowed.size else None

    def _logits(self, i: int) -> NDArray[np.float32]:
        """Return what the last computation says of the token behind its i-th, shape (vocabulary,): a view of C's."""
        return np.ctypeslib.as_array(llama.llama_get_logits_ith(self._context, i), (self._tokens.size,))

    def _compute(self, prompt: _CachedPrompt, tokens: Sequence[int], *, logits_from: int) -> bool:
        """Run the model over the next tokens of a prompt; return False where the cancel flag ended it.

        There are logits behind the tokens from the number `logits_from` on. Whatever happens, `prompt.tokens` are
        afterwards the tokens that the cache holds.
        """
        batch, start = self._batch, len(prompt.tokens)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = start + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = prompt.sequence
            batch.logits[i] = i >= logits_from
        status = llama.llama_decode(self._context, batch)
        if status == 0:
            prompt.tokens.extend(tokens)
            return True
        # Slices are whole computations: one that failed left nothing behind that counts.
        self._cut(prompt, start)
        if status == _ABORTED:
            return False
        if status == _NO_SLOT:
            raise ContextOverflowError(f"The model's context of {self._context_tokens} tokens is full: send less text.")
        raise BackendError(f"llama.cpp failed with the code {status}: see the daemon's log, then try again.")


class _Tokens:
    """A model's tokens: `pieces[id]` is a token's bytes, `is_special[id]` tells that it ends a text and is none itself.

    `stop_texts` are those of the card's stops that are no single tokens of this model.
    """

    def __init__(self, model: llama.llama_model_p, card: Card) -> None:
        self._vocab = llama.llama_model_get_vocab(model)
        self.size: int = llama.llama_vocab_n_tokens(self._vocab)
        stops = {text: self._token_of(text) for text in card.stops}
        self.stop_texts = tuple(text for text, token in stops.items() if token is None)
        markers = {marker: self._token_of(marker) for marker in fim.markers(card)}
        marker_ids = {marker: token for marker, token in markers.items() if token is not None}
        special = {*stops.values(), *marker_ids.values()}
        self.is_special = [token in special or self._has_no_text(token) for token in range(self.size)]
        # A special token has no bytes here, so that it can never heal anything.
        self.pieces = [b"" if self.is_special[token] else self._piece(token) for token in range(self.size)]
        # Between two keys only the text behind the anchor changes; tokenising the rest again takes 7 ms.
        self.vocabulary = fim.Vocabulary(lru_cache(TOKENIZED_TEXTS)(self.tokenize), self.pieces, marker_ids)

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Return the tokens of a text, in which what looks like a special token is text too unless told otherwise."""
        data = text.encode("utf-8", "replace")
        room = len(data) + 1
        tokens = (llama.llama_token * room)()
        count = llama.llama_tokenize(self._vocab, data, len(data), tokens, room, _ADD_NO_SPECIAL, parse_special)
        if count < 0:
            raise BackendError(f"The tokenizer failed on {len(data)} bytes of text: report this text.")
        return tokens[:count]

    def _token_of(self, text: str) -> int | None:
        tokens = self.tokenize(text, parse_special=True)
        return tokens[0] if len(tokens) == 1 else None

    def _has_no_text(self, token: int) -> bool:
        attributes = llama.llama_vocab_get_attr(self._vocab, token)
        return bool(attributes & _ATTRIBUTES_WITHOUT_TEXT) or llama.llama_vocab_is_eog(self._vocab, token)

    def _piece(self, token: int) -> bytes:
        room = 64
        while True:
            piece = ctypes.create_string_buffer(room)
            length: int = llama.llama_token_to_piece(self._vocab, token, piece, room, 0, _PRINT_NO_SPECIAL)
            if length >= 0:
                return piece.raw[:length]
            room = -length


@dataclass(slots=True)
class _CachedPrompt:
    """The tokens whose keys and values lie in the cache as one of llama.cpp's sequences."""

    sequence: int
    tokens: list[int] = field(default_factory=list)
    used_s: float = 0.0

    def shared(self, tokens: list[int]) -> int:
        """Return the length of the common beginning."""
        for i, (cached, token) in enumerate(zip(self.tokens, tokens, strict=False)):
            if cached != token:
                return i
        return min(len(self.tokens), len(tokens))


class _Run:
    """What one generation has done so far, and what may end it."""

    def __init__(
        self, stops: tuple[str, ...], cancel: CancelFlag, emit: Callable[[str], None], request: GenerateRequest
    ) -> None:
        self.clock = TokenClock()
        self.stream = TextStream(stops)
        self.generated = 0
        self._cancel = cancel
        self._emit = emit
        self._request = request

    def push(self, piece: bytes) -> None:
        if text := self.stream.push(piece):
            self._emit(text)

    def flush(self) -> None:
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


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# The library's last words, for the sentence of an error: it returns only a null pointer.
_last_words: deque[str] = deque(maxlen=1)


def _log_line(level: int, text: bytes, _user_data: object) -> None:
    line = text.decode("utf-8", "replace").strip()
    if not line:
        return
    log.debug("%s", line)
    if level == _LOG_LEVEL_ERROR:
        _last_words.append(line)


# Kept here, because the library keeps only its address.
_LOG_CALLBACK = llama.llama_log_callback(_log_line)


def _load_model(path: Path, card: Card) -> llama.llama_model_p:
    llama.llama_log_set(_LOG_CALLBACK, ctypes.c_void_p())  # else hundreds of lines go to stderr
    llama.llama_backend_init()
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0
    params.load_mode = llama.LLAMA_LOAD_MODE_MMAP
    _last_words.clear()
    model: llama.llama_model_p | None = llama.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        reason = _last_words[0] if _last_words else "no reason given"
        raise BackendError(f"{path} cannot be loaded ({reason}): run 'starcite models pull {card.id}' again.")
    return model


# llama.cpp's numbers for the kinds of file that are worth it: on a CPU Q4_0 and Q6_K are the quickest.
_FILE_KINDS = {"Q4_0": 2, "Q8_0": 7, "Q6_K": 18}


def quantize(source: Path, target: Path, kind: str) -> None:
    """Write a model in fewer bits: `kind` is Q4_0, Q6_K or Q8_0. Raises BackendError."""
    llama.llama_log_set(_LOG_CALLBACK, ctypes.c_void_p())
    params = llama.llama_model_quantize_default_params()
    params.ftype = _FILE_KINDS[kind]
    _last_words.clear()
    if llama.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params)):
        reason = _last_words[0] if _last_words else "no reason given"
        raise BackendError(f"{source} cannot be quantized ({reason}): is it a model in full precision?")
