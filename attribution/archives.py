"""Archives -> the files in them, read in memory and bounded: nothing is written to disk, and no member is trusted.

Sizes are those of the bytes that were really read: what a header promises is not believed.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any, cast

from attribution.errors import DamagedSourceError, SourceError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator
    from pathlib import Path

SUFFIXES = (".zip", ".whl", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")

MAX_RATIO = 200
RATIO_FREE_BYTES = 64 << 20
"""An archive may expand to RATIO_FREE_BYTES whatever its size, and beyond that to MAX_RATIO times its size."""
_AR_MAGIC = b"!<arch>\n"
_AR_HEADER_BYTES = 60
_ZSTD_BUFFER_BYTES = 1 << 17
_ZSTD_WINDOW_BYTES = 1 << 27  # what zstd itself takes without being asked, and what `--ultra` needs

DAMAGE: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
)
"""What reading a damaged file may raise, besides the errors of zstandard, which `decompressed` makes an OSError."""


class ExpandsTooMuchError(Exception):
    """A file has spent its budget."""


def is_archive(name: str) -> bool:
    """Return whether a file's name is that of an archive that can be read."""
    return name.lower().endswith(SUFFIXES)


def members(
    path: Path, wanted: Callable[[str], bool], max_file_bytes: int, skipped: Counter[str]
) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of the archive's wanted files, in its own order; count what is skipped, by reason.

    Raises `DamagedSourceError` if the file cannot be read as the archive that its name promises.
    """
    try:
        budget = Budget.of(path)
        if path.name.lower().endswith((".zip", ".whl")):
            yield from _zip_members(path, wanted, max_file_bytes, skipped, budget)
        else:
            yield from _tar_members(path, wanted, max_file_bytes, skipped, budget)
    except ExpandsTooMuchError:
        skipped["rest of an archive that expands too much"] += 1
    except DAMAGE as error:
        raise DamagedSourceError(
            f"{path} cannot be read as an archive ({error}); fetch it again or leave it out."
        ) from error


class Budget:
    """The bytes that a file may still expand to."""

    def __init__(self, limit: int) -> None:
        """Begin with all of them."""
        self.left = limit

    @classmethod
    def of(cls, path: Path) -> Budget:
        """Return the budget of a compressed file. Raises `OSError`."""
        return cls(max(RATIO_FREE_BYTES, MAX_RATIO * path.stat().st_size))

    def spend(self, count: int) -> None:
        """Take some bytes. Raises `ExpandsTooMuchError` if there are too few left."""
        self.left -= count
        if self.left < 0:
            raise ExpandsTooMuchError


class _Metered:
    """A decompressed stream whose bytes are counted, so that padding and headers cannot hide a bomb either."""

    def __init__(self, stream: IO[bytes], budget: Budget) -> None:
        self._stream = stream
        self._budget = budget

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._budget.spend(len(data))
        return data


def _zip_members(
    path: Path, wanted: Callable[[str], bool], max_file_bytes: int, skipped: Counter[str], budget: Budget
) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = _safe_name(info.filename)
            if info.is_dir() or (name is not None and not wanted(name)):
                continue
            if name is None:
                skipped["path outside its archive"] += 1
                continue
            try:
                with archive.open(info) as file:
                    data = file.read(max_file_bytes + 1)
            except DAMAGE:
                skipped["unreadable"] += 1
                continue
            budget.spend(len(data))
            yield name, data


def _tar_members(
    path: Path, wanted: Callable[[str], bool], max_file_bytes: int, skipped: Counter[str], budget: Budget
) -> Iterator[tuple[str, bytes]]:
    with decompressed(path) as stream, tarfile.open(fileobj=_metered(stream, budget), mode="r|") as archive:
        for info in archive:
            name = _safe_name(info.name)
            if not info.isfile():
                skipped["link in an archive"] += info.issym() or info.islnk()
            elif name is None:
                skipped["path outside its archive"] += 1
            elif wanted(name) and (file := archive.extractfile(info)) is not None:
                yield name, file.read(max_file_bytes + 1)


def _metered(stream: IO[bytes], budget: Budget) -> IO[bytes]:
    return cast("IO[bytes]", _Metered(stream, budget))  # tarfile only ever reads a stream


def decompressed(path: Path) -> IO[bytes]:
    """Return a file's bytes as a stream, decompressed by its name: gz, bz2, xz or zst; of a .deb, those of its data.

    Raises `OSError`, and `SourceError` if the package that reads zst is not installed.
    """
    name = path.name.lower()
    if name.endswith((".gz", ".tgz")):
        return cast("IO[bytes]", gzip.open(path))
    if name.endswith("bz2"):
        return cast("IO[bytes]", bz2.open(path))
    if name.endswith("xz"):
        return cast("IO[bytes]", lzma.open(path))
    if name.endswith(".deb"):
        return cast("IO[bytes]", lzma.open(io.BytesIO(_data_of_deb(path))))
    if name.endswith(".zst"):
        return io.BufferedReader(_Zstandard(path), _ZSTD_BUFFER_BYTES)
    return path.open("rb")


def _data_of_deb(path: Path) -> bytes:
    """Return the packed files of a Debian package, an ar archive (deb(5)). Raises `ValueError` if they are not xz."""
    data = path.read_bytes()
    at = len(_AR_MAGIC)
    while at < len(data) and data.startswith(_AR_MAGIC):
        size = int(data[at + 48 : at + 58])
        start = at + _AR_HEADER_BYTES
        if data[at : at + 16].rstrip(b" /") == b"data.tar.xz":
            return data[start : start + size]
        at = start + size + size % 2
    raise ValueError("no data.tar.xz in it")


def missing_extra(path: Path, package: str) -> SourceError:
    """Return the error that says what to install to read a file."""
    return SourceError(f"{path} is read with {package}, which is not installed: pip install 'starcite[corpus]'.")


class _Zstandard(io.RawIOBase):
    """A zstd file as a raw stream; zstandard's own reader has no lines, and errors of its own."""

    def __init__(self, path: Path) -> None:
        try:
            import zstandard  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise missing_extra(path, "zstandard") from error
        self._error = zstandard.ZstdError
        self._file = path.open("rb")
        limits = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        self._reader = limits.stream_reader(self._file, read_across_frames=True)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - the base's type
        try:
            return int(self._reader.readinto(buffer))
        except self._error as error:
            raise OSError(str(error)) from error

    def close(self) -> None:
        self._file.close()
        super().close()


def _safe_name(name: str) -> str | None:
    """Return a member's path within the archive, or None if it leads out of it."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return None
    return str(path)
