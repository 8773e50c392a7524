"""torch and transformers behind `models.scheduler.Engine`: a folder of safetensors in full precision.

On a GPU the weights are bfloat16, attention is SDPA, and a step is recorded once as a CUDA graph over one cache of keys
and values whose addresses never change; other prompts than the last one are kept aside as copies. That has NOT been run
on a GPU: what the tests run, on a CPU, is the same cache without the graph. On a CPU it is float32 and a cache for each
prompt that grows with it, which is there for cards that have no GGUF file.

Nothing but safetensors is read, and no code that lies with a model is ever run. Folders whose configuration says that
they are quantized (GPTQ, AWQ) go through transformers to the library that made them; that has not been run either.
"""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, StaticCache

from models import fim
from models.errors import BackendError, ContextOverflowError
from models.generation import (
    CACHED_PROMPTS,
    CONTEXT_TOKENS,
    PROMPT_TOKENS,
    TOKENIZED_TEXTS,
    CachedPrompt,
    CachingEngine,
    usable_cores,
)
from models.stream import byte_of_letter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedConfig, PreTrainedModel

    from models.cards import Card

ARCHITECTURES = ("gpt_bigcode", "starcoder2", "qwen2", "llama")
# Tokens in one computation, behind each of which a cancelled prefill ends. The GPU's number is a guess: not measured.
CPU_SLICE_TOKENS = 64
GPU_SLICE_TOKENS = 512
MAX_THREADS = 4
# A graph is recorded at the second or third step; what is typed then must not wait for the compiler.
_WARM_UP_STEPS = 3

_Layers = list[tuple[torch.Tensor, torch.Tensor]]

log = logging.getLogger(__name__)


