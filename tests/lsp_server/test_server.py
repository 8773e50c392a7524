"""The installed server over stdio, with the real daemon and the real model, driven by pytest-lsp's client."""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import inspect
import itertools
import json
import os
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.protocol import JsonRPCResponseMessage
from pytest_lsp import ClientServerConfig, LanguageClient

from lsp_server import server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cattrs import Converter

pytestmark = [pytest.mark.model, pytest.mark.slow]

STARCITE = Path(sys.executable).with_name("starcite")
URI = "file:///w/demo.py"
INVALID_PARAMS = -32602
INVALID_REQUEST = -32600
CANCELLED = -32800
DEDENT = inspect.getsource(textwrap.dedent)


class Client(LanguageClient):
    """pytest-lsp's client, with the notifications and the raw requests that these tests look at."""

    def __init__(self) -> None:
        """Collect the server's status notifications; custom answers stay plain maps."""
        super().__init__(converter_factory=plain_converter)
        self.states: list[dict[str, Any]] = []
        self._news = asyncio.Event()
        self._ids = itertools.count()

        @self.feature("starcite/status")
        def take(status: dict[str, Any]) -> None:
            self.states.append(status)
            self._news.set()

    async def status(self, state: str) -> dict[str, Any]:
        """Wait for the status notification of a state."""
        async with asyncio.timeout(90):
            while not (found := [status for status in self.states if status["state"] == state]):
                self._news.clear()
                await self._news.wait()
        return found[-1]

    def open(self, text: str, uri: str = URI) -> None:
        """Open a Python document."""
        self.text_document_did_open(types.DidOpenTextDocumentParams(types.TextDocumentItem(uri, "python", 1, text)))

    def edit(self, version: int, *changes: tuple[tuple[int, int], tuple[int, int], str]) -> None:
        """Send incremental changes."""
        parts = [
            types.TextDocumentContentChangePartial(types.Range(types.Position(*start), types.Position(*end)), text)
            for start, end, text in changes
        ]
        document = types.VersionedTextDocumentIdentifier(version=version, uri=URI)
        self.text_document_did_change(types.DidChangeTextDocumentParams(document, parts))

    def send(self, method: str, params: object) -> tuple[str, asyncio.Future[Any]]:
        """Send a request as it is, valid or not; return its id and its answer to come."""
        identity = f"raw-{next(self._ids)}"
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.protocol._request_futures[identity] = future
        body = json.dumps({"jsonrpc": "2.0", "id": identity, "method": method, "params": params})
        self.protocol.writer.write(f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
        return identity, asyncio.wrap_future(future)

    async def ask(self, method: str, params: object) -> Any:  # noqa: ANN401
        """Return the result of a request; raises what the server answers, or when it does not."""
        return await asyncio.wait_for(self.send(method, params)[1], 90)

    async def inline(self, line: int, character: int, **context: Any) -> list[dict[str, Any]]:  # noqa: ANN401
        """Ask for inline completions as an editor does after a key."""
        answer = await self.ask("textDocument/inlineCompletion", inline_params(line, character, **context))
        return answer["items"] if answer else []


def inline_params(line: int, character: int, **context: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the parameters of `textDocument/inlineCompletion`, automatic unless told otherwise."""
    place = {"textDocument": {"uri": URI}, "position": {"line": line, "character": character}}
    return place | {"context": {"triggerKind": 2} | context}


def plain_converter() -> Converter:
    """Return the server's converter, which leaves custom results alone too."""
    converter = server._converter()
    converter.register_structure_hook(JsonRPCResponseMessage, lambda data, cls: cls(**data))
    return converter


def end_of(text: str) -> tuple[int, int]:
    """Return the position of a text's end, in UTF-16 units."""
    lines = text.split("\n")
    return len(lines) - 1, len(lines[-1].encode("utf-16-le")) // 2


async def started(home: Path, *encodings: str, options: object = None) -> Client:
    """Return a client of a freshly started server that offered these position encodings."""
    client = await ClientServerConfig(
        server_command=[str(STARCITE), "lsp"],
        client_factory=Client,
        server_env=os.environ | {"STARCITE_HOME": str(home)},
    ).start()
    assert isinstance(client, Client)
    offered = types.ClientCapabilities(general=types.GeneralClientCapabilities(position_encodings=list(encodings)))
    parameters = types.InitializeParams(
        capabilities=offered,
        workspace_folders=[types.WorkspaceFolder(uri="file:///w", name="w")],
        initialization_options=options,
    )
    client.capabilities_of_server = (await client.initialize_session(parameters)).capabilities
    return client


async def stopped(client: Client) -> None:
    """Shut the server down as an editor does."""
    await client.shutdown_session()
    await client.stop()


@pytest.fixture
async def client(model_home: Path) -> AsyncIterator[Client]:
    """Return a client of a server whose model is loaded."""
    client = await started(model_home, "utf-16")
    await client.status("ready")
    yield client
    await stopped(client)


async def test_capabilities(client: Client) -> None:
    """Inline completion, incremental sync and the command of acceptance are offered."""
    offered = client.capabilities_of_server
    assert isinstance(offered.inline_completion_provider, types.InlineCompletionOptions)
    assert offered.text_document_sync.change == types.TextDocumentSyncKind.Incremental
    assert list(offered.execute_command_provider.commands) == [server.ACCEPTED_COMMAND]


@pytest.mark.parametrize(
    ("encodings", "chosen"), [(("utf-8", "utf-16"), "utf-8"), (("utf-32",), "utf-32"), ((), "utf-16")]
)
async def test_position_encodings(model_home: Path, encodings: tuple[str, ...], chosen: str) -> None:
    """The client's first choice counts, and positions of edits and answers are in it."""
    client = await started(model_home, *encodings)
    assert client.capabilities_of_server.position_encoding == chosen
    width = {"utf-8": 4, "utf-16": 2, "utf-32": 1}[chosen]
    client.open("# 😀\n" + DEDENT)
    client.edit(2, ((0, 2 + width), (0, 2 + width), "x\n# "))
    answer = await client.ask("starcite/check", {"textDocument": {"uri": URI}})
    assert answer["matches"][0]["range"]["start"] == {"line": 2, "character": 0}
    assert answer["matches"][0]["start"] == len("# 😀x\n# \n")
    await stopped(client)


async def test_the_model_completes_and_every_item_is_checked(client: Client) -> None:
    """An item has text, range, command, references and what was searched."""
    client.open("def add(a, b):\n    return ")
    (item,) = await client.inline(1, 11)
    assert item["insertText"].replace(" ", "").startswith("a+b")
    assert item["range"] == {"start": {"line": 1, "character": 11}, "end": {"line": 1, "character": 11}}
    assert item["references"] == []
    assert item["checked"]["state"] == "checked"
    assert item["checked"]["indexes"][0]["name"] == "stdlib-part"
    assert item["command"]["command"] == server.ACCEPTED_COMMAND


async def test_edits_land_in_the_lines_that_the_editor_means(client: Client) -> None:
    """After edits in a file with form feeds, U+2028 and astral characters, the model sees what the editor shows."""
    client.open("x = 'a\x0cb\u2028c😀'\n\x0c\ndef add(a, b):\n    retun\n")
    client.edit(2, ((3, 8), (3, 8), "r"), ((3, 10), (3, 10), " "))
    items = await client.inline(3, 11)
    assert items[0]["insertText"].replace(" ", "").startswith("a+b")


async def test_a_suggestion_that_continues_a_known_passage_names_its_source(client: Client) -> None:
    """The text left of the cursor counts: a short suggestion with it makes a run, and its source is named."""
    text = DEDENT[: DEDENT.index("margin, '', text)")]
    client.open(text)
    (item,) = await client.inline(*end_of(text))
    (reference,) = item["references"]
    assert reference["start"] == 0
    assert 0 < reference["end"] <= len(item["insertText"])
    assert reference["sources"][0]["path"] == "textwrap.py"
    assert reference["sources"][0]["licenses"] == ["PSF-2.0"]


async def test_what_was_accepted_with_references_is_logged(client: Client) -> None:
    """The item's command puts it into `starcite/log`; one without references is not kept."""
    text = DEDENT[: DEDENT.index("margin, '', text)")]
    client.open(text)
    (cited,) = await client.inline(*end_of(text))
    client.open("def add(a, b):\n    return ")
    (free,) = await client.inline(1, 11)
    for item in (cited, free):
        assert await client.ask("workspace/executeCommand", item["command"]) is True
    (entry,) = await client.ask("starcite/log", {"limit": 1})
    assert entry["sha256"] == hashlib.sha256(cited["insertText"].encode()).hexdigest()
    assert cited["insertText"] not in json.dumps(entry)
    assert entry["decision"] == "annotate"
    assert entry["references"][0]["sources"][0]["path"] == "textwrap.py"


async def test_what_the_policy_blocks_is_not_shown_and_a_broken_policy_degrades(client: Client, tmp_path: Path) -> None:
    """The repository's file decides for its documents: withheld with the reason in the status, and never clean."""
    text = DEDENT[: DEDENT.index("margin, '', text)")]
    uri = (tmp_path / "a.py").as_uri()
    (tmp_path / "starcite.toml").write_text('[licenses]\n"PSF-*" = "block"\n')
    client.open(text, uri)
    line, character = end_of(text)
    asked = {"textDocument": {"uri": uri}, "position": {"line": line, "character": character}}
    asked["context"] = {"triggerKind": 1}
    assert await client.ask("textDocument/inlineCompletion", asked) is None
    status = await client.ask("starcite/status", {})
    assert status["state"] == "ready"
    assert "withheld" in status["message"]
    assert "PSF-2.0" in status["message"]
    (tmp_path / "starcite.toml").write_text('[license]\n"PSF-*" = "allow"\n')
    assert await client.ask("textDocument/inlineCompletion", asked) is None
    status = await client.status("degraded")
    assert "license is no key of a policy" in status["message"]
    answer = await client.ask("starcite/check", {"textDocument": {"uri": uri}})
    assert answer["checked"]["state"] == "not_checked"
    assert {match["decision"] for match in answer["matches"]} == {"block"}


async def test_check_of_a_range_has_the_documents_offsets(client: Client) -> None:
    """Offsets, lines and ranges are the document's, whatever part was asked about."""
    head = "import os\n\n"
    client.open(head + DEDENT)
    whole = {"start": {"line": 2, "character": 0}, "end": {"line": 200, "character": 0}}
    answer = await client.ask("starcite/check", {"textDocument": {"uri": URI}, "range": whole})
    assert answer["checked"]["state"] == "checked"
    (match,) = answer["matches"]
    assert (match["start"], match["start_line"], match["range"]["start"]["line"]) == (len(head), 3, 2)
    assert match["end"] == len(head) + len(DEDENT.rstrip())
    nothing = {"start": {"line": 0, "character": 0}, "end": {"line": 1, "character": 0}}
    answer = await client.ask("starcite/check", {"textDocument": {"uri": URI}, "range": nothing})
    assert answer["matches"] == []


async def test_an_entry_selected_in_a_list_is_extended(client: Client) -> None:
    """With a completion list open, the item begins with the selected entry and replaces the same range."""
    client.open("def add(a, b):\n    ret")
    place = {"start": {"line": 1, "character": 4}, "end": {"line": 1, "character": 7}}
    (item,) = await client.inline(1, 7, selectedCompletionInfo={"range": place, "text": "return"})
    assert item["insertText"].startswith("return")
    assert item["range"] == place
    assert "a" in item["insertText"].removeprefix("return")


async def test_a_cancelled_request_has_one_answer_and_frees_the_model(client: Client) -> None:
    """The answer of a cancelled request says so, and the next request is served."""
    client.open("def fibonacci(n):\n" + "    # a comment about numbers\n" * 60 + "    ")
    identity, answer = client.send("textDocument/inlineCompletion", inline_params(61, 4))
    client.cancel_request(types.CancelParams(id=identity))
    with pytest.raises(JsonRpcException) as refused:
        await asyncio.wait_for(answer, 30)
    assert refused.value.code == CANCELLED
    client.open("def add(a, b):\n    return ")
    assert await client.inline(1, 11)


async def test_a_superseded_request_is_answered(client: Client) -> None:
    """A client that cancels nothing still gets an answer to each request, the older ones empty."""
    client.open("def fibonacci(n):\n" + "    # a comment about numbers\n" * 60 + "    ")
    answers = [client.send("textDocument/inlineCompletion", inline_params(61, 4, triggerKind=1))[1] for _ in range(3)]
    client.open("def add(a, b):\n    return ")
    last = await client.inline(1, 11)
    assert last
    assert len(await asyncio.wait_for(asyncio.gather(*answers), 90)) == 3


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("textDocument/inlineCompletion", {"textDocument": {"uri": URI}, "context": {"triggerKind": 2}}),
        ("textDocument/inlineCompletion", {"position": 3}),
        ("starcite/check", {}),
        ("starcite/check", {"textDocument": {"uri": "file:///w/never-opened.py"}}),
        ("starcite/check", {"textDocument": {"uri": URI}, "range": {"start": 1}}),
        ("workspace/executeCommand", {"command": "no.such.command"}),
    ],
)
async def test_a_request_that_does_not_fit_is_answered_with_an_error(
    client: Client, method: str, params: object
) -> None:
    """No client waits for ever for an answer, and no pop-up is shown."""
    client.open("x = 1\n")
    with pytest.raises(JsonRpcException) as refused:
        await client.ask(method, params)
    assert refused.value.code == INVALID_PARAMS
    assert client.messages == []


