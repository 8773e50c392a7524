"""The wire between the editors' servers and the model daemon: messages, framing, validation.

A frame is a 4-byte big-endian length and that many bytes of msgpack, one map with the key `type`
(https://github.com/msgpack/msgpack/blob/master/spec.md):

    client to daemon                                daemon to client
    hello    {protocol, client, editor}             hello  {protocol, model, pid, version}
    generate {id, prompt, max_tokens, stop, …}      delta  {id, text} …, done {id, finish_reason, …}
    cancel   {id}                                   (the request's own done says "cancelled")
    status   {id, when_loaded?}                     status {id, status}
    shutdown {id}                                   status {id, status}, then the daemon ends
    anything wrong                                  error  {code, message, id?}

The client chooses the ids and uses each once in a connection. The first frame of a connection is a hello, answered by
a hello. Unknown keys of a known message are ignored, so that a field can be added without a new version. The framing,
`hello`, `shutdown`, `status` and `error` never change, and need no matching version: a newer package must be able to
end an older one's daemon.
"""

from __future__ import annotations

import asyncio
import math
import struct
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar, cast, get_args

import msgpack

from models import errors
from models.errors import FrameError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

# History
#   1  hello, generate, cancel, status, shutdown; delta, done, error.
#   2  generate: first_token_limit_ms; the priority "background" became "prefetch" and "warm-up". A hello without an
#      editor does not load the model.
PROTOCOL_VERSION: Final = 2

# A context of 4,096 tokens is about 16 KiB; the limit only keeps a broken peer from exhausting the memory.
MAX_FRAME_BYTES: Final = 16 * 1024 * 1024

# How an error is named on the wire. A code that is not here, from a newer daemon, is read as "model".
ERROR_CODES: Final[dict[str, type[ModelError]]] = {
    "card": errors.CardError,
    "unknown_model": errors.UnknownModelError,
    "not_pulled": errors.NotPulledError,
    "weights_damaged": errors.WeightsDamagedError,
    "pull": errors.PullError,
    "license_not_accepted": errors.LicenseNotAcceptedError,
    "unavailable": errors.DaemonUnavailableError,
    "version": errors.DaemonVersionError,
    "busy": errors.DaemonBusyError,
    "frame": errors.FrameError,
    "context_overflow": errors.ContextOverflowError,
    "backend": errors.BackendError,
    "model": errors.ModelError,
}

_HEADER = struct.Struct(">I")

FinishReason: TypeAlias = Literal["stop", "length", "time", "cancelled"]
# From the most to the least urgent.
Priority: TypeAlias = Literal["interactive", "prefetch", "warm-up"]


@dataclass(frozen=True, slots=True)
class Snippet:
    """A piece of another file that may help, with the path that the model is shown."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class FimPrompt:
    """What stands around the cursor, as text: which parts the model sees, and in which order, is `models.fim`'s."""

    prefix: str
    suffix: str
    snippets: tuple[Snippet, ...] = ()
    repo: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One generation.

    `stop` holds strings before the first of which the text ends. Two limits of time end it with what is there and the
    reason "time": `first_token_limit_ms` from the arrival at the daemon to the first token, and `time_limit_ms` from
    there to the end, so that all of it takes no longer than both. `editor` tells apart those who share one connection.

    `priority`: somebody waits for an "interactive" request; a "prefetch" is what may be asked next; a "warm-up", with
    `max_tokens` 0, only computes a prompt. The more urgent go first, and one that runs gives way to a more urgent one:
    where it has given no text yet it goes on later from where it was, otherwise it ends as "cancelled". The newest
    request of an editor supersedes its older ones that are not more urgent.
    """

    prompt: FimPrompt
    max_tokens: int = 64
    stop: tuple[str, ...] = ()
    time_limit_ms: float = 5000.0
    first_token_limit_ms: float = 30_000.0
    editor: str = ""
    priority: Priority = "interactive"


@dataclass(frozen=True, slots=True)
class Delta:
    """Newly generated text, never empty and never half a character."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of one generation: `prompt_reused` of `prompt` were in the cache; drafts are the speculated ones."""

    prompt: int
    prompt_reused: int
    generated: int
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a generation.

    `timings_ms` are of one monotonic clock. Always "queue", until the model took the request up (for the last time,
    where it had to give way), and "total", both from the arrival at the daemon; where it was taken up "prefill" and
    "decode"; where a token was chosen "time_to_first_token", from the arrival too; where two were, "inter_token_mean",
    "inter_token_p50" and "inter_token_max".
    """

    finish_reason: FinishReason
    tokens: TokenCounts
    timings_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class ClientHello:
    """The first message of a client: who it is, and the default of `GenerateRequest.editor`.

    A client with an editor is about to generate, so that the model is loaded where it was unloaded; one that only asks
    for the status gives none.
    """

    protocol: int
    client: str
    editor: str


@dataclass(frozen=True, slots=True)
class GenerateMessage:
    """Start a generation whose deltas and end carry `id`."""

    id: int
    request: GenerateRequest


@dataclass(frozen=True, slots=True)
class CancelMessage:
    """End the generation `id` early; unknown and finished ids are ignored."""

    id: int


@dataclass(frozen=True, slots=True)
class StatusQuery:
    """Ask for the daemon's status: now, or when the model is loaded, which is tried again where it failed."""

    id: int
    when_loaded: bool = False


