"""`starcite train`: a corpus to a model that the daemon loads; like `cli` it only parses and prints."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lsp_server import terminal

if TYPE_CHECKING:
    import argparse

LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "gguf")


def add_train(commands: terminal.Commands) -> None:
    """Add `starcite train`."""
    parser = terminal.command(
        commands,
        "train",
        _train,
        "train a starter model on a corpus; the same call goes on with a run that was stopped",
        "starcite train --size tiny --steps 50 --corpus ./corpus --out ./model",
    )
    parser.add_argument("--size", choices=("tiny", "seedling", "starter"), required=True, help="the shape of the model")
    parser.add_argument(
        "--corpus", metavar="DIR", type=Path, required=True, help="what it learns from, as corpus build leaves it"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the run and the model go")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", metavar="N", type=int, help="train so many steps (default: the size's tokens)")
    budget.add_argument("--tokens", metavar="N", type=int, help="train on so many tokens")
    parser.add_argument(
        "--time-limit", metavar="MINUTES", type=float, help="end well after so many minutes, of all calls together"
    )
    parser.add_argument("--seed", metavar="N", type=int, default=1, help="draws weights and order (default: 1)")
    parser.add_argument(
        "--threads", metavar="N", type=int, default=os.cpu_count() or 1, help="threads on a CPU (default: all cores)"
    )
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="do without torch.compile")
    terminal.with_json(parser)


def _train(options: argparse.Namespace) -> int:
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        return terminal.complain(
            f"training needs {', '.join(missing)}; run pip install 'starcite[train]'", terminal.BAD_INPUT
        )
    for name in ("steps", "tokens", "time_limit", "threads"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            return terminal.complain(f"--{name.replace('_', '-')} must be more than 0", terminal.BAD_INPUT)
    from models.starter.run import run

    shown = sys.stderr.isatty()
    line = terminal.Progress("train")
    report = run(
        size=options.size,
        corpus=options.corpus,
        out=options.out,
        steps=options.steps,
        tokens=options.tokens,
        minutes=options.time_limit,
        seed=options.seed,
        threads=options.threads,
        compiled=options.compile,
        show=line.show_text if shown else None,
    )
    line.clear()
    if options.json:
        print(json.dumps({"version": 1} | report.to_json()))
    elif report.card is None:
        print(f"stopped and saved at step {report.step:,}; the same command goes on")
    else:
        print(f"{report.card}: {report.bits_per_byte:.3f} bits a byte, {report.fim_exact} of {report.fim_lines} lines")
        print(f"to use it: starcite models add {report.card}")
    return terminal.INTERRUPTED if report.card is None else 0
