"""From raw generations to inserted text. `▒` marks the cursor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server import languages
from lsp_server.postprocess import Scope, finish, is_finished, scope_at


def scope(marked: str, language: str = "python") -> Scope:
    """Return the scope at the mark."""
    return scope_at(marked.replace("▒", ""), marked.index("▒"), languages.language(language))


@pytest.mark.parametrize(
    ("marked", "kind"),
    [
        ("x = ▒\n", "line"),
        ("def f():▒\n", "block"),
        ("def f():\n    ▒\n", "block"),
        ("    foo(▒)\n", "line"),
        ("▒", "block"),
        ("if x:  # why\n    y▒", "line"),
        ("if x:  # why▒", "block"),
    ],
)
def test_kind(marked: str, kind: str) -> None:
    """A block is offered on a blank line and behind what opens one, a line elsewhere."""
    assert scope(marked).kind == kind


@pytest.mark.parametrize(
    ("marked", "raw", "text"),
    [
        ("x = ▒\n", "1\ny = 2\n", "1"),
        ("x = ▒\n", "\ny = 2", ""),
        ("x = ▒\n", "   ", ""),
        ("f(▒)\n", "a, b)", "a, b"),
        ("f(▒)\n", "g(a)", "g(a)"),
        ("f(▒)\n", "g(a))", "g(a)"),
        ('print("▒")\n', 'hello")', "hello"),
        ("d['▒']\n", "key']", "key"),
        ("x = [▒]\n", "1, 2]  ", "1, 2"),
        ("return ▒ + tax\n", "price + tax", "price "),
        ("a = ▒\nb = 2\n", "1\nb = 2", "1"),
        ("▒\nreturn total\n", "return total", ""),
    ],
)
def test_line(marked: str, raw: str, text: str) -> None:
    """One line, without what stands behind the cursor, without trailing space, never the next line again."""
    assert finish(raw, scope(marked), whole=True) == text.rstrip()


@pytest.mark.parametrize(
    ("marked", "raw", "text"),
    [
        ("def f():▒\n", "\n    a = 1\n    return a\n\ndef g():\n    pass\n", "\n    a = 1\n    return a"),
        (
            "def f():\n    ▒\n",
            "a = 1\n    if a:\n        b()\n    return a\nx = 1\n",
            "a = 1\n    if a:\n        b()\n    return a",
        ),
        (
            "class A:\n    def f(self):\n        ▒\n    def g(self):\n",
            "return 1\n    def g(self):\n        pass",
            "return 1",
        ),
        ("def f():\n    ▒\n    return total\n", "total = 0\n    return total\n", "total = 0"),
        ("▒", "import os\nimport sys\n\ndef main():\n    pass\n", "import os\nimport sys"),
    ],
)
def test_python_block(marked: str, raw: str, text: str) -> None:
    """A block ends with its scope, before the line that the file goes on with, and at a blank line of the top level."""
    assert finish(raw, scope(marked), whole=True) == text


@pytest.mark.parametrize(
    ("marked", "raw", "text"),
    [
        ("function f() {▒\n", "\n  return 1;\n}\n\nfunction g() {}\n", "\n  return 1;\n}"),
        ("function f() {▒\n}\n", "\n  return 1;\n}\n", "\n  return 1;"),
        ("if (x) {▒\n", "\n  a();\n} else {\n  b();\n}\n", "\n  a();\n} else {"),
    ],
)
def test_brace_block(marked: str, raw: str, text: str) -> None:
    """The closing brace is part of the block unless the file has it already."""
    assert finish(raw, scope(marked, "javascript"), whole=True) == text


def test_half_a_last_line_is_dropped() -> None:
    """A block that a limit cut off ends at its last whole line; a single line is kept as far as it goes."""
    assert finish("\n    a = 1\n    retu", scope("def f():▒\n"), whole=False) == "\n    a = 1"
    assert finish("a + b", scope("x = ▒\n"), whole=False) == "a + b"


def test_crlf_files_have_the_same_scope() -> None:
    """Scopes are taken from texts with unix line ends; a stray carriage return is not part of the rest of a line."""
    assert scope("def f():▒\n").kind == "block"


CODE = st.text("ab(){}[]\"' \n:", max_size=40)


@given(CODE, CODE, CODE, st.sampled_from(["python", "javascript", "ruby", "plaintext"]))
def test_finish_only_cuts(before: str, after: str, raw: str, language: str) -> None:
    """What is inserted is the beginning of what was generated, and finishing it again changes nothing more."""
    here = scope_at(before + after, len(before), languages.language(language))
    text = finish(raw, here, whole=True)
    assert raw.startswith(text)
    assert text == text.rstrip()


@given(CODE, CODE, CODE, CODE, st.sampled_from(["python", "javascript", "ruby"]))
def test_stopping_early_loses_nothing(before: str, after: str, raw: str, more: str, language: str) -> None:
    """Once a stream is finished, nothing that would have come changes what is inserted."""
    here = scope_at(before + after, len(before), languages.language(language))
    if is_finished(raw, here):
        assert finish(raw, here, whole=True) == finish(raw + more, here, whole=True)
