"""`starcite train` from end to end: train, and when the budget is spent export, describe and bind the model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from models.starter.sizes import size_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Report:
    """How a run went; `card` is None where it was stopped before its end."""

    step: int
    seconds: float
    card: Path | None = None
    bits_per_byte: float | None = None
    fim_exact: int | None = None
    fim_lines: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self) | {"card": str(self.card) if self.card else None, "finished": self.card is not None}


def run(  # noqa: PLR0913  # what a person can say
    *,
    size: str,
    corpus: Path,
    out: Path,
    steps: int | None = None,
    tokens: int | None = None,
    minutes: float | None = None,
    seed: int = 1,
    threads: int | None = None,
    compiled: bool = True,
    show: Callable[[str], None] | None = None,
) -> Report:
    """Train a model of a size in `out`, or go on with the training there, and publish it there at its end.

    The budget is `steps` or `tokens`, the size's own where neither is given, and ends with `minutes` at the latest.
    `threads` are those of a CPU, as many as torch takes by itself where they are not given.
    Raises TrainingError, BackendError, OSError.
    """
    import torch  # noqa: PLC0415  # seconds

    from models.starter.publish import publish  # noqa: PLC0415
    from models.starter.training import Plan, train  # noqa: PLC0415

    if threads:
        torch.set_num_threads(threads)
    shape = size_of(size)
    budget = steps * shape.step_tokens if steps else tokens or shape.tokens
    plan = Plan(shape, corpus, out, budget, minutes, seed, compiled=compiled and shape.compiled)
    outcome = train(plan, show)
    counters = outcome.counters
    if not outcome.finished:
        return Report(counters.step, counters.seconds)
    card = publish(plan, outcome)
    last = outcome.evaluations[-1]
    return Report(counters.step, counters.seconds, card, last["bits_per_byte"], last["fim_exact"], last["fim_lines"])
