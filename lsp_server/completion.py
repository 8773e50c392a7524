"""The one pipeline of a completion, the same for every editor, the command line and the gateway.

Trigger, cache, context, prompt, daemon, post-processing, citation check, in this order, each timed. Nothing is returned
that was not checked; what could not be checked says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from attribution.policy import Decision, Policy, strictest
from lsp_server import context, languages, postprocess, prompt
from lsp_server.attribute import judged
from models.errors import DaemonUnavailableError
from models.protocol import Done, GenerateRequest, TokenCounts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from attribution.index import Match
    from lsp_server.attribute import Checked, Corpora
    from lsp_server.documents import Snapshot
    from lsp_server.postprocess import Kind, Scope
    from lsp_server.settings import Settings
    from models.client import Client
    from models.protocol import FimPrompt, Snippet

Origin = Literal["model", "cache", "typed"]
FinishReason = Literal["stop", "length", "time", "cancelled", "empty"]

DEFAULT_POLICY = Policy()
CACHE_ENTRIES = 128
# How far typing may go along an earlier suggestion and still be answered from it, in characters.
LOOK_BACK_CHARS = 64
# In the middle of a line a suggestion helps only where nothing but closing signs follows. Copilot's client has the same
# rule: the rest of the line matches this, or no automatic request is made.
_CLOSING_REST = re.compile(r"^\s*[)>}\]\"'`]*\s*[:{;,]?\s*$")


@dataclass(frozen=True, slots=True)
class Ask:
    """One wish for a completion: the document, the cursor's offset in it, and who asks.

    `others` are the other open documents, most recently used first; `editor` tells apart the editors that share the
    daemon, where the newest wish of each supersedes its older ones; `model` and `model_corpus` name what generates.
    `policy` says what is done about a match.
    """

    snapshot: Snapshot
    offset: int
    settings: Settings
    editor: str
    model: str
    model_corpus: str = "unknown"
    automatic: bool = False
    others: tuple[Snapshot, ...] = ()
    root: Path | None = None
    policy: Policy = DEFAULT_POLICY


@dataclass(frozen=True, slots=True)
class Completion:
    """What to insert, where, and everything that is known of it; an empty text means that nothing is to be shown.

    What the policy blocks has an empty text too: `decision` says so, and `references` tell why, their offsets those of
    the text that was withheld. `sha256` is that of what the model suggested, empty where nothing matched.
    """

    text: str
    replace: tuple[int, int]
    kind: Kind
    finish_reason: FinishReason
    model: str
    references: tuple[Match, ...]
    checked: Checked
    origin: Origin
    tokens: TokenCounts
    timings_ms: dict[str, float]
    sha256: str = ""

    @property
    def decision(self) -> Decision:
        """Return the strictest decision about its references; what has none is allowed."""
        return strictest(("allow", *(match.decision for match in self.references)))

    def to_json(self) -> dict[str, Any]:
        """Return the answer of `starcite complete --json`, as the contract has it."""
        counts = self.tokens
        return {
            "version": 1,
            "text": self.text,
            "replace": list(self.replace),
            "kind": self.kind,
            "finish_reason": self.finish_reason,
            "model": self.model,
            "references": [match.to_json() for match in self.references],
            "checked": self.checked.to_json(),
            "origin": self.origin,
            "decision": self.decision,
            "tokens": {
                "prompt": counts.prompt,
                "prompt_reused": counts.prompt_reused,
                "generated": counts.generated,
                "drafted": counts.drafted,
                "accepted": counts.accepted,
            },
            "timings_ms": {name: round(value, 2) for name, value in self.timings_ms.items()},
        }


def is_wanted(ask: Ask, scope: Scope) -> bool:
    """Return whether to ask the model at all; a person who asks by hand is always answered."""
    if not ask.automatic:
        return True
    chosen = ask.settings.completion
    if not chosen.automatic or ask.snapshot.language in chosen.disabled_languages:
        return False
    return bool(_CLOSING_REST.match(scope.right)) and bool(ask.snapshot.text.strip())


@dataclass(frozen=True, slots=True)
class _Generated:
    """A generation after post-processing."""

    text: str
    finish_reason: FinishReason
    tokens: TokenCounts = field(default_factory=lambda: TokenCounts(0, 0, 0))
    timings_ms: dict[str, float] = field(default_factory=dict)


class Pipeline:
    """Completes; holds the suggestions of late, so that typing along one never asks the model again."""

    def __init__(self, connect: Callable[[str], Awaitable[Client]], corpora: Corpora) -> None:
        """Take the client of a model's daemon from `connect`, and check against `corpora`."""
        self._connect = connect
        self._corpora = corpora
        self._cache: OrderedDict[tuple[str, FimPrompt, str], _Generated] = OrderedDict()
        self._snippets: tuple[object, tuple[Snippet, ...]] = (None, ())

    async def complete(self, ask: Ask) -> Completion | None:
        """Return the completion at the cursor, None where none is wanted.

        Raises models.errors.ModelError when the model cannot be reached or fails. Cancelling the task frees the model.
        """
        clock = _Clock()
        language = languages.language(ask.snapshot.language)
        before = prompt.unix_line_ends(ask.snapshot.text[: ask.offset])
        scope = postprocess.scope_at(
            before + prompt.unix_line_ends(ask.snapshot.text[ask.offset :]), len(before), language
        )
        if not is_wanted(ask, scope):
            return None
        snippets = self._gathered(ask)
        clock.lap("context")
        fim = prompt.build(ask.snapshot, ask.offset, snippets, ask.root)
        origin, generated = self._remembered(ask.model, fim)
        clock.lap("prompt")
        if generated is None:
            origin, generated = "model", await self._generate(ask, fim, scope, clock)
        text = generated.text.replace("\n", "\r\n") if "\r\n" in ask.snapshot.text else generated.text
        references, checked = self._checked(ask, text)
        blocked = any(match.decision == "block" for match in references)
        clock.lap("check")
        return Completion(
            text="" if blocked else text,
            replace=(ask.offset, ask.offset),
            kind=scope.kind,
            finish_reason=generated.finish_reason,
            model=ask.model,
            references=references,
            checked=checked,
            origin=origin,
            tokens=generated.tokens,
            timings_ms=clock.total(generated.timings_ms),
            sha256=hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest() if references else "",
        )

    def _checked(self, ask: Ask, text: str) -> tuple[tuple[Match, ...], Checked]:
        """Return the matches with what the policy decides; with one that cannot be read nothing counts as checked."""
        found, checked = self._corpora.check(
            text,
            min_run=ask.policy.min_run or ask.settings.attribution.min_run,
            renamed=ask.settings.attribution.renamed,
            model_corpus=ask.model_corpus,
            left=ask.snapshot.text[: ask.offset],
        )
        return judged(ask.policy, found, checked, prompt.uri_path(ask.snapshot.uri))

    def _gathered(self, ask: Ask) -> tuple[Snippet, ...]:
        """Return the snippets, chosen anew only when the cursor's neighbourhood or another file changed."""
        key = (
            ask.snapshot.uri,
            context.region(ask.snapshot, ask.offset),
            tuple((other.uri, other.version) for other in ask.others),
        )
        if self._snippets[0] != key:
            self._snippets = (key, context.gather(ask.snapshot, ask.offset, ask.others, ask.root))
        return self._snippets[1]

    async def _generate(self, ask: Ask, fim: FimPrompt, scope: Scope, clock: _Clock) -> _Generated:
        chosen = ask.settings.completion
        request = GenerateRequest(
            prompt=fim,
            max_tokens=chosen.max_tokens,
            stop=("\n",) if scope.kind == "line" else (),
            time_limit_ms=float(chosen.time_limit_ms),
            editor=ask.editor,
        )
        client = await self._connect(ask.model)
        raw, done = await _streamed(client, request, scope)
        clock.lap("model")
        finished = postprocess.finish(raw, scope, whole=done.finish_reason == "stop")
        clock.lap("postprocess")
        broken_off = done.finish_reason == "cancelled" or (done.finish_reason == "time" and not raw)
        reason: FinishReason = done.finish_reason if finished or broken_off else "empty"
        generated = _Generated(finished, reason, done.tokens, done.timings_ms)
        if not broken_off:
            self._remember(ask.model, fim, generated)
        return generated

    def _remember(self, model: str, fim: FimPrompt, generated: _Generated) -> None:
        self._cache[_key(model, fim, fim.prefix)] = generated
        while len(self._cache) > CACHE_ENTRIES:
            self._cache.popitem(last=False)

    def _remembered(self, model: str, fim: FimPrompt) -> tuple[Origin, _Generated | None]:
        """Return an earlier generation that still holds: at this place, or where what was typed since follows it."""
        shortest = len(fim.prefix) - LOOK_BACK_CHARS
        # What is compared first is what differs most often; nothing is copied or hashed, as 65 look-ups would.
        near = [key for key in self._cache if len(key[2]) >= shortest and fim.prefix.startswith(key[2])]
        for key in sorted(near, key=lambda key: -len(key[2])):
            typed, known = fim.prefix[len(key[2]) :], self._cache[key]
            follows = not typed or (known.text.startswith(typed) and known.text != typed)
            if follows and key == _key(model, fim, key[2]):
                self._cache.move_to_end(key)
                return ("typed" if typed else "cache"), _Generated(known.text[len(typed) :], known.finish_reason)
        return "model", None


