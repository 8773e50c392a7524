"""What an index has been asked to forget: one small file beside the others, that every search looks at.

    tombstones.json   {format, version, owners, repos: the opt-outs that an index held something of, in lower case;
                       sources: {checksum of an index.json: numbers of its sources that they cover}; checksum}

The numbers make it cheap to open: no opt-out is compared with any source then. They count only for the index.json whose
checksum they are under, and a file without an entry for the index beside it is an error, never passed over. While an
index is replaced, the file has an entry for the old and one for the new index.json, so that a crash between any two
steps leaves opt-outs in force: see `handed_on`. Opt-outs that cover nothing are not kept, and the file is gone when
none is left: a compacted index names no one any more.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attribution.durable import half_written, replace_synced, sync_folder
from attribution.errors import IndexFormatError, IndexVersionError
from attribution.optout import OptOuts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from attribution.format import SourceRecord

FORMAT = "starcite-tombstones"
FORMAT_VERSION = 1
FILE = "tombstones.json"
HALF_WRITTEN = half_written(FILE)

ABSENT, _UNREADABLE = (0, 0, 0), (-1, -1, -1)

Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Tombstones:
    """Opt-outs, and by the checksum of an index.json the numbers of the sources that they cover there."""

    optouts: OptOuts
    sources: Mapping[str, tuple[int, ...]]


def resolve(optouts: OptOuts, sources: Sequence[SourceRecord]) -> tuple[OptOuts, tuple[int, ...]]:
    """Return the opt-outs that cover any of the sources, and the numbers of these sources."""
    owners, repos, numbers = set[str](), set[str](), []
    for number, source in enumerate(sources):
        if met := optouts.met(source.name, source.url):
            owners |= met.owners
            repos |= met.repos
            numbers.append(number)
    return OptOuts(frozenset(owners), frozenset(repos)), tuple(numbers)


def load(folder: Path) -> Tombstones | None:
    """Return the tombstones in a folder; None if there are none. Raises `IndexFormatError`, naming the file."""
    path = folder / FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise damaged(folder, error.strerror or str(error)) from error
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(folder, "it is not JSON") from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise damaged(folder, "it does not hold the tombstones of an index")
    version = fields.get("version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise IndexVersionError(f"{path} has format {version}, newer than this Starcite's; upgrade Starcite.")
    if fields.get("checksum") != _checksum(fields):
        raise damaged(folder, "its checksum is wrong")
    try:
        optouts = OptOuts(frozenset(fields["owners"]), frozenset(fields["repos"]))
        return Tombstones(
            optouts, {identity: tuple(map(index, numbers)) for identity, numbers in fields["sources"].items()}
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise damaged(folder, "it is not complete") from error


def save(folder: Path, tombstones: Tombstones) -> None:
    """Put tombstones in force, atomically; without any opt-out the file is removed.

    The caller holds the folder's lock. Raises `OSError`.
    """
    if not tombstones.optouts:
        with contextlib.suppress(FileNotFoundError):
            (folder / FILE).unlink()
            sync_folder(folder)
        return
    fields: dict[str, Any] = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "owners": sorted(tombstones.optouts.owners),
        "repos": sorted(tombstones.optouts.repos),
        "sources": {identity: list(numbers) for identity, numbers in tombstones.sources.items()},
    }
    fields["checksum"] = _checksum(fields)
    replace_synced(folder / FILE, json.dumps(fields, sort_keys=True).encode("ascii"))


@contextlib.contextmanager
def handed_on(folder: Path, identity: str, sources: Sequence[SourceRecord]) -> Iterator[None]:
    """Keep opt-outs in force while the block puts another index.json, of that checksum and sources, into a folder.

    Of what the new index holds nothing of, no opt-out is left afterwards. The caller holds the folder's lock. Raises
    `IndexFormatError` for damaged tombstones, and `OSError`.
    """
    if (before := load(folder)) is None:
        yield
        return
    effective, numbers = resolve(before.optouts, sources)
    save(folder, Tombstones(before.optouts, {**before.sources, identity: numbers}))
    yield
    save(folder, Tombstones(effective, {identity: numbers}))


class Watch:
    """The tombstones of an open index, as they are on the disk at every question; asking costs two microseconds."""

    def __init__(self, folder: Path, identity: str, sources: int) -> None:
        """Watch the tombstones that concern the index.json of that checksum, with so many sources."""
        self._folder = folder
        self._identity = identity
        self._sources = sources
        self._path = str(folder / FILE)
        self._seen: tuple[Stamp, npt.NDArray[np.bool_] | None] = (ABSENT, None)

    def forgotten(self) -> npt.NDArray[np.bool_] | None:
        """Return for each source whether it is forgotten; None if none is. Raises `IndexFormatError`."""
        now = stamp(self._path)
        if now == self._seen[0]:
            return self._seen[1]
        # The file of a compacted index is gone; what an index has forgotten while it was open stays forgotten.
        mask = self._read() if now != ABSENT else self._seen[1]
        self._seen = (now, mask)
        return mask

    def verify(self, sources: Sequence[SourceRecord]) -> None:
        """Compare the numbers of the sources with what the opt-outs say. Raises `IndexFormatError`."""
        if found := load(self._folder):
            self._mask(found)
            if resolve(found.optouts, sources)[1] != found.sources[self._identity]:
                raise damaged(self._folder, "its sources are not those that its opt-outs cover")

    def _read(self) -> npt.NDArray[np.bool_] | None:
        found = load(self._folder)
        return self._mask(found) if found else None

    def _mask(self, found: Tombstones) -> npt.NDArray[np.bool_]:
        numbers = found.sources.get(self._identity)
        if numbers is None:
            raise damaged(self._folder, "it belongs to another index")
        if not all(0 <= number < self._sources for number in numbers):
            raise damaged(self._folder, "it names a source that does not exist")
        mask = np.zeros(self._sources, dtype=np.bool_)
        mask[list(numbers)] = True
        return mask


def stamp(path: str) -> Stamp:
    """Return what changes when a file is replaced; zeros if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - half the time of Path.stat
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    except OSError:
        return _UNREADABLE
    return status.st_ino, status.st_mtime_ns, status.st_size


def damaged(folder: Path, what: str) -> IndexFormatError:
    """Return the error that says what is wrong with the tombstones in a folder."""
    return IndexFormatError(
        f"{folder / FILE} cannot be used: {what}; remove it, and forget again with all your opt-outs "
        "('starcite index forget')."
    )


def _checksum(fields: Mapping[str, Any]) -> str:
    body = {key: value for key, value in fields.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()
