"""What a source says about its licence -> SPDX ids, and whether its statements contradict each other.

Sources: the SPDX licence list, PEP 639 (License-Expression), the trove classifiers. Words that name a family but no
version (`BSD License`) become a `LicenseRef-` id, which a more exact statement of the same family replaces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_CLASSIFIERS = {
    "Academic Free License (AFL)": "AFL-3.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "LicenseRef-BSD",
    "Boost Software License 1.0 (BSL-1.0)": "BSL-1.0",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "Eclipse Public License 1.0 (EPL-1.0)": "EPL-1.0",
    "Eclipse Public License 2.0 (EPL-2.0)": "EPL-2.0",
    "European Union Public Licence 1.2 (EUPL 1.2)": "EUPL-1.2",
    "GNU Affero General Public License v3": "AGPL-3.0-only",
    "GNU Affero General Public License v3 or later (AGPLv3+)": "AGPL-3.0-or-later",
    "GNU General Public License (GPL)": "LicenseRef-GPL",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU Lesser General Public License v2 (LGPLv2)": "LGPL-2.0-only",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "GNU Library or Lesser General Public License (LGPL)": "LicenseRef-LGPL",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Mozilla Public License 1.1 (MPL 1.1)": "MPL-1.1",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "Universal Permissive License (UPL)": "UPL-1.0",
    "Zope Public License": "ZPL-2.1",
    "zlib/libpng License": "Zlib",
}

# Ids that are common in code; an expression may hold others, but a loose `License:` field is believed only for these.
_KNOWN = frozenset(
    """
    0BSD AFL-3.0 AGPL-3.0-only AGPL-3.0-or-later Apache-2.0 Artistic-2.0 BSD-2-Clause BSD-3-Clause BSL-1.0
    CC0-1.0 EPL-1.0 EPL-2.0 EUPL-1.2 GPL-2.0-only GPL-2.0-or-later GPL-3.0-only GPL-3.0-or-later HPND ISC
    LGPL-2.0-or-later LGPL-2.1-only LGPL-2.1-or-later LGPL-3.0-only LGPL-3.0-or-later MIT MIT-0 MIT-CMU MPL-1.1
    MPL-2.0 PSF-2.0 Python-2.0 UPL-1.0 Unlicense WTFPL Zlib ZPL-2.1
    """.split()  # noqa: SIM905 - a table of words reads better than a list of strings
)

# The permissive licences that Blue Oak Council rates Model, Gold, Silver and Bronze (version 15 of its list, which is
# given to all by CC0-1.0). Those rated Lead lack something essential, and are left out.
PERMISSIVE = frozenset(
    """
    0BSD ADSL AFL-1.1 AFL-1.2 AFL-2.0 AFL-2.1 AFL-3.0 AMDPLPA AML AMPAS ANTLR-PD ANTLR-PD-fallback Apache-1.0
    Apache-1.1 Apache-2.0 APAFML Artistic-2.0 Bahyph Barr bcrypt-Solar-Designer BlueOak-1.0.0 BSD-1-Clause
    BSD-2-Clause BSD-2-Clause-FreeBSD BSD-2-Clause-NetBSD BSD-2-Clause-Patent BSD-2-Clause-Views BSD-3-Clause
    BSD-3-Clause-Attribution BSD-3-Clause-Clear BSD-3-Clause-HP BSD-3-Clause-LBNL BSD-3-Clause-Modification
    BSD-3-Clause-No-Nuclear-License-2014 BSD-3-Clause-No-Nuclear-Warranty BSD-3-Clause-Open-MPI BSD-3-Clause-Sun
    BSD-4-Clause BSD-4-Clause-Shortened BSD-4-Clause-UC BSD-Source-Code BSL-1.0 bzip2-1.0.5 bzip2-1.0.6 CC0-1.0
    CFITSIO Clips CNRI-Jython CNRI-Python CNRI-Python-GPL-Compatible Cube curl DSDP ECL-1.0 ECL-2.0 eGenix Entessa FTL
    fwlw hdparm HPND-Fenneberg-Livingston HPND-sell-regexpr HTMLTIDY IBM-pibs ICU ImageMagick Info-ZIP Intel
    Intel-ACPI ISC JasPer-2.0 Libpng libpng-2.0 libtiff Linux-OpenIB LPPL-1.3c LZMA-SDK-9.22 MIT MIT-0 MIT-advertising
    MIT-CMU MIT-enna MIT-feh MIT-Modern-Variant MIT-open-group MIT-testregex MIT-Wu MITNFA MS-PL MTLL MulanPSL-1.0
    MulanPSL-2.0 Multics Mup Naumen NCSA Net-SNMP NetCDF NICTA-1.0 NIST-Software NTP OGL-Canada-2.0 OLDAP-2.0
    OLDAP-2.0.1 OLDAP-2.1 OLDAP-2.2 OLDAP-2.2.1 OLDAP-2.2.2 OLDAP-2.3 OLDAP-2.4 OLDAP-2.5 OLDAP-2.6 OLDAP-2.7
    OLDAP-2.8 OML OpenSSL PHP-3.0 PHP-3.01 Plexus PostgreSQL PSF-2.0 Python-2.0 Ruby Saxpath SGI-B-2.0 SHL-0.5 SMLNJ
    Spencer-99 SunPro SWL Symlinks TCL TCP-wrappers UCAR Unicode-DFS-2015 Unicode-DFS-2016 UnixCrypt Unlicense UPL-1.0
    VSL-1.0 W3C X11 Xerox Xfig XFree86-1.1 xlock Xnet xpp Zlib zlib-acknowledgement ZPL-2.0 ZPL-2.1
    """.split()  # noqa: SIM905 - a table of words reads better than a list of strings
)

_LOOSE = {
    "agplv3": "AGPL-3.0-only",
    "agplv3+": "AGPL-3.0-or-later",
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache software license 2.0": "Apache-2.0",
    "bsd": "LicenseRef-BSD",
    "2-clause bsd": "BSD-2-Clause",
    "3-clause bsd": "BSD-3-Clause",
    "bsd 2-clause": "BSD-2-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "modified bsd": "BSD-3-Clause",
    "simplified bsd": "BSD-2-Clause",
    "expat": "MIT",
    "gpl": "LicenseRef-GPL",
    "gplv2": "GPL-2.0-only",
    "gplv2+": "GPL-2.0-or-later",
    "gplv3": "GPL-3.0-only",
    "gplv3+": "GPL-3.0-or-later",
    "gpl-2.0": "GPL-2.0-only",
    "gpl-3.0": "GPL-3.0-only",
    "iscl": "ISC",
    "lgpl": "LicenseRef-LGPL",
    "lgplv3": "LGPL-3.0-only",
    "lgplv3+": "LGPL-3.0-or-later",
    "mpl 2.0": "MPL-2.0",
    "psf": "PSF-2.0",
    "psfl": "PSF-2.0",
    "python software foundation": "PSF-2.0",
    "zlib/libpng": "Zlib",
} | {known.lower(): known for known in _KNOWN}

# Phrases of licence texts, lower case, white space collapsed: all must be there, none of those after "but".
_TEXTS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("AGPL-3.0-only", ("gnu affero general public license version 3, 19 november 2007",), ()),
    ("LGPL-3.0-only", ("gnu lesser general public license version 3, 29 june 2007",), ()),
    ("LGPL-2.1-only", ("gnu lesser general public license version 2.1, february 1999",), ()),
    ("LGPL-2.0-only", ("gnu library general public license version 2, june 1991",), ()),
    ("GPL-3.0-only", ("gnu general public license version 3, 29 june 2007",), ()),
    ("GPL-2.0-only", ("gnu general public license version 2, june 1991",), ()),
    ("Apache-2.0", ("apache license version 2.0, january 2004",), ()),
    ("MPL-2.0", ("mozilla public license version 2.0", "covered software"), ()),
    ("PSF-2.0", ("python software foundation license version 2",), ()),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",), ()),
    ("CC0-1.0", ("cc0 1.0 universal",), ()),
    ("BSL-1.0", ("boost software license - version 1.0",), ()),
    ("Zlib", ("the origin of this software must not be misrepresented", "altered source versions must be plainly"), ()),
    (
        "MIT",
        ("permission is hereby granted, free of charge", "the above copyright notice and this permission notice"),
        (),
    ),
    ("MIT-0", ("permission is hereby granted, free of charge",), ("the above copyright notice and this permission",)),
    ("ISC", ("permission to use, copy, modify, and/or distribute this software", "appear in all copies"), ()),
    ("ISC", ("permission to use, copy, modify, and distribute this software", "appear in all copies", "isc"), ()),
    ("0BSD", ("permission to use, copy, modify, and/or distribute this software",), ("appear in all copies",)),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "may be used to endorse or promote"), ()),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms",), ("may be used to endorse or promote",)),
)

_EXPRESSION_TOKEN = re.compile(r"[()]|[A-Za-z0-9.:+-]+")
_OPERATORS = {"AND", "OR", "WITH", "(", ")"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """SPDX ids, sorted, and whether the statements that were made contradict each other."""

    licenses: tuple[str, ...]
    conflict: bool


def from_expression(expression: str) -> frozenset[str]:
    """Return the licence ids of an SPDX expression; exceptions after WITH are left out. Not SPDX: an empty set."""
    tokens = _EXPRESSION_TOKEN.findall(expression)
    if "".join(tokens) != "".join(expression.split()):
        return frozenset()
    ids: set[str] = set()
    expects_id = True
    previous = ""
    for token in tokens:
        word = token.upper() if token.upper() in _OPERATORS else "id"
        if word == "id":
            if not expects_id:
                return frozenset()
            if previous != "WITH":
                ids.add(_canonical(token))
        expects_id = word in {"AND", "OR", "WITH", "("}
        previous = word
    return frozenset() if expects_id else frozenset(ids)


def from_classifiers(classifiers: Iterable[str]) -> frozenset[str]:
    """Return the ids that trove classifiers name."""
    names = (line.rsplit(" :: ", 1)[-1].strip() for line in classifiers if line.startswith("License ::"))
    return frozenset(_CLASSIFIERS[name] for name in names if name in _CLASSIFIERS)


def from_field(field: str) -> frozenset[str]:
    """Return the ids that a free-text `License:` field names; empty unless it is one known name or an expression."""
    name = " ".join(field.lower().replace(",", " ").split())
    name = name.removeprefix("the ").removesuffix(" license").removesuffix(" licence")
    if name in _LOOSE:
        return frozenset({_LOOSE[name]})
    ids = from_expression(field)
    return ids if ids and ids <= _KNOWN else frozenset()


def from_text(text: str) -> frozenset[str]:
    """Return the ids whose distinctive phrases stand in a licence file."""
    words = " ".join(re.sub(r"[*#>\"“”'`]", " ", text.lower()).split())
    found = frozenset(
        license_id
        for license_id, needed, excluded in _TEXTS
        if all(phrase in words for phrase in needed) and not any(phrase in words for phrase in excluded)
    )
    # The LGPL and AGPL texts name, or are followed by, the GPL that they extend.
    return found - {"GPL-3.0-only"} if found & {"LGPL-3.0-only", "AGPL-3.0-only"} else found


def verdict(*statements: frozenset[str]) -> Verdict:
    """Return the first statement that says something, and whether a later one contradicts it.

    Two statements agree if one's licences are all among the other's; `-only` and `-or-later` are not told apart,
    because licence texts do not, and a family agrees with each of its members.
    """
    made = [statement for statement in statements if statement]
    if not made:
        return Verdict((), conflict=False)
    chosen = made[0]
    for statement in made[1:]:
        chosen = _refined(chosen, statement)
    conflict = any(not _agree(chosen, statement) for statement in made)
    return Verdict(tuple(sorted(chosen)), conflict)


def _canonical(license_id: str) -> str:
    return _LOOSE.get(license_id.lower(), license_id)


def _refined(statement: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    """Return a statement with its family names replaced by the members that another statement names."""
    refined: set[str] = set()
    for license_id in statement:
        family = license_id.removeprefix("LicenseRef-") + "-"
        members = {member for member in other if member.startswith(family)} if family[:-1] != license_id else set()
        refined |= members or {license_id}
    return frozenset(refined)


def _agree(one: frozenset[str], other: frozenset[str]) -> bool:
    def covered(left: frozenset[str], right: frozenset[str]) -> bool:
        return all(any(_same(a, b) for b in right) for a in left)

    return covered(one, other) or covered(other, one)


def _same(one: str, other: str) -> bool:
    if one.startswith("LicenseRef-") or other.startswith("LicenseRef-"):
        return one.removeprefix("LicenseRef-").split("-")[0] == other.removeprefix("LicenseRef-").split("-")[0]
    return _base(one) == _base(other)


def _base(license_id: str) -> str:
    return license_id.removesuffix("-only").removesuffix("-or-later")
