"""The files of a folder or archive -> the sources that they come from: name, revision, address and licences.

    a folder that holds os.py, encodings/, importlib/ ...   the Python standard library
    name-version.dist-info/                                  an installed distribution or a wheel; files by its RECORD
    PKG-INFO at the top                                      a source distribution
    package.json at the top of an archive                    an npm package
    .git                                                     a work tree: owner/repo and the commit
    anything else                                            the folder's or archive's own name
    the text of a licence further down                       the same source, there under that licence

All of these may stand in one tree, e.g. in a virtual environment or a folder of clones. Git is read as files: no
process is started, and nothing is fetched.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from attribution import licenses
from attribution.format import SourceRecord

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Iterator
    from email.message import Message

_LICENSE_FILE = re.compile(r"(un)?licen[cs]e|copying|notice", re.IGNORECASE)
_NAME_VERSION = re.compile(r"(?P<name>.+?)-v?(?P<version>\d[\w.+!]*)")
_STDLIB_MARKS = ("os.py", "ast.py", "encodings/__init__.py", "importlib/__init__.py", "collections/__init__.py")
_PACKAGE_FOLDERS = ("site-packages/", "dist-packages/")
_PATCHLEVEL = re.compile(r'#define\s+PY_VERSION\s+"([\w.]+)')
_REMOTE = re.compile(r"(?:\w+://(?:[^/@]*@)?|(?:[^/@]*@)?)(?P<host>[\w.-]+)(?::\d+)?[:/](?P<path>.+?)(?:\.git)?/?")
_REMOTE_SECTION = re.compile(r'\[remote "(?P<name>.+)"\]')
_URL_LABELS = ("source", "source code", "repository", "code", "github", "homepage", "home page")


@dataclass(frozen=True, slots=True)
class Tree:
    """Files by path, each with a function that reads it.

    `root` is None for an archive; `git` holds the prefixes of work trees, `rows` files of data sets.
    """

    label: str
    files: dict[str, Callable[[], bytes]]
    root: Path | None = None
    git: frozenset[str] = field(default_factory=frozenset)
    rows: tuple[Path, ...] = ()

    def text(self, path: str) -> str:
        """Return a file's text, or "" if there is no such file or it cannot be read."""
        try:
            return self.files[path]().decode("utf-8", "replace")
        except (KeyError, OSError):
            return ""


@dataclass(frozen=True, slots=True)
class Origin:
    """A source and its files: `prefix` is what a path in the tree has before the path within the source."""

    source: SourceRecord
    prefix: str
    paths: tuple[str, ...]


def is_metadata(path: str) -> bool:
    """Return whether a file says something about its source: it must be in the tree, though it is no source code."""
    described = path.endswith((".dist-info/METADATA", ".dist-info/RECORD"))
    name = path.rpartition("/")[2]
    return described or name in {"PKG-INFO", "package.json"} or _LICENSE_FILE.match(name) is not None


def origins(tree: Tree, license_id: str | None, skipped: Counter[str]) -> Iterator[Origin]:
    """Yield the sources of a tree, each file in at most one. `license_id` overrules what sources say of themselves."""
    given = licenses.from_expression(license_id) if license_id else frozenset()
    left = set(tree.files)
    for prefix in _standard_libraries(tree):
        inside = {path for path in left if path.startswith(prefix)}
        left -= inside
        packages = {path for path in inside if path.removeprefix(prefix).startswith(_PACKAGE_FOLDERS)}
        skipped["site-packages in a standard library"] += _documents_among(packages)
        yield Origin(_standard_library(tree, prefix), prefix, tuple(sorted(inside - packages)))
    roots = set()
    for folder in sorted({str(PurePosixPath(path).parent) for path in left if path.endswith(".dist-info/METADATA")}):
        root = str(PurePosixPath(folder).parent)
        prefix = "" if root == "." else root + "/"
        roots.add(prefix)
        paths = left.intersection(_recorded(tree, folder, prefix))
        left -= paths
        yield Origin(_distribution(tree, folder, given), prefix, tuple(sorted(paths)))
    unrecorded = {path for path in left if any(path.startswith(prefix) for prefix in roots)}
    skipped["in no distribution's RECORD"] += _documents_among(unrecorded)
    yield from _others(tree, left - unrecorded, given)


def _documents_among(paths: Iterable[str]) -> int:
    return sum(not is_metadata(path) for path in paths)


