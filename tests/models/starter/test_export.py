"""The same weights in transformers and in llama.cpp, and a card by which the daemon loads them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lsp_server.cli import main
from models import fim
from models.backend_llama import Engine, _load_model, quantize
from models.cards import read_card
from models.errors import BackendError
from models.protocol import FimPrompt, GenerateRequest
from models.scheduler import CancelFlag
from models.starter import tokenizer
from models.starter.corpus import open_corpus, rows
from models.starter.tokenizer import SPECIAL_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from models.starter.run import Report

pytestmark = pytest.mark.slow  # a model is trained first

CODE = (
    'def total(values, start=0):\n    """Sum — über alles: 1234."""\n    return sum(values) + start\t# <fim_middle>\r\n'
)


class Llama:
    """A file in llama.cpp, whose cache is in full precision."""

    def __init__(self, path: Path, card_path: Path) -> None:
        """Load it."""
        self._model = _load_model(path, read_card(card_path))
        params = llama.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 1024
        params.type_k = params.type_v = llama.GGML_TYPE_F32
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.n_threads = params.n_threads_batch = 1
        self._context = llama.llama_init_from_model(self._model, params)
        self.vocab = llama.llama_model_get_vocab(self._model)

    def close(self) -> None:
        """Free it."""
        llama.llama_free(self._context)
        llama.llama_model_free(self._model)

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        data = text.encode()
        room = (llama.llama_token * (len(data) + 1))()
        return room[: llama.llama_tokenize(self.vocab, data, len(data), room, len(data) + 1, False, False)]  # noqa: FBT003

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        """Return the logits behind each token, of shape (tokens, vocabulary)."""
        llama.llama_memory_clear(llama.llama_get_memory(self._context), True)  # noqa: FBT003
        batch = llama.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place], batch.pos[place], batch.n_seq_id[place] = token, place, 1
            batch.seq_id[place][0], batch.logits[place] = 0, 1
        assert llama.llama_decode(self._context, batch) == 0
        llama.llama_batch_free(batch)
        shape = (len(tokens), llama.llama_vocab_n_tokens(self.vocab))
        return np.ctypeslib.as_array(llama.llama_get_logits(self._context), shape).copy()


@pytest.fixture(scope="module")
def full(trained: tuple[Path, Report]) -> Iterator[Llama]:
    """Load the model in full precision."""
    loaded = Llama(trained[0] / "tiny-f32.gguf", trained[0] / "tiny.toml")
    yield loaded
    loaded.close()


def prompts(corpus: Path, count: int) -> list[tuple[str, str]]:
    """Return what stands before and behind places in the middle of long lines of the held-out files."""
    found = []
    for row in rows(open_corpus(corpus), "heldout"):
        starts = [0, *(at + 1 for at, letter in enumerate(row.text) if letter == "\n")]
        ends = [(start, row.text.find("\n", start)) for start in starts[20::7]]
        found += [(row.text[: (a + b) // 2], row.text[b:]) for a, b in ends if b - a > 30]
    return found[:count]


def test_both_libraries_have_the_same_tokens(trained: tuple[Path, Report], full: Llama, corpus: Path) -> None:
    """Files and awkward text are cut alike by transformers and llama.cpp, and the pieces are the bytes."""
    ours = tokenizer.load(trained[0] / "tokenizer.json")
    table = tokenizer.pieces(ours)
    for text in (CODE, *(row.text for row in rows(open_corpus(corpus), "heldout"))):
        ids = ours.encode(text).ids
        assert full.tokens(text) == ids
        assert b"".join(table[token] for token in ids) == text.encode()
    theirs = AutoTokenizer.from_pretrained(trained[0] / "transformers")
    assert theirs(CODE.replace("<fim_middle>", ""))["input_ids"] == ours.encode(CODE.replace("<fim_middle>", "")).ids
    assert theirs.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))


def test_the_logits_agree(trained: tuple[Path, Report], full: Llama) -> None:
    """On 400 tokens, special ones among them, no logit differs by more than a thousandth."""
    model = AutoModelForCausalLM.from_pretrained(trained[0] / "transformers", dtype=torch.float32)
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size - 1, 400).tolist()
    with torch.inference_mode():
        wanted = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    found = full.logits(ids)
    assert np.abs(wanted).max() > 1
    assert np.abs(found - wanted).max() < 1e-3


def generated(path: Path, card_path: Path, wanted: list[tuple[str, str]]) -> list[str]:
    """Return the line that the daemon's engine completes each prompt with."""
    engine = Engine(path, read_card(card_path), threads=1)
    try:
        lines = []
        for prefix, suffix in wanted:
            parts: list[str] = []
            request = GenerateRequest(FimPrompt(prefix, suffix), max_tokens=16, stop=("\n",))
            engine.generate(request, CancelFlag(), parts.append)
            lines.append("".join(parts))
        return lines
    finally:
        engine.close()


