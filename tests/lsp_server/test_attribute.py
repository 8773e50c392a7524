"""The check before display, over indexes that change while an editor is open."""

from __future__ import annotations

import inspect
import random
import re
from typing import TYPE_CHECKING

import pytest

from attribution.build import build_documents
from attribution.documents import Document
from attribution.format import SourceRecord
from attribution.operations import compact, forget
from lsp_server.attribute import Corpora, clamped

if TYPE_CHECKING:
    from pathlib import Path

ANN = SourceRecord("ann/tool", "1", "", ("MIT",), license_conflict=False)
BOB = SourceRecord("bob/tool", "1", "", ("MIT",), license_conflict=False)


def text(seed: int) -> str:
    """Return random lines."""
    rng = random.Random(seed)  # noqa: S311
    return "".join(rng.choice("abcdefghij    \n") for _ in range(400))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an index of two sources, with opt-outs of one beside it."""
    build_documents([Document(text(1), "a.py", ANN), Document(text(2), "b.py", BOB)], tmp_path / "index")
    (tmp_path / "optouts.jsonl").write_text('{"optout_owners": ["ann"]}\n', encoding="utf-8")
    return tmp_path / "index"


def test_an_editor_that_runs_forgets_at_once(folder: Path) -> None:
    """From the opt-out on nothing of it is shown, also while and after the index is compacted; the rest is."""
    corpora = Corpora(lambda: (folder,))
    assert corpora.check(text(1), min_run=80)[0]
    forget(folder, folder.parent / "optouts.jsonl")
    for _ in range(2):
        matches, checked = corpora.check(text(1), min_run=80)
        assert (matches, checked.state) == ((), "checked")
        assert corpora.check(text(2), min_run=80)[0]
        compact(folder)
    assert corpora.check(text(2), min_run=80)[1].indexes[0]["documents"] == 1
    corpora.close()


def test_possible_renamed_copies_are_looked_for_only_if_asked(tmp_path: Path) -> None:
    """A suggestion that is the same code under other names is found, its offsets its own, with `renamed` alone."""
    code = inspect.getsource(clamped)
    build_documents([Document(code, "a.py", ANN)], tmp_path / "index", renamed=True)
    corpora = Corpora(lambda: (tmp_path / "index",))
    copy = re.sub(r"\b(match|left|text|first|start|end|replace|clamped)\b", r"\1_", code)
    assert corpora.check(copy, min_run=80, left="x = 1\n")[0] == ()
    (match,) = corpora.check(copy, min_run=80, left="x = 1\n", renamed=True)[0]
    assert match.kind == "renamed"
    assert copy[match.start : match.end].startswith("def clamped_")
    corpora.close()


def test_an_index_that_breaks_while_it_is_open_counts_as_not_checked(folder: Path) -> None:
    """Damaged tombstones are never "nothing found": the reason names the file, and the next check is good again."""
    corpora = Corpora(lambda: (folder,))
    assert corpora.check(text(1), min_run=80)[0]
    (folder / "tombstones.json").write_bytes(b"?")
    matches, checked = corpora.check(text(1), min_run=80)
    assert (matches, checked.state) == ((), "not_checked")
    assert "tombstones.json" in str(checked.reason)
    (folder / "tombstones.json").unlink()
    assert corpora.check(text(1), min_run=80)[0]
    corpora.close()
