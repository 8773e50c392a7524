"""Changes that a person or a model makes to code, applied to a snippet: the same for every engine that is measured.

The lexer here is the measurement's own and shares nothing with the engine's.
"""

from __future__ import annotations

import keyword
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    Edit = Callable[[str, str, random.Random], str]

_PLAIN = r'"""(?:\\.|[^\\])*?"""' + r"|'''(?:\\.|[^\\])*?'''" + r'|"(?:\\.|[^"\\\n])*"|' + r"'(?:\\.|[^'\\\n])*'"
_STRING = rf"(?:[bBrRuUfF]{{1,2}}(?=[\"']))?(?:{_PLAIN})"
_REST = (
    r"|(?P<word>[^\W\d]\w*)|(?P<number>\d[\w.]*)|(?P<space>[ \t\r\f\\]+)|(?P<line>\n)"
    r"|(?P<mark>==|!=|<=|>=|->|=>|\+=|-=|&&|\|\||::|:=|.)"
)
_HASHED = re.compile(rf"(?P<comment>\#[^\n]*)|(?P<string>{_STRING}){_REST}", re.DOTALL)
_SLASHED = re.compile(rf"(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<string>{_STRING}|`(?:\\.|[^`\\])*`){_REST}", re.DOTALL)
_SPACED, _BLANK_LINES, _NEW_COMMENTS = 0.5, 0.3, 0.2


def _words(table: str) -> tuple[str, ...]:
    return tuple(table.split())


_KEYWORDS = frozenset(keyword.kwlist).union(
    _words("""
    auto bool boolean break byte case catch chan char class const continue debugger default defer delete do double else
    enum export extends extern fallthrough false final finally float for func function go goto if implements import in
    inline instanceof int interface let long map namespace native new nil null of override package private protected
    public range register return select short signed sizeof static string struct super switch synchronized
    template this throw throws transient true try type typedef typename typeof uint undefined union unsigned using var
    virtual void volatile when while with yield async await
    """)
)
_FIXED = frozenset(_words("if else for while return break continue switch case import class try"))
_WORDS = _words("alpha bravo carol delta ember frost gamma hotel igloo joker karma lemon mango noble opera prism")

Token = tuple[str, str]


def lex(text: str, language: str) -> list[Token]:
    """Return (kind, text) of every token, white space and comments included: joined, they are the text."""
    pattern = _HASHED if language == "Python" else _SLASHED
    return [(match.lastgroup or "", match[0]) for match in pattern.finditer(text)]


def lexemes(text: str, language: str) -> int:
    """Return how many lexemes a text has, without white space and comments."""
    return sum(kind not in {"space", "line", "comment"} for kind, _ in lex(text, language))


def renamed_in(span: str, place: str, language: str) -> bool:
    """Return whether the lexemes of a span stand in a row in a place, names replaced one to one, literals by any.

    The outermost lexemes may be cut by the span's ends and are left out.
    """
    ours, theirs = _shape(span, language)[1:-1], _shape(place, language)
    return any(_one_to_one(ours, theirs[at : at + len(ours)]) for at in range(len(theirs) - len(ours) + 1))


def _shape(text: str, language: str) -> list[Token]:
    found = []
    for kind, part in lex(text, language):
        if kind in {"number", "string"}:
            found.append(("literal", ""))
        elif kind == "word" and part not in _FIXED:
            found.append(("name", part))
        elif kind not in {"space", "line", "comment"}:
            found.append(("", part))
    return found


def _one_to_one(ours: Sequence[Token], theirs: Sequence[Token]) -> bool:
    names: dict[str, str] = {}
    back: dict[str, str] = {}
    for (kind, part), (other_kind, other) in zip(ours, theirs, strict=True):
        if kind != other_kind or (kind != "name" and part != other):
            return False
        if kind == "name" and (names.setdefault(part, other) != other or back.setdefault(other, part) != part):
            return False
    return True


def _joined(tokens: Sequence[Token]) -> str:
    return "".join(text for _, text in tokens)


