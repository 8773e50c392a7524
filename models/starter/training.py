"""The training loop: bf16 autocast, fused AdamW, warm-up, a constant rate and its decay; it can be killed at any time.

    <out>/run.json            what the run is: another one is refused in its folder
    <out>/tokenizer.json, data/       made once
    <out>/checkpoints/step-N.pt       weights, optimizer, counters; the last two
    <out>/log.jsonl           a line a step, and one for each evaluation

The order of the data follows from seed and step (`models.starter.packing`), and nothing else here is random after the
weights were drawn, so that a run which goes on from a checkpoint computes what it would have computed.

The rate of learning is constant until four fifths of the budget are spent and then falls to nothing (WSD: Hu et al.,
arXiv 2404.06395; the form of the fall: Hägele et al., arXiv 2405.18392). The budget is one of tokens, of minutes, or
whichever ends first, so that a run whose speed nobody knew before ends well too.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import Starcoder2ForCausalLM

from models.starter import tokenizer
from models.starter.card import draft
from models.starter.corpus import open_corpus, rows
from models.starter.errors import TrainingError
from models.starter.evaluation import Evaluator
from models.starter.files import replace_text, replacing
from models.starter.packing import PADDING, Sequences
from models.starter.sizes import CONTEXT_TOKENS, Size, architecture
from models.starter.tokens import has_tokens, read_tokens, write_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

    from models.starter.corpus import Corpus

DECAY_SHARE = 0.2
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1
MAX_GRADIENT_NORM = 1.0
CHECKPOINT_EVERY_S = 300.0
EVALUATE_EVERY_S = 900.0
KEPT_CHECKPOINTS = 2
LOADER_PROCESSES = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be trained: on which corpus, in which folder, on how many tokens or in how many minutes at most."""

    size: Size
    corpus: Path
    out: Path
    tokens: int
    minutes: float | None = None
    seed: int = 1
    compiled: bool = False

    def progress(self, counters: Counters) -> float:
        """Return how much of the budget is spent, from 0 to 1."""
        spent = counters.step * self.size.step_tokens / max(self.tokens, self.size.step_tokens)
        if self.minutes:
            spent = max(spent, counters.seconds / 60 / self.minutes)
        return min(spent, 1.0)

    def learning_rate(self, counters: Counters) -> float:
        """Return the rate of the next step."""
        warm = min(1.0, (counters.step + 1) / self.size.warmup_steps)
        decayed = max(0.0, self.progress(counters) - (1 - DECAY_SHARE)) / DECAY_SHARE
        return self.size.learning_rate * warm * (1 - math.sqrt(decayed))


@dataclass(slots=True)
class Counters:
    """How far a run is; `seconds` counts all of its calls together. `decay_step` is the first of the decay."""

    step: int = 0
    seconds: float = 0.0
    decay_step: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A trained model, or where its training was stopped; `evaluations` are the lines of the log that hold them."""

    finished: bool
    counters: Counters
    model: PreTrainedModel
    tokenizer: Tokenizer
    corpus: Corpus
    evaluations: list[dict[str, Any]]


class Objective(torch.nn.Module):
    """A model with its loss: the mean negative logarithm of the probability of each token but padding."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Take the model; its parameters are those of this module."""
        super().__init__()
        self.model = model

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        """Return the loss of `sequences`, of shape (batch, tokens + 1)."""
        hidden = self.model.model(sequences[:, :-1], use_cache=False).last_hidden_state  # (batch, tokens, width)
        logits = self.model.lm_head(hidden).float()  # (batch, tokens, vocabulary)
        return functional.cross_entropy(logits.flatten(0, 1), sequences[:, 1:].flatten(), ignore_index=PADDING)


def train(plan: Plan, show: Callable[[str], None] | None = None) -> Outcome:
    """Train until the budget is spent or a signal (SIGINT, SIGTERM) asks to stop, which saves first.

    `show` is given a line to be shown in the place of the one before. Raises TrainingError, OSError.
    """
    corpus = open_corpus(plan.corpus)
    accelerator = Accelerator(mixed_precision="no")  # autocast is ours: around the loss alone
    with accelerator.main_process_first():
        _prepare(plan, corpus, show or _silent)
    run = _Run(plan, corpus, accelerator, show or _silent)
    with _stop_signals() as stopped:
        run.go(stopped)
    return Outcome(not stopped.is_set(), run.counters, run.model, run.tokenizer, corpus, run.log.evaluations)


