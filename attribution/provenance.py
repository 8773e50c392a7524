"""Whose a package's files are, and whether their licence is beyond doubt.

    stated       PKG-INFO (License-Expression, classifiers, License), package.json, Debian's machine-readable copyright
    confirmed    by the licence files at the package's top, or by the licence texts that Debian's copyright file quotes
    doubtful     nothing stated, nothing confirmed, a text that is not recognised, a contradiction, or any licence that
                 is not permissive: then the whole package stays out

A folder below the top with licence files of its own is left out, unless they say what the package's do.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from attribution import licenses
from attribution.format import SourceRecord
from attribution.licenses import PERMISSIVE
from attribution.origins import Tree, origins

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DEBIAN_COPYRIGHT = re.compile(r"usr/share/doc/[^/]+/copyright")

_LICENSE_NAME = re.compile(r"(un)?licen[cs]e|copying", re.IGNORECASE)
_CODE = (".py", ".js", ".ts", ".go", ".rs", ".c", ".h", ".json")
_DOUBT = re.compile(
    r"commons clause|non-?commercial|business source licen|elastic licen|server side public|polyform|research purposes"
    r"|gnu (?:lesser |library |affero )?general public|mozilla public|eclipse public|creative commons|academic use"
    r"|good, not evil|proprietary"
)
_DEBIAN_NAMES = {
    "0bsd": "0BSD",
    "apache-2": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "apache": "Apache-2.0",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-2": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd-3": "BSD-3-Clause",
    "bsl-1.0": "BSL-1.0",
    "cc0-1.0": "CC0-1.0",
    "cc0": "CC0-1.0",
    "expat": "MIT",
    "isc": "ISC",
    "mit": "MIT",
    "unlicense": "Unlicense",
    "zlib": "Zlib",
}
_APACHE_BY_REFERENCE = ("licensed under the apache license, version 2.0", "common-licenses/apache-2.0")


class DoubtfulError(Exception):
    """A package stays out; the message is the reason that is counted."""


def is_license_file(path: str) -> bool:
    """Return whether a file is named as a licence text, and not as code that speaks of licences."""
    name = PurePosixPath(path).name
    return _LICENSE_NAME.match(name) is not None and not name.lower().endswith(_CODE)


def source_of(registry: str, name: str, version: str, texts: Mapping[str, str]) -> SourceRecord:
    """Return the source of a package whose licence is beyond doubt; raises `DoubtfulError`.

    `texts`: its licence files and its metadata by path, below its top folder.
    """
    if registry == "debian":
        return _debian(name, version, texts)
    manifest = "PKG-INFO" if registry == "pypi" else "package.json"
    if manifest not in texts:
        raise DoubtfulError("package without metadata")
    tree = Tree(f"{name}-{version}", {manifest: texts[manifest].encode})
    stated = next(iter(origins(tree, None, Counter()))).source
    found = frozenset(stated.licenses)
    if not found:
        raise DoubtfulError("package states no licence")
    verdict = licenses.verdict(found, _confirmed(texts))
    if verdict.conflict or stated.license_conflict:
        raise DoubtfulError("package's licence file is of another licence than it states")
    return replace(stated, name=name, revision=version, licenses=_permissive(verdict.licenses))


def foreign_folders(texts: Mapping[str, str], source: SourceRecord) -> frozenset[str]:
    """Return the folders below the top whose licence files do not say what the package's do."""
    own = set(source.licenses)
    return frozenset(
        folder
        for path, text in texts.items()
        if is_license_file(path) and (folder := str(PurePosixPath(path).parent)) != "."
        if not (found := _ids(text)) or not found <= own
    )


def _confirmed(texts: Mapping[str, str]) -> frozenset[str]:
    """Return the ids of the licence files at the top, all of which must be recognised."""
    files = [path for path in texts if "/" not in path and is_license_file(path)]
    if not files:
        raise DoubtfulError("package without a licence file")
    found = [_ids(texts[path]) for path in files]
    if not all(found):
        raise DoubtfulError("package with a licence file that is not recognised")
    return frozenset[str]().union(*found)


def _ids(text: str) -> frozenset[str]:
    """Return the ids of a licence text; none if it holds words of another licence besides."""
    return frozenset() if _DOUBT.search(" ".join(text.lower().split())) else licenses.from_text(text)


def _permissive(ids: Iterable[str]) -> tuple[str, ...]:
    found = tuple(sorted(ids))
    if not set(found) <= PERMISSIVE:
        raise DoubtfulError("package's licence is not permissive")
    return found


# --- Debian ----------------------------------------------------------------------------------------------------------


def _debian(name: str, version: str, texts: Mapping[str, str]) -> SourceRecord:
    """Read DEP-5 (https://dep-team.pages.debian.net/deps/dep5/); the packaging in debian/ is in no -dev package."""
    copyright_text = next((text for path, text in texts.items() if DEBIAN_COPYRIGHT.fullmatch(path)), "")
    paragraphs = list(_paragraphs(copyright_text))
    if not paragraphs or "format" not in paragraphs[0]:
        raise DoubtfulError("package without machine-readable copyright")
    quoted: dict[str, str] = {}
    wanted: set[str] = set()
    for paragraph in paragraphs:
        words, _, text = paragraph.get("license", "").partition("\n")
        names = _license_names(words)
        if text.strip():
            quoted |= {license_name: quoted.get(license_name, "") + "\n" + text for license_name in names}
        if "files" in paragraph and not all(glob.startswith("debian/") for glob in paragraph["files"].split()):
            wanted |= names or {""}
    if not wanted:
        raise DoubtfulError("package states no licence")
    ids = _permissive({_confirmed_debian(license_name, quoted) for license_name in wanted})
    url = paragraphs[0].get("source", "").split()
    return SourceRecord(name, version, url[0] if url else "", ids, license_conflict=False)


def _confirmed_debian(name: str, quoted: Mapping[str, str]) -> str:
    license_id = _DEBIAN_NAMES.get(name)
    if license_id is None:
        raise DoubtfulError("package's licence is not permissive")
    text = " ".join(quoted.get(name, "").lower().split())
    by_reference = license_id == "Apache-2.0" and any(phrase in text for phrase in _APACHE_BY_REFERENCE)
    if license_id not in licenses.from_text(text) and not by_reference:
        raise DoubtfulError("package with a licence file that is not recognised")
    return license_id


def _license_names(words: str) -> set[str]:
    return {word for word in re.split(r"\s*(?:\bor\b|\band\b|,|/|\|)\s*", words.strip().lower()) if word}


def _paragraphs(text: str) -> Iterator[dict[str, str]]:
    """Yield the paragraphs of a control file: fields by name in lower case, with their further lines."""
    fields: dict[str, str] = {}
    last = ""
    for line in [*text.split("\n"), ""]:
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
        elif line[0].isspace() and last:
            fields[last] += "\n" + line.strip()
        else:
            last, _, value = line.partition(":")
            last = last.lower()
            fields[last] = value.strip()