def test_greedy_lines_survive_quantization(trained: tuple[Path, Report], corpus: Path) -> None:
    """Of 60 lines at least 95 in 100 are the same from Q8_0 as in full precision, and most are not empty."""
    out, wanted = trained[0], prompts(corpus, 60)
    whole = generated(out / "tiny-f32.gguf", out / "tiny.toml", wanted)
    small = generated(out / "tiny-q8_0.gguf", out / "tiny.toml", wanted)
    assert sum(map(bool, whole)) > 20
    assert sum(one == two for one, two in zip(whole, small, strict=True)) >= 57


def test_the_card_is_a_card(trained: tuple[Path, Report]) -> None:
    """It names the corpus, has the markers of the daemon's prompts, and binds a file that lies beside it."""
    out, report = trained
    assert report.card == out / "tiny.toml"
    card = read_card(out / "tiny.toml")
    assert (card.id, card.corpus, card.context_length) == ("tiny", "index of test-corpus", 2048)
    assert set(fim.markers(card)) <= set(SPECIAL_TOKENS)
    assert card.files[0].bytes == (out / card.files[0].name).stat().st_size
    assert "test-corpus" in card.notes


def test_a_trained_model_is_taken_up(
    trained: tuple[Path, Report], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`models add` puts card and weights where `models list` and the daemon find them, and again after a retraining."""
    for _ in range(2):
        assert main(["models", "add", str(trained[0] / "tiny.toml"), "--json"]) == 0
        weights = home / "models" / "tiny" / "tiny-q6_k.gguf"
        assert weights.read_bytes() == (trained[0] / "tiny-q6_k.gguf").read_bytes()
        weights.write_bytes(bytes(weights.stat().st_size))  # as large, and not the card's
    capsys.readouterr()
    assert main(["models", "list", "--json"]) == 0
    listed = {model["id"]: model for model in json.loads(capsys.readouterr().out)["models"]}
    assert listed["tiny"]["pulled"]


def test_the_plot_is_a_picture(trained: tuple[Path, Report]) -> None:
    """It is an SVG with a curve that has a point for each of these 120 steps, within its frame."""
    root = ET.fromstring((trained[0] / "loss.svg").read_text())  # noqa: S314  # our own file
    curve = root.find("{http://www.w3.org/2000/svg}polyline")
    assert curve is not None
    points = [tuple(map(float, point.split(","))) for point in curve.attrib["points"].split()]
    assert len(points) == 120
    assert all(0 < x < 720 and 0 < y < 360 for x, y in points)


def test_what_is_no_model_is_not_quantized(tmp_path: Path) -> None:
    """The sentence names the file, and nothing is left."""
    (tmp_path / "no-f32.gguf").write_bytes(b"no model")
    with pytest.raises(BackendError, match=r"no-f32\.gguf cannot be quantized"):
        quantize(tmp_path / "no-f32.gguf", tmp_path / "out.gguf", "Q8_0")


def test_training_learned_something(trained: tuple[Path, Report]) -> None:
    """The loss of the last steps is far below that of the first, and the held-out text takes fewer bits than bytes."""
    lines = [json.loads(line) for line in (trained[0] / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 1
    assert trained[1].bits_per_byte is not None
    assert trained[1].bits_per_byte < 4