class Engine(CachingEngine):
    """A model in memory with the prompts it saw last. Not thread safe: one thread makes, uses and closes it."""

    def __init__(  # noqa: PLR0913  # the other backend's, and where it runs
        self,
        folder: Path,
        card: Card,
        *,
        device: str = "cpu",
        threads: int | None = None,
        context_tokens: int = CONTEXT_TOKENS,
        prompt_tokens: int = PROMPT_TOKENS,
        cached_prompts: int = CACHED_PROMPTS,
    ) -> None:
        """Load the weights, and make room for `context_tokens` of each of `cached_prompts` prompts.

        `prompt_tokens` of these are the prompt's at most, the others are generated. `device` is "cpu" or "cuda".
        Raises `BackendError` where the folder is no model that can be loaded, or the memory does not suffice.
        """
        transformers.utils.logging.disable_progress_bar()  # else it is drawn on stderr, whatever that is
        on_gpu = device == "cuda"
        self.threads = 1 if on_gpu else threads or max(1, min(usable_cores() - 1, MAX_THREADS))
        torch.set_num_threads(self.threads)
        config = _read_config(folder, card)
        window = getattr(config, "sliding_window", None) or context_tokens
        context_tokens = min(card.context_length, context_tokens, config.max_position_embeddings, window)
        tokens = _Tokens(folder, card, config)
        self._device = torch.device(device)
        self._model = _load_model(folder, card, _without_window(config), self._device)
        self._memory: _Memory = (
            FixedMemory(self._model, self._device, cached_prompts, context_tokens, compiled=True)
            if on_gpu
            else GrowingMemory(self._model, cached_prompts)
        )
        self._scores = torch.empty(0)
        self._first_scored = 0
        super().__init__(
            card,
            tokens,
            context_tokens=context_tokens,
            prompt_tokens=min(prompt_tokens, context_tokens * 3 // 4),
            cached_prompts=cached_prompts,
            slice_tokens=GPU_SLICE_TOKENS if on_gpu else CPU_SLICE_TOKENS,
        )

    def close(self) -> None:
        """Free the model; the engine cannot be used any more."""
        del self._model, self._memory, self._scores
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _compute(self, prompt: CachedPrompt, tokens: Sequence[int], *, logits_from: int) -> bool:
        start = len(prompt.tokens)
        if start + len(tokens) > self._context_tokens:
            raise ContextOverflowError(f"The model's context of {self._context_tokens} tokens is full: send less text.")
        # Of a slice without logits the last row is computed all the same: to the library 0 rows are all of them.
        rows = max(1, len(tokens) - logits_from)
        ids = torch.tensor([tokens], device=self._device)
        positions = torch.arange(start, start + len(tokens), device=self._device)[None]
        try:
            with torch.no_grad():
                self._scores = self._memory.compute(prompt.sequence, ids, positions, rows)
        except RuntimeError as error:
            # Some layers may have taken the tokens up and some not.
            self._cut(prompt, 0)
            raise _failed(error) from error
        self._first_scored = len(tokens) - rows
        prompt.tokens.extend(tokens)
        return True

    def _logits(self, i: int) -> NDArray[np.float32]:
        row = i if i < 0 else i - self._first_scored
        logits: NDArray[np.float32] = self._scores[row].float().cpu().numpy()
        return logits

    def _likeliest(self) -> int:
        # On the device, from which one number is fetched and not a vocabulary of them.
        return int(self._scores[-1].argmax())

    def _cut(self, prompt: CachedPrompt, length: int) -> None:
        self._memory.cut(prompt.sequence, length)
        del prompt.tokens[length:]


class _Memory(Protocol):
    """The keys and values of several prompts, each a sequence of its own."""

    def compute(self, sequence: int, ids: torch.Tensor, positions: torch.Tensor, rows: int) -> torch.Tensor:
        """Append tokens, ids and positions of shape (1, tokens), and return the last logits, (rows, vocabulary)."""

    def cut(self, sequence: int, length: int) -> None:
        """Forget a sequence from position `length` on."""


class GrowingMemory:
    """A cache for each prompt, as long as it is."""

    def __init__(self, model: PreTrainedModel, sequences: int) -> None:
        """Begin with empty ones."""
        self._model = model
        self._caches = [self._empty() for _ in range(sequences)]

    def compute(self, sequence: int, ids: torch.Tensor, positions: torch.Tensor, rows: int) -> torch.Tensor:
        """Append tokens, ids and positions of shape (1, tokens), and return the last logits, (rows, vocabulary)."""
        return _forward(self._model, self._caches[sequence], ids, positions, rows)

    def cut(self, sequence: int, length: int) -> None:
        """Forget a sequence from position `length` on."""
        if length == 0:  # whatever state a failure left it in
            self._caches[sequence] = self._empty()
        cache = self._caches[sequence]
        if (excess := cache.get_seq_length() - length) > 0:
            cache.crop(-excess)  # transformers 5 takes the number of tokens to remove, as a negative one

    def _empty(self) -> DynamicCache:
        return DynamicCache(config=self._model.config)


class FixedMemory:
    """One cache whose addresses never change, as a CUDA graph needs; what other prompts have in it is kept aside.

    Going to another prompt copies the keys and values of both, on the device: of a model of 3 billion parameters with
    two heads of them, 60 MB for 2,000 tokens.
    """

    def __init__(
        self, model: PreTrainedModel, device: torch.device, sequences: int, tokens: int, *, compiled: bool
    ) -> None:
        """Make room for `tokens` of one prompt; `compiled` records a step as a CUDA graph, which takes a while."""
        self._model = model
        self._cache = StaticCache(config=model.config, max_cache_len=tokens)
        # Their types are not told by the library: keys and values (1, heads, tokens, width), and a length.
        self._layers: list[Any] = self._cache.layers
        self._lengths = [0] * sequences
        self._kept: list[_Layers] = [[] for _ in range(sequences)]
        self._current = 0
        self._step: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = self._one
        if compiled:
            self._step = self._record(device)

    def compute(self, sequence: int, ids: torch.Tensor, positions: torch.Tensor, rows: int) -> torch.Tensor:
        """Append tokens, ids and positions of shape (1, tokens), and return the last logits, (rows, vocabulary)."""
        self._switch(sequence)
        if ids.shape[1] == 1:
            logits = self._step(ids, positions)
        else:
            logits = _forward(self._model, self._cache, ids, positions, rows)
        self._lengths[sequence] += ids.shape[1]
        return logits

    def cut(self, sequence: int, length: int) -> None:
        """Forget a sequence from position `length` on."""
        self._lengths[sequence] = length
        if sequence == self._current:
            self._rewind(length)

    def _one(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return _forward(self._model, self._cache, ids, positions, 1)

    def _record(self, device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        compiled = torch.compile(self._one, mode="reduce-overhead", fullgraph=True, dynamic=False)

        def step(ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            torch.compiler.cudagraph_mark_step_begin()
            return compiled(ids, positions).clone()  # the graph writes its answer to the same place again

        zero = torch.zeros((1, 1), dtype=torch.long, device=device)
        with torch.no_grad():
            self._one(zero, zero)  # not compiled: it makes the cache, whose addresses the graph then has
            for _ in range(_WARM_UP_STEPS):
                self._rewind(0)
                step(zero, zero)
        self._rewind(0)
        return step

    def _rewind(self, length: int) -> None:
        for layer in self._layers:
            layer.cumulative_length.fill_(length)

    def _switch(self, sequence: int) -> None:
        if sequence == self._current:
            return
        old, new = self._current, self._lengths[sequence]
        self._kept[old] = [
            (layer.keys[:, :, : self._lengths[old]].clone(), layer.values[:, :, : self._lengths[old]].clone())
            for layer in self._layers
            if layer.is_initialized
        ]
        for layer, (keys, values) in zip(self._layers, self._kept[sequence], strict=False):
            layer.keys[:, :, :new].copy_(keys[:, :, :new])
            layer.values[:, :, :new].copy_(values[:, :, :new])
        self._kept[sequence] = []
        self._rewind(new)
        self._current = sequence


def _forward(
    model: PreTrainedModel, cache: DynamicCache | StaticCache, ids: torch.Tensor, positions: torch.Tensor, rows: int
) -> torch.Tensor:
    """Append tokens to a cache and return the logits behind the last of them, shape (rows, vocabulary)."""
    answer = model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=rows)
    logits: torch.Tensor = answer.logits[0]
    return logits


class _Tokens:
    """The tokens of a folder's tokenizer.json; see `models.generation.Tokens`.

    Its added tokens are taken out of the tokenizer, whatever they are declared as, so that no text can become one; they
    enter by their ids alone. So is what would change the text, as Qwen's normalisation of composed letters does.
    """

    def __init__(self, folder: Path, card: Card, config: PreTrainedConfig) -> None:
        path = folder / "tokenizer.json"
        values = _read_json(path)
        try:
            added = {str(token["content"]): int(token["id"]) for token in values["added_tokens"]}
            values |= {"added_tokens": [], "normalizer": None, "post_processor": None, "padding": None}
            self._tokenizer = Tokenizer.from_str(json.dumps(values | {"truncation": None}))
        except Exception as error:  # what the library raises has no class of its own
            raise BackendError(f"{path} is no tokenizer ({error}): get the model's files again.") from error
        known = self._tokenizer.get_vocab() | added
        if max(known.values(), default=0) >= config.vocab_size:
            raise BackendError(f"{path} has more tokens than the model beside it: get both from one place.")
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        marker_ids = {marker: known[marker] for marker in fim.markers(card) if marker in known}
        special = {*added.values(), *ends, *marker_ids.values(), *(known[text] for text in card.stops if text in known)}
        self.stop_texts = tuple(text for text in card.stops if text not in known)
        self.pieces = _pieces({text: token for text, token in known.items() if token not in special}, config, path)
        self.is_special = [not piece for piece in self.pieces]
        # Between two keys only the text behind the anchor changes.
        self.vocabulary = fim.Vocabulary(lru_cache(TOKENIZED_TEXTS)(self.tokenize), self.pieces, marker_ids)

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a text, in which what looks like a special token is text too."""
        whole = text.encode("utf-8", "replace").decode()  # an editor may hold half a character
        ids: list[int] = self._tokenizer.encode(whole, add_special_tokens=False).ids
        return ids


def _pieces(tokens: dict[str, int], config: PreTrainedConfig, path: Path) -> list[bytes]:
    """Return the bytes of each token; those that no text has, and those that fill the vocabulary up, have none."""
    letters = byte_of_letter()
    pieces = [b""] * config.vocab_size
    for text, token in tokens.items():
        try:
            pieces[token] = bytes(letters[letter] for letter in text)
        except KeyError as error:
            raise BackendError(
                f"{path} is not a byte-level tokenizer (its token {text!r}): use the model's GGUF file."
            ) from error
    return pieces


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackendError(f"{path} cannot be read ({error}): get the model's files again.") from error
    if not isinstance(values, dict):
        raise BackendError(f"{path} is not a JSON object: get the model's files again.")
    return values


def _read_config(folder: Path, card: Card) -> PreTrainedConfig:
    """Return the configuration of a folder that may be loaded."""
    kind = _read_json(folder / "config.json").get("model_type")
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise BackendError(f"{folder} is a model of the kind {kind!r}, not of {known}: {card.id} needs another card.")
    if not any(folder.glob("*.safetensors")):
        raise BackendError(
            f"{folder} has no safetensors, and no other weights are read, since a pickle may run any program: "
            "save the model anew with transformers' save_pretrained."
        )
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as of the tokenizer
        raise BackendError(f"{folder}/config.json is damaged ({_line(error)}): get the model's files again.") from error
    return config


def _without_window(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return a configuration whose attention sees all: our context is never longer than its window."""
    config.sliding_window = None
    if getattr(config, "layer_types", None):
        config.layer_types = ["full_attention"] * config.num_hidden_layers
    return config


def _load_model(folder: Path, card: Card, config: PreTrainedConfig, device: torch.device) -> PreTrainedModel:
    """Return the model; a weight that is missing is an error, where the library would draw a random one."""
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        model: PreTrainedModel = loaded[0].to(device).eval()
    except Exception as error:  # what it raises depends on what the damaged bytes happen to say
        if isinstance(error, torch.OutOfMemoryError):
            raise _failed(error) from error
        raise BackendError(f"{folder} cannot be loaded ({_line(error)}): get the files of {card.id} again.") from error
    wrong = sorted(map(str, [*loaded[1]["missing_keys"], *loaded[1]["mismatched_keys"]]))
    if wrong:
        raise BackendError(
            f"{folder} cannot be loaded ({len(wrong)} weights are missing, such as {wrong[0]}): "
            f"get the files of {card.id} again."
        )
    return model


def _failed(error: RuntimeError) -> BackendError:
    if isinstance(error, torch.OutOfMemoryError):
        return BackendError("The GPU's memory does not suffice: end what else uses it, or use a smaller model.")
    return BackendError(f"torch failed ({_line(error)}): see the daemon's log, then try again.")


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
