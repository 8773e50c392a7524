"""The tokenizer: byte-level BPE with StarCoder2's special tokens.

Digits stand singly, and words are cut as GPT-2 cuts them, which llama.cpp does the same way under the name `smollm`.
Text never becomes a special token here, whatever it looks like: those enter by their ids alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from models.stream import byte_of_letter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from models.starter.corpus import Row

END = "<|endoftext|>"
FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FIM_PAD = "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"
REPO_NAME, FILE_SEPARATOR = "<repo_name>", "<file_sep>"
# The id of each is its place.
SPECIAL_TOKENS = (END, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FIM_PAD, REPO_NAME, FILE_SEPARATOR)
SAMPLE_BYTES = 64_000_000
# Longer runs, of dashes say, take several tokens: there are better uses for a place in the vocabulary.
MAX_TOKEN_CHARS = 24


def train(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Return a tokenizer of at most `vocabulary` tokens; of the same texts always the same one."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        show_progress=False,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=MAX_TOKEN_CHARS,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def sample(rows: Iterable[Row], total_bytes: int) -> Iterator[str]:
    """Yield evenly spread files of a corpus of `total_bytes`, about `SAMPLE_BYTES` of them."""
    taken = seen = 0
    for row in rows:
        seen += len(row.text)
        if taken * max(total_bytes, SAMPLE_BYTES) <= seen * SAMPLE_BYTES:
            taken += len(row.text)
            yield row.text


def load(path: Path) -> Tokenizer:
    """Return a tokenizer from its file."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True  # text that looks like one is text
    return tokenizer


def pieces(tokenizer: Tokenizer) -> list[bytes]:
    """Return the bytes of each token, empty for the special ones; joined they are the text."""
    found = [b""] * tokenizer.get_vocab_size()
    for text, token in tokenizer.get_vocab().items():
        if token >= len(SPECIAL_TOKENS):
            found[token] = bytes(byte_of_letter()[letter] for letter in text)
    return found
