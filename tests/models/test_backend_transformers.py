"""The backend for safetensors, on the CPU with tiny models: what it says is what transformers says, and llama.cpp."""

from __future__ import annotations

import json
import shutil
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPTBigCodeConfig,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Starcoder2Config,
)

from models import backend_llama, fim, generation
from models.backend_transformers import Engine, FixedMemory
from models.errors import BackendError, ContextOverflowError
from models.protocol import Done, FimPrompt, GenerateRequest
from models.scheduler import CancelFlag
from models.starter import card as starter_card
from models.starter import sizes, tokenizer
from models.starter.export import save_transformers, write_gguf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from models.cards import Card

VOCABULARY = 512
SHAPE: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
WIDE: dict[str, Any] = SHAPE | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.3,  # so that the likeliest token is likelier than the next by far
}
BIG_CODE: dict[str, Any] = SHAPE | {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 2048}
CONFIGS = {
    "gpt_bigcode": GPTBigCodeConfig(**BIG_CODE, multi_query=True, initializer_range=0.3),
    "gpt_bigcode of many heads": GPTBigCodeConfig(**BIG_CODE, multi_query=False, initializer_range=0.3),
    "starcoder2": Starcoder2Config(**WIDE, sliding_window=1024),
    "qwen2": Qwen2Config(**WIDE, use_sliding_window=True, sliding_window=1024, max_window_layers=1),
    "llama": LlamaConfig(**WIDE),
}
LIBRARY = Path(sysconfig.get_path("stdlib"))
CODE = (LIBRARY / "textwrap.py").read_text()
PREFIX, SUFFIX = CODE[:2500] + "\n    re", CODE[2600:3000]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def words() -> tokenizer.Tokenizer:
    """Train a tokenizer on a module of the standard library."""
    return tokenizer.train([CODE], VOCABULARY)


@pytest.fixture(scope="module")
def card() -> Card:
    """Return a card with the markers of that tokenizer."""
    return starter_card.draft(sizes.size_of("tiny"), "unknown", 1)


