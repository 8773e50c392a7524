"""Real code to measure with, fetched once from the package registries that this machine is set up for.

    Python, C       source distributions, by the simple API (PEP 503) of pip's index, along their Requires-Dist
    JavaScript, TS  npm tarballs, along their dependencies;  Java: the Android parts of npm packages
    Go, Java        Debian's golang-*-dev, whose packages are source, and the modules of its openjdk-17-source

Every download is compared with the digest that its registry gives; nothing of it is installed or run. What was taken,
in which version, is kept in a list beside the downloads in the user's cache folder: later runs measure the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import lzma
import random
import re
import subprocess
import sys
import tarfile
import threading
import tomllib
import urllib.parse
import urllib.request
import zipfile
from collections import Counter, defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from email.parser import BytesHeaderParser
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from attribution import documents
from attribution.errors import SourceError
from attribution.format import SourceRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

LANGUAGES = {
    "Python": (".py", ".pyi", ".pyx"),
    "JavaScript": (".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx"),
    "Go": (".go",),
    "C": (".c", ".h", ".cc", ".cpp", ".hpp"),
    "Java": (".java", ".kt"),
}
SHARES = {"Python": 0.40, "JavaScript": 0.20, "Go": 0.20, "C": 0.15, "Java": 0.05}
_GIVES = {"pypi": ("Python", "C"), "npm": ("JavaScript", "Java"), "debian": ("Go",), "jdk": ("Java",)}
_WAVE = 48
_MAX_ARCHIVE_BYTES = 48 << 20
_MAX_CODE_BYTES = 40_000_000
_TIMEOUT_S = 60
_LONG_LINE = 200
_JDK_LOCK = threading.Lock()
_LEAST_PER_PACKAGE = 30_000
_LEAST_PACKAGES = 25


@dataclass(frozen=True, slots=True)
class Package:
    """A fetched archive: `family` groups what one author wrote, `code_bytes` counts by language."""

    registry: str
    name: str
    version: str
    file: str
    code_bytes: dict[str, int]
    wants: tuple[str, ...]

    @property
    def family(self) -> str:
        """What packages of one origin have in common, as far as a name tells."""
        name = self.name.removeprefix("golang-").removesuffix("-dev").removeprefix("github-")
        return re.split(r"[-_./@\d]+", name.lstrip("@"))[0].lower()


def folder() -> Path:
    """Return the folder of the downloads, made if need be."""
    path = user_cache_path("starcite") / "benchmarks"
    path.mkdir(parents=True, exist_ok=True)
    return path


def packages(wanted_bytes: int) -> list[Package]:
    """Return packages that hold at least `wanted_bytes` of code in the shares of SHARES, as far as they can be had."""
    named = tomllib.loads(Path(__file__).with_name("packages.toml").read_text())
    found: list[Package] = []
    for kind, language, registry in (
        ("pypi", "Python", _pypi),
        ("c", "C", _pypi),
        ("npm", "JavaScript", _npm),
        ("java", "Java", _npm),
        ("jdk", "Java", _jdk),
        ("debian", "Go", _debian),
    ):
        seeds = _debian_names() if kind == "debian" else named[kind]["seeds"].split()
        found += _collected(kind, language, seeds, registry, int(wanted_bytes * SHARES[language]))
    unique = {package.file: package for package in found}
    return list(unique.values())


def _collected(
    kind: str, language: str, seeds: Iterable[str], registry: Callable[[str], Package | None], wanted: int
) -> list[Package]:
    """Return the packages of one kind: those of the kept list, then more in waves, breadth first; 25 at least."""
    record = folder() / f"{kind}.json"
    rows = json.loads(record.read_text()) if record.exists() else []
    kept = [Package(**(row | {"wants": tuple(row["wants"])})) for row in rows if row["file"]]
    result, have = [], 0.0

    def counted(package: Package) -> float:
        """Return what a package counts for: one that holds much does not stand for many."""
        return min(package.code_bytes.get(language, 0), wanted / _LEAST_PACKAGES)

    for package in kept:
        if have >= wanted:
            return result
        result.append(package)
        have += counted(package)
    asked = {row["name"] for row in rows}
    follow = kind in {"pypi", "npm"}
    queue = deque([*seeds, *(name for package in kept for name in package.wants if follow)])
    with ThreadPoolExecutor(8) as pool:
        while queue and have < wanted:
            wave: list[str] = []
            while queue and len(wave) < _WAVE:
                name = queue.popleft()
                if name not in asked:
                    asked.add(name)
                    wave.append(name)
            for name, package in zip(wave, pool.map(_quietly(registry), wave), strict=True):
                rows.append(asdict(package) | {"name": name} if package else {"name": name, "file": ""})
                if package:
                    result.append(package)
                    have += counted(package)
                    queue.extend(package.wants if follow else ())
            record.write_text(json.dumps(rows))
            print(f"  fetched {kind}: {len(result)} packages, {have / 1e6:.0f} MB {language}", file=sys.stderr)
    return result


def _quietly(registry: Callable[[str], Package | None]) -> Callable[[str], Package | None]:
    """Return the function with None for what a registry does not have or does not serve in time."""

    def fetched(name: str) -> Package | None:
        try:
            return registry(name)
        except (OSError, ValueError, LookupError, SourceError, tarfile.TarError, lzma.LZMAError):
            return None

    return fetched


# --- registries ------------------------------------------------------------------------------------------------------


def _pypi(name: str) -> Package | None:
    page = _get(f"{_pip_index()}/{re.sub(r'[-_.]+', '-', name).lower()}/")
    links = re.findall(r'href="([^"]+\.tar\.gz)#sha256=([0-9a-f]{64})"', page.decode("utf-8", "replace"))
    stable = [link for link in links if re.fullmatch(r".*-v?\d[\d.]*(\.post\d+)?\.tar\.gz", link[0])]
    address, digest = (stable or links)[-1]
    address = urllib.parse.urljoin(f"{_pip_index()}/{name}/", html.unescape(address))
    file = _download(address, address.rpartition("/")[2], "sha256", bytes.fromhex(digest))
    return _package("pypi", name, file.name.removesuffix(".tar.gz").rpartition("-")[2], file)


def _npm(name: str) -> Package | None:
    bare, _, version = name.rpartition("@") if "@" in name[1:] else (name, "", "latest")
    about = json.loads(_get(f"{_npm_registry()}/{bare.replace('/', '%2f')}/{version or 'latest'}"))
    digest = base64.b64decode(about["dist"]["integrity"].removeprefix("sha512-"))
    flat = bare.strip("@").replace("/", "-")
    file = _download(about["dist"]["tarball"], f"{flat}-{about['version']}.tgz", "sha512", digest)
    package = _package("npm", bare, about["version"], file)
    wants = tuple(about.get("dependencies", {})) + tuple(about.get("devDependencies", {}))
    return Package(**(asdict(package) | {"wants": wants})) if package else None


def _debian(name: str) -> Package | None:
    address, file, digest = _debian_addresses()[name]
    version = file.split("_")[1]
    target = folder() / "archives" / f"{name}_{version.replace('%3a', '.')}.tar"
    if not target.exists():
        deb = _download(address, file, "sha256", bytes.fromhex(digest))
        target.write_bytes(_debian_data(deb))
        deb.unlink()
    return _package("debian", name, version, target)


def _jdk(module: str) -> Package | None:
    """Return a module of the Java library, from the sources that Debian packages; each is a package here."""
    with _JDK_LOCK:
        modules = _jdk_sources()
    target = modules.with_name(f"{module}_17.tar")
    with zipfile.ZipFile(modules) as source, tarfile.open(target, "w") as archive:
        for entry in source.infolist():
            if entry.filename.startswith(module + "/") and entry.filename.endswith(".java"):
                header = tarfile.TarInfo(entry.filename)
                header.size = entry.file_size
                archive.addfile(header, source.open(entry))
    return _package("jdk", module, "17", target)


def _jdk_sources() -> Path:
    path = folder() / "archives" / "jdk-src.zip"
    if not path.exists():
        address, name, digest = _debian_addresses()["openjdk-17-source"]
        deb = _download(address, name, "sha256", bytes.fromhex(digest))
        with tarfile.open(fileobj=io.BytesIO(_debian_data(deb))) as archive:
            member = next(item for item in archive if item.isfile() and item.name.endswith("/src.zip"))
            stream = archive.extractfile(member)
            path.write_bytes(stream.read() if stream else b"")
        deb.unlink()
    return path


@cache
def _debian_addresses() -> dict[str, tuple[str, str, str]]:
    """Return address, file name and SHA-256 of what is taken from Debian, by package; nothing where there is no apt."""
    try:
        listed = subprocess.run(["apt-cache", "pkgnames", "golang-"], capture_output=True, text=True, check=True).stdout
        names = [name for name in listed.split() if name.endswith("-dev")]
        command = ["apt-get", "download", "--print-uris", "openjdk-17-source", *names]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    rows = (line.split() for line in said.splitlines())
    return {
        file.split("_")[0]: (address.strip("'"), file, digest.removeprefix("SHA256:"))
        for address, file, _, digest in rows
    }


def _debian_data(deb: Path) -> bytes:
    return lzma.decompress(_ar_member(deb.read_bytes(), b"data.tar.xz"))


def _debian_names() -> list[str]:
    """Return Debian's packages of Go source in an order that mixes them."""
    names = sorted(name for name in _debian_addresses() if name.startswith("golang-"))
    random.Random(1).shuffle(names)  # noqa: S311 - samples, not secrets
    return names


