"""The pipeline's own decisions, with a scripted client in the place of the daemon; the real one is in test_server."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from attribution.index import Match, Source
from attribution.policy import Policy, Rules
from lsp_server.attribute import Checked
from lsp_server.completion import Ask, Completion, Pipeline
from lsp_server.documents import Snapshot
from lsp_server.settings import CompletionSettings, Settings
from models.protocol import Delta, Done, FinishReason, GenerateRequest, TokenCounts

if TYPE_CHECKING:
    from attribution.policy import Decision


class ScriptedClient:
    """Generates the given text in pieces of three characters, and keeps what it was asked."""

    def __init__(self, text: str) -> None:
        """Generate this text at every request."""
        self.text = text
        self.requests: list[GenerateRequest] = []
        self.sent = ""
        self.ends: FinishReason = "stop"

    def generate(self, request: GenerateRequest) -> ScriptedGeneration:
        """Behave as `models.client.Client.generate` does."""
        self.requests.append(request)
        text = self.text
        for stop in request.stop:
            text = text.split(stop)[0]
        self.sent = ""
        return ScriptedGeneration(self, text)


class ScriptedGeneration:
    """The events of one scripted generation."""

    def __init__(self, client: ScriptedClient, text: str) -> None:
        """Give the text in pieces, then the end."""
        self.client = client
        self.pieces = [text[start : start + 3] for start in range(0, len(text), 3)]
        self.over = False
        self.cancelled = False

    def __aiter__(self) -> ScriptedGeneration:
        """Return the iterator, which this is."""
        return self

    async def __anext__(self) -> Delta | Done:
        """Return the next piece or the end."""
        if self.over:
            raise StopAsyncIteration
        if self.pieces and not self.cancelled:
            piece = self.pieces.pop(0)
            self.client.sent += piece
            return Delta(piece)
        self.over = True
        reason: FinishReason = "cancelled" if self.cancelled else self.client.ends
        return Done(reason, TokenCounts(10, 4, 3), {"queue": 0.0, "prefill": 2.0, "decode": 3.0})

    async def cancel(self) -> None:
        """End after the piece that was given last."""
        self.cancelled = True

    async def aclose(self) -> None:
        """Do nothing more."""


class RecordingCorpora:
    """Notes what is checked, and finds what it is told to find."""

    def __init__(self) -> None:
        """Start with nothing checked."""
        self.checked: list[tuple[str, str]] = []
        self.min_runs: list[int] = []
        self.finds: tuple[Match, ...] = ()

    def check(self, text: str, **rest: Any) -> tuple[tuple[Match, ...], Checked]:  # noqa: ANN401
        """Note the text, what stood left of it, and how long a run had to be."""
        self.checked.append((text, rest["left"]))
        self.min_runs.append(rest["min_run"])
        return self.finds, Checked("checked", None, (), "unknown", 0.1)


class Desk:
    """A pipeline with its scripted client."""

    def __init__(self, generates: str) -> None:
        """Build the pipeline round a client that generates the text."""
        self.client = ScriptedClient(generates)
        self.corpora = RecordingCorpora()

        async def connect(_model: str) -> ScriptedClient:
            return self.client

        self.pipeline = Pipeline(connect, self.corpora)  # type: ignore[arg-type]

    async def complete(self, marked: str, *, automatic: bool = True, **changes: Any) -> Completion | None:  # noqa: ANN401
        """Complete at the mark ▒."""
        snapshot = Snapshot("file:///w/a.py", changes.pop("language", "python"), 1, marked.replace("▒", ""))
        ask = Ask(snapshot, marked.index("▒"), Settings(), "editor", "model", automatic=automatic)
        return await self.pipeline.complete(replace(ask, **changes))


async def test_a_line_is_asked_for_with_its_stop_and_its_check() -> None:
    """The model is asked to stop at the line's end, and what it wrote is checked with the text on its left."""
    desk = Desk("1 + 2\nmore")
    completion = await desk.complete("x = ▒\n")
    assert completion
    assert (completion.text, completion.kind, completion.origin) == ("1 + 2", "line", "model")
    assert desk.client.requests[0].stop == ("\n",)
    assert desk.corpora.checked == [("1 + 2", "x = ")]
    answer = completion.to_json()
    assert answer["checked"]["state"] == "checked"
    assert set(answer["timings_ms"]) >= {
        "context",
        "prompt",
        "queue",
        "prefill",
        "decode",
        "postprocess",
        "check",
        "total",
    }
    assert answer["tokens"] == {"prompt": 10, "prompt_reused": 4, "generated": 3, "drafted": 0, "accepted": 0}


async def test_a_block_frees_the_model_at_its_end() -> None:
    """The stream is stopped where the scope ends, not at the token limit."""
    desk = Desk("\n    return 1\n\nclass A:\n    pass\n" + "x = 1\n" * 50)
    completion = await desk.complete("def f():▒\n")
    assert completion
    assert completion.text == "\n    return 1"
    assert len(desk.client.sent) < 40


async def test_typing_along_a_suggestion_asks_nobody_but_is_checked_again() -> None:
    """The rest of the shown text is served from memory, with the new left context for its check."""
    desk = Desk("compute(items)")
    await desk.complete("x = ▒\n")
    completion = await desk.complete("x = comp▒\n")
    assert completion
    assert (completion.text, completion.origin) == ("ute(items)", "typed")
    assert len(desk.client.requests) == 1
    assert desk.corpora.checked[-1] == ("ute(items)", "x = comp")


async def test_the_same_place_again_is_answered_from_the_cache() -> None:
    """Backspace to an earlier state asks nobody."""
    desk = Desk("compute(items)")
    await desk.complete("x = ▒\n")
    completion = await desk.complete("x = ▒\n")
    assert completion
    assert completion.origin == "cache"
    assert len(desk.client.requests) == 1