def reindented(text: str, _language: str, _rng: random.Random) -> str:
    """Return the text with two spaces for four, in a deeper block."""
    lines = text.split("\n")
    return "\n".join(
        " " * (3 + (len(line) - len(line.lstrip())) // 2) + line.lstrip() if line.strip() else line for line in lines
    )


def reformatted(text: str, language: str, rng: random.Random) -> str:
    """Return the text with other spaces around marks, wrapped after some commas, and other blank lines."""
    out = []
    for kind, part in lex(text, language):
        if kind == "mark" and part in {"=", "+", "(", ")", "==", ":="} and rng.random() < _SPACED:
            out.append(f" {part} ")
        elif kind == "mark" and part == "," and rng.random() < _SPACED:
            out.append(",\n        ")
        elif kind == "line" and rng.random() < _BLANK_LINES:
            out.append("\n\n")
        else:
            out.append(part)
    return "".join(out)


def requoted(text: str, language: str, _rng: random.Random) -> str:
    """Return the text with the other quotes around its strings, where they hold neither."""
    out = []
    for kind, part in lex(text, language):
        inner = part[1:-1]
        swap = kind == "string" and part[:1] in "\"'" and not {'"', "'", "\\"} & set(inner)
        other = "'" if part[:1] == '"' else '"'
        out.append(other + inner + other if swap else part)
    return "".join(out)


def uncommented(text: str, language: str, _rng: random.Random) -> str:
    """Return the text without its comments."""
    return _joined([token for token in lex(text, language) if token[0] != "comment"])


def recommented(text: str, language: str, rng: random.Random) -> str:
    """Return the text with other words in its comments, and a comment of its own after about every fifth line."""
    opening = "#" if language == "Python" else "//"
    out = []
    for kind, part in lex(text, language):
        if kind == "comment":
            closing = " */" if part.startswith("/*") else ""
            out.append(f"{'/*' if closing else opening} {' '.join(rng.choices(_WORDS, k=4))}{closing}")
        elif kind == "line" and rng.random() < _NEW_COMMENTS:
            out.append(f"  {opening} {' '.join(rng.choices(_WORDS, k=3))}\n")
        else:
            out.append(part)
    return "".join(out)


def one_in(count: int) -> Edit:
    """Return the edit that changes every `count`-th lexeme on average, from a random one on."""

    def changed(text: str, language: str, rng: random.Random) -> str:
        tokens = lex(text, language)
        eligible = [i for i, (kind, _) in enumerate(tokens) if kind in {"word", "number", "string", "mark"}]
        for i in eligible[rng.randrange(count) :: count]:
            kind, part = tokens[i]
            other = {
                "word": rng.choice(_WORDS),
                "number": str(rng.randrange(1000)),
                "string": f'"{rng.choice(_WORDS)}"',
            }
            tokens[i] = kind, other.get(kind, "%" if part != "%" else "^")
        return _joined(tokens)

    return changed


def _renamed(text: str, language: str, rng: random.Random, *, everything: bool) -> str:
    tokens = lex(text, language)
    names: dict[str, str] = {}
    dense = [(kind, part) for kind, part in tokens if kind not in {"space", "line", "comment"}]
    positions = [i for i, (kind, _) in enumerate(tokens) if kind not in {"space", "line", "comment"}]
    local = set() if everything else _locals(dense)
    out = list(tokens)
    for i, (kind, part) in zip(positions, dense, strict=True):
        directive = i > 0 and tokens[i - 1][1] == "#"  # as in "#include" and "#define"
        if kind == "word" and part not in _KEYWORDS and not directive and (everything or part in local):
            fresh = f"{rng.choice(_WORDS)}_{len(names)}"
            out[i] = kind, names.setdefault(part, fresh)
    return _joined(out)


def _locals(dense: Sequence[Token]) -> set[str]:
    """Return the names that stand alone, neither after a dot nor before a bracket, and at least twice."""
    seen: dict[str, int] = {}
    for i, (kind, part) in enumerate(dense):
        before = dense[i - 1][1] if i else ""
        after = dense[i + 1][1] if i + 1 < len(dense) else ""
        if kind == "word" and part not in _KEYWORDS:
            alone = (
                before not in {".", "->", "::", "import", "from", "def", "class", "func", "function"} and after != "("
            )
            seen[part] = seen.get(part, 0) + 1 if alone else -1000
    return {name for name, count in seen.items() if count > 1}


def locals_renamed(text: str, language: str, rng: random.Random) -> str:
    """Return the text with its local names replaced, each always by the same."""
    return _renamed(text, language, rng, everything=False)


def all_renamed(text: str, language: str, rng: random.Random) -> str:
    """Return the text with all names but keywords replaced, each always by the same."""
    return _renamed(text, language, rng, everything=True)


EDITS: dict[str, Edit] = {
    "verbatim": lambda text, _language, _rng: text,
    "re-indented": reindented,
    "reformatted": reformatted,
    "quotes swapped": requoted,
    "comments removed": uncommented,
    "comments changed": recommented,
    "1 lexeme in 40 changed": one_in(40),
    "1 lexeme in 20 changed": one_in(20),
    "locals renamed": locals_renamed,
    "all names renamed": all_renamed,
}