def _key(model: str, fim: FimPrompt, prefix: str) -> tuple[str, FimPrompt, str]:
    """Return the key of all that the model saw when its prompt was this one with that prefix."""
    return model, replace(fim, prefix=""), prefix


async def _streamed(client: Client, request: GenerateRequest, scope: Scope) -> tuple[str, Done]:
    """Return the generated text and how it ended; the model is freed as soon as nothing more can be shown."""
    text = ""
    enough = False
    async with contextlib.aclosing(client.generate(request)) as events:
        async for event in events:
            if isinstance(event, Done):
                return text, replace(event, finish_reason="stop") if enough else event
            text += event.text
            if not enough and postprocess.is_finished(text, scope):
                enough = True
                await events.cancel()
    raise DaemonUnavailableError("The model daemon broke off an answer: try again.")


class _Clock:
    """Laps of one request in milliseconds, from one monotonic clock."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._laps[name] = (now - self._last) * 1000
        self._last = now

    def total(self, model: dict[str, float]) -> dict[str, float]:
        """Return the timings of the contract; those of the model are 0 where it was not asked."""
        own = {name: self._laps.get(name, 0.0) for name in ("context", "prompt", "postprocess", "check")}
        its = {name: model.get(name, 0.0) for name in ("queue", "prefill", "decode", "time_to_first_token")}
        return own | its | {"total": (time.perf_counter() - self._start) * 1000}
