"""What a person who runs a command can do wrong.

StarciteError                exit status 2: bad input, one sentence that ends in what to do
└── FileInputError           a file cannot be read as source text, or the cursor lies outside it

The other packages have trees of their own (`models.errors`, `attribution.errors`); `cli.main` catches the three roots.
"""

from __future__ import annotations


class StarciteError(Exception):
    """The root of this package's errors."""

    exit_status = 2


class FileInputError(StarciteError):
    """A file that a person named is missing, binary or too short for the position that they gave."""
