"""Names -> a lock: asks the registries for packages until there is enough permissive text of each kind.

Whatever a registry serves today is looked at; what comes out is committed, and is what a build fetches for ever after.
The packages of all kinds are mixed so that every beginning of the lock has about the same shares of languages.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from attribution import archives
from attribution.errors import CorpusError, RegistryError
from attribution.licenses import PERMISSIVE
from attribution.packages import Cleaned, Package, cleaned
from attribution.registries import NotFoundError, Registries, Release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from attribution.downloads import Downloads
    from attribution.manifest import Collect

MAX_ARCHIVE_BYTES = 8 << 20
"""Of a candidate: what is larger is mostly data."""
MIN_PACKAGE_BYTES = 8_000
"""Of cleaned text: what is smaller costs a download and teaches little."""
CONNECTIONS = 8

_WAVE = 64
_NO_ANSWER = "registry did not answer as expected"
_QUOTED = re.compile(r"['\"]([@\w][\w./@-]*)['\"]")


class Collector:
    """Collects packages; `left_out` counts the candidates that were not taken, by reason."""

    def __init__(self, downloads: Downloads, registries: Registries, cache: Path) -> None:
        """Fetch by `downloads`, and keep cleaned packages in `cache`."""
        self._downloads, self._registries, self._cache = downloads, registries, cache
        self._taken: set[tuple[str, str]] = set()
        self.left_out: Counter[str] = Counter()

    def collected(
        self, kinds: Iterable[Collect], progress: Callable[[str, int, int], None] | None = None
    ) -> list[Package]:
        """Return the packages of all kinds, mixed. Raises `RegistryError` and `OSError`.

        `progress(kind, bytes, wanted bytes)` is called as text is found.
        """
        found = []
        for kind in kinds:
            rows = []
            for package, size in self._of_kind(kind):
                rows.append((package, size))
                if progress:
                    progress("/".join(kind.languages), sum(row[1] for row in rows), kind.bytes)
            found.append(rows)
        if self.left_out[_NO_ANSWER] > sum(map(len, found)):
            raise RegistryError(
                f"The registries did not answer for {self.left_out[_NO_ANSWER]:,} packages, more than they had; see to "
                "the connection and run this again: what was fetched is kept."
            )
        return mixed(found)

    def _of_kind(self, kind: Collect) -> Iterator[tuple[Package, int]]:
        have = 0
        queue = deque(self._candidates(kind))
        asked: set[str] = set()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            while queue and have < kind.bytes:
                wave: list[str] = []
                while queue and len(wave) < _WAVE:
                    name = queue.popleft()
                    if name not in asked and (kind.registry, name) not in self._taken:
                        asked.add(name)
                        wave.append(name)
                for release, archive, sha256 in pool.map(lambda name: self._fetched(kind, name), wave):
                    if release and kind.follow:
                        queue.extend(release.wants)
                    if (
                        release
                        and archive
                        and have < kind.bytes
                        and (taken := self._take(kind, release, archive, sha256))
                    ):
                        have += taken[1]
                        yield taken

    def _candidates(self, kind: Collect) -> Iterator[str]:
        yield from kind.seeds
        if kind.list:
            yield from self._listed(kind.list)
        if kind.prefix:
            names = self._registries.names(kind.registry, kind.prefix, "-dev")
            yield from sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())

    def _listed(self, where: str) -> list[str]:
        """Return the names that a file in a package of npm quotes."""
        name, _, path = where.partition(":")
        archive, _ = self._downloads.released(self._registries.release("npm", name))
        for _, data in archives.members(archive, lambda member: member.endswith(path), 1 << 24, Counter()):
            return _QUOTED.findall(data.decode("utf-8", "replace"))
        raise CorpusError(f"npm's {name} has no {path}; correct the list in the manifest.")

    def _fetched(self, kind: Collect, name: str) -> tuple[Release | None, Path | None, str]:
        """Return a candidate's release and archive with its digest; counts why there is none."""
        try:
            release = self._registries.release(kind.registry, name)
            if release.bytes > MAX_ARCHIVE_BYTES:
                return self._not(release, "archive too large")
            if kind.registry == "pypi" and not _may_be_permissive(release):
                return self._not(release, "licence not permissive by its metadata")
            return release, *self._downloads.released(release)
        except NotFoundError:
            return self._not(None, "no such package, or no source archive")
        except (RegistryError, KeyError, TypeError, ValueError):
            return self._not(None, _NO_ANSWER)

    def _not(self, release: Release | None, reason: str) -> tuple[Release | None, None, str]:
        self.left_out[reason] += 1
        return release, None, ""

    def _take(self, kind: Collect, release: Release, archive: Path, sha256: str) -> tuple[Package, int] | None:
        facts = {"registry": release.registry, "name": release.name, "version": release.version, "sha256": sha256}
        if (release.registry, release.name) in self._taken:
            return None
        found = cleaned(archive, self._cache, **facts)
        sizes = found.bytes_by_language()
        if found.source is None:
            self.left_out.update(found.left_out)
        elif sum(sizes.values()) < MIN_PACKAGE_BYTES:
            self.left_out["little text"] += 1
        else:
            self._taken.add((release.registry, release.name))
            return locked(release, sha256, found), sum(sizes[language] for language in kind.languages)
        return None


def relocked(packages: Iterable[Package], downloads: Downloads, cache: Path) -> Iterator[Package]:
    """Yield the packages of a lock with what the rules of today make of them; none of which too little is left.

    Raises `RegistryError` and `OSError`.
    """
    for package in packages:
        facts = {"registry": package.registry, "name": package.name, "version": package.version}
        archive = downloads.locked(**facts, file=package.file, sha256=package.sha256)
        found = cleaned(archive, cache, **facts, sha256=package.sha256)
        if found.source and sum(found.bytes_by_language().values()) >= MIN_PACKAGE_BYTES:
            licenses, files = found.source.licenses, len(found.documents)
            yield replace(package, licenses=licenses, files=files, digest=found.digest)


def locked(release: Release, sha256: str, found: Cleaned) -> Package:
    """Return the line of the lock for a package that was taken."""
    return Package(
        registry=release.registry,
        name=release.name,
        version=release.version,
        file=release.file,
        sha256=sha256,
        licenses=found.source.licenses if found.source else (),
        files=len(found.documents),
        digest=found.digest,
    )


def mixed(kinds: Iterable[list[tuple[Package, int]]]) -> list[Package]:
    """Return the packages of all kinds such that each kind is used up in the same proportion all along."""
    places = []
    for number, rows in enumerate(kinds):
        total, before = sum(size for _, size in rows) or 1, 0
        for package, size in rows:
            places.append(((before + size / 2) / total, number, package.name, package))
            before += size
    return [place[-1] for place in sorted(places, key=lambda place: place[:3])]


def _may_be_permissive(release: Release) -> bool:
    """Return whether a download is worth it: families without a version are told by the licence file."""
    return all(one in PERMISSIVE or one == "LicenseRef-BSD" for one in release.stated)
