"""The language server: LSP in and out. The only file that knows pygls and lsprotocol.

Three habits of pygls 2.1 are mended here, each seen with a real client. It splits lines where LSP does not: documents
are ours. It never answers a request whose parameters do not fit: such a one is answered with an error. It turns the
parameters of custom methods into tuples that lose names: they stay maps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException, JsonRpcInvalidParams, JsonRpcInvalidRequest
from pygls.lsp.server import LanguageServer
from pygls.protocol import (
    JsonRPCNotification,
    JsonRPCRequestMessage,
    LanguageServerProtocol,
    default_converter,
    lsp_method,
)

from attribution import kernels
from lsp_server import __version__, prompt
from lsp_server.documents import Change, Position, Snapshot
from lsp_server.report import named_licenses
from lsp_server.session import Session, Status, selected
from models.errors import ModelError

if TYPE_CHECKING:
    from cattrs import Converter

    from attribution.index import Match
    from attribution.policy import Policy
    from lsp_server.completion import Completion

LOGGER = logging.getLogger(__name__)

ACCEPTED_COMMAND = "starcite.server.accepted"


class _Protocol(LanguageServerProtocol):
    """pygls' protocol with our documents in the place of its own, and an answer to every request."""

    _server: StarciteServer

    def structure_message(self, data: dict[str, Any]) -> Any:  # noqa: ANN401 - pygls' own signature
        """Return the message; a request that is none is answered with the error and becomes an ignored notification."""
        try:
            return super().structure_message(data)
        except JsonRpcException as error:
            if "method" in data and "id" in data:
                self._send_response(data["id"], None, JsonRpcInvalidParams.of(error).to_response_error())
            return JsonRPCNotification(method="$/starcite/invalid", jsonrpc="2.0", params=None)

    def handle_message(self, message: Any) -> None:  # noqa: ANN401 - pygls' own signature
        """Handle a message; a request after `shutdown` is answered with InvalidRequest, as the standard demands."""
        if self._shutdown and hasattr(message, "id") and hasattr(message, "method"):
            self._send_response(message.id, None, JsonRpcInvalidRequest().to_response_error())
            return
        super().handle_message(message)

    @lsp_method(types.TEXT_DOCUMENT_DID_OPEN)
    def lsp_text_document__did_open(self, params: types.DidOpenTextDocumentParams) -> None:
        """Take in a document."""
        item = params.text_document
        self._server.session.open(Snapshot(item.uri, item.language_id, item.version, item.text))

    @lsp_method(types.TEXT_DOCUMENT_DID_CHANGE)
    def lsp_text_document__did_change(self, params: types.DidChangeTextDocumentParams) -> None:
        """Apply the changes of a document."""
        changes = tuple(
            Change(change.text, _ours(change.range.start), _ours(change.range.end))
            if isinstance(change, types.TextDocumentContentChangePartial)
            else Change(change.text)
            for change in params.content_changes
        )
        self._server.session.change(params.text_document.uri, changes, params.text_document.version)

    @lsp_method(types.TEXT_DOCUMENT_DID_CLOSE)
    def lsp_text_document__did_close(self, params: types.DidCloseTextDocumentParams) -> None:
        """Forget a document."""
        self._server.session.close(params.text_document.uri)


class StarciteServer(LanguageServer):
    """The server process of one editor."""

    def __init__(self) -> None:
        """Create the server; it serves once `start_io` or `start_tcp` is called."""
        super().__init__("starcite", __version__, protocol_cls=_Protocol, converter_factory=_converter)
        self.session = Session()
        self.tasks: set[asyncio.Task[None]] = set()

    def show_status(self, status: Status) -> None:
        """Tell the editor how we are, if that is news."""
        if status != self.session.status:
            self.session.status = status
            self.protocol.notify("starcite/status", status.to_json())

    def report_server_error(self, error: Exception, source: type[Exception]) -> None:
        """Log what went wrong outside a request; pygls would show the user a pop-up."""
        LOGGER.error("%s: %s", source.__name__, error, exc_info=error)


def _converter() -> Converter:
    """Return pygls' converter that leaves custom parameters alone and takes any number for the trigger kind."""
    converter: Converter = default_converter()  # type: ignore[no-untyped-call]  # pygls types all but this
    for message in (JsonRPCRequestMessage, JsonRPCNotification):
        converter.register_structure_hook(message, lambda data, cls: cls(**({"params": None} | data)))
    converter.register_structure_hook(types.InlineCompletionTriggerKind, lambda value, _: _trigger_kind(value))
    return converter


def _trigger_kind(value: object) -> types.InlineCompletionTriggerKind:
    """Return LSP's kind; VS Code's own numbers, 0 for invoked, come from clients that do not translate them."""
    invoked = value in (0, types.InlineCompletionTriggerKind.Invoked.value)
    return types.InlineCompletionTriggerKind.Invoked if invoked else types.InlineCompletionTriggerKind.Automatic


