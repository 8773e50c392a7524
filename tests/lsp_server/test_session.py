"""The session's own state: which policy counts for a document, and what goes into the log of decisions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from attribution.index import Match, Source
from lsp_server.attribute import Checked
from lsp_server.completion import Ask, Completion
from lsp_server.documents import Snapshot
from lsp_server.session import Session, installed_indexes
from models import paths
from models.protocol import TokenCounts

if TYPE_CHECKING:
    from pathlib import Path

    from attribution.policy import Decision


class ScriptedPipeline:
    """Answers with one suggestion, and keeps what it was asked."""

    def __init__(self) -> None:
        """Suggest a text with one reference that is annotated."""
        self.asked: list[Ask] = []
        self.decision: Decision = "annotate"

    async def complete(self, ask: Ask) -> Completion:
        """Return the suggestion."""
        self.asked.append(ask)
        source = Source("acme/lib", "1.0", "a.py", 1, 2, "", ("MIT",), license_conflict=False)
        match = Match(0, 20, 1, 1, 90, "rare", 1, (source,), decision=self.decision)
        checked = Checked("checked", None, (), "unknown", 0.1)
        return Completion(
            "text", (0, 0), "line", "stop", "m", (match,), checked, "model", TokenCounts(1, 0, 1), {}, sha256="ab"
        )


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """Return a session with a scripted pipeline, whose files lie in a folder of the test."""
    monkeypatch.setenv("STARCITE_HOME", str(tmp_path / "home"))
    session = Session("test")
    session._pipeline = ScriptedPipeline()  # type: ignore[assignment]
    return session


def document(path: Path) -> Snapshot:
    """Return an open file."""
    return Snapshot(path.as_uri(), "python", 1, "x = 1\n")


async def test_the_policy_of_the_file_and_the_setting_go_with_a_request(session: Session, tmp_path: Path) -> None:
    """The file's repository decides, the setting where it says nothing; a broken file blocks all."""
    (tmp_path / "starcite.toml").write_text('[classes]\npermissive = "allow"\n')
    session.configure({"attribution": {"onMatch": "block"}})
    await session.complete(document(tmp_path / "a.py"), 0, automatic=False)
    policy = session._pipeline.asked[-1].policy  # type: ignore[attr-defined]
    classes = policy.to_json()["classes"]
    assert (classes["permissive"], classes["copyleft"], classes["common"]) == ("allow", "block", "allow")
    (tmp_path / "starcite.toml").write_text("permissive = 1")
    assert "permissive is no key" in session.policy_of(document(tmp_path / "a.py").uri).problem


async def test_a_decision_is_logged_once_while_it_stays_the_same(session: Session, tmp_path: Path) -> None:
    """Typing along a suggestion, or being offered it again, adds no line; another decision and accepting it do."""
    snapshot = document(tmp_path / "a.py")
    for _ in range(3):
        completion = await session.complete(snapshot, 0, automatic=False)
    session._pipeline.decision = "block"  # type: ignore[attr-defined]
    await session.complete(snapshot, 0, automatic=False)
    assert completion
    assert session.accept(session.remember_shown(completion, snapshot.uri))
    assert not session.accept("no such id")
    assert len(session._log.latest("shown", 9)) == 1
    assert len(session._log.latest("blocked", 9)) == 1
    (accepted,) = session.accepted(9)
    assert accepted["file"] == str(tmp_path / "a.py")
    await session.aclose()


async def test_one_without_references_leaves_no_trace(session: Session, tmp_path: Path) -> None:
    """Only what stands in the training data is logged."""
    completion = await session.complete(document(tmp_path / "a.py"), 0, automatic=False)
    assert completion
    session._log.close()
    free = replace(completion, references=())
    assert session.accept(session.remember_shown(free, "untitled:1"))
    assert session.accepted(9) == []
    await session.aclose()


def test_a_range_is_judged_by_the_policy_too(session: Session, small_index: Path, tmp_path: Path) -> None:
    """`starcite/check` has the decisions, and is not_checked where the policy cannot be read."""
    session.configure({"attribution": {"indexes": [str(small_index)]}})
    text = (small_index.parent / "source" / "textwrap.py").read_text()[:2000]
    snapshot = replace(document(tmp_path / "a.py"), text=text)
    (tmp_path / "starcite.toml").write_text('[licenses]\n"PSF-*" = "block"\n')
    (match,), checked = session.check(snapshot, 0, len(text))
    assert (match.decision, checked.state) == ("block", "checked")
    (tmp_path / "starcite.toml").write_text("[")
    (match,), checked = session.check(snapshot, 0, len(text))
    assert (match.decision, checked.state) == ("block", "not_checked")
    assert "is not TOML" in (checked.reason or "")


def test_the_index_that_comes_along_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is searched before the installed ones; where there is none, those alone; without any, nothing."""
    monkeypatch.setenv("STARCITE_HOME", str(tmp_path))
    monkeypatch.setattr(paths, "embedded_dir", lambda: tmp_path / "embedded")
    ours, theirs = tmp_path / "embedded" / "index", tmp_path / "indexes" / "theirs"
    assert installed_indexes() == ()
    for folder in (theirs, ours):
        folder.mkdir(parents=True)
        assert folder not in installed_indexes()
        (folder / "index.json").touch()
    assert installed_indexes() == (ours, theirs)
