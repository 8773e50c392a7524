"""`starcite train` says in one line what is wrong, before anything heavy is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lsp_server import train
from lsp_server.cli import main

if TYPE_CHECKING:
    from pathlib import Path


def words(folder: Path, *more: str) -> list[str]:
    """Return a call on a folder that holds no corpus."""
    return ["train", "--size", "tiny", "--corpus", str(folder), "--out", str(folder / "out"), *more]


@pytest.mark.parametrize("more", [["--steps", "0"], ["--tokens", "-1"], ["--time-limit", "0"], ["--threads", "0"]])
def test_nothing_is_no_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]) -> None:
    """Counts and minutes are more than nothing; the sentence names the option."""
    assert main(words(tmp_path, *more)) == 2
    assert f"{more[0]} must be more than 0" in capsys.readouterr().err


def test_missing_libraries_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra, the sentence says what to install."""
    monkeypatch.setattr(train, "LIBRARIES", ("no_such_library",))
    assert main(words(tmp_path)) == 2
    assert "no_such_library; run pip install 'starcite[train]'" in capsys.readouterr().err


def test_a_folder_without_a_corpus_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence says how a corpus is made, and nothing is left in the folder of the run."""
    assert main(words(tmp_path)) == 2
    assert "is no corpus" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
