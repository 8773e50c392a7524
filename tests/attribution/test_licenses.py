"""Licences: statements become SPDX ids, and contradictions are seen."""

from __future__ import annotations

import pytest

from attribution import licenses

MIT = """MIT License

Copyright (c) 2020 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy of this software ...
The above copyright notice and this permission notice shall be included in all copies."""
BSD2 = "Redistribution and use in source and binary forms, with or without modification, are permitted ..."
BSD3 = BSD2 + " Neither the name of X nor the names of its contributors may be used to endorse or promote products"
ISC = """Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is
hereby granted, provided that the above copyright notice and this permission notice appear in all copies."""
ZERO_BSD = (
    "Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is granted."
)


@pytest.mark.parametrize(
    ("expression", "ids"),
    [
        ("MIT", {"MIT"}),
        ("mit", {"MIT"}),
        ("Apache-2.0 OR MIT", {"Apache-2.0", "MIT"}),
        ("(BSD-3-Clause AND 0BSD) or Zlib", {"BSD-3-Clause", "0BSD", "Zlib"}),
        ("GPL-2.0-or-later WITH Classpath-exception-2.0", {"GPL-2.0-or-later"}),
        ("LicenseRef-Proprietary", {"LicenseRef-Proprietary"}),
        ("", set()),
        ("MIT OR", set()),
        ("MIT License, see file", set()),
        ("MIT/X11", set()),
    ],
)
def test_expressions(expression: str, ids: set[str]) -> None:
    """The ids of an SPDX expression are found; what is no expression has none."""
    assert licenses.from_expression(expression) == ids


@pytest.mark.parametrize(
    ("field", "ids"),
    [
        ("MIT License", {"MIT"}),
        ("The MIT License", {"MIT"}),
        ("Apache License, Version 2.0", {"Apache-2.0"}),
        ("BSD 3-Clause", {"BSD-3-Clause"}),
        ("MIT OR Apache-2.0", {"MIT", "Apache-2.0"}),
        ("UNKNOWN", set()),
        ("see LICENSE.txt", set()),
        ("Proprietary", set()),
    ],
)
def test_loose_names(field: str, ids: set[str]) -> None:
    """A free-text field is believed if it is a known name, and only then."""
    assert licenses.from_field(field) == ids


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (MIT, {"MIT"}),
        (BSD2, {"BSD-2-Clause"}),
        (BSD3, {"BSD-3-Clause"}),
        (ISC, {"ISC"}),
        (ZERO_BSD, {"0BSD"}),
        (
            "                                 Apache License\n                           Version 2.0, January 2004",
            {"Apache-2.0"},
        ),
        ("GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007", {"GPL-3.0-only"}),
        ("GNU GENERAL PUBLIC LICENSE\n   Version 2, June 1991", {"GPL-2.0-only"}),
        (
            "GNU LESSER GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007 ... GNU GENERAL PUBLIC LICENSE",
            {"LGPL-3.0-only"},
        ),
        ("GNU LESSER GENERAL PUBLIC LICENSE Version 2.1, February 1999", {"LGPL-2.1-only"}),
        ("GNU AFFERO GENERAL PUBLIC LICENSE\nVersion 3, 19 November 2007", {"AGPL-3.0-only"}),
        ("Mozilla Public License Version 2.0 ... 'Covered Software'", {"MPL-2.0"}),
        ("This is free and unencumbered software released into the public domain.", {"Unlicense"}),
        (
            "The origin of this software must not be misrepresented; Altered source versions must be plainly marked",
            {"Zlib"},
        ),
        ("PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2", {"PSF-2.0"}),
        (MIT + BSD3, {"MIT", "BSD-3-Clause"}),
        ("All rights reserved.", set()),
    ],
)
def test_texts(text: str, ids: set[str]) -> None:
    """Licence files are told apart by their phrases."""
    assert licenses.from_text(text) == ids


def test_classifiers() -> None:
    """Trove classifiers have ids; those that are no licences have none."""
    lines = ["License :: OSI Approved :: MIT License", "License :: OSI Approved", "Topic :: Software Development"]
    assert licenses.from_classifiers(lines) == {"MIT"}


@pytest.mark.parametrize(
    ("statements", "ids", "conflict"),
    [
        ([], (), False),
        ([set(), {"MIT"}, set()], ("MIT",), False),
        ([{"MIT"}, {"MIT"}], ("MIT",), False),
        ([{"MIT"}, {"GPL-3.0-only"}], ("MIT",), True),
        ([{"LicenseRef-BSD"}, {"BSD-3-Clause"}], ("BSD-3-Clause",), False),
        ([{"LicenseRef-GPL"}, {"LGPL-3.0-only"}], ("LicenseRef-GPL",), True),
        ([{"GPL-3.0-or-later"}, {"GPL-3.0-only"}], ("GPL-3.0-or-later",), False),
        ([{"MIT", "Apache-2.0"}, {"MIT"}], ("Apache-2.0", "MIT"), False),
        ([{"MIT"}, set(), {"MIT", "BSD-3-Clause"}], ("MIT",), False),
    ],
)
def test_verdicts(statements: list[set[str]], ids: tuple[str, ...], conflict: bool) -> None:  # noqa: FBT001
    """The first statement counts, a family gives way to its member, and contradictions are flagged."""
    assert licenses.verdict(*map(frozenset, statements)) == licenses.Verdict(ids, conflict)