def create_server() -> StarciteServer:
    """Return a server with every handler registered."""
    server = StarciteServer()
    for method, handler in _FEATURES.items():
        server.feature(method)(handler)
    # Without options pygls does not advertise the capability.
    server.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions())(inline_completion)
    server.command(ACCEPTED_COMMAND)(accepted)
    return server


def initialize(ls: StarciteServer, params: types.InitializeParams) -> None:
    """Take the settings, the workspace's folders and the encoding of positions."""
    for problem in ls.session.configure(params.initialization_options):
        LOGGER.warning("%s", problem)
    folders = [folder.uri for folder in params.workspace_folders or ()] or [params.root_uri or ""]
    ls.session.roots = tuple(prompt.uri_path(uri) for uri in folders if uri)
    encoding = ls.workspace.position_encoding
    ls.session.encoding = "utf-8" if encoding == "utf-8" else "utf-32" if encoding == "utf-32" else "utf-16"


def initialized(ls: StarciteServer, _params: types.InitializedParams) -> None:
    """Start the daemon in the background, so that the model is loaded before the first key."""
    _warm(ls)


def did_change_configuration(ls: StarciteServer, params: types.DidChangeConfigurationParams) -> None:
    """Take new settings; an editor that sends none with the notification is not asked for them."""
    if params.settings:
        for problem in ls.session.configure(params.settings):
            LOGGER.warning("%s", problem)
        _warm(ls)


def did_change_workspace_folders(ls: StarciteServer, params: types.DidChangeWorkspaceFoldersParams) -> None:
    """Take added and removed workspace folders."""
    removed = {prompt.uri_path(folder.uri) for folder in params.event.removed}
    added = tuple(prompt.uri_path(folder.uri) for folder in params.event.added)
    ls.session.roots = (*(root for root in ls.session.roots if root not in removed), *added)


async def inline_completion(ls: StarciteServer, params: types.InlineCompletionParams) -> dict[str, Any] | None:
    """Answer with at most one item; anything that goes wrong is an empty answer, a log line and a status."""
    snapshot = ls.session.snapshot(params.text_document.uri)
    if snapshot is None:
        return None
    popup = params.context.selected_completion_info
    automatic = params.context.trigger_kind == types.InlineCompletionTriggerKind.Automatic
    encoding = ls.session.encoding
    if popup:
        start, end = _ours(popup.range.start), _ours(popup.range.end)
        snapshot, offset = selected(snapshot, start, end, popup.text, encoding)
    else:
        offset = snapshot.offset_at(_ours(params.position), encoding)
    try:
        completion = await ls.session.complete(snapshot, offset, automatic=automatic)
    except ModelError as error:
        LOGGER.warning("completion: %s", error)
        ls.show_status(_status(ls, error))
        return None
    except Exception:
        LOGGER.exception("completion")
        return None
    ls.show_status(_status(ls, policy=ls.session.policy_of(snapshot.uri), completion=completion))
    if completion is None or not completion.text:
        return None
    identity = ls.session.remember_shown(completion, snapshot.uri)
    return {"items": [_item(completion, identity, types.Range(params.position, params.position), popup)]}


def _item(
    completion: Completion,
    identity: str,
    cursor: types.Range,
    popup: types.SelectedCompletionInfo | None,
) -> dict[str, Any]:
    """Return the inline completion item; `references` hold offsets into its whole `insertText`."""
    typed = popup.text if popup else ""
    text = typed + completion.text
    place = popup.range if popup else cursor
    return {
        "insertText": text,
        "filterText": text,
        "range": _range(_ours(place.start), _ours(place.end)),
        "command": {
            "title": "Starcite: accepted",
            "command": ACCEPTED_COMMAND,
            "arguments": [{"id": identity}],
        },
        "references": [_shifted(match.to_json(), len(typed)) for match in completion.references],
        "checked": completion.checked.to_json(),
    }


def _shifted(reference: dict[str, Any], chars: int) -> dict[str, Any]:
    return reference | {"start": reference["start"] + chars, "end": reference["end"] + chars}


def check(ls: StarciteServer, params: object) -> dict[str, Any]:
    """Answer `starcite/check`: the matches in a document or in a range of it, and what was searched."""
    fields = params if isinstance(params, dict) else {}
    try:
        uri = str(fields["textDocument"]["uri"])
        place = fields.get("range")
        bounds = [Position(place[end]["line"], place[end]["character"]) for end in ("start", "end")] if place else []
    except (KeyError, TypeError) as error:
        raise JsonRpcInvalidParams(
            message=f"starcite/check needs textDocument.uri and an optional range: {error!r}"
        ) from error
    snapshot = ls.session.snapshot(uri)
    if snapshot is None:
        raise JsonRpcInvalidParams(message=f"{uri} is not open; send textDocument/didOpen first")
    encoding = ls.session.encoding
    start, end = (snapshot.offset_at(at, encoding) for at in bounds) if bounds else (0, len(snapshot.text))
    matches, checked = ls.session.check(snapshot, start, max(start, end))
    return {"checked": checked.to_json(), "matches": [_with_range(ls, snapshot, match) for match in matches]}


