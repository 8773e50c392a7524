"""Lines and cuts that a seed fixes, the n-gram baseline on small texts, bits per byte, and a line by the real model."""

from __future__ import annotations

import gzip
import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import evaluation
from models.cards import DEFAULT_MODEL
from models.errors import EvaluationDataError, NotPulledError
from models.evaluation import CUTS, Baseline, Bits, Line, Text, Wish

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from models.backend_llama import Engine

CODE = "def total(values):\r\n    result = 0\r\n    for value in values:\r\n        result += value\r\n"
TEXTS = [Text(CODE, "python"), Text("let first = 1;\nlet second = first;\n", "typescript")]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40), st.integers(1, 12), st.integers())
def test_a_sample_is_part_of_the_texts_and_fixed_by_its_seed(texts: int, count: int, seed: int) -> None:
    """No text is drawn twice, none is made up, and the same seed draws the same."""
    numbers = [Text(str(number), "") for number in range(texts)]
    drawn = evaluation.sample(iter(numbers), count, seed)
    assert len(drawn) == min(count, texts) == len(set(drawn) & set(numbers))
    assert drawn == evaluation.sample(iter(numbers), count, seed)


def test_a_sample_is_uniform() -> None:
    """Each of ten texts is among five of them in about half of a thousand draws."""
    texts = [Text(str(number), "") for number in range(10)]
    drawn = [text.text for seed in range(1000) for text in evaluation.sample(texts, 5, seed)]
    assert all(400 < drawn.count(str(number)) < 600 for number in range(10))


@settings(max_examples=50, deadline=None)
@given(st.integers())
def test_cuts_are_where_they_say(seed: int) -> None:
    """A line is whole again with its rest; each kind of cut comes in turn and stands at such a place."""
    lines = evaluation.cut_lines(TEXTS, 6, seed)
    assert [line.cut for line in lines] == [*CUTS, *CUTS]
    for line, text in zip(lines, TEXTS * 3, strict=True):
        assert line.prefix + line.rest + line.suffix == text.text.replace("\r\n", "\n")
        assert line.rest.strip()
        assert "\n" not in line.rest
        assert line.suffix.startswith("\n")
        around = line.prefix[-1:] + line.rest[:1]
        inside = all(letter.isalnum() or letter == "_" for letter in around)
        if line.cut == "line start":
            assert line.prefix == "" or line.prefix.endswith("\n")
        else:
            assert inside == (line.cut == "mid-word")
            assert line.prefix.rpartition("\n")[2].strip()
    assert lines == evaluation.cut_lines(TEXTS, 6, seed)


def test_a_text_without_such_a_place_gives_no_line() -> None:
    """A line of one word can be cut within the word, not between words; blank lines are never asked for."""
    assert [line.cut for line in evaluation.cut_lines([Text("\n  \nword\n", "")], 3, 0)] == ["line start", "mid-word"]
    assert evaluation.cut_lines([], 3, 0) == []


