"""Which library runs a model, from the card to the loaded engine, with the driver and the versions as a test says."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import Starcoder2Config, Starcoder2ForCausalLM

from lsp_server.cli import main
from lsp_server.doctor import examine
from models import backends, daemon
from models.backend_llama import Engine as LlamaEngine
from models.backend_transformers import Engine as TransformersEngine
from models.backends import Gpu
from models.cards import load_card, read_card
from models.errors import BackendError
from models.protocol import FimPrompt, GenerateRequest
from models.scheduler import CancelFlag
from models.starter import card as starter_card
from models.starter import sizes, tokenizer
from models.starter.export import save_transformers, write_gguf
from models.starter.publish import TRANSFORMERS_FILES
from models.store import Store

if TYPE_CHECKING:
    from models.scheduler import Engine

CODE = (Path(sysconfig.get_path("stdlib")) / "bisect.py").read_text()
LARGE, SMALL = Gpu("Large", 80 << 30), Gpu("Small", 1 << 30)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tiny model's files and card, as a training does, and return the card's path."""
    out = tmp_path_factory.mktemp("published")
    torch.set_num_threads(1)
    words = tokenizer.train([CODE], 512)
    config = Starcoder2Config(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = Starcoder2ForCausalLM(config)
    save_transformers(model, words, out / "transformers")
    write_gguf(model, words, "tiny", out / "tiny.gguf")
    card = starter_card.draft(sizes.size_of("tiny"), "unknown", model.num_parameters())
    full = [out / "transformers" / name for name in TRANSFORMERS_FILES]
    starter_card.write_card(card, "-", out / "tiny.gguf", [out / "tiny.gguf"], full, out / "tiny.toml")
    return out / "tiny.toml"


@pytest.fixture
def only_safetensors(published: Path) -> Path:
    """Return the path of a card that binds no GGUF file."""
    text = published.read_text()
    path = published.parent / "only" / "tiny.toml"
    path.parent.mkdir(exist_ok=True)
    head, rest = text.split("[[files]]")
    blocks = "".join(f"[[transformers]]{block}" for block in rest.split("[[transformers]]")[1:])
    path.write_text(head + blocks.replace('["transformers/', '["../transformers/'))
    return path


def machine(patch: pytest.MonkeyPatch, gpu: Gpu | None, torch_version: str | None = "2.13.0") -> None:
    """Pretend a device, and what is installed."""

    def version(name: str) -> str:
        if torch_version is None:
            raise PackageNotFoundError(name)
        return torch_version

    patch.setattr(backends, "find_gpu", lambda: gpu)
    patch.setattr(backends, "version", version)


def says_something(engine: Engine) -> bool:
    """Tell whether an engine generates."""
    done = engine.generate(GenerateRequest(FimPrompt(CODE[:300], "\n"), max_tokens=3), CancelFlag(), lambda _: None)
    engine.close()
    return done.tokens.generated > 0


@pytest.mark.parametrize(
    ("pretended", "device", "says"),
    [
        ((LARGE, "2.13.0"), "cuda", r"transformers on the GPU: full precision fits .*\(2\.0 GB needed\)"),
        ((SMALL, "2.13.0"), "cpu", r"llama\.cpp on the CPU: Small has 1\.1 GB free, and full precision needs 2\.0 GB"),
        ((None, "2.13.0"), "cpu", "no CUDA device"),
        ((LARGE, "2.13.0+cpu"), "cpu", "built for CPUs alone"),
        ((LARGE, None), "cpu", r"not installed \(pip install 'starcite\[gpu\]'"),
    ],
)
def test_the_choice_and_its_reason(
    home: Path,
    published: Path,
    monkeypatch: pytest.MonkeyPatch,
    pretended: tuple[Gpu | None, str | None],
    device: str,
    says: str,
) -> None:
    """Full precision where the device has room for it, else the GGUF file; `starcite doctor` says which, and why."""
    store = Store(home / "models")
    card = store.add(published)
    store.use(card.id)
    machine(monkeypatch, *pretended)
    choice = backends.choose(card, store)
    assert choice.device == device
    assert choice.card == (card.in_full_precision() if device == "cuda" else card)
    (finding,) = (finding for finding in examine() if finding.what == "backend")
    assert finding.good
    assert finding.fact == str(choice)
    assert re.search(says, str(choice))


def test_files_that_are_not_here(home: Path, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card whose files in full precision were not handed on is taken up, and runs from its GGUF file."""
    machine(monkeypatch, LARGE)
    store = Store(home / "models")
    alone = home / "alone" / "tiny.toml"
    alone.parent.mkdir()
    alone.write_text(published.read_text())
    (alone.parent / "tiny.gguf").write_bytes((published.parent / "tiny.gguf").read_bytes())
    card = store.add(alone)
    choice = backends.choose(card, store)
    assert (choice.card, choice.device) == (card, "cpu")
    assert "models pull tiny --full-precision" in choice.reason
    assert "a GGUF file alone" in backends.choose(load_card("qwen2.5-coder-0.5b"), store).reason


def test_full_precision_is_pulled_when_asked_for(
    home: Path, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command brings these files alone, says so where they are here, and what a card lacks that has none."""
    cards = home / "models" / "cards"
    cards.mkdir(parents=True)
    text = published.read_text().replace('parts = ["', f'parts = ["{published.parent}/')
    (cards / "tiny.toml").write_text(text)
    for says in ("checksum right", "is here already"):
        assert main(["models", "pull", "tiny", "--full-precision"]) == 0
        assert says in capsys.readouterr().out
    assert (home / "models" / "tiny" / "transformers" / "model.safetensors").is_file()
    assert not (home / "models" / "tiny" / "tiny.gguf").exists()
    assert main(["models", "pull", "qwen2.5-coder-0.5b", "--full-precision"]) == 2
    assert "[[transformers]] tables" in capsys.readouterr().err


def test_from_the_card_to_the_engine(home: Path, published: Path) -> None:
    """`models add` puts all files where the daemon finds them; without a GPU it loads the GGUF file."""
    store = Store(home / "models")
    card = store.add(published)
    full = card.in_full_precision()
    assert full is not None
    for name in TRANSFORMERS_FILES:
        there = home / "models" / "tiny" / "transformers" / name
        assert there.read_bytes() == (published.parent / "transformers" / name).read_bytes()
    engine = daemon.load_engine("tiny")
    assert isinstance(engine, LlamaEngine)
    assert says_something(engine)
    engine = backends.open_engine(full, store, threads=1)
    assert isinstance(engine, TransformersEngine)
    assert says_something(engine)


def test_a_card_of_safetensors_alone(home: Path, only_safetensors: Path) -> None:
    """It is listed as here, and the daemon runs it on the CPU where there is no GPU."""
    store = Store(home / "models")
    card = store.add(only_safetensors)
    assert card.format == "transformers"
    assert card.in_full_precision() == card
    assert store.is_pulled(load_card("tiny"))
    engine = daemon.load_engine("tiny")
    assert isinstance(engine, TransformersEngine)
    assert says_something(engine)


def test_a_gpu_that_fails_is_no_end(
    home: Path, published: Path, only_safetensors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where full precision cannot be loaded after all the GGUF file is; where there is none, the error says why."""
    if torch.cuda.is_available():
        pytest.skip("it would not fail")
    machine(monkeypatch, LARGE)
    store = Store(home / "models")
    store.add(published)
    engine = daemon.load_engine("tiny")
    assert isinstance(engine, LlamaEngine)
    engine.close()
    store.add(only_safetensors)
    with pytest.raises(BackendError, match="cannot be loaded"):
        daemon.load_engine("tiny")


def test_a_card_says_which_files_are_its_own(published: Path) -> None:
    """The GGUF file is the card's; those in full precision are of a form of their own, in a folder of their own."""
    card = read_card(published)
    assert [file.name for file in card.files] == ["tiny.gguf"]
    full = card.in_full_precision()
    assert full is not None
    assert [file.name for file in full.files] == [f"transformers/{name}" for name in TRANSFORMERS_FILES]
    assert (card.format, full.format, full.full_precision) == ("gguf", "transformers", ())


ANSWERS = [
    ("NVIDIA H200, 140000\n", Gpu("NVIDIA H200", 140000 << 20)),
    ("Two, 3\nOther, 4\n", Gpu("Two", 3 << 20)),
    ("", None),
    ("No devices were found\n", None),
    ("Name, [N/A]\n", None),
]


@pytest.mark.parametrize(("answer", "gpu"), ANSWERS)
def test_the_drivers_answer(answer: str, gpu: Gpu | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name and free memory of the first device; whatever else the driver's tool says is no device."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(
        subprocess, "run", lambda query, **_: subprocess.CompletedProcess(query, 0, stdout=answer, stderr="")
    )
    assert backends.find_gpu() == gpu


def test_the_device_that_cuda_would_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden devices are not asked for, the first visible one is, and without the tool there is none."""
    asked: list[str] = []

    def run(query: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.extend(query)
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", run)
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert backends.find_gpu() is None
    assert asked == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    assert backends.find_gpu() is None
    assert "--id=2" in asked
