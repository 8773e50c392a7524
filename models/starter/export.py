"""Trained weights to files: safetensors for transformers, GGUF for llama.cpp, and its quantizations.

The only file that knows the gguf package. The names of tensors and keys are llama.cpp's for `starcoder2`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import gguf
import torch
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from models import backend_llama
from models.starter.tokenizer import (
    END,
    FILE_SEPARATOR,
    FIM_MIDDLE,
    FIM_PAD,
    FIM_PREFIX,
    FIM_SUFFIX,
    REPO_NAME,
    SPECIAL_TOKENS,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

ARCHITECTURE = "starcoder2"
# `starcoder` cuts words alike, but llama.cpp then takes spaces away before punctuation when it puts tokens together.
PRE_TOKENIZER = "smollm"
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}


def save_transformers(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write safetensors, configuration and tokenizer, as `transformers` loads them from a folder."""
    logging.disable_progress_bar()  # else it is drawn on stderr, whatever that is
    model.save_pretrained(folder)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=FIM_PAD,
        extra_special_tokens=[text for text in SPECIAL_TOKENS if text not in {END, FIM_PAD}],
        model_max_length=model.config.max_position_embeddings,
    )
    fast.save_pretrained(folder)


def write_gguf(model: PreTrainedModel, tokenizer: Tokenizer, name: str, path: Path) -> None:
    """Write weights and tokenizer in full precision (F32)."""
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    try:
        _add_facts(writer, model, name)
        _add_tokenizer(writer, tokenizer, model.config.vocab_size)
        for tensor_name, values in _tensors(model):
            writer.add_tensor(tensor_name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def quantize(source: Path, kind: str) -> Path:
    """Write `source`, a file in full precision named `<name>-f32.gguf`, beside it in another kind, such as Q8_0."""
    target = source.with_name(source.name.replace("-f32.gguf", f"-{kind.lower()}.gguf"))
    new = target.with_name(f".{target.name}.new")
    backend_llama.quantize(source, new, kind)
    new.replace(target)
    return target


def _add_facts(writer: gguf.GGUFWriter, model: PreTrainedModel, name: str) -> None:
    config = model.config
    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_eps(config.norm_epsilon)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer, size: int) -> None:
    """Add the vocabulary, filled up to `size` with tokens that are never used, and the merges."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [text for text, _ in vocabulary]
    unused = [f"<unused_{number}>" for number in range(size - len(tokens))]
    special, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    types = [special if text in SPECIAL_TOKENS else normal for text in tokens] + [gguf.TokenType.UNUSED] * len(unused)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens + unused)
    writer.add_token_types(types)
    writer.add_token_merges(_merges(tokenizer))
    writer.add_bos_token_id(SPECIAL_TOKENS.index(END))
    writer.add_eos_token_id(SPECIAL_TOKENS.index(END))
    writer.add_add_bos_token(value=False)
    for key, text in (
        ("pre", FIM_PREFIX),
        ("suf", FIM_SUFFIX),
        ("mid", FIM_MIDDLE),
        ("pad", FIM_PAD),
        ("rep", REPO_NAME),
        ("sep", FILE_SEPARATOR),
    ):
        writer.add_uint32(f"tokenizer.ggml.fim_{key}_token_id", SPECIAL_TOKENS.index(text))


def _merges(tokenizer: Tokenizer) -> list[str]:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the weights under llama.cpp's names; the output's are the embedding's, and are left out."""
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        stem, _, kind = name.rpartition(".")
        if stem.startswith("model.layers."):
            _, _, number, inner = stem.split(".", 3)
            stem = f"blk.{number}.{_LAYER_NAMES[inner]}"
        else:
            stem = _NAMES[stem]
        yield f"{stem}.{kind}", weight.detach().to("cpu", torch.float32).numpy()
