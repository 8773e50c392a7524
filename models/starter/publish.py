"""A trained model to the files that are given away: weights, quantized weights, plot, card."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from models.starter.card import draft, write_card
from models.starter.export import quantize, save_transformers, write_gguf
from models.starter.files import replace_text, replacing
from models.starter.plot import loss_plot

if TYPE_CHECKING:
    from pathlib import Path

    from models.starter.training import Outcome, Plan

# What of transformers' folder a card binds: the others only say how its own tokenizer and generation are set up.
TRANSFORMERS_FILES = ("config.json", "tokenizer.json", "model.safetensors")
FILE_KINDS = ("Q4_0", "Q6_K", "Q8_0")
# What a rented machine gives back and a repository holds in one file.
PART_BYTES = 15_000_000


def publish(plan: Plan, outcome: Outcome) -> Path:
    """Write a finished run's model into its folder, and return the path of its card.

    <out>/transformers/             full precision, for transformers
    <out>/<size>-f32.gguf, …        the same for llama.cpp, and each of `FILE_KINDS`
    <out>/<size>-q4_0.gguf.0, …     what the card binds, in parts where it is long
    <out>/loss.svg, <size>.toml     the plot and the card
    """
    out, name = plan.out, plan.size.name
    card = draft(plan.size, outcome.corpus.train_id, outcome.model.num_parameters())
    save_transformers(outcome.model, outcome.tokenizer, out / "transformers")
    full = out / f"{name}-f32.gguf"
    write_gguf(outcome.model, outcome.tokenizer, card.name, full)
    files = {kind: quantize(full, kind) for kind in FILE_KINDS}
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    replace_text(out / "loss.svg", loss_plot(lines, plan.size.step_tokens))
    path = out / f"{name}.toml"
    bound = files[plan.size.file_kind]
    full_precision = [out / "transformers" / file for file in TRANSFORMERS_FILES]
    write_card(card, _notes(plan, outcome), bound, _parts(bound), full_precision, path)
    return path


def _parts(file: Path) -> list[Path]:
    """Return a file, or where it is long its parts, which are written beside it."""
    for old in file.parent.glob(f"{file.name}.[0-9]"):
        old.unlink()
    data = file.read_bytes()
    if len(data) <= PART_BYTES:
        return [file]
    parts = []
    for number, start in enumerate(range(0, len(data), PART_BYTES)):
        parts.append(file.with_name(f"{file.name}.{number}"))
        with replacing(parts[-1]) as out:
            out.write(data[start : start + PART_BYTES])
    return parts


def _notes(plan: Plan, outcome: Outcome) -> str:
    """Return what the card says of the training."""
    counters, last = outcome.counters, outcome.evaluations[-1]
    return (
        f"Trained by 'starcite train --size {plan.size.name} --seed {plan.seed}' on the corpus {outcome.corpus.name} "
        f"({outcome.corpus.id}): {counters.step * plan.size.step_tokens:,} tokens in {counters.seconds / 60:.0f} "
        f"minutes. On packages that were held out: {last['bits_per_byte']} bits a byte, and of {last['fim_lines']} "
        f"lines, each whole and greedy, {last['fim_exact']} exactly right. The corpus is all that it learned from."
    )
