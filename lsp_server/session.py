"""All mutable state of the language server: documents, settings, the model's client, what was accepted."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attribution.errors import PolicyError
from attribution.policy import Policies, Policy
from lsp_server import prompt
from lsp_server.attribute import Corpora, judged, moved
from lsp_server.completion import Ask, Completion, Pipeline
from lsp_server.decisions import DecisionLog
from lsp_server.documents import Change, Encoding, Position, Snapshot
from lsp_server.settings import Settings, parse
from models import paths
from models.cards import load_card
from models.client import Client
from models.store import Store

if TYPE_CHECKING:
    from attribution.index import Match
    from lsp_server.attribute import Checked

State = Literal["starting", "downloading", "ready", "busy", "degraded", "off"]

SHOWN_ENTRIES = 1000


@dataclass(frozen=True, slots=True)
class Status:
    """What the editor's status item shows; `action` is the one thing to do about it, empty where there is none."""

    state: State
    model: str
    index: str
    message: str
    action: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the parameters of `starcite/status`."""
        return {
            "state": self.state,
            "model": self.model,
            "index": self.index,
            "message": self.message,
            "action": self.action,
        }


class Session:
    """One editor's state. Handlers read frozen snapshots from it, so that an edit never changes what they work on."""

    def __init__(self, editor: str | None = None) -> None:
        """Start with no documents and the default settings; `editor` is the name that the daemon knows us by."""
        self.editor = editor or f"lsp-{os.getpid()}"
        self.settings = Settings()
        self.encoding: Encoding = "utf-16"
        self.roots: tuple[Path, ...] = ()
        self.status = Status("starting", "", "", "The server is starting.")
        self.corpora = Corpora(self.index_folders)
        self._documents: dict[str, Snapshot] = {}
        self._clients: dict[str, Client] = {}
        self._connecting = asyncio.Lock()
        self._pipeline = Pipeline(self.client, self.corpora)
        self._policies = Policies()
        self._card = lru_cache(load_card)  # reading one takes 0.3 ms, and every key asks for it
        self._shown: dict[str, tuple[Completion, str]] = {}
        self._ids = count(1)
        self._log = DecisionLog(paths.log_dir())
        self._logged: object = None

    def configure(self, options: object) -> tuple[str, ...]:
        """Take an editor's options; return one sentence for each that could not be used."""
        self.settings, problems = parse(options)
        return problems

    @property
    def model(self) -> str:
        """Return the id of the model that generates: the setting's, or the one that `starcite models use` chose."""
        return self.settings.model or Store(paths.models_dir()).current()

    def index_folders(self) -> tuple[Path, ...]:
        """Return the folders of the indexes to search: the setting's, or every one in Starcite's own folder."""
        named = self.settings.attribution.indexes
        if named:
            return tuple(Path(path).expanduser() for path in named)
        return installed_indexes()

    def open(self, snapshot: Snapshot) -> None:
        """Take in a document that an editor opened."""
        self._documents.pop(snapshot.uri, None)
        self._documents[snapshot.uri] = snapshot

    def change(self, uri: str, changes: tuple[Change, ...], version: int) -> None:
        """Apply an editor's changes to a document; the document becomes the most recently used one."""
        document = self._documents.pop(uri, None)
        if document:
            self._documents[uri] = document.changed(changes, version, self.encoding)

    def close(self, uri: str) -> None:
        """Forget a document."""
        self._documents.pop(uri, None)

    def snapshot(self, uri: str) -> Snapshot | None:
        """Return a document as it is now, None where it is not open."""
        return self._documents.get(uri)

    def root_of(self, uri: str) -> Path | None:
        """Return the workspace folder that holds a document."""
        path = prompt.uri_path(uri)
        return next((root for root in self.roots if path.is_relative_to(root)), None)

    async def complete(self, snapshot: Snapshot, offset: int, *, automatic: bool) -> Completion | None:
        """Return the completion at an offset, None where none is wanted; raises models.errors.ModelError."""
        if automatic and not self.settings.enable:
            return None
        model = self.model
        ask = Ask(
            snapshot=snapshot,
            offset=offset,
            settings=self.settings,
            editor=self.editor,
            model=model,
            model_corpus=self._card(model).corpus,
            automatic=automatic,
            others=tuple(reversed(self._documents.values())),
            root=self.root_of(snapshot.uri),
            policy=self.policy_of(snapshot.uri),
        )
        completion = await self._pipeline.complete(ask)
        if completion and completion.references:
            self._note(completion, snapshot.uri)
        return completion

    def policy_of(self, uri: str) -> Policy:
        """Return the policy for a document; where its file cannot be read or understood, one that blocks all matches.

        A document that is no file has the policy of the first workspace folder.
        """
        base = self.settings.attribution.on_match
        path = prompt.uri_path(uri) if uri.startswith("file:") else next(iter(self.roots), None)
        try:
            return self._policies.of(path, base)
        except PolicyError as error:
            return Policy.refusing(str(error))

    def check(self, snapshot: Snapshot, start: int, end: int) -> tuple[tuple[Match, ...], Checked]:
        """Return the matches in a part of a document, their offsets and lines the document's, and what was searched."""
        policy = self.policy_of(snapshot.uri)
        min_run = policy.min_run or self.settings.attribution.min_run
        matches, checked = self.corpora.check(snapshot.text[start:end], min_run=min_run, renamed=True)
        lines = snapshot.line_of(start)
        placed = tuple(moved(match, start, lines) for match in matches)
        return judged(policy, placed, checked, prompt.uri_path(snapshot.uri))

    def remember_shown(self, completion: Completion, uri: str) -> str:
        """Return an id by which the editor can say that it took this completion."""
        identity = str(next(self._ids))
        self._shown[identity] = completion, uri
        while len(self._shown) > SHOWN_ENTRIES:
            self._shown.pop(next(iter(self._shown)))
        return identity

    def accept(self, identity: str) -> bool:
        """Note that a completion was taken; return whether it was known. Only those with references are kept."""
        completion, uri = self._shown.pop(identity, (None, ""))
        if completion and completion.references:
            self._log.add("accepted", completion, _named(uri))
        return completion is not None

    def accepted(self, limit: int) -> list[dict[str, Any]]:
        """Return the latest accepted completions that had references, the newest first, also of earlier sessions."""
        return self._log.latest("accepted", limit)

    def _note(self, completion: Completion, uri: str) -> None:
        """Log what was decided about a suggestion, once while its text is typed along or offered again."""
        what = uri, [(match.run, match.decision, match.sources) for match in completion.references]
        if what != self._logged:
            self._logged = what
            self._log.add("blocked" if completion.decision == "block" else "shown", completion, _named(uri))

    async def client(self, model: str) -> Client:
        """Return the connection to a model's daemon, which is started where it does not run.

        Raises models.errors.ModelError when the model is unknown, its weights are not here, or the daemon cannot start.
        """
        async with self._connecting:
            client = self._clients.get(model)
            if client is None or client.closed:
                client = self._clients[model] = await Client.connect(model, editor=self.editor)
            return client

    async def aclose(self) -> None:
        """Close the connections and the indexes; the daemon runs on for the other editors."""
        for client in self._clients.values():
            await client.close()
        self._clients.clear()
        self.corpora.close()
        self._log.close()


def _named(uri: str) -> str:
    """Return a document's path for the log, of one that is no file its URI."""
    return str(prompt.uri_path(uri)) if uri.startswith("file:") else uri


def installed_indexes() -> tuple[Path, ...]:
    """Return the folders of the index that comes with Starcite and of those in its own folder, sorted by name."""
    folder = paths.indexes_dir()
    installed = sorted(folder.iterdir()) if folder.is_dir() else []
    return tuple(path for path in (paths.embedded_dir() / "index", *installed) if (path / "index.json").is_file())


def selected(snapshot: Snapshot, start: Position, end: Position, text: str, encoding: Encoding) -> tuple[Snapshot, int]:
    """Return a document as it would be with the selected entry of an open completion list, and the offset behind it."""
    after = snapshot.changed((Change(text, start, end),), snapshot.version, encoding)
    return after, snapshot.offset_at(start, encoding) + len(text)
