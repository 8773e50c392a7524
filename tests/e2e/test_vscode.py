"""The extension, as a person uses it in VS Code: packaged, installed, with the real server and the real model."""

from __future__ import annotations

import inspect
import json
import shlex
import textwrap
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Window

pytestmark = [pytest.mark.editor, pytest.mark.slow, pytest.mark.model, pytest.mark.timeout(240)]

BEFORE = '''"""Arithmetic."""


def subtract(a, b):
    """Return the difference of two numbers."""
    return a - b


'''

OWN = '''"""Greetings, and a function of somebody else's."""


def greet(name: str, hour: int) -> str:
    """Return a greeting for the time of day."""
    return f"Good {'morning' if hour < 12 else 'evening'}, {name}!"


'''


def test_ghost_text_appears_while_typing_and_tab_accepts_it(window: Window) -> None:
    """A suggestion of the model is shown behind the cursor, Tab takes it, and it is in the file that is saved."""
    file = window.open("arithmetic.py", BEFORE)
    window.wait_for_state("check")
    window.press("Control+End")
    window.type("def add(a, b):\n")
    ghost = window.wait_until(window.ghost_text, "a suggestion")
    window.screenshot("ghost-text")
    window.press("Tab")
    window.wait_until(lambda: not window.ghost_text() and ghost in window.text(), "the accepted text")
    window.press("Control+s")
    saved = window.wait_until(lambda: file.read_text(encoding="utf-8").removeprefix(BEFORE), "the saved file")
    assert saved.startswith("def add(a, b):\n    ")
    assert "".join(saved.split()) == f"defadd(a,b):{ghost}"


def test_hotkey_marks_copied_code_and_hover_names_its_source(window: Window) -> None:
    """A pasted function of the standard library is marked with source and licence until it is edited or cleared."""
    window.open("copied.py", OWN)
    window.wait_for_state("check")
    window.press("Control+End")
    window.paste(inspect.getsource(textwrap.dedent))

    window.press("Control+Shift+Home", "Shift+Alt+s")
    label, *others = window.wait_until(window.labels, "a mark")
    assert not others, "our own lines were marked"
    assert "textwrap.py" in label
    assert "PSF-2.0" in label
    assert window.page.locator(".selected-text").count() > 0, "the check took the selection away"

    window.press("Control+Home")
    window.lines.get_by_text("dedent(text)").hover()
    hover = window.hover.filter(has_text="Found in the training data")
    hover.wait_for()
    window.screenshot("references")
    words = hover.inner_text().replace("\N{NO-BREAK SPACE}", " ")
    for expected in ("cpython", "textwrap.py:", "PSF-2.0", "matching characters"):
        assert expected in words

    # Another action, an edit elsewhere included, leaves the mark; an edit of its text does not.
    window.press("Escape")
    window.type("# checked\n")
    window.lines.get_by_text("# checked").wait_for()
    assert window.labels() == [label]
    window.lines.get_by_text("dedent(text)").click()
    window.press("End")
    window.type("  # edited")
    window.wait_until(lambda: not window.labels(), "the end of the mark")

    # The second key; nothing is selected, so that the whole document is checked.
    window.press("Control+Escape")
    window.wait_until(window.labels, "a mark by the second key")
    window.run_command("Starcite: Clear training-data marks")
    window.wait_until(lambda: not window.labels(), "the end of the marks")


def test_suggestion_that_stands_in_the_training_data_names_its_source(window: Window) -> None:
    """While a suggestion continues a passage of the training data, the status bar item names source and licence."""
    # A model goes on with what it has just read: the function stands there once, and once more in part.
    whole = inspect.getsource(shlex.quote)
    part, _, _ = whole.partition(":\n        return s")
    window.open("continued.py", f"{whole}\n\n{part}")
    window.wait_for_state("check")
    window.press("Control+End")
    window.type(":\n")
    window.wait_until(window.ghost_text, "a suggestion")
    window.wait_for_state("references")
    window.status.hover()
    tooltip = window.hover.filter(has_text="The suggestion stands in")
    tooltip.wait_for()
    window.screenshot("cited-suggestion")
    words = tooltip.inner_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "shlex.py" in words
    assert "PSF-2.0" in words


def test_missing_server_is_said_and_survived(window: Window) -> None:
    """A wrong server path is told once with what to do; the editor works on, and the right path starts the server."""
    window.open("alone.py", "", settings={"starcite.server.path": "/nonexistent/starcite"})
    window.wait_for_state("circle-slash")
    window.page.locator(".notification-toast").get_by_text("set starcite.server.path").wait_for()
    window.type("x = 1")
    window.lines.get_by_text("x = 1").wait_for()
    window.press("Shift+Alt+s")
    window.page.locator(".notification-toast").get_by_text("Not checked: ").wait_for()
    window.screenshot("missing-server")

    window.workspace_settings.write_text(json.dumps({}), encoding="utf-8")
    window.wait_for_state("check")
