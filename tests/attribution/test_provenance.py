"""Whose a package is, and which licences are beyond doubt."""

from __future__ import annotations

import json

import pytest

from attribution.provenance import DoubtfulError, foreign_folders, is_license_file, source_of
from tests.attribution.registry import GPL, MIT

PKG_INFO = "Metadata-Version: 2.4\nName: demo\nVersion: 1.0\nProject-URL: Source, https://example.org/demo\n"
BSD = (
    "Redistribution and use in source and binary forms are allowed. Names may be used to endorse or promote nothing.\n"
)
UNKNOWN = "package with a licence file that is not recognised"
OTHER = "package's licence file is of another licence than it states"
DEP5 = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Source: https://example.org/demo

Files: *
Copyright: somebody
License: {license}

Files: debian/*
Copyright: somebody else
License: GPL-3+

License: Expat
 Permission is hereby granted, free of charge, to any person.
 .
 The above copyright notice and this permission notice shall be included.

License: GPL-3+
 GNU General Public License, version 3
"""


def test_a_stated_and_confirmed_licence_is_taken() -> None:
    """An expression that the licence file confirms gives the source, with the project's address."""
    found = source_of("pypi", "demo", "1.0", {"PKG-INFO": PKG_INFO + "License-Expression: MIT\n", "LICENSE": MIT})
    assert (found.name, found.revision, found.url, found.licenses) == (
        "demo",
        "1.0",
        "https://example.org/demo",
        ("MIT",),
    )


def test_a_family_is_made_exact_by_its_text() -> None:
    """The BSD classifier has no version; the text has."""
    texts = {"PKG-INFO": PKG_INFO + "Classifier: License :: OSI Approved :: BSD License\n", "LICENSE.txt": BSD}
    assert source_of("pypi", "demo", "1.0", texts).licenses == ("BSD-3-Clause",)


@pytest.mark.parametrize(
    ("metadata", "files", "reason"),
    [
        ("License-Expression: MIT\n", {}, "package without a licence file"),
        ("", {"LICENSE": MIT}, "package states no licence"),
        ("License-Expression: MIT\n", {"LICENSE": BSD}, OTHER),
        ("License-Expression: GPL-3.0-only\n", {"COPYING": GPL}, UNKNOWN),
        ("License-Expression: MPL-2.0\n", {"LICENSE": "Mozilla"}, UNKNOWN),
        ("License-Expression: MIT\n", {"LICENSE": MIT + GPL}, UNKNOWN),
        ("License-Expression: MIT\n", {"LICENSE": MIT, "LICENSE.extra": "All mine."}, UNKNOWN),
        ("License-Expression: MIT\n", {"LICENSE": MIT + "The Commons Clause applies."}, UNKNOWN),
    ],
)
def test_doubt_keeps_a_package_out(metadata: str, files: dict[str, str], reason: str) -> None:
    """Nothing stated, nothing confirmed, contradictions and words of other licences each have their reason."""
    with pytest.raises(DoubtfulError, match=reason):
        source_of("pypi", "demo", "1.0", {"PKG-INFO": PKG_INFO + metadata} | files)


def test_without_metadata() -> None:
    """An archive that does not describe itself stays out."""
    with pytest.raises(DoubtfulError, match="without metadata"):
        source_of("npm", "demo", "1.0", {"LICENSE": MIT})


def test_npm() -> None:
    """package.json states, and the licence file confirms."""
    manifest = json.dumps(
        {"name": "other", "version": "9", "license": "MIT", "repository": "git+https://example.org/d.git"}
    )
    found = source_of("npm", "@a/demo", "1.0", {"package.json": manifest, "LICENSE": MIT})
    assert (found.name, found.revision, found.url) == ("@a/demo", "1.0", "https://example.org/d")


def test_debian() -> None:
    """DEP-5's licences of all files but the packaging count; its texts confirm them."""
    path = "usr/share/doc/golang-demo-dev/copyright"
    found = source_of("debian", "golang-demo-dev", "1-1", {path: DEP5.format(license="Expat")})
    assert (found.licenses, found.url) == (("MIT",), "https://example.org/demo")
    for license_name, reason in (("GPL-3+", "not permissive"), ("BSD-3-clause", "not recognised")):
        with pytest.raises(DoubtfulError, match=reason):
            source_of("debian", "golang-demo-dev", "1-1", {path: DEP5.format(license=license_name)})
    with pytest.raises(DoubtfulError, match="machine-readable"):
        source_of("debian", "golang-demo-dev", "1-1", {path: "Somebody wrote this."})


def test_folders_with_licences_of_their_own() -> None:
    """A folder that says what the package says stays; one that says another, or nothing known, goes."""
    source = source_of("pypi", "demo", "1.0", {"PKG-INFO": PKG_INFO + "License-Expression: MIT\n", "LICENSE": MIT})
    texts = {"LICENSE": MIT, "same/LICENSE": MIT, "other/COPYING": GPL, "odd/licence.txt": "Ask me."}
    assert foreign_folders(texts, source) == {"other", "odd"}


def test_code_about_licences_is_no_licence_file() -> None:
    """licenses.py is source."""
    assert [is_license_file(path) for path in ("a/LICENSE", "UNLICENSE", "COPYING.txt", "licenses.py", "readme")] == [
        *(True, True, True),
        *(False, False),
    ]
