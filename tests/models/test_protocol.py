"""The wire: what is sent arrives as it was, and nothing else is taken for a message."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import fields
from typing import TYPE_CHECKING

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import errors
from models.errors import FrameError, ModelError
from models.protocol import (
    ERROR_CODES,
    MAX_FRAME_BYTES,
    CancelMessage,
    ClientHello,
    ClientMessage,
    DaemonHello,
    DaemonMessage,
    Delta,
    DeltaMessage,
    Done,
    DoneMessage,
    ErrorMessage,
    FimPrompt,
    GenerateMessage,
    GenerateRequest,
    ShutdownMessage,
    Snippet,
    StatusMessage,
    StatusQuery,
    TokenCounts,
    client_message,
    daemon_message,
    decode,
    encode,
    error_code,
    error_from,
    message_id,
    read_frame,
)

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
COUNT = st.integers(0, 2**32)
NUMBER = st.floats(0, 1e9)
PROMPT = st.builds(
    FimPrompt,
    prefix=TEXT,
    suffix=TEXT,
    snippets=st.lists(st.builds(Snippet, TEXT, TEXT), max_size=3).map(tuple),
    repo=TEXT,
    path=TEXT,
)
REQUEST = st.builds(
    GenerateRequest,
    prompt=PROMPT,
    max_tokens=COUNT,
    stop=st.lists(TEXT, max_size=3).map(tuple),
    first_token_limit_ms=NUMBER,
    time_limit_ms=NUMBER,
    editor=TEXT,
    priority=st.sampled_from(["interactive", "prefetch", "warm-up"]),
)
DONE = st.builds(
    Done,
    finish_reason=st.sampled_from(["stop", "length", "time", "cancelled"]),
    tokens=st.builds(TokenCounts, COUNT, COUNT, COUNT, COUNT, COUNT),
    timings_ms=st.dictionaries(TEXT, NUMBER, max_size=4),
)
CLIENT_MESSAGES = st.one_of(
    st.builds(ClientHello, COUNT, TEXT, TEXT),
    st.builds(GenerateMessage, COUNT, REQUEST),
    st.builds(CancelMessage, COUNT),
    st.builds(StatusQuery, COUNT, when_loaded=st.booleans()),
    st.builds(ShutdownMessage, COUNT),
)
DAEMON_MESSAGES = st.one_of(
    st.builds(DaemonHello, COUNT, TEXT, COUNT, TEXT),
    st.builds(DeltaMessage, COUNT, st.builds(Delta, TEXT)),
    st.builds(DoneMessage, COUNT, DONE),
    st.builds(StatusMessage, COUNT, st.dictionaries(TEXT, st.none() | COUNT | TEXT, max_size=3)),
    st.builds(ErrorMessage, TEXT, TEXT, st.none() | COUNT),
)
JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | TEXT | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


async def read(data: bytes) -> bytes | None:
    """Return the first frame of a connection on which these bytes arrive."""
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return await read_frame(reader)


def complaint(parse: Callable[[], object]) -> str:
    """Return the sentence of the FrameError that is raised, or one that says that there is none."""
    try:
        parse()
    except FrameError as error:
        return str(error)
    return "It was understood."


@given(CLIENT_MESSAGES)
async def test_a_client_is_understood(message: ClientMessage) -> None:
    """Every message of a client arrives as it was sent."""
    body = await read(encode(message))
    assert body is not None
    assert client_message(decode(body)) == message


@given(DAEMON_MESSAGES)
async def test_a_daemon_is_understood(message: DaemonMessage) -> None:
    """Every message of a daemon arrives as it was sent."""
    body = await read(encode(message))
    assert body is not None
    assert daemon_message(decode(body)) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(body: bytes) -> None:
    """Bytes that are no message are a FrameError, never another exception."""
    for parse in (client_message, daemon_message):
        assert complaint(lambda parse=parse: parse(decode(body))).endswith(".")


@given(CLIENT_MESSAGES | DAEMON_MESSAGES, st.data())
def test_a_field_of_another_type_is_an_error(message: ClientMessage | DaemonMessage, data: st.DataObject) -> None:
    """A message with a damaged field is read or refused with a sentence, never another exception."""
    content = decode(encode(message)[4:])
    content[data.draw(st.sampled_from(sorted(content)))] = data.draw(JSONISH)
    parse = client_message if isinstance(message, ClientMessage) else daemon_message
    assert complaint(lambda: parse(content)).endswith(".")


@pytest.mark.parametrize("key", [field.name for field in fields(GenerateRequest)] + ["id", "type"])
def test_a_missing_field_is_named(key: str) -> None:
    """The error of a missing field says which one it is."""
    content = decode(encode(GenerateMessage(7, GenerateRequest(FimPrompt("", ""))))[4:])
    del content[key]
    with pytest.raises(FrameError, match=key):
        client_message(content)


@pytest.mark.parametrize("value", [True, -1, "1", 1.0, None])
def test_an_id_is_a_whole_number(value: object) -> None:
    """True is no id, though Python counts it among the integers."""
    with pytest.raises(FrameError, match="id"):
        client_message({"type": "cancel", "id": value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, "1", True])
def test_a_limit_is_a_number(value: object) -> None:
    """A time limit that never ends is refused."""
    content = decode(encode(GenerateMessage(7, GenerateRequest(FimPrompt("", ""))))[4:]) | {"time_limit_ms": value}
    with pytest.raises(FrameError, match="time_limit_ms"):
        client_message(content)


def test_unknown_keys_are_ignored() -> None:
    """A newer peer may send more than this one knows."""
    assert client_message({"type": "cancel", "id": 1, "reason": "new"}) == CancelMessage(1)


async def test_frames_end_where_they_say() -> None:
    """The end between frames is the end; an end within one, or too long a one, is an error before it is read."""
    frame = encode(CancelMessage(1))
    assert await read(b"") is None
    for length in range(1, len(frame)):
        with pytest.raises(FrameError, match="ended"):
            await read(frame[:length])
    with pytest.raises(FrameError, match="more than"):
        await read(struct.pack(">I", MAX_FRAME_BYTES + 1))


def test_nothing_too_large_is_sent() -> None:
    """A request beyond the limit fails where it is made."""
    with pytest.raises(FrameError, match="less context"):
        encode(GenerateMessage(1, GenerateRequest(FimPrompt("x" * MAX_FRAME_BYTES, ""))))


def test_half_a_surrogate_pair_is_replaced() -> None:
    """Text of an editor may hold what UTF-8 cannot: it is sent with its length kept."""
    sent = encode(GenerateMessage(1, GenerateRequest(FimPrompt("a\ud83cb", ""))))
    message = client_message(decode(sent[4:]))
    assert isinstance(message, GenerateMessage)
    assert message.request.prompt.prefix == "a?b"


def test_keys_are_text() -> None:
    """A map with other keys is no message."""
    for value in ({1: 2}, [1], None, 7):
        with pytest.raises(FrameError):
            decode(msgpack.packb(value))


def test_ids_of_broken_messages() -> None:
    """The id of a message is found where there is one, so that its error can carry it."""
    assert [message_id({"id": value}) for value in (3, "3", True, None)] == [3, None, None, None]


@pytest.mark.parametrize("code", ERROR_CODES)
def test_errors_keep_their_class(code: str) -> None:
    """An error that crosses the wire is the same error on the other side."""
    error = error_from(code, "why.")
    assert type(error) is ERROR_CODES[code]
    assert error_code(error) == code
    assert str(error) == "why."


def test_every_error_has_a_code() -> None:
    """Every class of the tree has a code or a parent that has one; an unknown code is a ModelError."""
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, ModelError):
            assert issubclass(kind, ERROR_CODES[error_code(kind("why."))])
    assert type(error_from("of a newer daemon", "why.")) is ModelError
