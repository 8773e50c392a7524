"""A run that was killed computes what it would have computed, and ends well whenever its time is over."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from models.starter.errors import TrainingError
from models.starter.sizes import size_of
from models.starter.training import Counters, Outcome, Plan, train
from tests.models.starter.conftest import write_corpus

if TYPE_CHECKING:
    from pathlib import Path

STEPS = 6
SIZE = replace(size_of("tiny"), step_tokens=4096)  # two rounds a step


def plan(corpus: Path, out: Path, **changes: Any) -> Plan:  # noqa: ANN401
    """Return a short run."""
    return replace(Plan(SIZE, corpus, out, STEPS * SIZE.step_tokens), **changes)


def losses(out: Path) -> list[float]:
    """Return the losses in a run's log, by step."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
    return [line["loss"] for line in steps]


def stopped_at(step: int) -> Any:  # noqa: ANN401
    """Return something to show lines with that asks the run to stop, as a terminal or a system would, at a step."""

    def show(line: str) -> None:
        if line.startswith(f"step {step} "):
            os.kill(os.getpid(), signal.SIGTERM)

    return show


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Return a run that was never stopped."""
    out = tmp_path_factory.mktemp("whole")
    return out, train(plan(corpus, out))


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(corpus: Path, tmp_path: Path, whole: tuple[Path, Outcome]) -> None:
    """Stopped before and in the decay, a run has the losses and weights of one that was not."""
    for step in (2, STEPS - 1):
        assert not train(plan(corpus, tmp_path), stopped_at(step)).finished
        assert len(losses(tmp_path)) == step
    outcome = train(plan(corpus, tmp_path))
    assert outcome.finished
    assert losses(tmp_path) == losses(whole[0])
    wanted = whole[1].model.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in outcome.model.state_dict().items())


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_only_itself(corpus: Path, tmp_path: Path, whole: tuple[Path, Outcome]) -> None:
    """Where the last checkpoint cannot be read the one before is taken, the log's later lines come again."""
    for step in (2, 4):
        train(plan(corpus, tmp_path), stopped_at(step))
    last = max((tmp_path / "checkpoints").iterdir())
    last.write_bytes(last.read_bytes()[:1000])
    assert train(plan(corpus, tmp_path)).finished
    assert losses(tmp_path) == losses(whole[0])
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_finished_run_is_not_trained_again(corpus: Path, whole: tuple[Path, Outcome]) -> None:
    """The same call again gives the same model, without a step."""
    again = train(plan(corpus, whole[0]))
    assert again.finished
    assert again.counters.step == STEPS
    assert again.evaluations[-1]["bits_per_byte"] == whole[1].evaluations[-1]["bits_per_byte"]


def test_the_folder_of_another_run_is_refused(whole: tuple[Path, Outcome], tmp_path: Path) -> None:
    """Another corpus, seed or size cannot go on with a run."""
    other = write_corpus(tmp_path / "other", corpus_id="another")
    with pytest.raises(TrainingError, match="another run"):
        train(plan(other, whole[0]))


@pytest.mark.parametrize("broken", ["nothing", "no split", "no row"])
def test_what_is_no_corpus_is_refused(tmp_path: Path, broken: str) -> None:
    """The sentence names the folder or the line."""
    folder = tmp_path if broken == "nothing" else write_corpus(tmp_path / "c")
    part = folder / "heldout/part-0000.jsonl"
    if broken == "no split":
        part.unlink()
    elif broken == "no row":
        part.write_text('{"text": 1}\n')
    with pytest.raises(TrainingError, match=r"build the corpus anew|corpus build"):
        train(plan(folder, tmp_path / "out"))


def test_the_rate_warms_up_stays_and_falls() -> None:
    """A tenth of the way it is whole, at four fifths still, at the end next to nothing."""
    size = size_of("seedling")
    long = Plan(size, *(2 * (None,)), 10_000 * size.step_tokens)  # type: ignore[arg-type]
    rates = [long.learning_rate(Counters(step)) for step in range(10_000)]
    assert rates[0] == pytest.approx(size.learning_rate / size.warmup_steps)
    assert set(rates[size.warmup_steps : 8000]) == {size.learning_rate}
    assert rates[8000:] == sorted(rates[8000:], reverse=True)
    assert rates[-1] < size.learning_rate / 1000


def test_a_time_limit_brings_the_decay_forward() -> None:
    """At four fifths of the minutes the rate begins to fall, and ends with them, wherever the tokens are."""
    size = size_of("seedling")
    timed = Plan(size, *(2 * (None,)), 10_000 * size.step_tokens, minutes=10)  # type: ignore[arg-type]
    assert timed.learning_rate(Counters(500, 479)) == size.learning_rate
    assert 0 < timed.learning_rate(Counters(500, 540)) < size.learning_rate / 2
    assert timed.progress(Counters(500, 600)) == 1