@pytest.fixture(scope="module")
def folder_of(words: tokenizer.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return what gives the folder of a model of an architecture, with random weights that are always the same."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            torch.manual_seed(7)
            made[name] = tmp_path_factory.mktemp("model")
            save_transformers(AutoModelForCausalLM.from_config(CONFIGS[name]), words, made[name])
        return made[name]

    return make


@pytest.fixture(scope="module")
def engine(folder_of: Callable[[str], Path], card: Card) -> Iterator[Engine]:
    """Load a model of StarCoder2's kind, for all tests that only generate with it."""
    loaded = Engine(folder_of("starcoder2"), card, threads=1, prompt_tokens=768, cached_prompts=3)
    yield loaded
    loaded.close()


def generate(
    engine: generation.CachingEngine, prefix: str, suffix: str = SUFFIX, **options: object
) -> tuple[str, Done]:
    """Return the text of a generation that nothing interrupts, and its end."""
    options = {"max_tokens": 16, "time_limit_ms": 60_000.0} | options
    texts: list[str] = []
    request = GenerateRequest(FimPrompt(prefix, suffix), **options)  # type: ignore[arg-type]
    done = engine.generate(request, CancelFlag(), texts.append)
    assert all(texts), "an empty delta"
    return "".join(texts), done


def prompt_of(engine: Engine, prefix: str) -> fim.Rendered:
    """Return the prompt that an engine makes of a text."""
    limits = fim.Limits(prompt_tokens=engine._prompt_tokens, generate_tokens=16)
    return fim.render(FimPrompt(prefix, SUFFIX), engine._card, engine._tokens.vocabulary, limits)


def generated_by_transformers(folder: Path, tokens: list[int], count: int) -> list[int]:
    """Return the tokens that transformers' own greedy generation puts behind a prompt."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([tokens])
    found = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, pad_token_id=4
    )
    return [int(token) for token in found[0, len(tokens) :]]


def text_of(engine: Engine, tokens: list[int]) -> str:
    """Return the text of tokens up to the first special one."""
    ends = [place for place, token in enumerate(tokens) if engine._tokens.is_special[token]]
    kept = tokens[: ends[0]] if ends else tokens
    return b"".join(engine._tokens.pieces[token] for token in kept).decode("utf-8", "ignore")


@pytest.mark.parametrize("name", CONFIGS)
def test_it_says_what_transformers_says(name: str, folder_of: Callable[[str], Path], card: Card) -> None:
    """Of every architecture, behind a prompt of several slices, the text is that of `generate`, token for token."""
    engine = Engine(folder_of(name), card, threads=1, cached_prompts=1)
    rendered = prompt_of(engine, CODE[:2500] + "\n")
    assert rendered.heal == b""
    assert len(rendered.tokens) > 2 * engine._slice_tokens
    text, done = generate(engine, CODE[:2500] + "\n")
    assert done.tokens.prompt == len(rendered.tokens)
    assert text == text_of(engine, generated_by_transformers(folder_of(name), rendered.tokens, 16))
    assert text
    assert 0 < done.timings_ms["prefill"] <= done.timings_ms["time_to_first_token"]
    engine.close()


def test_it_says_what_llama_cpp_says(words: tokenizer.Tokenizer, card: Card, tmp_path: Path) -> None:
    """The same weights as a GGUF file in full precision give the same text at the start, wherever it is asked for."""
    config = Starcoder2Config(**WIDE | {"hidden_size": 256, "num_hidden_layers": 1, "num_key_value_heads": 1})
    torch.manual_seed(7)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    save_transformers(model, words, tmp_path)
    write_gguf(model, words, "test", tmp_path / "test-f32.gguf")
    ours = Engine(tmp_path, card, threads=1)
    theirs = backend_llama.Engine(tmp_path / "test-f32.gguf", card, threads=1)
    assert list(ours._tokens.pieces) == list(theirs._tokens.pieces)
    assert list(ours._tokens.is_special) == list(theirs._tokens.is_special)
    for end in (300, 700, 1200, 1900, 2500):
        assert generate(ours, CODE[:end], max_tokens=4)[0] == generate(theirs, CODE[:end], max_tokens=4)[0]
    ours.close()
    theirs.close()


def test_reuse_changes_nothing(engine: Engine, folder_of: Callable[[str], Path], card: Card) -> None:
    """What is said with a cache that was cut, left and come back to is what a fresh engine says."""
    prefixes = [PREFIX, PREFIX + "t", PREFIX + "turn ", CODE[900:2900], PREFIX + "turn x", CODE[5000:7000], PREFIX]
    reused = [generate(engine, prefix) for prefix in prefixes]
    assert reused[-1][1].tokens.prompt_reused == reused[-1][1].tokens.prompt - 1
    assert reused[1][1].tokens.prompt - reused[1][1].tokens.prompt_reused <= 8
    for prefix, (text, _) in zip(prefixes, reused, strict=True):
        fresh = Engine(folder_of("starcoder2"), card, threads=1, prompt_tokens=768, cached_prompts=1)
        assert generate(fresh, prefix)[0] == text
        fresh.close()


def test_the_fixed_cache_of_a_gpu_says_the_same(engine: Engine, folder_of: Callable[[str], Path], card: Card) -> None:
    """Without its graph: one cache, whose other prompts are kept aside, gives the text of caches that grow."""
    fixed = Engine(folder_of("starcoder2"), card, threads=1, prompt_tokens=768, cached_prompts=3)
    fixed._memory = FixedMemory(fixed._model, fixed._device, 3, fixed._context_tokens, compiled=False)
    addresses = None
    for prefix in (PREFIX, CODE[900:2900], PREFIX + "t", CODE[5000:7000], CODE[900:2900], PREFIX):
        text, done = generate(fixed, prefix)
        assert text == generate(engine, prefix)[0]
        layer = fixed._memory._layers[0]
        addresses = addresses or (layer.keys.data_ptr(), layer.values.data_ptr(), layer.cumulative_length.data_ptr())
        assert addresses == (layer.keys.data_ptr(), layer.values.data_ptr(), layer.cumulative_length.data_ptr())
    assert done.tokens.prompt_reused == done.tokens.prompt - 1
    fixed.close()


@pytest.mark.skipif(not shutil.which("c++"), reason="torch compiles with the system's compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_a_recorded_step_says_the_same(engine: Engine, folder_of: Callable[[str], Path], card: Card) -> None:
    """The step of a GPU compiles as one graph, on a CPU without CUDA's recording, also after other prompts came."""
    fixed = Engine(folder_of("starcoder2"), card, threads=1, prompt_tokens=768, cached_prompts=3)
    fixed._memory = FixedMemory(fixed._model, fixed._device, 3, fixed._context_tokens, compiled=True)
    for prefix in (PREFIX, CODE[900:2900], PREFIX + "t"):
        assert generate(fixed, prefix)[0] == generate(engine, prefix)[0]
    fixed.close()


def test_healing(engine: Engine) -> None:
    """In the middle of a word what comes agrees with what was typed, which is not said again."""
    rendered = prompt_of(engine, PREFIX)
    assert rendered.heal
    text, done = generate(engine, PREFIX, max_tokens=8)
    prompt = next(cached for cached in engine._prompts if cached.tokens[: len(rendered.tokens)] == rendered.tokens)
    said = b"".join(engine._tokens.pieces[token] for token in prompt.tokens[len(rendered.tokens) :])
    assert said.startswith(rendered.heal)
    # The last token is said and never computed, and half a character is left out.
    assert (rendered.heal.decode() + text).startswith(said.decode("utf-8", "ignore"))
    assert done.tokens.generated == 8


def test_stops_and_limits(engine: Engine) -> None:
    """The text ends before a stop string, at the token limit, and at the time limit with what is there."""
    whole, done = generate(engine, PREFIX)
    assert (done.finish_reason, done.tokens.generated) == ("length", 16)
    stop = whole[3:5]
    text, done = generate(engine, PREFIX, stop=(stop,))
    assert (text, done.finish_reason) == (whole[: whole.index(stop)], "stop")
    _, done = generate(engine, PREFIX, max_tokens=10_000, time_limit_ms=0)
    assert (done.finish_reason, done.tokens.generated) == ("time", 1)
    text, done = generate(engine, PREFIX, max_tokens=0)
    assert (text, done.finish_reason, done.tokens.generated) == ("", "length", 0)


def test_a_cancelled_prefill_ends_behind_its_slice(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag set during the second slice ends the prefill there; the request after it goes on from what is cached."""
    flag, slices = CancelFlag(), []
    compute = engine._memory.compute

    def watched(sequence: int, ids: torch.Tensor, positions: torch.Tensor, rows: int) -> torch.Tensor:
        slices.append(ids.shape[1])
        if len(slices) == 2:
            flag.set()
        return compute(sequence, ids, positions, rows)

    prefix = "# another file\n" + CODE[8000:11000]
    with monkeypatch.context() as patch:
        patch.setattr(engine._memory, "compute", watched)
        done = engine.generate(GenerateRequest(FimPrompt(prefix, "")), flag, pytest.fail)
    assert (done.finish_reason, done.tokens.generated) == ("cancelled", 0)
    assert slices == [engine._slice_tokens] * 2
    _, later = generate(engine, prefix, "", max_tokens=1)
    assert later.tokens.prompt_reused == done.tokens.prompt_reused + sum(slices)


def test_a_cancelled_generation_ends_behind_its_token(engine: Engine) -> None:
    """What was said until then stands."""
    flag = CancelFlag()
    request = GenerateRequest(FimPrompt(PREFIX, SUFFIX), max_tokens=500, time_limit_ms=60_000.0)
    done = engine.generate(request, flag, lambda _text: flag.set())
    assert done.finish_reason == "cancelled"
    assert 0 < done.tokens.generated < 20


def test_text_never_becomes_a_marker(engine: Engine, words: tokenizer.Tokenizer) -> None:
    """What looks like a marker is cut into letters, and every text comes back from the bytes of its tokens."""
    for text in ("<fim_middle>x<|endoftext|>", CODE, "e\u0301 \u00e9 日本 🎉\t\r\n", "half \ud83c"):
        tokens = engine._tokens.tokenize(text)
        assert not any(engine._tokens.is_special[token] for token in tokens)
        assert b"".join(engine._tokens.pieces[token] for token in tokens) == text.encode("utf-8", "replace")
    assert engine._tokens.vocabulary.marker_ids["<fim_middle>"] == words.token_to_id("<fim_middle>")


def test_tokens_that_a_tokenizer_adds_are_no_text(folder_of: Callable[[str], Path], card: Card, tmp_path: Path) -> None:
    """As in Qwen's vocabulary: a marker that is added as an ordinary token is never made of text."""
    folder = changed(folder_of("starcoder2"), tmp_path, "tokenizer.json", declare_as_text)
    engine = Engine(folder, card, threads=1, cached_prompts=1)
    assert not any(engine._tokens.is_special[token] for token in engine._tokens.tokenize("<fim_middle><tool>"))
    assert engine.cut("e\u0301<tool>", 99) == "e\u0301<tool>"
    engine.close()


def declare_as_text(values: dict[str, Any]) -> None:
    """Declare all markers as ordinary tokens, and have letters composed."""
    for token in values["added_tokens"]:
        token["special"] = False
    values["normalizer"] = {"type": "NFC"}


def changed(folder: Path, target: Path, name: str, change: Callable[[Any], object]) -> Path:
    """Return a copy of a folder in which a file of JSON was changed."""
    if target != folder:
        shutil.copytree(folder, target, dirs_exist_ok=True)
    values = json.loads((target / name).read_text())
    change(values)
    (target / name).write_text(json.dumps(values))
    return target


def test_a_context_that_is_full(folder_of: Callable[[str], Path], card: Card) -> None:
    """No window and no card is exceeded: what is generated is bounded, and a text that cannot be scored is refused."""
    engine = Engine(folder_of("qwen2"), replace(card, context_length=512), threads=1, cached_prompts=1)
    _, done = generate(engine, CODE, max_tokens=4096)
    assert done.tokens.prompt <= 384
    assert done.tokens.prompt + done.tokens.generated <= 512
    with pytest.raises(ContextOverflowError, match="send less text"):
        engine._compute(engine._prompts[0], [9] * 513, logits_from=0)
    with pytest.raises(ContextOverflowError, match="cut it into parts"):
        engine.log_probabilities("x", CODE)
    assert generate(engine, CODE[:500])[0]
    engine.close()
    windowed = Engine(folder_of("starcoder2"), card, threads=1, cached_prompts=1)
    assert windowed._context_tokens == 1024  # its window, not the 2,048 of card and model
    windowed.close()


def test_probabilities_are_those_of_the_model(engine: Engine, folder_of: Callable[[str], Path]) -> None:
    """Over several slices, each is the softmax of the logits that transformers gives."""
    context, text = CODE[:200], CODE[200:900]
    found = engine.log_probabilities(context, text)
    tokens = [*engine._tokens.tokenize(context), *engine._tokens.tokenize(text)]
    model: Any = AutoModelForCausalLM.from_pretrained(folder_of("starcoder2"), dtype=torch.float32)
    with torch.inference_mode():
        wanted = model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
    first = len(tokens) - len(found)
    expected = [float(wanted[place - 1, tokens[place]]) for place in range(first, len(tokens))]
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("error", "says"),
    [(RuntimeError("boom\nand more"), r"torch failed \(boom\)"), (torch.OutOfMemoryError("x"), "use a smaller model")],
)
def test_a_failure_of_the_library(engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str) -> None:
    """It is a typed error that says what to do, after which the engine answers as before."""
    wanted = generate(engine, PREFIX)[0]

    def fail(*_: object) -> torch.Tensor:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(engine._memory, "compute", fail)
        with pytest.raises(BackendError, match=says):
            generate(engine, PREFIX)
    text, done = generate(engine, PREFIX)
    assert text == wanted
    assert done.tokens.prompt_reused <= 1  # all prompts begin with the same marker


def drop_weight(folder: Path) -> None:
    """Take one weight away, where transformers would draw a random one."""
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.c_fc.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def as_pickle(folder: Path) -> None:
    """Put the weights into a pickle."""
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle": (as_pickle, "no safetensors, and no other weights are read"),
    "cut off": (lambda folder: (folder / "model.safetensors").write_bytes(b"\x10\0\0"), "cannot be loaded"),
    "a weight is missing": (drop_weight, r"1 weights are missing, such as model\.layers\.1\.mlp\.c_fc\.weight"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), r"config\.json cannot be read"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("[1"), r"config\.json cannot be read"),
    "no object": (lambda folder: (folder / "config.json").write_text("[]"), "is not a JSON object"),
    "another kind": (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "the kind 'bert'"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json cannot be read"),
    "half a tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "is no tokenizer"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_folders(name: str, folder_of: Callable[[str], Path], card: Card, tmp_path: Path) -> None:
    """What is wrong or damaged is an error that names it and says what to do; nothing of a pickle is read."""
    folder = tmp_path / "model"
    shutil.copytree(folder_of("starcoder2"), folder)
    damage, says = DAMAGES[name]
    damage(folder)
    with pytest.raises(BackendError, match=says):
        Engine(folder, card, threads=1)


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("config.json", {"vocab_size": 100}, "more tokens than the model"),
        ("config.json", {"hidden_size": 32}, "weights are missing|cannot be loaded"),
        ("config.json", {"vocab_size": "many"}, r"config\.json is damaged"),
    ],
)
def test_files_that_do_not_belong_together(
    file: str, change: dict[str, Any], says: str, folder_of: Callable[[str], Path], card: Card, tmp_path: Path
) -> None:
    """A configuration of another model is an error and no nonsense."""
    folder = changed(folder_of("starcoder2"), tmp_path, file, lambda values: values.update(change))
    with pytest.raises(BackendError, match=says):
        Engine(folder, card, threads=1)