async def test_vs_codes_own_trigger_numbers_are_understood(client: Client) -> None:
    """0, VS Code's number for invoked, is answered like LSP's 1."""
    client.open("def add(a, b):\n    return ")
    assert await client.inline(1, 11, triggerKind=0)


async def test_a_document_that_is_not_open_gets_an_empty_answer(client: Client) -> None:
    """An editor that asks before it opened the document is answered with nothing."""
    client.open("x = 1\n", uri="file:///w/other.py")
    assert await client.inline(0, 0) == []


async def test_settings_change_while_the_server_runs(client: Client) -> None:
    """Switched off, an automatic request is answered with nothing; switched on again, with a suggestion."""
    client.open("def add(a, b):\n    return ")
    for enable in (False, True):
        client.workspace_did_change_configuration(
            types.DidChangeConfigurationParams(
                settings={"starcite": {"enable": enable, "completion": {"maxTokens": 0}}}
            )
        )
        assert bool(await client.inline(1, 11)) is enable
    status = await client.ask("starcite/status", {})
    assert status["state"] == "ready"


async def test_requests_after_shutdown_are_refused(model_home: Path) -> None:
    """The standard's InvalidRequest answers what comes between shutdown and exit."""
    client = await started(model_home, "utf-16")
    await client.shutdown_async(None)
    with pytest.raises(JsonRpcException) as refused:
        await client.ask("starcite/status", {})
    assert refused.value.code == INVALID_REQUEST
    client.exit(None)
    await client.stop()


async def test_without_weights_there_is_a_status_and_no_error(bare_home: Path) -> None:
    """Without a model the answer is empty and the status says what to do; without an index a check says so too."""
    client = await started(bare_home, "utf-16")
    client.open("def add(a, b):\n    return ")
    assert await client.inline(1, 11) == []
    status = await client.status("degraded")
    assert "starcite models pull" in status["message"]
    answer = await client.ask("starcite/check", {"textDocument": {"uri": URI}})
    assert answer["checked"]["state"] == "not_checked"
    assert answer["checked"]["covers_model"] == "none"
    assert "starcite index build" in answer["checked"]["reason"]
    assert client.messages == []
    await stopped(client)