@pytest.mark.parametrize("other", ["y = 2\nx = comp▒\n", "x = comp▒\nz = 3\n", "x = cow▒\n"])
async def test_the_cache_knows_what_the_model_saw(other: str) -> None:
    """Another text before or after the cursor, or typing off the suggestion, asks the model."""
    desk = Desk("compute(items)")
    await desk.complete("x = ▒\n")
    await desk.complete(other)
    assert len(desk.client.requests) == 2


@pytest.mark.parametrize(
    ("marked", "changes"),
    [
        ("foo▒bar = 1\n", {}),
        ("   \n▒\n", {}),
        ("x = ▒\n", {"settings": Settings(completion=CompletionSettings(automatic=False))}),
        ("x = ▒\n", {"settings": Settings(completion=CompletionSettings(disabled_languages=("python",)))}),
    ],
)
async def test_an_automatic_wish_is_turned_down_where_it_would_disturb(marked: str, changes: dict[str, Any]) -> None:
    """In the middle of a word, in an empty file, where it is switched off: nothing; by hand it is still answered."""
    desk = Desk("compute(items)")
    assert await desk.complete(marked, **changes) is None
    assert desk.client.requests == []
    assert await desk.complete(marked, automatic=False, **changes) is not None


async def test_files_with_crlf_get_crlf() -> None:
    """A block for a file with Windows line ends has them too; the model saw unix ones."""
    desk = Desk("\n    a = 1\n    return a\n\nx")
    completion = await desk.complete("def f():▒\r\n")
    assert completion
    assert completion.text == "\r\n    a = 1\r\n    return a"
    assert "\r" not in desk.client.requests[0].prompt.suffix


async def test_nothing_worth_showing_is_empty_and_says_so() -> None:
    """An empty result has its finish reason, and is remembered so that it is not asked for again."""
    desk = Desk("\n\n")
    for _ in range(2):
        completion = await desk.complete("x = 1▒\n")
        assert completion
        assert (completion.text, completion.finish_reason) == ("", "empty")
    assert len(desk.client.requests) == 1


async def test_an_answer_that_came_too_late_to_have_a_text_is_asked_for_again() -> None:
    """A model whose time was over before its first token has not said that there is nothing to suggest."""
    desk = Desk("")
    desk.client.ends = "time"
    for _ in range(2):
        completion = await desk.complete("x = ▒\n")
        assert completion
        assert (completion.text, completion.finish_reason) == ("", "time")
    assert len(desk.client.requests) == 2


def found(*licenses: str) -> Match:
    """Return a match with one source of these licences."""
    return Match(
        0, 5, 1, 1, 90, "rare", 1, (Source("acme/lib", "1", "a.py", 1, 2, "", licenses, license_conflict=False),)
    )


async def test_what_the_policy_blocks_is_withheld_but_its_references_are_told() -> None:
    """The text is empty in whatever is made of the answer; decision, hash and sources stay, for log and status."""
    desk = Desk("compute(items)")
    desk.corpora.finds = (found("MIT"), found("GPL-3.0-only"))
    completion = await desk.complete("x = ▒\n", policy=Policy(rules=Rules({"copyleft": "block"}), min_run=70))
    assert completion
    assert (completion.text, completion.decision) == ("", "block")
    assert [match.decision for match in completion.references] == ["annotate", "block"]
    assert completion.sha256 == hashlib.sha256(b"compute(items)").hexdigest()
    assert (completion.to_json()["text"], completion.to_json()["decision"]) == ("", "block")
    assert desk.corpora.min_runs == [70]


@pytest.mark.parametrize("decision", ["allow", "annotate"])
async def test_what_is_allowed_or_annotated_is_shown_with_its_references(decision: Decision) -> None:
    """Allowed text keeps its references, which say that it is allowed."""
    desk = Desk("compute(items)")
    desk.corpora.finds = (found("MIT"),)
    completion = await desk.complete("x = ▒\n", policy=Policy(rules=Rules({"permissive": decision})))
    assert completion
    assert (completion.text, completion.decision) == ("compute(items)", decision)
    assert [match.decision for match in completion.references] == [decision]


async def test_common_text_is_shown_whatever_its_licence_unless_the_policy_names_the_class() -> None:
    """A suggested notice or list of imports is no alert, and keeps its references; `common = "block"` withholds it."""
    desk = Desk("compute(items)")
    desk.corpora.finds = (replace(found("GPL-3.0-only"), classification="common"),)
    shown = await desk.complete("x = ▒\n", policy=Policy(base="block", rules=Rules({"copyleft": "block"})))
    assert shown
    assert (shown.text, shown.decision) == ("compute(items)", "allow")
    assert [match.classification for match in shown.references] == ["common"]
    withheld = await desk.complete("y = ▒\n", policy=Policy(rules=Rules({"common": "block"})))
    assert withheld
    assert (withheld.text, withheld.decision) == ("", "block")


async def test_a_policy_that_cannot_be_read_never_lets_a_text_pass_for_clean() -> None:
    """With matches nothing is shown; without any the answer says that it was not checked, and why."""
    desk = Desk("compute(items)")
    policy = Policy.refusing("starcite.toml: classes.x is no key of a policy.")
    completion = await desk.complete("x = ▒\n", policy=policy)
    assert completion
    assert (completion.checked.state, completion.checked.reason) == ("not_checked", policy.problem)
    desk.corpora.finds = (found("MIT"),)
    completion = await desk.complete("x = ▒\n", policy=policy)
    assert completion
    assert (completion.text, completion.decision) == ("", "block")