@dataclass(frozen=True, slots=True)
class ShutdownMessage:
    """Ask the daemon to end: what runs ends as cancelled, the answer is one last status."""

    id: int


@dataclass(frozen=True, slots=True)
class DaemonHello:
    """The daemon's answer to a hello; `version` is that of the package."""

    protocol: int
    model: str
    pid: int
    version: str


@dataclass(frozen=True, slots=True)
class DeltaMessage:
    """A delta of the generation `id`."""

    id: int
    delta: Delta


@dataclass(frozen=True, slots=True)
class DoneMessage:
    """The end of the generation `id`."""

    id: int
    done: Done


@dataclass(frozen=True, slots=True)
class StatusMessage:
    """The daemon's status, as `models.daemon` documents it."""

    id: int
    status: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ErrorMessage:
    """Why a message got no answer; `id` where it had a readable one. `code` is one of `ERROR_CODES`."""

    code: str
    message: str
    id: int | None = None


ClientMessage: TypeAlias = ClientHello | GenerateMessage | CancelMessage | StatusQuery | ShutdownMessage
DaemonMessage: TypeAlias = DaemonHello | DeltaMessage | DoneMessage | StatusMessage | ErrorMessage


def error_code(error: ModelError) -> str:
    """Return the code of an error: that of its class, or of the nearest class above it that has one."""
    codes = {kind: code for code, kind in ERROR_CODES.items()}
    return next(codes[kind] for kind in type(error).__mro__ if kind in codes)


def error_from(code: str, message: str) -> ModelError:
    """Return the error that a code and its sentence stand for."""
    return ERROR_CODES.get(code, ModelError)(message)


def encode(message: ClientMessage | DaemonMessage) -> bytes:
    """Return the frame of a message; lone surrogates in texts, which UTF-8 cannot hold, become "?".

    Raises `FrameError` where the frame would be larger than `MAX_FRAME_BYTES`.
    """
    body: bytes = msgpack.packb(_to_map(message), unicode_errors="replace")
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"The message has {len(body)} bytes, more than {MAX_FRAME_BYTES}: send less context.")
    return _HEADER.pack(len(body)) + body


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """Return the body of the next frame, or None where the peer ended the connection between two frames.

    Raises `FrameError` where the frame is oversized or truncated: the connection cannot be read any further.
    """
    try:
        header = await reader.readexactly(_HEADER.size)
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise FrameError("The connection ended inside a frame's length.") from error
    (length,) = _HEADER.unpack(header)
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"A frame of {length} bytes was announced, more than {MAX_FRAME_BYTES}.")
    try:
        return await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        raise FrameError(f"The connection ended {length - len(error.partial)} bytes before the frame did.") from error


def decode(body: bytes) -> dict[str, Any]:
    """Return the map in a frame's body, its fields not yet looked at. Raises `FrameError` where there is none."""
    try:
        value = msgpack.unpackb(body)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise FrameError(f"The frame does not hold msgpack: {error or type(error).__name__}.") from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise FrameError("The frame does not hold a map with text keys.")
    return cast("dict[str, Any]", value)


def message_id(fields: Mapping[str, object]) -> int | None:
    """Return the id of a message that may be invalid otherwise, or None."""
    value = fields.get("id")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def client_message(fields: Mapping[str, object]) -> ClientMessage:
    """Return what a client said. Raises `FrameError` for an unknown type and for missing or mistyped fields."""
    kind = _take(fields, "type", str)
    match kind:
        case "hello":
            return ClientHello(_count(fields, "protocol"), _take(fields, "client", str), _take(fields, "editor", str))
        case "generate":
            return GenerateMessage(_count(fields, "id"), _generate_request(fields))
        case "cancel":
            return CancelMessage(_count(fields, "id"))
        case "status":
            return StatusQuery(_count(fields, "id"), when_loaded=fields.get("when_loaded") is True)
        case "shutdown":
            return ShutdownMessage(_count(fields, "id"))
    raise FrameError(f"{kind[:40]!r} is not a type of message that a client sends.")


