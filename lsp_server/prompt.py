"""A document, a cursor and what other files say, made into the text that the daemon turns into tokens."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from models.protocol import FimPrompt

if TYPE_CHECKING:
    from lsp_server.documents import Snapshot
    from models.protocol import Snippet

# More than any budget of the daemon's holds, so that the exact cut, in tokens, is made there; but a file of a megabyte
# does not travel through the socket at every key.
MAX_PREFIX_CHARS = 16_000
MAX_SUFFIX_CHARS = 4_000
# The prefix begins at a multiple of this many lines, so that typing does not move its start, and the cache holds.
PREFIX_STEP_LINES = 64


def build(snapshot: Snapshot, offset: int, snippets: tuple[Snippet, ...], root: Path | None) -> FimPrompt:
    r"""Return the prompt of a cursor: line ends are `\\n` in it, and the path is relative to the workspace's root."""
    prefix = snapshot.text[_prefix_start(snapshot, offset) : offset]
    suffix = snapshot.text[offset : offset + MAX_SUFFIX_CHARS]
    path, repo = relative_path(snapshot.uri, root)
    return FimPrompt(unix_line_ends(prefix), unix_line_ends(suffix), snippets, repo, path)


def unix_line_ends(text: str) -> str:
    r"""Return the text with every line end a `\\n`, as the models were trained on."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def relative_path(uri: str, root: Path | None) -> tuple[str, str]:
    """Return a document's path below the workspace's root with `/` between folders, and the root's name."""
    path = uri_path(uri)
    if root and path.is_relative_to(root):
        return path.relative_to(root).as_posix(), root.name
    return path.name, root.name if root else ""


def uri_path(uri: str) -> Path:
    """Return the path that a URI names; of one that is no file's, such as `untitled:`, the part behind the scheme."""
    parts = urlsplit(uri)
    return Path(url2pathname(parts.path) if parts.scheme == "file" else str(PurePosixPath(unquote(parts.path))))


def _prefix_start(snapshot: Snapshot, offset: int) -> int:
    first = offset - MAX_PREFIX_CHARS
    if first <= 0:
        return 0
    line = (snapshot.line_of(first) // PREFIX_STEP_LINES + 1) * PREFIX_STEP_LINES
    starts = snapshot.line_starts
    return starts[line] if line < len(starts) and starts[line] <= offset else first