def _others(tree: Tree, left: set[str], given: frozenset[str]) -> Iterator[Origin]:
    """Yield work trees, each file in the innermost, then what is left over."""
    by_prefix: dict[str, set[str]] = defaultdict(set)
    prefixes = sorted(tree.git | {""}, key=len, reverse=True)
    for path in left:
        by_prefix[next(prefix for prefix in prefixes if path.startswith(prefix))].add(path)
    for prefix, paths in sorted(by_prefix.items()):
        found = (path for path in paths if "/" not in path.removeprefix(prefix))
        files = _license_files(tree, found)
        if prefix in tree.git and tree.root is not None:
            name, revision, url = _work_tree(tree.root / prefix)
            verdict = licenses.verdict(given, files)
            record = SourceRecord(name, revision, url, verdict.licenses, verdict.conflict)
        elif "PKG-INFO" in tree.files and not prefix:
            record = _described(tree.text("PKG-INFO"), tree.label, given, files)
        elif manifest := {} if tree.root else _manifest(tree.text("package.json")):
            record = _npm_package(manifest, given, files)
        else:
            name, version = _name_and_version(tree.label)
            verdict = licenses.verdict(given, files)
            record = SourceRecord(name, version, "", verdict.licenses, verdict.conflict)
        apart = list(_licensed_folders(tree, prefix, paths))
        yield Origin(record, prefix, tuple(sorted(paths.difference(*(inside for inside, _ in apart)))))
        for inside, ids in apart:
            verdict = licenses.verdict(given, ids)
            own = replace(record, licenses=verdict.licenses, license_conflict=verdict.conflict)
            yield Origin(own, prefix, tuple(sorted(inside)))


def _licensed_folders(tree: Tree, prefix: str, paths: set[str]) -> Iterator[tuple[set[str], frozenset[str]]]:
    """Yield the files below each folder in which the text of a licence lies, innermost first, and the licences.

    A vendored library, or a project in a folder of projects, is not under the licence that stands at the top.
    """
    named = {str(PurePosixPath(path).parent) for path in paths if _LICENSE_FILE.match(PurePosixPath(path).name)}
    left = set(paths)
    for folder in sorted(named - {prefix.rstrip("/") or "."}, key=lambda name: (-name.count("/"), name)):
        inside = {path for path in left if path.startswith(f"{folder}/")}
        ids = _license_files(tree, (path for path in inside if "/" not in path.removeprefix(f"{folder}/")))
        if ids:
            left -= inside
            yield inside, ids


def _license_files(tree: Tree, paths: Iterable[str]) -> frozenset[str]:
    """Return the ids of the licence texts among some files."""
    named = sorted(path for path in paths if _LICENSE_FILE.match(PurePosixPath(path).name))
    return frozenset[str]().union(*(licenses.from_text(tree.text(path)) for path in named))


def _name_and_version(label: str) -> tuple[str, str]:
    match = _NAME_VERSION.fullmatch(label)
    return (match["name"], match["version"]) if match else (label, "")


# --- distributions ---------------------------------------------------------------------------------------------------


def _recorded(tree: Tree, folder: str, prefix: str) -> Iterator[str]:
    """Yield the paths in the tree that a distribution's RECORD lists."""
    for row in csv.reader(tree.text(f"{folder}/RECORD").splitlines()):
        if row:
            yield os.path.normpath(prefix + row[0]).replace(os.sep, "/")


def _distribution(tree: Tree, folder: str, given: frozenset[str]) -> SourceRecord:
    files = _license_files(tree, (path for path in tree.files if path.startswith(folder + "/")))
    return _described(tree.text(f"{folder}/METADATA"), PurePosixPath(folder).stem, given, files)


def _described(metadata: str, label: str, given: frozenset[str], files: frozenset[str]) -> SourceRecord:
    """Return the source that core metadata describes (PEP 566, licences by PEP 639)."""
    fields = HeaderParser().parsestr(metadata)
    name, version = _name_and_version(label)
    verdict = licenses.verdict(
        given,
        licenses.from_expression(fields.get("License-Expression", "")),
        licenses.from_classifiers(fields.get_all("Classifier", [])),
        licenses.from_field(fields.get("License", "")),
        files,
    )
    return SourceRecord(
        name=fields.get("Name", name),
        revision=fields.get("Version", version),
        url=_project_url(fields),
        licenses=verdict.licenses,
        license_conflict=verdict.conflict,
    )


def _project_url(fields: Message) -> str:
    labelled = [entry.partition(",") for entry in fields.get_all("Project-URL", [])]
    urls = {label.strip().lower(): url.strip() for label, _, url in labelled}
    for label in _URL_LABELS:
        if label in urls:
            return urls[label]
    return str(fields.get("Home-page", ""))


def _manifest(text: str) -> dict[str, Any]:
    """Return an npm package's manifest; empty where there is none, or it does not name the package."""
    try:
        manifest = json.loads(text)
    except ValueError:
        return {}
    named = isinstance(manifest, dict) and isinstance(manifest.get("name"), str) and manifest["name"]
    return manifest if named else {}