def _with_range(ls: StarciteServer, snapshot: Snapshot, match: Match) -> dict[str, Any]:
    encoding = ls.session.encoding
    place = _range(snapshot.position_at(match.start, encoding), snapshot.position_at(match.end, encoding))
    return match.to_json() | {"range": place}


def status(ls: StarciteServer, _params: object) -> dict[str, str]:
    """Answer `starcite/status` with what the notification of the same name last said."""
    return ls.session.status.to_json()


def accepted_log(ls: StarciteServer, params: object) -> list[dict[str, Any]]:
    """Answer `starcite/log {limit}` with the accepted completions that had references, the newest first."""
    limit = params.get("limit", 100) if isinstance(params, dict) else 100
    return ls.session.accepted(limit if isinstance(limit, int) else 100)


def accepted(ls: StarciteServer, info: dict[str, Any]) -> bool:
    """Note that an item was taken: the command that every item carries."""
    return ls.session.accept(str(info.get("id", "")))


async def shutdown(ls: StarciteServer, _params: None) -> None:
    """Close what is open; the daemon runs on for the other editors."""
    for task in ls.tasks:
        task.cancel()
    await ls.session.aclose()


_FEATURES: dict[str, Any] = {
    types.INITIALIZE: initialize,
    types.INITIALIZED: initialized,
    types.WORKSPACE_DID_CHANGE_CONFIGURATION: did_change_configuration,
    types.WORKSPACE_DID_CHANGE_WORKSPACE_FOLDERS: did_change_workspace_folders,
    types.SHUTDOWN: shutdown,
    "starcite/check": check,
    "starcite/status": status,
    "starcite/log": accepted_log,
}


def _warm(ls: StarciteServer) -> None:
    """Connect to the daemon in the background and say how that went."""

    async def connect() -> None:
        ls.show_status(Status("starting", ls.session.model, _index_names(ls), "The model is loading."))
        ls.session.corpora.open()
        if ls.session.index_folders():  # numpy answers until it is loaded, which takes a second, or longer once
            threading.Thread(target=kernels.warm, name="kernels", daemon=True).start()
        try:
            client = await ls.session.client(ls.session.model)
            await client.loaded()
        except ModelError as error:
            LOGGER.warning("daemon: %s", error)
            ls.show_status(_status(ls, error))
        else:
            ls.show_status(_status(ls))

    task = asyncio.get_running_loop().create_task(connect())
    ls.tasks.add(task)
    task.add_done_callback(ls.tasks.discard)


def _status(
    ls: StarciteServer,
    error: ModelError | None = None,
    policy: Policy | None = None,
    completion: Completion | None = None,
) -> Status:
    session = ls.session
    indexes = _index_names(ls)
    if error:
        return Status("degraded", session.model, indexes, str(error), "Run 'starcite doctor'.")
    if not session.settings.enable:
        return Status("off", session.model, indexes, "Completions are turned off.", "Set starcite.enable.")
    if not indexes:
        message = "Suggestions are not checked: no index is installed."
        return Status("degraded", session.model, "", message, "Run 'starcite index build'.")
    if policy and policy.problem:
        return Status("degraded", session.model, indexes, policy.problem, "Run 'starcite check --show-policy'.")
    if completion and completion.decision == "block":
        return Status("ready", session.model, indexes, _withheld(completion), "See 'starcite check --show-policy'.")
    return Status("ready", session.model, indexes, f"Every suggestion is checked against {indexes}.")


def _withheld(completion: Completion) -> str:
    match = next(match for match in completion.references if match.decision == "block")
    names = ", ".join(f"{source.name} ({named_licenses(source)})" for source in match.sources)
    return f"A suggestion was withheld: the policy blocks text of {names}."


def _index_names(ls: StarciteServer) -> str:
    return ", ".join(path.name for path in ls.session.index_folders())


def _ours(position: types.Position) -> Position:
    return Position(position.line, position.character)


def _range(start: Position, end: Position) -> dict[str, Any]:
    return {"start": start._asdict(), "end": end._asdict()}


def serve_stdio() -> None:
    """Serve one editor on stdin and stdout until it ends."""
    with contextlib.suppress(KeyboardInterrupt):
        create_server().start_io()


def serve_tcp(host: str, port: int) -> None:
    """Serve one editor on a TCP port until it ends."""
    with contextlib.suppress(KeyboardInterrupt):
        create_server().start_tcp(host, port)
