"""The manifest of a corpus and its lock: which packages, exactly which archives, how much of them.

corpus.toml             name, the files beside it, profiles (how many packages of the lock), where to collect
corpus.lock.jsonl       a package a line: registry, name, version, file, sha256, licenses, files, digest
decontamination.bin     grams of benchmarks (see `decontaminate`)
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from attribution import durable
from attribution.errors import CorpusError
from attribution.packages import Package

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

REGISTRIES = frozenset({"pypi", "npm", "debian"})

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Profile:
    """The first `packages` of the lock; `id` is that of the corpus they make, where it is known."""

    name: str
    packages: int
    id: str = ""


@dataclass(frozen=True, slots=True)
class Collect:
    """One kind of packages to look for until `bytes` of cleaned text in `languages` are found.

    Names come from `seeds`, from a list in a package of npm (`list`: "package:path"), or, of Debian, by `prefix`;
    `follow`: go on along their dependencies.
    """

    registry: str
    languages: tuple[str, ...]
    bytes: int
    seeds: tuple[str, ...] = ()
    list: str = ""
    prefix: str = ""
    follow: bool = False


@dataclass(frozen=True, slots=True)
class Manifest:
    """A corpus as its manifest describes it."""

    path: Path
    name: str
    profiles: tuple[Profile, ...]
    collect: tuple[Collect, ...]
    decontamination: str = ""
    optouts: str = ""

    @property
    def lock(self) -> Path:
        """The file of its packages."""
        return self.path.with_name(f"{self.path.stem}.lock.jsonl")

    def beside(self, name: str) -> Path | None:
        """Return a file beside the manifest; None where it names none."""
        return self.path.with_name(name) if name else None

    def profile(self, name: str | None) -> Profile:
        """Return a profile, the first where no name is given. Raises `CorpusError`."""
        found = next((profile for profile in self.profiles if name in {None, profile.name}), None)
        if found is None:
            names = ", ".join(profile.name for profile in self.profiles)
            raise CorpusError(f"{self.path} has no profile {name!r}; it has {names}.")
        return found


def read(path: Path) -> Manifest:
    """Return a manifest. Raises `CorpusError`."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror}); give the manifest of a corpus.") from error
    except (tomllib.TOMLDecodeError, UnicodeError) as error:
        raise CorpusError(f"{path} is no TOML ({error}); correct it.") from error
    try:
        return _manifest(path, table)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorpusError(f"{path} is no manifest of a corpus ({error!r}); correct it.") from error


def _manifest(path: Path, table: dict[str, Any]) -> Manifest:
    profiles = tuple(Profile(name, **facts) for name, facts in table["profiles"].items())
    collect = tuple(
        Collect(**(one | {"languages": tuple(one["languages"]), "seeds": tuple(one.get("seeds", "").split())}))
        for one in table.get("collect", [])
    )
    if not profiles or not all(one.registry in REGISTRIES for one in collect):
        raise ValueError("profiles and registries")
    return Manifest(
        path, str(table["name"]), profiles, collect, table.get("decontamination", ""), table.get("optouts", "")
    )


def read_lock(path: Path) -> list[Package]:
    """Return the packages of a lock, in its order. Raises `CorpusError`, naming the line."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise CorpusError(f"{path} cannot be read ({error}); restore it, or make it: starcite corpus lock.") from error
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(_package(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            raise CorpusError(f"{path}, line {number}: it is no locked package; restore the file.") from error
    return found


def _package(row: dict[str, Any]) -> Package:
    package = Package(**(row | {"licenses": tuple(row["licenses"])}))
    if package.registry not in REGISTRIES or not _SHA256.fullmatch(package.sha256):
        raise ValueError(package.registry)
    return package


def lock_line(package: Package) -> str:
    """Return a package's line of the lock."""
    return json.dumps(asdict(package), separators=(",", ":"))


def write_lock(path: Path, packages: Iterable[Package]) -> None:
    """Put a new lock in the place of an old one. Raises `OSError`."""
    durable.replace_synced(path, "".join(f"{lock_line(package)}\n" for package in packages).encode())