def _npm_package(manifest: dict[str, Any], given: frozenset[str], files: frozenset[str]) -> SourceRecord:
    """Return the source that a package.json describes (https://docs.npmjs.com/cli/configuring-npm/package-json)."""
    stated = manifest.get("licenses") or [manifest.get("license")]  # the list is what packages of before 2015 have
    names = [one.get("type") if isinstance(one, dict) else one for one in stated if isinstance(one, dict | str)]
    expressions = (licenses.from_expression(name) for name in names if isinstance(name, str))
    verdict = licenses.verdict(given, frozenset[str]().union(*expressions), files)
    repository = manifest.get("repository")
    url = repository.get("url") if isinstance(repository, dict) else repository
    return SourceRecord(
        name=manifest["name"],
        revision=str(manifest.get("version", "")),
        url=url.removeprefix("git+").removesuffix(".git") if isinstance(url, str) else "",
        licenses=verdict.licenses,
        license_conflict=verdict.conflict,
    )


# --- the standard library --------------------------------------------------------------------------------------------


def _standard_libraries(tree: Tree) -> list[str]:
    if tree.root is None:
        return []
    mark = _STDLIB_MARKS[-1]
    prefixes = (path.removesuffix(mark) for path in tree.files if path == mark or path.endswith("/" + mark))
    return sorted(prefix for prefix in prefixes if all(prefix + other in tree.files for other in _STDLIB_MARKS))


def _standard_library(tree: Tree, prefix: str) -> SourceRecord:
    assert tree.root is not None  # noqa: S101 - only folders are looked at
    version = _python_version(tree.root / prefix)
    tag = f"v{version}" if version.count(".") > 1 else version or "main"
    return SourceRecord(
        "cpython",
        version,
        f"https://github.com/python/cpython/blob/{tag}/Lib/{{path}}",
        ("PSF-2.0",),
        license_conflict=False,
    )


def _python_version(folder: Path) -> str:
    """Return the version of a standard library, by the headers beside it, this interpreter, or the folder's name."""
    headers = folder.parent.parent / "include" / folder.name, folder.parent / "Include", folder.parent / "include"
    for header in headers:
        try:
            match = _PATCHLEVEL.search((header / "patchlevel.h").read_text("utf-8", "replace"))
        except OSError:
            continue
        if match:
            return match[1]
    if folder == Path(os.__file__).resolve().parent:
        return platform.python_version().rstrip("+")
    named = re.fullmatch(r"python(\d+\.\d+)t?", folder.name)
    return named[1] if named else ""


# --- git -------------------------------------------------------------------------------------------------------------


def _work_tree(folder: Path) -> tuple[str, str, str]:
    """Return name, commit and address of a git work tree; the folder's name where git does not tell."""
    git, common = _git_folders(folder)
    host, path = _origin_remote(_read(common / "config"))
    commit = _commit(git, common)
    if not path:
        return folder.name, commit, ""
    blob = {"gitlab.com": "-/blob", "codeberg.org": "src/commit", "bitbucket.org": "src"}.get(host, "blob")
    return path, commit, f"https://{host}/{path}/{blob}/{commit}/{{path}}" if commit else f"https://{host}/{path}"


def _git_folders(folder: Path) -> tuple[Path, Path]:
    """Return the git folder of a work tree, and that which holds what its linked work trees share."""
    git = folder / ".git"
    pointer = _read(git) if git.is_file() else ""
    if pointer.startswith("gitdir:"):
        git = folder / pointer.removeprefix("gitdir:").strip()
    common = _read(git / "commondir").strip()
    return git, git / common if common else git


def _commit(git: Path, common: Path) -> str:
    head = _read(git / "HEAD").strip()
    if not head.startswith("ref:"):
        return _hexadecimal(head)
    ref = head.removeprefix("ref:").strip()
    if ".." in ref or ref.startswith("/"):
        return ""
    for folder in (git, common):
        if commit := _hexadecimal(_read(folder / ref).strip()):
            return commit
    packed = (line.split() for line in _read(common / "packed-refs").splitlines())
    return next((_hexadecimal(line[0]) for line in packed if line[1:] == [ref]), "")


def _hexadecimal(text: str) -> str:
    return text if re.fullmatch(r"[0-9a-f]{40,64}", text) else ""


def remote_names(root: Path) -> frozenset[str]:
    """Return owner/repo of every remote of the work tree at `root`, in lower case; empty where git does not tell."""
    _, common = _git_folders(root)
    return frozenset(path.lower() for _, path in _remotes(_read(common / "config")).values() if path)


def _origin_remote(config: str) -> tuple[str, str]:
    return _remotes(config).get("origin", ("", ""))


def _remotes(config: str) -> dict[str, tuple[str, str]]:
    """Return host and owner/repo of each remote by its name, without the password that an address may hold."""
    found: dict[str, tuple[str, str]] = {}
    name = ""
    for line in config.splitlines():
        stripped = line.strip()
        if stripped.startswith("["):
            section = _REMOTE_SECTION.fullmatch(stripped)
            name = section["name"] if section else ""
        key, _, value = stripped.partition("=")
        if name and key.strip() == "url" and name not in found:
            match = _REMOTE.fullmatch(value.strip())
            found[name] = (match["host"], match["path"]) if match else ("", "")
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
