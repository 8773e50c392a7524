"""Archives by their SHA-256: fetched once, compared with their digest, kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import tempfile
import time
from http.client import HTTPException
from pathlib import Path
from typing import IO, TYPE_CHECKING

from attribution.errors import RegistryError
from attribution.registries import NotFoundError, Registries, opened

if TYPE_CHECKING:
    from attribution.registries import Release

MAX_ARCHIVE_BYTES = 64 << 20
ATTEMPTS = 4
RETRY_DELAY_S = 1.0
"""Before the second attempt; twice as long before each further one."""
_PART = ".part-"
_STALE_S = 3600
_CHUNK_BYTES = 1 << 18
_ENDINGS = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".zip", ".deb")


class Downloads:
    """The archives in a folder, shared by any number of threads and processes."""

    def __init__(self, folder: Path, registries: Registries | None = None) -> None:
        """Keep the archives below a folder, which is made at the first download; what a crash left there is removed."""
        self._folder = folder
        for part in folder.glob(f"{_PART}*"):
            if time.time() - part.stat().st_mtime > _STALE_S:
                part.unlink(missing_ok=True)
        self._registries = registries or Registries()

    def path(self, sha256: str, file: str) -> Path:
        """Return where an archive is kept; its name's ending tells how it is packed."""
        ending = next((ending for ending in _ENDINGS if file.endswith(ending)), "")
        return self._folder / sha256[:2] / (sha256 + ending)

    def locked(self, registry: str, name: str, version: str, file: str, sha256: str) -> Path:
        """Return a locked archive. Raises `RegistryError`, and `OSError` if it cannot be written."""
        path = self.path(sha256, file)
        if not path.exists():
            address = self._registries.address(registry, name, version, sha256)
            self._fetch(address, file, sha256=sha256, what=f"{name} {version}")
        return path

    def released(self, release: Release) -> tuple[Path, str]:
        """Return a release's archive and its SHA-256. Raises `RegistryError`, and `OSError` if it cannot be written."""
        if release.sha256 and (path := self.path(release.sha256, release.file)).exists():
            return path, release.sha256
        what = f"{release.name} {release.version}"
        sha256 = self._fetch(release.url, release.file, sha256=release.sha256, sha512=release.sha512, what=what)
        return self.path(sha256, release.file), sha256

    def _fetch(self, address: str, file: str, *, sha256: str = "", sha512: str = "", what: str) -> str:
        """Fetch an archive, compare it with the digests that are given, and return its SHA-256."""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(RETRY_DELAY_S * 2 ** (attempt - 1))
            try:
                return self._attempt(address, file, sha256, sha512, what)
            except NotFoundError:
                raise
            except RegistryError:
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError  # the last attempt returns or raises

    def _attempt(self, address: str, file: str, sha256: str, sha512: str, what: str) -> str:
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=_PART, delete=False) as part:
            try:
                found = _received(address, part, what)
                _compare(found, (sha256, sha512), what)
                part.close()
                target = self.path(found[0], file)
                target.parent.mkdir(exist_ok=True)
                Path(part.name).replace(target)
            except BaseException:
                Path(part.name).unlink(missing_ok=True)
                raise
        return found[0]


def _received(address: str, part: IO[bytes], what: str) -> tuple[str, str]:
    """Write what an address gives to a file, and return its SHA-256 and SHA-512."""
    digests = hashlib.sha256(), hashlib.sha512()
    size = 0
    with opened(address) as answer:
        while chunk := _read(answer, what):
            size += len(chunk)
            if size > MAX_ARCHIVE_BYTES:
                raise NotFoundError(f"{what} is larger than {MAX_ARCHIVE_BYTES >> 20} MiB")
            part.write(chunk)
            for digest in digests:
                digest.update(chunk)
    return digests[0].hexdigest(), digests[1].hexdigest()


def _compare(found: tuple[str, str], wanted: tuple[str, str], what: str) -> None:
    """Raise `RegistryError` unless the digests are those wanted, of which at least one must be known."""
    if not any(wanted) or any(digest and digest != ours for ours, digest in zip(found, wanted, strict=True)):
        raise RegistryError(
            f"{what} has another digest than it should ({found[0][:12]}…): the registry or the connection changed it. "
            "Try again; if it stays so, do not use it."
        )


def _read(answer: object, what: str) -> bytes:
    try:
        return bytes(answer.read(_CHUNK_BYTES))  # type: ignore[attr-defined]
    except (OSError, HTTPException) as error:
        raise RegistryError(f"{what} broke off ({error}); see to the connection and run this again.") from error