def _prepare(plan: Plan, corpus: Corpus, show: Callable[[str], None]) -> None:
    """Make tokenizer and tokens, where they are not there yet, and refuse the folder of another run."""
    out = plan.out
    (out / "data").mkdir(parents=True, exist_ok=True)
    facts = {"size": asdict(plan.size) | {"tokens": None}, "corpus": corpus.id, "seed": plan.seed}
    if (out / "run.json").exists():
        if json.loads((out / "run.json").read_text(encoding="utf-8")) != facts:
            raise TrainingError(f"{out} holds another run (see run.json there); choose another folder or remove it.")
    else:
        replace_text(out / "run.json", json.dumps(facts, indent=1))
    if not (out / "tokenizer.json").exists():
        show("training the tokenizer")
        size_bytes = sum(part.stat().st_size for part in (corpus.folder / "train").glob("part-*.jsonl"))
        trained = tokenizer.train(tokenizer.sample(rows(corpus, "train"), size_bytes), plan.size.vocabulary)
        replace_text(out / "tokenizer.json", trained.to_str())
    for split in ("train", "heldout"):
        if not has_tokens(out / "data", split):
            show(f"tokenising {split}")
            write_tokens(corpus, split, tokenizer.load(out / "tokenizer.json"), out / "data")


def _silent(_line: str) -> None:
    """Show nothing."""


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Let SIGINT and SIGTERM set an event; where this is not the main thread, nothing can."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: asked.set()) for number in numbers]
    try:
        yield asked
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class _Run:
    """A model in training."""

    def __init__(self, plan: Plan, corpus: Corpus, accelerator: Accelerator, show: Callable[[str], None]) -> None:
        self._plan, self._accelerator, self._show = plan, accelerator, show
        self.tokenizer = tokenizer.load(plan.out / "tokenizer.json")
        torch.manual_seed(plan.seed)
        self.model: PreTrainedModel = Starcoder2ForCausalLM(architecture(plan.size)).to(accelerator.device)
        _shrink_residual_outputs(self.model)
        self._optimizer = _optimizer(self.model, plan.size.learning_rate)
        self.counters = Counters()
        if accelerator.is_main_process:
            (plan.out / "checkpoints").mkdir(exist_ok=True)
        self._restore()
        self.log = _Log(plan.out / "log.jsonl", self.counters.step, writes=accelerator.is_main_process)
        objective = accelerator.prepare(Objective(self.model))
        self._objective = (
            torch.compile(objective, dynamic=False) if plan.compiled and _can_compile(accelerator) else objective
        )
        card = draft(plan.size, corpus.id, self.model.num_parameters())
        heldout = read_tokens(plan.out / "data", "heldout")
        self._evaluator = Evaluator(heldout, self.tokenizer, card)

    def go(self, stopped: threading.Event) -> None:
        """Take steps until the budget is spent or a stop is asked for; evaluate and save at the end."""
        before_s, started_s = self.counters.seconds, time.monotonic()
        saved_s = evaluated_s = started_s
        batches = self._batches()
        while self._plan.progress(self.counters) < 1 and not self._is_stopped(stopped):
            if self.counters.decay_step is None and self._plan.progress(self.counters) >= 1 - DECAY_SHARE:
                self.counters.decay_step = self.counters.step
                batches = self._batches()
            self._step(batches)
            now_s = time.monotonic()
            self.counters.seconds = before_s + now_s - started_s
            if now_s - saved_s > CHECKPOINT_EVERY_S:
                self._save()
                saved_s = now_s
            if now_s - evaluated_s > EVALUATE_EVERY_S:
                self._evaluate()
                evaluated_s = time.monotonic()
        self._save()
        if not stopped.is_set() and not self.log.is_evaluated(self.counters.step):
            self._evaluate()

    def _is_stopped(self, stopped: threading.Event) -> bool:
        """Return whether any process was asked to stop: all of them leave after the same step."""
        if self._accelerator.num_processes == 1:
            return stopped.is_set()
        flag = torch.tensor(float(stopped.is_set()), device=self._accelerator.device)
        if self._accelerator.reduce(flag).item() > 0:
            stopped.set()
        return stopped.is_set()

    def _batches(self) -> Iterator[torch.Tensor]:
        """Yield this process's micro-batches from the next step on: int64 of shape (sequences, tokens + 1)."""
        size, processes = self._plan.size, self._accelerator.num_processes
        decay_step = self.counters.decay_step
        length, seed = (size.sequence_tokens, 0) if decay_step is None else (CONTEXT_TOKENS, 1)
        data = read_tokens(self._plan.out / "data", "train")
        sequences = Sequences(data, self.tokenizer, length, 2 * self._plan.seed + seed)
        first = (self.counters.step - (decay_step or 0)) * (size.step_tokens // length)
        workers = min(LOADER_PROCESSES, (os.cpu_count() or 1) // 2) if self._accelerator.device.type == "cuda" else 0
        return iter(
            DataLoader(
                sequences,  # type: ignore[arg-type]  # it is no Dataset by name
                batch_size=size.micro_tokens // length,
                sampler=range(first + self._accelerator.process_index, 2**62, processes),
                num_workers=workers,
                multiprocessing_context="fork" if workers else None,
                pin_memory=bool(workers),
            )
        )

    def _step(self, batches: Iterator[torch.Tensor]) -> None:
        """Take one step, and say how it went."""
        started_s = time.monotonic()
        rate = self._plan.learning_rate(self.counters)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss = self._accumulate(batches)
        norm = self._accelerator.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.counters.step += 1
        facts = {
            "step": self.counters.step,
            "loss": round(loss, 6),
            "learning_rate": rate,
            "gradient_norm": float(norm),
        }
        speed = self._plan.size.step_tokens / (time.monotonic() - started_s)
        self.log.write(facts | {"tokens_per_second": round(speed), "seconds": round(self.counters.seconds, 1)})
        self._show(self._line(loss, speed))

    def _accumulate(self, batches: Iterator[torch.Tensor]) -> float:
        """Compute the gradients of a step's batch, and return its loss."""
        size, accelerator = self._plan.size, self._accelerator
        rounds = max(1, size.step_tokens // (size.micro_tokens * accelerator.num_processes))
        total = torch.zeros((), device=accelerator.device)
        for turn in range(rounds):
            sequences = next(batches).to(accelerator.device, non_blocking=True)
            apart = accelerator.no_sync(self._objective) if turn < rounds - 1 else contextlib.nullcontext()
            with apart:
                with torch.autocast(accelerator.device.type, torch.bfloat16):
                    loss = self._objective(sequences) / rounds
                accelerator.backward(loss)
            total += loss.detach()
        return float(accelerator.reduce(total, "mean"))

    def _line(self, loss: float, speed: float) -> str:
        done = self._plan.progress(self.counters)
        left = round(self.counters.seconds * (1 - done) / done)
        clock = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
        return f"step {self.counters.step:,}  loss {loss:.3f}  {speed:,.0f} tokens/s  {done:.1%}, {clock} left"

    def _evaluate(self) -> None:
        if self._accelerator.is_main_process:
            self._show("evaluating")
            self.log.write({"step": self.counters.step} | self._evaluator.evaluate(self.model))
        self._accelerator.wait_for_everyone()

    def _save(self) -> None:
        """Put a checkpoint on the disk in one step, and remove those before the last two."""
        if not self._accelerator.is_main_process:
            return
        folder = self._plan.out / "checkpoints"
        path = folder / f"step-{self.counters.step:08d}.pt"
        state = {"model": self.model.state_dict(), "optimizer": self._optimizer.state_dict()}
        with replacing(path) as file:
            torch.save(state | asdict(self.counters), file)
        for old in _checkpoints(self._plan.out)[KEPT_CHECKPOINTS:]:
            old.unlink()

    def _restore(self) -> None:
        """Go on from the last checkpoint that can be read, if there is any."""
        for path in _checkpoints(self._plan.out):
            try:
                state = torch.load(path, map_location=self._accelerator.device, weights_only=True)
            except (OSError, RuntimeError, EOFError, ValueError) as error:
                self._show(f"{path} cannot be read ({error}); the one before is taken")
                continue
            self.model.load_state_dict(state.pop("model"))
            self._optimizer.load_state_dict(state.pop("optimizer"))
            self.counters = Counters(**state)
            return


def _checkpoints(out: Path) -> list[Path]:
    """Return the checkpoints of a run, the last one first."""
    return sorted((out / "checkpoints").glob("step-*.pt"), reverse=True)


def _optimizer(model: PreTrainedModel, rate: float) -> torch.optim.AdamW:
    """Return AdamW in one kernel; matrices decay, biases and norms do not."""
    parameters = list(model.parameters())
    groups = [
        {"params": [item for item in parameters if item.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [item for item in parameters if item.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=BETAS, fused=True)


def _shrink_residual_outputs(model: PreTrainedModel) -> None:
    """Let what each layer adds start smaller, the more layers there are (GPT-2)."""
    factor = 1 / math.sqrt(2 * model.config.num_hidden_layers)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "c_proj.weight")):
                weight.mul_(factor)


def _can_compile(accelerator: Accelerator) -> bool:
    """Return whether torch.compile has what it needs here: on a CPU that is a C++ compiler."""
    return accelerator.device.type != "cpu" or shutil.which("g++") is not None or shutil.which("clang++") is not None


@dataclass(slots=True)
class _Log:
    """The lines of `log.jsonl`, those after the step of a checkpoint dropped: they come again."""

    path: Path
    step: int
    writes: bool
    evaluations: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        kept = [line for line in lines if _step_of(line) <= self.step]
        self.evaluations = [facts for line in kept if "bits_per_byte" in (facts := json.loads(line))]
        if self.writes:
            replace_text(self.path, "".join(f"{line}\n" for line in kept))

    def is_evaluated(self, step: int) -> bool:
        """Return whether the model after a step was evaluated: a call that only publishes does not do so again."""
        return bool(self.evaluations) and self.evaluations[-1]["step"] == step

    def write(self, facts: dict[str, Any]) -> None:
        """Add a line."""
        if "bits_per_byte" in facts:
            self.evaluations.append(facts)
        if self.writes:
            with self.path.open("a", encoding="utf-8") as log:
                log.write(json.dumps(facts) + "\n")


def _step_of(line: str) -> float:
    """Return the step of a line; one that a killed run half wrote belongs to none."""
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return math.inf
