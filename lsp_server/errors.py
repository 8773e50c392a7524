"""What a person who runs a command can do wrong.

StarciteError                exit status 2: bad input, one sentence that ends in what to do
├── FileInputError           a file cannot be read as source text, or the cursor lies outside it
└── GitError                 git is not here, the folder is in no repository, or the revision is unknown

The other packages have trees of their own (`models.errors`, `attribution.errors`); `cli.main` catches the three roots.
"""

from __future__ import annotations


class StarciteError(Exception):
    """The root of this package's errors."""

    exit_status = 2


class FileInputError(StarciteError):
    """A file that a person named is missing, binary or too short for the position that they gave.

    `reason` says in a word or two why, for counting the files of a folder that are passed over.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        """Take the sentence for a person, and the reason."""
        super().__init__(message)
        self.reason = reason


class GitError(StarciteError):
    """Git is not here, cannot do what is asked, or does not know the revision."""
