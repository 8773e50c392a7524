"""`starcite eval`: what it prints, when it fails, and both commands from end to end with the real model."""

from __future__ import annotations

import gzip
import json
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from attribution.build import build
from lsp_server import evaluate
from lsp_server.cli import main
from lsp_server.errors import FileInputError
from models import evaluation
from models.cards import DEFAULT_MODEL
from models.protocol import Done, TokenCounts

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

STDLIB = Path(sysconfig.get_path("stdlib"))
TRAIN = ("textwrap.py", "heapq.py", "bisect.py", "shlex.py", "statistics.py")
HELD_OUT = ("colorsys.py", "fnmatch.py", "linecache.py")


class Fake:
    """A model of one token a character that recites the standard library; `start` tells how it begins every line."""

    closed = False

    def __init__(self, start: str = "") -> None:
        """Know the texts."""
        self.start = start
        self.texts = [(STDLIB / name).read_text() for name in (*TRAIN, *HELD_OUT)]

    def cut(self, text: str, tokens: int) -> str:
        """Return as many characters."""
        return text[:tokens]

    def generate(self, request: Any, _cancel: object, emit: Callable[[str], None], _decoding: Any) -> Done:  # noqa: ANN401
        """Go on as the text with this prefix goes on, to the first stop."""
        prefix = request.prompt.prefix
        rest = next((text.partition(prefix)[2] for text in self.texts if prefix in text), "")[:400]
        emit(self.start + (rest.partition("\n")[0] if request.stop else rest))
        timings_ms = {"prefill": 10.0, "decode": 20.0, "time_to_first_token": 11.0}
        return Done("stop", TokenCounts(100, 20, 5), timings_ms)

    def log_probabilities(self, _context: str, text: str) -> NDArray[np.float64]:
        """Return one bit a character."""
        return np.full(len(text), np.log(0.5))

    def close(self) -> None:
        """Remember that."""
        self.closed = True


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a corpus of some modules, in the layout of `starcite corpus build`, with its index beside."""
    folder = tmp_path_factory.mktemp("corpus")
    for part, names in (("train", TRAIN), ("heldout", HELD_OUT)):
        (folder / part).mkdir()
        rows = [
            {"text": (STDLIB / name).read_text(), "repo_name": "cpython", "path": name, "revision": "3", "url": ""}
            | {"licenses": ["PSF-2.0"], "language": "python"}
            for name in names
        ]
        (folder / part / "part-0000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build([folder / "train"], folder / "index", renamed=False)
    return folder


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Fake]:
    """Put models in the place of the real ones: one that knows all, and one that is wrong at the start of each line."""
    made = {"starter": Fake(), "qwen2.5-coder-0.5b": Fake("!")}
    monkeypatch.setattr(evaluation, "open_engine", lambda model, _threads: made[model])
    return made


@pytest.fixture
def humaneval(tmp_path: Path) -> Path:
    """Return a file of one task, in the shape of HumanEval-Infilling."""
    path = tmp_path / "tasks.jsonl.gz"
    row = {"prompt": "def add(a, b):\n", "canonical_solution": "    return a + b\n", "suffix": "\nprint(add(1, 2))\n"}
    with gzip.open(path, "wt") as stream:
        stream.write(json.dumps(row) + "\n")
    return path


class TestFim:
    """`starcite eval fim`."""

    def answer(self, capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
        """Return the JSON answer."""
        assert main(["eval", "fim", *map(str, words), "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    def test_models_stand_beside_each_other_and_the_baseline(
        self, corpus: Path, humaneval: Path, fakes: dict[str, Fake], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The one that knows all is right, the other never; rates come from what the engine says; goals are told."""
        models = ("--model", "starter", "--model", "qwen2.5-coder-0.5b")
        answer = self.answer(capsys, *models, "--corpus", corpus, "--humaneval", humaneval, "--lines", 6)
        starter, other = answer["models"]["starter"], answer["models"]["qwen2.5-coder-0.5b"]
        assert answer["lines"] == {"humaneval": 1, "heldout": 6}
        assert starter["heldout"]["all"] == {"lines": 6, "exact": 1.0}
        assert starter["heldout"]["mid-word"] == {"lines": 2, "exact": 1.0}
        assert other["heldout"]["all"]["exact"] == 0
        assert starter["bits_per_byte"]["python"] == pytest.approx(1, abs=0.01)
        assert starter["speed"]["decode_tokens_per_s"] == pytest.approx(200)
        assert starter["speed"]["prefill_tokens_per_s"] == pytest.approx(8000)
        assert set(answer["models"]) == {"starter", "qwen2.5-coder-0.5b", evaluate.BASELINE}
        assert "speed" not in answer["models"][evaluate.BASELINE]
        (goal,) = answer["goals"]  # a model that is never right is no measure for exact lines
        assert "tokens/s" in goal["goal"]
        assert all(fake.closed for fake in fakes.values())

    def test_the_same_seed_asks_the_same(
        self, corpus: Path, fakes: dict[str, Fake], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """All but the processor's time is the same again."""
        assert fakes
        words = ("--model", "starter", "--corpus", corpus, "--lines", 5, "--seed", 7)
        first, second = self.answer(capsys, *words), self.answer(capsys, *words)
        assert first["models"][evaluate.BASELINE] == second["models"][evaluate.BASELINE]
        assert first["models"]["starter"]["heldout"] == second["models"]["starter"]["heldout"]

    def test_a_person_sees_a_table(
        self, corpus: Path, fakes: dict[str, Fake], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """With a row for each language and cut, and no line wider than a terminal."""
        assert fakes
        assert main(["eval", "fim", "--model", "starter", "--corpus", str(corpus), "--lines", "6"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[1].split() == ["lines", "starter", *evaluate.BASELINE.split()]
        (row,) = [line for line in lines if line.startswith("heldout")]
        assert row.split()[1:3] == ["6", "100.0%"]
        assert any(line.startswith("  mid-word") for line in lines)
        assert any(line.startswith("bits per byte") for line in lines)
        assert max(map(len, lines)) < 100

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ([], "--corpus DIR, --humaneval F, or both"),
            (["--lines", "0"], "--lines must be at least 1"),
            (["--humaneval", "no-such-file.gz"], "no-such-file.gz cannot be read"),
            (["--corpus", "no-such-folder"], "starcite corpus build"),
        ],
    )
    def test_bad_input_is_one_line(self, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
        """It says what to do, before a model is loaded."""
        assert main(["eval", "fim", "--model", DEFAULT_MODEL, *words]) == 2
        assert said in capsys.readouterr().err


def test_goals_are_ratios_of_what_was_measured() -> None:
    """A goal is reached from its ratio on; nothing is said of models that were not measured."""

    def facts(exact: float, speed: float) -> dict[str, Any]:
        return {"heldout": {"all": {"exact": exact}}, "speed": {"decode_tokens_per_cpu_s": speed}}

    baseline = {"heldout": {"all": {"exact": 0.1}}}
    models = {"starter": facts(0.3, 250), evaluate.REFERENCE: facts(0.6, 50), "seedling": facts(0.29, 900)}
    met = {goal["goal"].split("'")[0]: goal["met"] for goal in evaluate._goals(models | {evaluate.BASELINE: baseline})}
    assert met == {"starter": True, "seedling": False}
    assert len(evaluate._goals(models)) == 2
    assert evaluate._goals({"starter": facts(0.3, 250)}) == []


class TestMemorisation:
    """`starcite eval memorisation`."""

    def words(self, corpus: Path, *more: object) -> list[str]:
        """Return the command."""
        places = ("--index", corpus / "index", "--corpus", corpus)
        return list(map(str, ("eval", "memorisation", "--model", "starter", *places, "--prompts", 6, *more)))

    def test_a_model_that_recites_is_found_out(
        self, corpus: Path, fakes: dict[str, Fake], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """All that it recites is found, nothing else is, and the status is 0."""
        assert fakes
        assert main(self.words(corpus, "--json")) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["check"]["recall"] == 1
        assert answer["check"]["windows"] > 1000
        assert answer["check"]["sources"] > 6
        assert not any(answer["check"][key] for key in evaluate._FAILURES)
        assert answer["recited"]["all"]["all"] == {"writings": 6 * 4, "50": 1, "80": 1, "150": 1}
        assert answer["speed"]["check_ms_p50"] > 0

    def test_a_person_is_told_rates_and_recall(
        self, corpus: Path, fakes: dict[str, Fake], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """In a table, and two sentences."""
        assert fakes
        assert main(self.words(corpus, "--sampled", 0)) == 0
        printed = capsys.readouterr().out
        assert "recall: 100.0000%" in printed
        assert "wrong alarms: 0 of " in printed
        assert "prompt tokens: 400" in printed

    def test_an_index_of_something_else_fails(
        self, corpus: Path, fakes: dict[str, Fake], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """An index that lacks some of the files has missed what was recited of them: the status is 1."""
        assert fakes
        source = tmp_path / "source"
        source.mkdir()
        (source / "bisect.py").write_text((STDLIB / "bisect.py").read_text())
        build([source], tmp_path / "index", license="PSF-2.0", renamed=False)
        words = self.words(corpus, "--json")
        words[words.index("--index") + 1] = str(tmp_path / "index")
        assert main(words) == 1
        check = json.loads(capsys.readouterr().out)["check"]
        assert check["recall"] < 1
        assert check["passages_not_found"] > 0

    def test_a_corpus_too_small_to_ask_of_is_bad_input(
        self, corpus: Path, fakes: dict[str, Fake], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Where nothing could be asked, nothing is said to be right."""
        assert fakes
        row = json.loads((corpus / "train" / "part-0000.jsonl").read_text().splitlines()[0]) | {"text": "x = 1\n"}
        (tmp_path / "train").mkdir()
        (tmp_path / "train" / "part-0000.jsonl").write_text(json.dumps(row) + "\n")
        words = self.words(corpus)
        words[words.index("--corpus") + 1] = str(tmp_path)
        assert main(words) == 2
        assert "give a larger corpus" in capsys.readouterr().err

    def test_a_corpus_that_is_not_the_indexs_fails(
        self, corpus: Path, fakes: dict[str, Fake], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Where the named files hold other text than was found in them, sources and windows are wrong."""
        assert fakes
        row = json.loads((corpus / "train" / "part-0000.jsonl").read_text().splitlines()[0])
        (tmp_path / "train").mkdir()
        (tmp_path / "train" / "part-0000.jsonl").write_text(json.dumps(row) + "\n")
        everything = [text.text for text in evaluate.rows(corpus / "train")]
        fakes["starter"].texts = [everything[1]]
        fakes["starter"].generate = _reciting(everything[1])  # type: ignore[method-assign]
        words = self.words(corpus, "--json")
        words[words.index("--corpus") + 1] = str(tmp_path)
        assert main(words) == 1
        check = json.loads(capsys.readouterr().out)["check"]
        assert min(check["wrong_windows"], check["wrong_matches"], check["wrong_sources"]) > 0


def _reciting(text: str) -> Callable[..., Done]:
    """Return a generation that is always the same part of a text."""

    def generate(_request: object, _cancel: object, emit: Callable[[str], None], _decoding: object) -> Done:
        emit(text[1000:1500])
        return Done("stop", TokenCounts(100, 20, 5), {"prefill": 10.0, "decode": 20.0})

    return generate


@pytest.mark.parametrize("line", ["{", "[]", '{"text": "x"}', "null"])
def test_a_row_that_is_none_is_named(tmp_path: Path, line: str) -> None:
    """The error says in which file and line it is."""
    good = {"text": "x", "repo_name": "a", "revision": "1", "path": "b", "language": "c"}
    (tmp_path / "part-0001.jsonl").write_text(f"{json.dumps(good)}\n{line}\n")
    found = evaluate.rows(tmp_path)
    assert next(found).path == "b"
    with pytest.raises(FileInputError, match=r"part-0001\.jsonl:2 is no row"):
        next(found)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["fim", "--lines", "1"],
        ["memorisation", "--prompts", "1", "--sampled", "1"],
    ],
)
def test_from_end_to_end_with_the_real_model(
    words: list[str],
    corpus: Path,
    model_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is replaced, and the index has all that the model recites of the standard library."""
    monkeypatch.setenv("STARCITE_HOME", str(model_home))
    more = ["--index", str(corpus / "index")] if words[0] == "memorisation" else []
    assert main(["eval", *words, "--model", DEFAULT_MODEL, "--corpus", str(corpus), *more, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    if words[0] == "fim":
        assert answer["models"][DEFAULT_MODEL]["heldout"]["all"]["lines"] == 1
        assert 0 < answer["models"][DEFAULT_MODEL]["bits_per_byte"]["all"] < 2
        assert answer["models"][DEFAULT_MODEL]["speed"]["decode_tokens_per_s"] > 0
    else:
        assert answer["check"]["missed"] == 0
        assert answer["recited"]["all"]["all"]["writings"] == 4
