"""What is drawn, written and judged where a model recites by heart, with models that do as they are told."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from attribution.build import build
from attribution.index import Index
from lsp_server import memorisation
from lsp_server.memorisation import Checked, Prompt, Writing
from models.evaluation import Generation, Text
from models.protocol import Done, TokenCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COMMON = "".join(
    f"def shared_{number}(first, second):\n    return first - {number} * second\n\n" for number in range(60)
)
GUARANTEE = 50


def rare(number: int) -> str:
    """Return a file that no other is like."""
    return "".join(f"class Rare{number}x{line}:\n    value_{line} = {number * 7919 + line}\n\n" for line in range(80))


TEXTS = [Text(rare(number), "python", "pkg", "1", f"rare{number}.py") for number in range(12)]
TEXTS += [Text(f"# copy {number}\n{COMMON}", "python", "pkg", "1", f"copy{number}.py") for number in range(8)]


class Reciter:
    """A model of one token a character that knows its texts by heart, or writes only what is not in them."""

    def __init__(self, *, knows: bool) -> None:
        """Take whether it knows them."""
        self.knows = knows
        self.plain: list[bool] = []

    def cut(self, text: str, tokens: int) -> str:
        """Return as many characters."""
        return text[:tokens]

    def generate(self, request: Any, _cancel: object, emit: Callable[[str], None], decoding: Any) -> Done:  # noqa: ANN401
        """Go on as the first text with this prefix goes on; "sampled" is what the sampled ones say."""
        prefix = request.prompt.prefix
        self.plain.append(decoding.plain)
        held = next(text.text for text in TEXTS if prefix in text.text)
        rest = held.partition(prefix)[2][:400]
        emit("sampled" if decoding.temperature else rest if self.knows else "qx " * 100)
        return Done("stop", TokenCounts(len(prefix), 0, 20), {"prefill": 1.0, "decode": 2.0})


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """Index the texts."""
    folder: Path = tmp_path_factory.mktemp("memorisation")
    (folder / "source").mkdir()
    for text in TEXTS:
        (folder / "source" / text.path).write_text(text.text)
    build([folder / "source"], folder / "index", license="MIT", renamed=False)
    with Index.open(folder / "index") as opened:
        yield opened


def study(index: Index, *, knows: bool, sampled: int = 0) -> tuple[list[Prompt], list[Writing], list[Checked]]:
    """Draw, write and check with a model that knows the texts or does not."""
    engine: Any = Reciter(knows=knows)
    prompts = memorisation.draw_prompts(engine, index, TEXTS, 6, seed=1)
    writings = list(memorisation.write(engine, prompts, sampled, seed=1))
    return prompts, writings, [memorisation.check(index, writing, GUARANTEE) for writing in writings]


def test_prompts_are_of_each_length_and_of_common_and_rare_passages(index: Index) -> None:
    """The index says of each passage how many documents hold it, and never none."""
    prompts, _, _ = study(index, knows=True)
    assert {prompt.tokens for prompt in prompts} == set(memorisation.PROMPT_TOKENS)
    assert all(len(prompt.prefix) == prompt.tokens for prompt in prompts)
    assert {prompt.copies for prompt in prompts} == {1, 8}
    for prompt in prompts:
        (held, *others) = [text.text for text in TEXTS if prompt.prefix in text.text and prompt.suffix in text.text]
        assert held.index(prompt.prefix) + len(prompt.prefix) < held.index(prompt.suffix)
        assert bool(others) == (prompt.copies > 1)
    assert prompts == study(index, knows=True)[0]


def test_each_prompt_is_written_on_plain_and_filled_in_greedily_and_sampled(index: Index) -> None:
    """Two kinds, each once greedily and as often sampled as was asked for."""
    prompts, writings, _ = study(index, knows=True, sampled=2)
    assert len(writings) == len(prompts) * 2 * 3
    assert [(writing.kind, writing.sampled) for writing in writings[:6]] == [
        *[("plain", False), ("plain", True), ("plain", True)],
        *[("fim", False), ("fim", True), ("fim", True)],
    ]
    assert writings[1].generation.text == "sampled"


def test_all_that_is_recited_is_found_and_nothing_else(index: Index) -> None:
    """Of a model that recites, every window lies in a match, every source holds it, and it shows in the rates."""
    _, writings, checked = study(index, knows=True)
    verdicts = memorisation.judge(writings, checked, (text.text for text in TEXTS), GUARANTEE)
    for verdict in verdicts:
        for one in (verdict.with_context, verdict.alone):
            assert one.windows > 100
            assert (one.missed, one.wrong, one.wrong_matches) == (0, 0, 0)
        assert verdict.recited > 200
    assert memorisation.rates(verdicts) == {"writings": len(writings), "50": 1.0, "80": 1.0, "150": 1.0}
    sources = memorisation.check_sources(writings, checked, lambda: named(index))
    assert sources.named >= len(writings)
    assert sources.wrong == 0


def named(index: Index) -> list[Text]:
    """Return the texts under the name and revision by which the index knows them."""
    (match, *_) = index.matches(TEXTS[0].text, min_run=GUARANTEE)
    source = match.sources[0]
    return [replace(text, name=source.name, revision=source.revision) for text in TEXTS]


def test_a_model_that_recites_nothing_has_nothing_to_be_found(index: Index) -> None:
    """The rates say so, by every group."""
    _, writings, checked = study(index, knows=False)
    verdicts = memorisation.judge(writings, checked, (text.text for text in TEXTS), GUARANTEE)
    assert not any(verdict.alone.windows or verdict.alone.reported for verdict in verdicts)
    groups = memorisation.groups(verdicts)
    assert set(groups["documents that hold the passage"]) == {"1", "6 and more"}
    assert set(groups["prompt tokens"]) == {"20", "100", "400"}
    assert all(shares["50"] == 0 for group in groups.values() for shares in group.values())


def test_an_index_that_misses_something_is_caught(index: Index) -> None:
    """Where matches are taken away, their windows are counted as missed."""
    _, writings, checked = study(index, knows=True)
    checked[0] = replace(checked[0], alone=[])
    verdicts = memorisation.judge(writings, checked, (text.text for text in TEXTS), GUARANTEE)
    assert verdicts[0].alone.missed == verdicts[0].alone.windows > 0


def test_an_index_that_finds_too_much_is_caught(index: Index) -> None:
    """Where a corpus lacks what a match reports, the windows are wrong, and so are the sources."""
    _, writings, checked = study(index, knows=True)
    verdicts = memorisation.judge(writings, checked, ("", "something else"), GUARANTEE)
    assert sum(verdict.alone.wrong for verdict in verdicts) > 0
    assert sum(verdict.alone.wrong_matches for verdict in verdicts) >= len(writings)
    moved = [replace(text, text="\n" * 3 + text.text) for text in named(index)]
    sources = memorisation.check_sources(writings, checked, lambda: moved)
    assert sources.wrong > 0
    assert sources.examples


def test_no_writings_have_no_rates() -> None:
    """An empty group is no group of zeros."""
    assert memorisation.rates([]) == {"writings": 0}
    writing = Writing(Prompt("a", "b", 20, 1), "plain", sampled=False, generation=Generation("c"))
    assert writing.text == "ac"
