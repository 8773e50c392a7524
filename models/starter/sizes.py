"""The sizes of the starter model, and the one architecture that they share.

StarCoder2 with a single head of keys and values. GPTBigCode, whose heads also share keys and values, generated 25 to 30
per cent faster than the StarCoder2 that it was compared with; what makes the difference is the sharing, and StarCoder2
can have that too. What it adds are rotary positions: a cached prompt can be shifted, and the context is no table of
learned positions. All widths are multiples of 256, so that every quantization has whole blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.starter.errors import TrainingError

if TYPE_CHECKING:
    from transformers import Starcoder2Config

CONTEXT_TOKENS = 2048
HEAD_WIDTH = 64


@dataclass(frozen=True, slots=True)
class Size:
    """A model's shape, and how it is trained unless told otherwise.

    A step sees `step_tokens`, `micro_tokens` of them at once on each device, in sequences of `sequence_tokens`, and
    of `CONTEXT_TOKENS` when the rate decays: on a CPU, attention over 2,048 tokens costs a fifth of the speed, and a
    fifth of the run suffices to learn the farther positions. `tokens` is the budget. `compiled`: torch.compile pays
    for itself (measured on two cores, 9 million parameters: 1.2 times as many tokens a second; on a GPU always).
    `file_kind` is the quantization that the card binds: Q6_K loses next to nothing, Q4_0 where a file is to stay
    small.
    """

    name: str
    vocabulary: int
    width: int
    inner: int
    layers: int
    sequence_tokens: int
    micro_tokens: int
    step_tokens: int
    learning_rate: float
    warmup_steps: int
    tokens: int
    compiled: bool
    file_kind: str


SIZES = {
    size.name: size
    for size in (
        # For rehearsals and tests: everything that the others do, in seconds.
        Size("tiny", 1024, 256, 512, 2, 128, 2048, 2048, 3e-3, 10, 500_000, compiled=False, file_kind="Q6_K"),
        # What two CPU cores train in hours.
        Size("seedling", 8192, 256, 1024, 10, 1024, 8192, 8192, 2e-3, 200, 40_000_000, compiled=True, file_kind="Q6_K"),
        # What one GPU of a data centre trains in half an hour, and what fits into 60 MB as Q4_0.
        Size(
            "starter",
            16384,
            768,
            3072,
            14,
            2048,
            65_536,
            262_144,
            1.5e-3,
            100,
            500_000_000,
            compiled=True,
            file_kind="Q4_0",
        ),
    )
}


def size_of(name: str) -> Size:
    """Return a size by its name. Raises TrainingError."""
    if name not in SIZES:
        raise TrainingError(f"There is no size '{name}'; choose one of {', '.join(SIZES)}.")
    return SIZES[name]


def architecture(size: Size) -> Starcoder2Config:
    """Return the shape as transformers knows it."""
    from transformers import Starcoder2Config  # noqa: PLC0415  # seconds, and only training needs it

    return Starcoder2Config(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.width // HEAD_WIDTH,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=0.02,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        sliding_window=None,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=True,
    )
