"""llama.cpp behind `models.scheduler.Engine`: the only file that knows llama_cpp, its low-level interface throughout.

What is set here and not left to defaults was measured on a CPU: flash attention off (an increment of 16 tokens on a
context of 1,500 takes half the time), f16 cache (quantized ones make the prefill 3-6 times slower), fewer threads than
cores (with one other busy process, as many threads as cores were up to 40 times slower), a cancel flag that C reads.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING

import llama_cpp.llama_cpp as llama
import numpy as np

from models import fim
from models.errors import BackendError, ContextOverflowError
from models.generation import (
    CACHED_PROMPTS,
    CONTEXT_TOKENS,
    GREEDY,
    PROMPT_TOKENS,
    TOKENIZED_TEXTS,
    CachedPrompt,
    CachingEngine,
    Decoding,
    usable_cores,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from models.cards import Card
    from models.protocol import Done, GenerateRequest
    from models.scheduler import CancelFlag

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


class Engine(CachingEngine):
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
        cores = usable_cores()
        self.threads = threads or max(1, min(cores - 1, MAX_DECODE_THREADS))
        prefill_threads = threads or max(1, min(cores - 1, MAX_PREFILL_THREADS))
        self._model = _load_model(path, card)
        context_tokens = min(card.context_length, context_tokens)
        self._context = self._new_context(context_tokens, cached_prompts, prefill_threads)
        self._memory = llama.llama_get_memory(self._context)
        self._batch = llama.llama_batch_init(SLICE_TOKENS, 0, 1)
        self._strlen = ctypes.cast(ctypes.CDLL(None).strlen, llama.ggml_abort_callback)
        super().__init__(
            card,
            _Tokens(self._model, card),
            context_tokens=context_tokens,
            prompt_tokens=min(prompt_tokens, context_tokens * 3 // 4),
            cached_prompts=cached_prompts,
            slice_tokens=SLICE_TOKENS,
        )

    def close(self) -> None:
        """Free the model; the engine cannot be used any more."""
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._context)
        llama.llama_model_free(self._model)

    def generate(
        self, request: GenerateRequest, cancel: CancelFlag, emit: Callable[[str], None], decoding: Decoding = GREEDY
    ) -> Done:
        """Generate as every engine does; the flag ends a computation too, and not only the next one."""
        llama.llama_set_abort_callback(self._context, self._strlen, ctypes.c_void_p(cancel.address))
        try:
            return super().generate(request, cancel, emit, decoding)
        finally:
            # The flag's memory goes with the job; nothing may read it after this.
            llama.llama_set_abort_callback(self._context, llama.ggml_abort_callback(), None)

    def _new_context(self, context_tokens: int, cached_prompts: int, prefill_threads: int) -> llama.llama_context_p:
        params = llama.llama_context_default_params()
        params.n_ctx = context_tokens * cached_prompts
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

    def _cut(self, prompt: CachedPrompt, length: int) -> None:
        if not llama.llama_memory_seq_rm(self._memory, prompt.sequence, length, -1):
            llama.llama_memory_seq_rm(self._memory, prompt.sequence, -1, -1)
            length = 0
        del prompt.tokens[length:]

    def _logits(self, i: int) -> NDArray[np.float32]:
        # A view of C's, valid until the next computation.
        return np.ctypeslib.as_array(llama.llama_get_logits_ith(self._context, i), (len(self._tokens.pieces),))

    def _compute(self, prompt: CachedPrompt, tokens: Sequence[int], *, logits_from: int) -> bool:
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