def test_a_tokenizer_of_other_letters(folder_of: Callable[[str], Path], card: Card, tmp_path: Path) -> None:
    """A vocabulary in which a space is no byte, as SentencePiece's, is refused: its bytes cannot be told."""

    def spell(values: dict[str, Any]) -> None:
        values["model"]["vocab"]["▁the"] = len(values["model"]["vocab"])

    folder = changed(folder_of("starcoder2"), tmp_path, "tokenizer.json", spell)
    changed(folder, folder, "config.json", lambda values: values.update(vocab_size=VOCABULARY + 1))
    with pytest.raises(BackendError, match="use the model's GGUF file"):
        Engine(folder, card, threads=1)


def test_no_code_of_a_folder_is_run(folder_of: Callable[[str], Path], card: Card, tmp_path: Path) -> None:
    """A configuration that names code beside it is read without that code."""
    names = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    folder = changed(folder_of("llama"), tmp_path, "config.json", lambda values: values.update(auto_map=names))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    Engine(folder, card, threads=1).close()
    assert not (tmp_path / "ran").exists()


def test_a_stop_that_is_no_token(folder_of: Callable[[str], Path], card: Card) -> None:
    """It is looked for in the text."""
    engine = Engine(folder_of("llama"), replace(card, stops=(*card.stops, "<|end|>")), threads=1, cached_prompts=1)
    assert engine._tokens.stop_texts == ("<|end|>",)
    engine.close()
