"""Text: the language server, the completion pipeline and the `starcite` command."""

__version__ = "0.1.0"
