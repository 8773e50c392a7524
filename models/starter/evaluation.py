"""What a model in training is measured by, on packages that it never sees.

*Bits per byte*: the text of held-out files, in windows of 1,024 tokens, without anything rearranged.
*Single-line infilling*: the daemon's prompt (`models.fim`) with the cursor at the start of a line; the generated line
is right if it is the line that stood there, white space around it aside. Greedy, and always the same lines.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.nn import functional

from models import fim
from models.protocol import FimPrompt
from models.starter.tokenizer import SPECIAL_TOKENS, pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

    from models.cards import Card
    from models.starter.tokens import Tokens

WINDOWS = 64
WINDOW_TOKENS = 1024
LINES = 128
MAX_LINE_TOKENS = 48
_BATCH = 16
_LEAST_LINE_CHARS = 4
_SEED = 7


class Evaluator:
    """The windows and lines of a held-out split."""

    def __init__(self, tokens: Tokens, tokenizer: Tokenizer, card: Card) -> None:
        """Choose them; `card` has the layout of the prompts."""
        self._tokens = tokens
        self._tokenizer = tokenizer
        self._pieces = pieces(tokenizer)
        marker_ids = {marker: SPECIAL_TOKENS.index(marker) for marker in fim.markers(card)}
        vocabulary = fim.Vocabulary(lambda text: tokenizer.encode(text).ids, self._pieces, marker_ids)
        self._lines = [(fim.render(prompt, card, vocabulary).tokens, line) for prompt, line in self._choose_lines()]

    def evaluate(self, model: PreTrainedModel) -> dict[str, Any]:
        """Return the measures of a model: `bits_per_byte`, `fim_exact` of `fim_lines`."""
        was_training = model.training
        model.eval()
        with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16):
            bits = self._bits_per_byte(model)
            exact = self._exact_lines(model)
        model.train(was_training)
        return {"bits_per_byte": round(bits, 4), "fim_exact": exact, "fim_lines": len(self._lines)}

    def _bits_per_byte(self, model: PreTrainedModel) -> float:
        ids = self._tokens.ids
        starts = np.linspace(0, max(len(ids) - WINDOW_TOKENS - 1, 0), WINDOWS, dtype=np.int64)
        nats = size = 0.0
        for start in np.unique(starts):
            window = np.asarray(ids[start : start + WINDOW_TOKENS + 1], dtype=np.int64)
            sequence = torch.from_numpy(window)[None].to(model.device)
            logits = model(input_ids=sequence[:, :-1], use_cache=False).logits[0].float()
            nats += functional.cross_entropy(logits, sequence[0, 1:], reduction="sum").item()
            size += sum(len(self._pieces[token]) for token in window[1:])
        return nats / math.log(2) / size

    def _choose_lines(self) -> list[tuple[FimPrompt, str]]:
        """Return a prompt and its line, of up to `LINES` files."""
        rng = np.random.default_rng(_SEED)
        chosen: list[tuple[FimPrompt, str]] = []
        for file in rng.permutation(len(self._tokens.paths))[: 4 * LINES]:
            first, last = self._tokens.starts[file : file + 2]
            text = self._text(self._tokens.ids[first:last])
            lines = text.split("\n")
            good = [row for row, line in enumerate(lines) if len(line.strip()) >= _LEAST_LINE_CHARS]
            if good and len(chosen) < LINES:
                row = int(rng.choice(good))
                start = sum(len(line) + 1 for line in lines[:row])
                end = start + len(lines[row])
                chosen.append((FimPrompt(prefix=text[:start], suffix=text[end:]), lines[row].strip()))
        return chosen

    def _exact_lines(self, model: PreTrainedModel) -> int:
        """Return how many of the lines are generated as they were."""
        right = 0
        for start in range(0, len(self._lines), _BATCH):
            batch = self._lines[start : start + _BATCH]
            generated = self._generate(model, [prompt for prompt, _ in batch])
            right += sum(text == line for text, (_, line) in zip(generated, batch, strict=True))
        return right

    def _generate(self, model: PreTrainedModel, prompts: list[list[int]]) -> list[str]:
        """Return the line that follows each prompt, white space around it removed."""
        longest = max(map(len, prompts))
        ids = torch.zeros((len(prompts), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        out = cast("Any", model).generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=MAX_LINE_TOKENS,
            do_sample=False,
            eos_token_id=list(range(len(SPECIAL_TOKENS))),
            pad_token_id=0,
            stopping_criteria=[self._line_is_over],
        )
        return [self._line(row[longest:].tolist()) for row in out]

    def _line_is_over(self, ids: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
        """Return for each row whether its last token ended a line."""
        return torch.tensor([b"\n" in self._pieces[token] for token in ids[:, -1].tolist()], device=ids.device)

    def _line(self, ids: list[int]) -> str:
        end = next((place for place, token in enumerate(ids) if token < len(SPECIAL_TOKENS)), len(ids))
        return self._text(ids[:end]).split("\n")[0].strip()

    def _text(self, ids: list[int] | NDArray[np.uint16]) -> str:
        return b"".join(self._pieces[token] for token in ids).decode("utf-8", "replace")