def humaneval(folder: Path, *rows: object) -> Path:
    """Write a file as HumanEval-Infilling has them."""
    path = folder / "tasks.jsonl.gz"
    with gzip.open(path, "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_humaneval_lines_are_in_the_shape_of_an_editor(tmp_path: Path) -> None:
    """The line break belongs to the suffix; middles of several lines are left out."""
    row = {"prompt": "def f():\n", "canonical_solution": "    return 12\n", "suffix": "\nx = 1\n"}
    path = humaneval(tmp_path, row, row | {"canonical_solution": "    a = 1\n    b = 2\n"}, row)
    found = evaluation.humaneval_lines(path, 5, 0)
    assert [line.cut for line in found] == ["line start", "mid-line"]
    assert found[0] == Line("def f():\n", "    return 12", "\n\nx = 1\n", "python", "line start")


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08\x00broken", gzip.compress(b"{}\n"), gzip.compress(b"no\n"), None])
def test_a_file_that_is_not_humaneval_is_named(tmp_path: Path, content: bytes | None) -> None:
    """Whatever is wrong with it, the error names the file and says what to give."""
    path = tmp_path / "tasks.jsonl.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EvaluationDataError, match=r"tasks\.jsonl\.gz cannot be read .*; give one"):
        evaluation.humaneval_lines(path, 1, 0)


def test_exact_means_the_rest_of_the_line_but_for_white_space_at_its_end() -> None:
    """Nothing else is forgiven."""
    line = Line("", "return x  ", "\n", "python", "line start")
    assert evaluation.is_exact(line, "return x")
    assert not evaluation.is_exact(line, " return x")
    assert not evaluation.is_exact(line, "return x;")


class TestBaseline:
    """N-grams of lexemes with copy, on texts small enough to know the answer."""

    TRAINED = Baseline.train(["import numpy as np\nfor number in range(10):\n    print(number)\n"] * 3)

    def complete(self, prefix: str, suffix: str = "\n") -> str:
        """Return what the baseline makes of a cursor."""
        return self.TRAINED.complete(Line(prefix, "", suffix, "python", "mid-line"))

    @pytest.mark.parametrize(
        ("prefix", "rest"),
        [
            ("import", " numpy as np"),
            ("imp", "ort numpy as np"),
            ("x = 1\nfor number", " in range(10):"),
            ("for number in range(10):\n", "    print(number)"),
            ("for number in range(10):\n    pri", "nt(number)"),
        ],
    )
    def test_what_was_counted_is_completed(self, prefix: str, rest: str) -> None:
        """From whatever place of a line, to its end and no further."""
        assert self.complete(prefix) == rest

    def test_what_only_the_file_has_is_copied(self) -> None:
        """Names that the training never saw, from before the cursor and from behind it, begun or not."""
        assert self.complete("frobnicate(gizmo, widget)\nfrobnicate(giz") == "mo, widget)"
        assert self.complete("q = frobnicate(", "\nq = frobnicate(gizmo, widget)\n") == "gizmo, widget)"

    def test_nothing_is_said_where_nothing_fits(self) -> None:
        """A begun word that stands nowhere, and a text that is empty for a model of nothing."""
        assert self.complete("zyx = qwertz") == ""
        assert Baseline.train([]).complete(Line("", "x", "", "python", "line start")) == ""

    def test_lexemes_beyond_the_limit_are_unknown(self) -> None:
        """They are counted as one that is never said, and the others stay as they were."""
        small = Baseline.train(["a b\nc d\n" * 3], max_lexemes=3)
        assert small.complete(Line("a", "", "", "", "mid-line")) == " b"
        assert small.complete(Line("zz\na b\nc", "", "", "", "mid-line")) == ""


class FairCoin:
    """A model for which each character takes one bit."""

    def log_probabilities(self, _context: str, text: str) -> NDArray[np.float64]:
        """Return the logarithm of one half for each character."""
        return np.full(len(text), math.log(0.5))


def test_bits_per_byte_count_bytes() -> None:
    """Of characters of two bytes, one bit each is half a bit per byte; sums are weighted by bytes."""
    total = Bits()
    for text in ("ab", "éé"):
        total.add(evaluation.score(FairCoin(), evaluation.Passage("x", text, "")))  # type: ignore[arg-type]
    assert (total.bits, total.bytes, total.tokens) == (pytest.approx(4), 6, 4)
    assert total.value == pytest.approx(4 / 6)
    assert Bits().value == 0


def test_passages_are_whole_lines_within_their_limits() -> None:
    """Context and text follow each other from the start; a text that is too short, or all one line, has none."""
    lines = "".join(f"line number {number}\n" for number in range(500))
    (passage,) = evaluation.passages([Text(lines, "python"), Text("short\n", ""), Text("x" * 5000, "")])
    assert lines.startswith(passage.context + passage.text)
    assert passage.context.endswith("\n")
    assert passage.text.endswith("\n")
    assert evaluation.CONTEXT_BYTES - 20 < len(passage.context) <= evaluation.CONTEXT_BYTES
    assert evaluation.SCORED_BYTES - 20 < len(passage.text) <= evaluation.SCORED_BYTES


@pytest.mark.model
def test_a_line_by_the_real_model(engine: Engine) -> None:
    """The rest of the line and no more, with what it took."""
    line = Line("def add(first, second):\n    return fir", "st + second", "\n", "python", "mid-word")
    found = evaluation.complete(engine, line)
    assert evaluation.is_exact(line, found.text)
    assert found.computed >= 2
    assert found.prompt_tokens > 0
    assert min(found.prefill_ms, found.decode_ms, found.first_token_ms, found.cpu_s) > 0


@pytest.mark.model
def test_sampling_is_fixed_by_its_seed(engine: Engine) -> None:
    """The same seed writes the same, other seeds write otherwise; without a suffix the prompt is only the prefix."""
    wishes = [Wish("# A list of words:\nwords = [", None, 12, temperature=1.5, seed=seed) for seed in (1, 1, 2, 3)]
    texts = [evaluation.generate(engine, wish).text for wish in wishes]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


@pytest.mark.model
def test_code_takes_fewer_bits_than_the_same_bytes_in_disorder(engine: Engine) -> None:
    """And far fewer than the eight that they are stored in."""
    code = CODE.replace("\r\n", "\n")
    bits = evaluation.score(engine, evaluation.Passage("import sys\n", code, ""))
    worse = evaluation.score(engine, evaluation.Passage("import sys\n", "".join(sorted(code)), ""))
    assert 0 < bits.value < 2
    assert bits.value < worse.value
    assert bits.bytes == worse.bytes == len(code)


def test_a_model_that_is_not_here_is_an_error(home: Path) -> None:
    """It says what to pull."""
    assert home.exists()
    with pytest.raises(NotPulledError, match="models pull"):
        evaluation.open_engine(DEFAULT_MODEL)