def daemon_message(fields: Mapping[str, object]) -> DaemonMessage:
    """Return what a daemon said. Raises `FrameError` for an unknown type and for missing or mistyped fields."""
    kind = _take(fields, "type", str)
    match kind:
        case "hello":
            texts = {name: _take(fields, name, str) for name in ("model", "version")}
            return DaemonHello(protocol=_count(fields, "protocol"), pid=_count(fields, "pid"), **texts)
        case "delta":
            return DeltaMessage(_count(fields, "id"), Delta(_take(fields, "text", str)))
        case "done":
            return DoneMessage(_count(fields, "id"), _done(fields))
        case "status":
            return StatusMessage(_count(fields, "id"), _take(fields, "status", dict))
        case "error":
            number = None if fields.get("id") is None else _count(fields, "id")
            return ErrorMessage(_take(fields, "code", str), _take(fields, "message", str), number)
    raise FrameError(f"{kind[:40]!r} is not a type of message that a daemon sends.")


def _to_map(message: ClientMessage | DaemonMessage) -> dict[str, Any]:  # noqa: PLR0911 - one for each message
    match message:
        case ClientHello() | DaemonHello():
            return {"type": "hello"} | asdict(message)
        case GenerateMessage():
            return {"type": "generate", "id": message.id} | asdict(message.request)
        case CancelMessage():
            return {"type": "cancel", "id": message.id}
        case StatusQuery():
            return {"type": "status", "id": message.id, "when_loaded": message.when_loaded}
        case ShutdownMessage():
            return {"type": "shutdown", "id": message.id}
        case DeltaMessage():
            return {"type": "delta", "id": message.id, "text": message.delta.text}
        case DoneMessage():
            return {"type": "done", "id": message.id} | asdict(message.done)
        case StatusMessage():
            return {"type": "status", "id": message.id, "status": message.status}
        case ErrorMessage():
            fields = {"type": "error", "code": message.code, "message": message.message}
            return fields if message.id is None else fields | {"id": message.id}


def _generate_request(fields: Mapping[str, object]) -> GenerateRequest:
    prompt = _take(fields, "prompt", dict)
    return GenerateRequest(
        prompt=FimPrompt(
            prefix=_take(prompt, "prefix", str),
            suffix=_take(prompt, "suffix", str),
            snippets=tuple(
                Snippet(_take(snippet, "path", str), _take(snippet, "text", str))
                for snippet in _list(prompt, "snippets", dict)
            ),
            repo=_take(prompt, "repo", str),
            path=_take(prompt, "path", str),
        ),
        max_tokens=_count(fields, "max_tokens"),
        stop=tuple(_list(fields, "stop", str)),
        time_limit_ms=_number(fields, "time_limit_ms"),
        first_token_limit_ms=_number(fields, "first_token_limit_ms"),
        editor=_take(fields, "editor", str),
        priority=cast("Priority", _choice(fields, "priority", get_args(Priority))),
    )


def _done(fields: Mapping[str, object]) -> Done:
    tokens = _take(fields, "tokens", dict)
    timings_ms = _take(fields, "timings_ms", dict)
    return Done(
        finish_reason=cast("FinishReason", _choice(fields, "finish_reason", get_args(FinishReason))),
        tokens=TokenCounts(
            prompt=_count(tokens, "prompt"),
            prompt_reused=_count(tokens, "prompt_reused"),
            generated=_count(tokens, "generated"),
            drafted=_count(tokens, "drafted"),
            accepted=_count(tokens, "accepted"),
        ),
        timings_ms={name: _number(timings_ms, name) for name in timings_ms},
    )


_T = TypeVar("_T")


def _take(fields: Mapping[str, object], name: str, kind: type[_T]) -> _T:
    value = fields.get(name)
    if not isinstance(value, kind):
        found = "missing" if name not in fields else f"a {type(value).__name__}"
        raise FrameError(f"The field {name!r} must be a {kind.__name__}; it is {found}.")
    return value


def _count(fields: Mapping[str, object], name: str) -> int:
    value = _take(fields, name, int)
    if isinstance(value, bool) or value < 0:
        raise FrameError(f"The field {name!r} must be a whole number from 0; it is {value!r}.")
    return value


def _number(fields: Mapping[str, object], name: str) -> float:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise FrameError(f"The field {name!r} must be a number from 0; it is {type(value).__name__} {str(value)[:20]}.")
    return float(value)


def _choice(fields: Mapping[str, object], name: str, choices: tuple[str, ...]) -> str:
    value = _take(fields, name, str)
    if value not in choices:
        raise FrameError(f"The field {name!r} must be one of {', '.join(choices)}; it is {value[:20]!r}.")
    return value


def _list(fields: Mapping[str, object], name: str, kind: type[_T]) -> list[_T]:
    values = _take(fields, name, list)
    if not all(isinstance(value, kind) for value in values):
        raise FrameError(f"The field {name!r} must hold only {kind.__name__} values.")
    return values
