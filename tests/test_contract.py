"""package.json, Settings, README and --help say the same."""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from lsp_server import __version__, server
from lsp_server.cli import main
from lsp_server.settings import Settings, camel_case

ROOT = Path(__file__).parent.parent
PACKAGE = json.loads((ROOT / "extension/package.json").read_text())
PROPERTIES: dict[str, dict[str, Any]] = PACKAGE["contributes"]["configuration"]["properties"]
README = (ROOT / "README.md").read_text()
# Settings that VS Code's client needs and never sends: which server to start, and how much of the wire to log.
CLIENT_ONLY = {"starcite.server.path", "starcite.trace.server"}


def flat(settings: Any, section: str = "starcite") -> dict[str, tuple[Any, tuple[int, int] | None]]:  # noqa: ANN401
    """Return each setting's editor name with its default and bounds."""
    found = {}
    for item in fields(settings):
        name, value = f"{section}.{camel_case(item.name)}", getattr(settings, item.name)
        found |= flat(value, name) if is_dataclass(value) else {name: (value, item.metadata.get("range"))}
    return found


def test_package_json_has_the_servers_settings_and_defaults() -> None:
    """Every setting of the server stands in package.json with the same default, and none besides."""
    ours = flat(Settings())
    assert set(PROPERTIES) == set(ours) | CLIENT_ONLY
    for name, (default, bounds) in ours.items():
        theirs = PROPERTIES[name]
        assert theirs["default"] == (list(default) if isinstance(default, tuple) else default), name
        if bounds:
            assert theirs["minimum"] == bounds[0], name
            assert theirs.get("maximum", bounds[1]) == bounds[1], name


def test_readme_lists_the_settings_with_their_defaults() -> None:
    """The README's table is package.json's."""
    rows = dict(re.findall(r"^\| `(starcite\.[\w.]+)` \| `(.*?)` \|", README, re.MULTILINE))
    assert rows == {name: json.dumps(facts["default"]) for name, facts in PROPERTIES.items()}


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return what a command prints for --help."""
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def commands_of(text: str) -> list[str]:
    """Return the commands that a help text lists."""
    return (
        re.findall(r"^    ([a-z-]+)\b", text.rsplit("COMMAND\n", maxsplit=1)[-1], re.MULTILINE)
        if "COMMAND\n" in text
        else []
    )


def test_every_command_has_help_with_an_example_and_stands_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` of each command ends in an example; the README's table names each command, and no other."""
    names = []
    for command in commands_of(help_of(capsys)):
        text = help_of(capsys, command)
        assert "Example: starcite" in text, command
        inner = commands_of(text)
        for name in inner:
            assert "Example: starcite" in help_of(capsys, command, name), name
        names += [f"{command} {name}" for name in inner] or [command]
    assert len(names) > 15
    table = README.split("## Commands")[1].split("\n\n```")[0]
    for name in names:
        command, _, inner = name.partition(" ")
        row = next((row for row in table.split("\n") if f"`starcite {command}" in row and inner in row), None)
        assert row, f"README's table lacks starcite {name}"
    listed = set(re.findall(r"`starcite ([a-z]+)", table))
    assert listed == {name.split()[0] for name in names}


def test_versions_agree() -> None:
    """The extension has the distribution's version."""
    assert PACKAGE["version"] == __version__


def test_the_editor_and_the_server_do_not_register_the_same_command() -> None:
    """vscode-languageclient registers the server's commands; the same name in package.json would stop its start."""
    theirs = {command["command"] for command in PACKAGE["contributes"]["commands"]}
    assert server.ACCEPTED_COMMAND not in theirs


def test_readme_documents_the_custom_messages() -> None:
    """Each custom method of the server has its paragraph."""
    for method in server._FEATURES:
        if method.startswith("starcite/"):
            assert f"`{method}`" in README
