"""The script for a rented machine does on a CPU what it would do there: pieces, stops, parts, a card."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.cards import FileSource, read_card

SCRIPT = Path(__file__).parents[3] / "models/starter/gpu_run.sh"


@pytest.mark.slow
def test_the_rehearsal_ends_with_a_model(corpus: Path, tmp_path: Path) -> None:
    """The corpus goes there in several pieces, one a step, and what comes back is a card and the file that it binds."""
    limits = {"PIECE_BYTES": "16000", "STEP_SECONDS": "120", "REHEARSAL_MINUTES": "0.03", "OMP_NUM_THREADS": "1"}
    command = ["bash", str(SCRIPT), "rehearse", str(corpus), str(tmp_path / "run")]
    done = subprocess.run(
        command, env=os.environ | limits | {"PYTHON": sys.executable}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "run/pieces").glob("corpus.tar.xz.*"))) > 1
    assert "waiting for corpus.tar.xz." in done.stdout
    card = read_card(tmp_path / "run/out/tiny.toml")
    (source,) = card.files[0].sources
    assert isinstance(source, FileSource)
    assert sum(part.stat().st_size for part in source.parts) == card.files[0].bytes
    assert {"log.jsonl", "loss.svg"} < {path.name for path in (tmp_path / "run/out").iterdir()}


def test_wrong_use_is_explained(tmp_path: Path) -> None:
    """Without words that it knows, the script says what it takes and ends with 2."""
    done = subprocess.run(["bash", str(SCRIPT), "step", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "gpu_run.sh step PIECES WORK OUT" in done.stderr
