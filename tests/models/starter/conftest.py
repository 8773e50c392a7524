"""What the tests of the training share: a small corpus, and a tiny model that was trained on it."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import pytest
import torch

from models.starter import evaluation
from models.starter.run import Report, run

# Code that is on every machine that runs these tests, and its like, which is held out.
TRAINED = {"text": ["textwrap", "string", "difflib"], "data": ["heapq", "bisect", "copy"], "io": ["shutil", "glob"]}
HELD_OUT = {"other": ["fnmatch", "shlex", "calendar"]}


def write_corpus(folder: Path, *, corpus_id: str = "test-corpus") -> Path:
    """Write a corpus of the standard library's modules."""
    library = Path(sysconfig.get_path("stdlib"))
    for split, packages in (("train", TRAINED), ("heldout", HELD_OUT)):
        (folder / split).mkdir(parents=True)
        rows = [
            {"text": (library / f"{module}.py").read_text(), "repo_name": name, "path": f"{module}.py"}
            for name, modules in packages.items()
            for module in modules
        ]
        (folder / split / "part-0000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "corpus.json").write_text(
        json.dumps({"id": corpus_id, "name": "tests", "train": {"corpus": f"index of {corpus_id}"}})
    )
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small corpus."""
    return write_corpus(tmp_path_factory.mktemp("starter") / "corpus")


@pytest.fixture(scope="session", autouse=True)
def _small() -> None:
    """Let an evaluation in training take a second, and the training not be slowed down by whatever else runs."""
    evaluation.WINDOWS, evaluation.LINES = 4, 8
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """Return the folder of a trained tiny model, and the report of its training."""
    out = tmp_path_factory.mktemp("starter") / "out"
    return out, run(size="tiny", corpus=corpus, out=out, steps=120, compiled=False)