def _ar_member(data: bytes, name: bytes) -> bytes:
    at = 8  # behind the magic
    while at < len(data):
        size = int(data[at + 48 : at + 58])
        if data[at : at + 16].rstrip(b" /") == name:
            return data[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ValueError(name)


@cache
def _pip_index() -> str:
    """Return the package index that pip uses here."""
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if not said:
        code = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return said.strip().rstrip("/")


@cache
def _npm_registry() -> str:
    """Return the registry that npm uses here."""
    command = ["npm", "config", "get", "registry"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().rstrip("/")


def _get(address: str) -> bytes:
    if not address.startswith(("https://", "http://")):
        raise ValueError(address)
    with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - the scheme is checked above
        if int(answer.headers.get("Content-Length") or 0) > _MAX_ARCHIVE_BYTES:
            raise ValueError("too large")
        return bytes(answer.read(_MAX_ARCHIVE_BYTES + 1))


def _download(address: str, name: str, algorithm: str, digest: bytes) -> Path:
    """Return the file, fetched unless it is there; raises ValueError if it is not what the registry promised."""
    path = folder() / "archives" / name
    if not path.exists():
        data = _get(address)
        if hashlib.new(algorithm, data).digest() != digest:
            raise ValueError(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return path


def _package(registry: str, name: str, version: str, file: Path) -> Package | None:
    """Return a fetched archive with its code counted, or None if it holds none or too much."""
    counts: Counter[str] = Counter()
    wants: tuple[str, ...] = ()
    with tarfile.open(file) as archive:
        for member in archive:
            language = language_of(member.name)
            if member.isfile() and language:
                counts[language] += member.size
            elif registry == "pypi" and member.name.count("/") == 1 and member.name.endswith("/PKG-INFO"):
                stream = archive.extractfile(member)
                fields = BytesHeaderParser().parsebytes(stream.read()) if stream else {}
                names = (re.match(r"[\w.-]+", line) for line in (fields.get_all("Requires-Dist") or []))  # type: ignore[union-attr]
                wants = tuple(dict.fromkeys(found[0].lower() for found in names if found))
    if not counts or sum(counts.values()) > _MAX_CODE_BYTES:
        file.unlink()
        return None
    return Package(registry, name, version, file.name, dict(counts), wants)


# --- documents -------------------------------------------------------------------------------------------------------


def language_of(path: str) -> str | None:
    """Return the language of hand-written source, or None: by its ending, without bundles and minified files."""
    parts = PurePosixPath(path)
    if ".min." in parts.name or not {"dist", "node_modules", "umd", "bundles"}.isdisjoint(parts.parts):
        return None
    return next((language for language, endings in LANGUAGES.items() if parts.suffix in endings), None)


def read(package: Package) -> Iterator[tuple[str, documents.Document]]:
    """Yield language and document of a package's source, as the builder reads it, without generated long lines."""
    try:
        for document in documents.read([folder() / "archives" / package.file], Counter()):
            language = language_of(document.path)
            if language and len(document.text) < _LONG_LINE * (document.text.count("\n") + 1):
                source = document.source
                if source.name in {"package", "usr"}:  # what archives of npm and Debian call their top folder
                    source = replace(source, name=package.name, revision=package.version)
                yield language, documents.Document(document.text, document.path, source)
    except SourceError:
        return


@dataclass(frozen=True, slots=True)
class Split:
    """Documents by language: those that are indexed, and those of unrelated packages, which are not."""

    indexed: dict[str, list[documents.Document]]
    unrelated: dict[str, list[documents.Document]]


def split(found: list[Package], wanted_bytes: int) -> Split:
    """Return the documents of `wanted_bytes` in the shares of SHARES, and half as many of other families for noise.

    No package gives more than a twenty-fifth of its language, so that no project decides a figure. The result is kept.
    """
    kept = folder() / f"split-{wanted_bytes}.jsonl"
    if not kept.exists():
        part = kept.with_suffix(".part")
        with part.open("w") as file:
            for held_out, language, document in _dealt(found, wanted_bytes):
                source = asdict(document.source)
                file.write(json.dumps([held_out, language, document.text, document.path, source]) + "\n")
        part.rename(kept)
    sides: tuple[dict[str, list[documents.Document]], ...] = (defaultdict(list), defaultdict(list))
    with kept.open() as file:
        for held_out, language, text, path, source in map(json.loads, file):
            record = SourceRecord(**(source | {"licenses": tuple(source["licenses"])}))
            sides[held_out][language].append(documents.Document(text, path, record))
    return Split(dict(sides[0]), dict(sides[1]))


def _dealt(found: list[Package], wanted_bytes: int) -> Iterator[tuple[bool, str, documents.Document]]:
    have: Counter[tuple[str, bool]] = Counter()
    for package in sorted(found, key=lambda package: hashlib.sha256(package.file.encode()).digest()):
        sides = {language: _side(package, language) for language in _GIVES[package.registry]}
        limits = {
            language: wanted_bytes * SHARES[language] / (2 if held_out else 1) for language, held_out in sides.items()
        }
        wanted = {language for language in sides if have[language, sides[language]] < limits[language]}
        if wanted.isdisjoint(package.code_bytes):
            continue
        given: Counter[str] = Counter()
        for language, document in read(package):
            size = len(document.text)
            if language in wanted and given[language] + size <= max(
                limits[language] / _LEAST_PACKAGES, _LEAST_PER_PACKAGE
            ):
                given[language] += size
                have[language, sides[language]] += size
                yield sides[language], language, document


def _side(package: Package, language: str) -> bool:
    """Return whether a package's code is held out. All Java of npm is: its plugins are made from one template."""
    return package.registry == "npm" if language == "Java" else is_held_out(package)


def is_held_out(package: Package) -> bool:
    """Return whether a package is never indexed: a quarter of the families, by their names' hashes."""
    return package.registry != "jdk" and hashlib.sha256(package.family.encode()).digest()[0] % 4 == 0


def sample_packages(found: list[Package], wanted_bytes: int) -> list[Package]:
    """Return packages of about `wanted_bytes` of code that are not held out, for builds from archives."""
    order = sorted(found, key=lambda package: hashlib.sha256(package.file.encode()).digest())
    chosen, have = [], 0
    for package in order:
        size = sum(package.code_bytes.values())
        if not is_held_out(package) and have < wanted_bytes and size < wanted_bytes / _LEAST_PACKAGES:
            chosen.append(package)
            have += size
    return chosen
