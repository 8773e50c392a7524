"""Language ids of the editors: how a language marks blocks, and which files are written in it. Data, from one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from pathlib import PurePath

BlockShape = Literal["indent", "brace", "end"]


class Language(NamedTuple):
    """What the pipeline has to know of a language: its LSP id, file suffixes, block shape and line comment."""

    id: str
    suffixes: tuple[str, ...]
    blocks: BlockShape
    comment: str


# Ids as in the LSP specification's list of text document language identifiers.
LANGUAGES = (
    Language("python", (".py", ".pyi", ".pyw"), "indent", "#"),
    Language("javascript", (".js", ".mjs", ".cjs"), "brace", "//"),
    Language("javascriptreact", (".jsx",), "brace", "//"),
    Language("typescript", (".ts", ".mts", ".cts"), "brace", "//"),
    Language("typescriptreact", (".tsx",), "brace", "//"),
    Language("go", (".go",), "brace", "//"),
    Language("rust", (".rs",), "brace", "//"),
    Language("java", (".java",), "brace", "//"),
    Language("kotlin", (".kt", ".kts"), "brace", "//"),
    Language("scala", (".scala",), "brace", "//"),
    Language("c", (".c", ".h"), "brace", "//"),
    Language("cpp", (".cc", ".cpp", ".cxx", ".hh", ".hpp"), "brace", "//"),
    Language("csharp", (".cs",), "brace", "//"),
    Language("swift", (".swift",), "brace", "//"),
    Language("php", (".php",), "brace", "//"),
    Language("css", (".css",), "brace", "/*"),
    Language("json", (".json",), "brace", "//"),
    Language("shellscript", (".sh", ".bash"), "end", "#"),
    Language("ruby", (".rb",), "end", "#"),
    Language("lua", (".lua",), "end", "--"),
    Language("elixir", (".ex", ".exs"), "end", "#"),
    Language("julia", (".jl",), "end", "#"),
    Language("haskell", (".hs",), "indent", "--"),
    Language("yaml", (".yaml", ".yml"), "indent", "#"),
    Language("toml", (".toml",), "indent", "#"),
    Language("makefile", (".mk",), "indent", "#"),
    Language("markdown", (".md",), "indent", "<!--"),
    Language("sql", (".sql",), "end", "--"),
)

_BY_ID = {language.id: language for language in LANGUAGES}
_BY_SUFFIX = {suffix: language for language in LANGUAGES for suffix in language.suffixes}
_PLAIN = Language("plaintext", (), "indent", "")


def language(language_id: str) -> Language:
    """Return a language by its LSP id; an unknown one is plain text whose blocks are read from the indentation."""
    return _BY_ID.get(language_id, _PLAIN)


def language_of_file(path: PurePath) -> Language:
    """Return the language of a file by its suffix, plain text where it is unknown."""
    return _BY_SUFFIX.get(path.suffix.lower(), _PLAIN)
