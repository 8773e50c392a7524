"""The installed `starcite` script as a person runs it: answers, exit statuses, one-line errors, isolation."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lsp_server import manage
from models.cards import DEFAULT_MODEL
from models.paths import runtime_dir
from models.protocol import PROTOCOL_VERSION, DaemonHello, encode
from models.timings import Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping

STARCITE = Path(sys.executable).with_name("starcite")
SAMPLE = Path(__file__).parents[1] / "data" / "sample.py"
DEDENT = inspect.getsource(textwrap.dedent)
NOTICE = """\
# This program is free software: you can redistribute it and/or modify it under
# the terms of the GNU General Public License as published by the Free Software
# Foundation, either version 3 of the License, or (at your option) any later version.
"""


def run(
    *words: object, home: Path | None = None, text: str = "", cwd: Path | None = None, env: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[str]:
    """Run the script and return how it ended."""
    environment = os.environ | ({"STARCITE_HOME": str(home)} if home else {}) | env
    command = [STARCITE, *map(str, words)]
    return subprocess.run(
        command, env=environment, cwd=cwd, input=text, capture_output=True, text=True, check=False, timeout=240
    )


def complaint(ended: subprocess.CompletedProcess[str], status: int) -> str:
    """Return the one line on stderr of a command that ended with the status and printed nothing else."""
    assert ended.returncode == status, ended.stderr
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("starcite: ")
    return line


@pytest.mark.model
@pytest.mark.slow
class TestWithTheModel:
    """Commands that need the daemon."""

    def test_complete_answers_as_the_contract_says(self, model_home: Path) -> None:
        """The text is not empty, it was checked, and every stage was timed."""
        answer = json.loads(run("complete", SAMPLE, "--at", "12:9", "--json", home=model_home).stdout)
        assert answer["text"].startswith("self.balance += amount")
        assert answer["checked"]["state"] == "checked"
        assert answer["checked"]["covers_model"] == "unknown"
        assert answer["model"] == DEFAULT_MODEL
        assert answer["origin"] == "model"
        offset = SAMPLE.read_text().index("    def withdraw") - 2
        assert answer["replace"] == [offset, offset]
        assert answer["timings_ms"]["decode"] > 0
        assert answer["timings_ms"]["total"] >= answer["timings_ms"]["prefill"] + answer["timings_ms"]["decode"]
        assert answer["tokens"]["prompt"] > 50

    def test_complete_for_a_person_shows_place_text_time_and_check(self, model_home: Path) -> None:
        """The line is shown with the suggestion in it, then its time and what it was checked against."""
        printed = run("complete", SAMPLE, "--at", "12:9", home=model_home).stdout
        assert f"{SAMPLE}:12:9" in printed
        assert "⟦self.balance += amount" in printed
        assert " ms: prefill " in printed
        assert "documents of stdlib-part" in printed

    def test_a_workspace_cannot_replace_our_packages(self, model_home: Path, tmp_path: Path) -> None:
        """With `models` and the like in the current folder and on PYTHONPATH, server and daemon use their own."""
        for package in ("models", "lsp_server", "attribution", "msgpack"):
            (tmp_path / package).mkdir()
            (tmp_path / package / "__init__.py").write_text("raise SystemExit('imported from the workspace')")
        run("daemon", "stop", home=model_home)
        ended = run(
            "complete",
            SAMPLE,
            "--at",
            "12:9",
            "--json",
            home=model_home,
            cwd=tmp_path,
            env={"PYTHONPATH": str(tmp_path)},
        )
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout)["text"]

    def test_daemon_start_status_stop(self, model_home: Path) -> None:
        """The daemon's life by hand: started once, asked, ended, gone."""
        started = json.loads(run("daemon", "start", "--json", home=model_home).stdout)
        again = json.loads(run("daemon", "start", "--json", home=model_home).stdout)
        assert started["state"] == "ready"
        assert started["pid"] == again["pid"]
        assert json.loads(run("daemon", "status", "--json", home=model_home).stdout)["pid"] == started["pid"]
        assert json.loads(run("daemon", "stop", "--json", home=model_home).stdout)["stopped"] is True
        assert "starcite daemon start" in complaint(run("daemon", "status", home=model_home), 3)

    def test_doctor_finds_this_machine_in_order(self, model_home: Path) -> None:
        """With model and index in place, nothing is left to do."""
        ended = run("doctor", "--json", home=model_home)
        findings = {finding["what"]: finding for finding in json.loads(ended.stdout)["findings"]}
        assert all(finding["good"] for finding in findings.values()), findings
        assert ended.returncode == 0
        assert "stdlib-part: 5 documents" in findings["indexes"]["fact"]


def test_check_names_the_source_and_exits_with_one(small_index: Path, tmp_path: Path) -> None:
    """A copied function is found at its exact offsets, however it is indented, with path and licence."""
    file = tmp_path / "a.py"
    file.write_text("import os\n" + textwrap.indent(DEDENT, "        "))
    ended = run("check", file, "--index", small_index, "--json")
    assert ended.returncode == 1
    answer = json.loads(ended.stdout)
    assert answer["version"] == 1
    (result,) = answer["results"]
    assert result["file"] == str(file)
    assert result["checked"]["indexes"][0]["documents"] == 5
    (match,) = result["matches"]
    assert file.read_text()[match["start"] : match["end"]] == textwrap.indent(DEDENT, "        ").strip()
    assert match["sources"][0] | {"path": "textwrap.py", "licenses": ["PSF-2.0"]} == match["sources"][0]
    lines, first = inspect.getsourcelines(textwrap.dedent)
    assert (match["sources"][0]["start_line"], match["sources"][0]["end_line"]) == (first, first + len(lines) - 1)


def test_check_reads_stdin_and_several_files(small_index: Path) -> None:
    """`-` is stdin; what is not found exits with 0 and does not claim to be original."""
    ended = run("check", "-", SAMPLE, "--index", small_index, text="x = 1\n")
    assert ended.returncode == 0
    assert ended.stdout.count("nothing found, which does not mean that it is original") == 2


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a git repository with a committed file of our own, beside which the function is copied, uncommitted."""
    root = tmp_path / "repository"
    root.mkdir()
    (root / "a.py").write_text("import os\n\n\ndef ours(x):\n    return x\n")
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "ours")):
        person = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *person, *words], cwd=root, check=True)
    (root / "a.py").write_text(DEDENT + "\n\ndef ours(x):\n    return x\n")
    return root


def test_check_diff_finds_what_was_added_and_exits_with_one(small_index: Path, repository: Path) -> None:
    """As JSON and as SARIF; once the copy is committed there is nothing new, and no commit is one line."""
    ended = run("check", "--diff", "HEAD", "--json", "--index", small_index, cwd=repository)
    assert ended.returncode == 1, ended.stderr
    (result,) = json.loads(ended.stdout)["results"]
    assert (result["file"], result["matches"][0]["start"]) == ("a.py", 0)
    log = json.loads(run("check", "--diff", "HEAD", "--sarif", "--index", small_index, cwd=repository).stdout)
    (found,) = log["runs"][0]["results"]
    assert found["ruleId"] == "verbatim/permissive"
    assert found["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a.py"
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "copied"], cwd=repository, check=True
    )
    ended = run("check", "--diff", "HEAD", "--index", small_index, cwd=repository)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "nothing to check" in ended.stderr
    assert "no-such" in complaint(run("check", "--diff", "no-such", "--index", small_index, cwd=repository), 2)


def test_an_added_line_inside_an_old_copy_counts_with_what_surrounds_it(small_index: Path, repository: Path) -> None:
    """One line that completes a passage is found as part of the whole run; an added line elsewhere is not."""
    lines = DEDENT.splitlines(keepends=True)
    file = repository / "a.py"
    file.write_text("".join(lines[:20]) + "".join(lines[21:]))
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "most"], cwd=repository, check=True
    )
    file.write_text("".join(lines) + "\nours = 1\n")
    (match,) = json.loads(run("check", "--diff", "HEAD", "--json", "--index", small_index, cwd=repository).stdout)[
        "results"
    ][0]["matches"]
    assert (match["start_line"], match["end_line"]) == (1, len(lines))
    file.write_text("".join(lines[:20]) + "".join(lines[21:]) + "\nours = 1\n")
    assert run("check", "--diff", "HEAD", "--index", small_index, cwd=repository).returncode == 0


def test_check_of_a_folder_passes_over_what_is_no_text(small_index: Path, repository: Path) -> None:
    """Files of a folder that cannot be read as text are counted on stderr, and the others are checked."""
    (repository / "bad.py").write_bytes(b"\xe9")
    ended = run("check", ".", "--index", small_index, cwd=repository)
    assert ended.returncode == 1
    assert "a.py: checked against 5 documents" in ended.stdout
    assert "1 file checked against 5 documents of stdlib-part: 1 passage found in 1 of them" in ended.stdout
    assert ended.stderr == "starcite: passed over 1: not UTF-8\n"
    assert "not UTF-8" in complaint(run("check", "bad.py", "--index", small_index, cwd=repository), 2)


def test_check_shows_the_lines_beside_those_of_the_source(small_index: Path, repository: Path) -> None:
    """In a terminal that is wide enough: numbers and lines of both, from the texts that the index keeps."""
    ended = run("check", "a.py", "--index", small_index, cwd=repository, env={"COLUMNS": "120"})
    _, first = inspect.getsourcelines(textwrap.dedent)
    (row,) = (row for row in ended.stdout.splitlines() if " 1 def dedent(text):" in row)
    assert row.split("│")[1].strip() == f"{first} def dedent(text):"
    assert max(map(len, ended.stdout.splitlines()[2:])) <= 120
    narrow = run("check", "a.py", "--index", small_index, cwd=repository, env={"COLUMNS": "40"}).stdout
    assert "│" not in narrow


def test_the_policy_decides_what_counts(small_index: Path, repository: Path) -> None:
    """Allowed matches do not count but with --all, blocked ones do; one that cannot be read is bad input."""
    policy = repository / "starcite.toml"
    policy.write_text('[classes]\npermissive = "allow"\n')
    ended = run("check", "a.py", "--index", small_index, cwd=repository)
    assert ended.returncode == 0
    assert "1 passage that the policy allows; --all shows them" in ended.stdout
    assert run("check", "a.py", "--all", "--index", small_index, cwd=repository).returncode == 1
    sarif = json.loads(run("check", "a.py", "--sarif", "--index", small_index, cwd=repository).stdout)
    assert sarif["runs"][0]["results"] == []
    policy.write_text('[licenses]\n"PSF-*" = "block"\n')
    ended = run("check", "a.py", "--index", small_index, cwd=repository)
    assert ended.returncode == 1
    assert "blocked by the policy" in ended.stdout
    policy.write_text('[clases]\npermissive = "allow"\n')
    line = complaint(run("check", "a.py", "--index", small_index, cwd=repository), 2)
    assert str(policy) in line
    assert "clases is no key of a policy" in line


def test_what_is_commonplace_does_not_fail_a_check(repository: Path) -> None:
    """A licence's notice is found with its source and counts as common, unless copied code comes with it."""
    (repository / "a.py").write_text(NOTICE + DEDENT)
    source = repository.parent / "source"
    source.mkdir()
    shutil.copy(repository / "a.py", source)
    run("index", "build", source, "--out", "index", "--license", "GPL-3.0-or-later", cwd=repository)
    (repository / "b.py").write_text(NOTICE + "x = 1\n")
    ended = run("check", "b.py", "--index", "index", cwd=repository)
    assert ended.returncode == 0
    assert "1 passage that the policy allows" in ended.stdout
    (result,) = json.loads(run("check", "b.py", "--index", "index", "--json", cwd=repository).stdout)["results"]
    (match,) = result["matches"]
    assert (match["class"], match["decision"], match["source_count"]) == ("common", "allow", 1)
    assert match["sources"][0]["licenses"] == ["GPL-3.0-or-later"]
    assert run("check", "a.py", "--index", "index", cwd=repository).returncode == 1
    (repository / "starcite.toml").write_text('[classes]\ncommon = "block"\n')
    assert run("check", "b.py", "--index", "index", cwd=repository).returncode == 1


def test_the_minimum_run_is_the_policys_unless_one_is_given(small_index: Path, repository: Path) -> None:
    """A run that is shorter than the policy wants is not found; the command line overrules."""
    (repository / "starcite.toml").write_text("min-run = 5000\n")
    assert run("check", "a.py", "--index", small_index, cwd=repository).returncode == 0
    assert run("check", "a.py", "--index", small_index, "--min-run", "80", cwd=repository).returncode == 1


def test_the_effective_policy_can_be_seen(repository: Path) -> None:
    """Where it comes from and what it decides, of the current folder or of a file."""
    assert "no starcite.toml: the defaults" in run("check", "--show-policy", cwd=repository).stdout
    (repository / "starcite.toml").write_text('own = ["me/*"]\n[classes]\ncopyleft = "block"\n')
    (shown,) = json.loads(run("check", "a.py", "--show-policy", "--json", cwd=repository).stdout)["policies"]
    assert (shown["for"], shown["file"], shown["own"]) == ("a.py", str(repository / "starcite.toml"), ["me/*"])
    assert (shown["classes"]["copyleft"], shown["classes"]["permissive"]) == ("block", "annotate")
    assert "copyleft       block" in run("check", "--show-policy", cwd=repository).stdout


def test_stdin_that_is_no_text_is_one_line(small_index: Path, tmp_path: Path) -> None:
    """Bytes that are not UTF-8 on stdin are bad input like those of a file."""
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with (tmp_path / "bytes").open("rb") as file:
        ended = subprocess.run(
            [STARCITE, "check", "--index", small_index], stdin=file, capture_output=True, text=True, check=False
        )
    assert "standard input is not UTF-8" in complaint(ended, 2)


def test_without_an_index_nothing_counts_as_checked(bare_home: Path) -> None:
    """The answer says `not_checked`, and the status is that of bad input."""
    ended = run("check", SAMPLE, "--json", home=bare_home)
    assert ended.returncode == 2
    assert json.loads(ended.stdout)["results"][0]["checked"]["state"] == "not_checked"
    assert "starcite index build" in ended.stderr


def test_index_build_info_verify(tmp_path: Path) -> None:
    """An index of a folder is built, described and verified."""
    source, out = tmp_path / "src", tmp_path / "x"
    source.mkdir()
    (source / "a.py").write_text(DEDENT)
    built = json.loads(
        run("index", "build", source, "--out", out, "--name", "demo", "--license", "MIT", "--json").stdout
    )
    assert built["documents"] == 1
    facts = json.loads(run("index", "info", out, "--json").stdout)["indexes"][0]
    assert (facts["name"], facts["guarantee"], facts["documents"]) == ("demo", 50, 1)
    assert run("index", "verify", out).returncode == 0
    assert facts["renamed_bytes"] > 0
    assert "demo" in run("check", source / "a.py", "--index", out).stdout


def test_renamed_copies_are_called_possible(tmp_path: Path) -> None:
    """`check` finds a function under other names and calls it possible; not in an index that was built without."""
    source, copy, out = tmp_path / "src", tmp_path / "copy.py", tmp_path / "x"
    source.mkdir()
    (source / "a.py").write_text(DEDENT)
    words = ("text", "margin", "lines", "line", "indent", "content", "dedent", "re", "sub", "splitlines", "join", "l")
    copy.write_text(re.sub(rf"\b({'|'.join(words)})\b", r"my_\1", DEDENT))
    run("index", "build", source, "--out", out, "--license", "MIT")
    ended = run("check", copy, "--index", out)
    assert ended.returncode == 1
    assert "possible renamed copy" in ended.stdout
    run("index", "build", source, "--out", out, "--license", "MIT", "--no-renamed")
    assert "possible" not in run("check", copy, "--index", out).stdout


def test_index_build_of_rows_with_filters(tmp_path: Path) -> None:
    """Rows are filtered as asked; what is left out is counted; a word that is no licence is a complaint."""
    rows = [
        {"content": DEDENT + f"# {name}@example.org\n", "repo_name": f"{name}/x", "path": "a.py", "license": license_id}
        for name, license_id in (("ada", "MIT"), ("bob", "GPL-3.0-only"), ("cy", "ISC"), ("dee", "MIT"))
    ]
    rows[3]["content"] = "def other(a, b):\n    return [a + b for _ in range(3)], 'and more words than five'\n"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (tmp_path / "o.jsonl").write_text('{"optout_owners": ["Dee"]}\n', "utf-8")
    words = ("index", "build", tmp_path / "rows.jsonl", "--out", tmp_path / "x", "--json")
    filters = ("--allow-license", "permissive", "--dedup", "--redact", "--optouts", tmp_path / "o.jsonl")
    answer = json.loads(run(*words, *filters, "--jobs", "2").stdout)
    assert answer["documents"] == 1
    assert answer["skipped"] == {"licence not allowed": 1, "near-duplicate": 1, "opted out": 1}
    assert "'w h a t' is no SPDX id" in complaint(run(*words, "--allow-license", "w h a t"), 2)
    assert "--jobs" in complaint(run(*words, "--jobs", "0"), 2)


@pytest.mark.slow
def test_index_build_with_workers(tmp_path: Path) -> None:
    """The command's workers import its file again and do not run it again; 33 MB make three chunks."""
    (tmp_path / "src").mkdir()
    for number in range(9):
        text = f"x{number} = {number}\n" + DEDENT * (3_700_000 // len(DEDENT))
        (tmp_path / "src" / f"{number}.py").write_text(text, "utf-8")
    outs = [tmp_path / f"{jobs}.idx" for jobs in (1, 2)]
    for jobs, out in enumerate(outs, start=1):
        ended = run("index", "build", tmp_path / "src", "--out", out, "--name", "n", "--jobs", str(jobs), "--json")
        assert json.loads(ended.stdout)["documents"] == 9
    assert (outs[0] / "index.json").read_bytes() == (outs[1] / "index.json").read_bytes()


def test_index_merge_forget_compact(tmp_path: Path) -> None:
    """Two indexes become one; who opts out is not found from then on, and gone from the files after compacting."""
    for name in ("left-pad", "right-pad"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text(f"# {name}\n{DEDENT}", "utf-8")
        run("index", "build", tmp_path / name, "--out", tmp_path / f"{name}.idx")
    both = tmp_path / "both.idx"
    merged = run("index", "merge", tmp_path / "left-pad.idx", tmp_path / "right-pad.idx", "--out", both, "--json")
    assert json.loads(merged.stdout)["documents"] == 2
    (tmp_path / "o.jsonl").write_text('{"optout_repos": ["Left-Pad"]}\n', "utf-8")
    answer = json.loads(run("index", "forget", both, "--optouts", tmp_path / "o.jsonl", "--json").stdout)
    assert answer["indexes"] == [{"index": str(both), "forgotten_sources": 1, "forgotten_documents": 1}]
    assert json.loads(run("index", "info", both, "--json").stdout)["indexes"][0]["forgotten_documents"] == 1
    checked = json.loads(run("check", tmp_path / "left-pad" / "a.py", "--index", both, "--json").stdout)["results"][0]
    assert [source["name"] for match in checked["matches"] for source in match["sources"]] == ["right-pad"]
    assert "1 documents removed" in run("index", "compact", both).stdout
    assert json.loads(run("index", "info", both, "--json").stdout)["indexes"][0]["forgotten_documents"] == 0
    assert run("index", "verify", both).returncode == 0
    (tmp_path / "o.jsonl").write_text("{}", "utf-8")
    assert "line 1" in complaint(run("index", "forget", both, "--optouts", tmp_path / "o.jsonl"), 2)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("complete", "no/such.py", "--at", "1:1"), "no/such.py cannot be read"),
        (("complete", SAMPLE, "--at", "99:1"), "line 99 is outside the file"),
        (("complete", SAMPLE, "--at", "1:999"), "column 999 is outside line 1"),
        (("complete", sys.executable, "--at", "1:1"), "is a binary file"),
        (("complete", SAMPLE, "--at", "12:9", "--model", "no-such"), "no-such"),
        (("models", "show", "no-such"), "choose one of"),
        (("check", "no/such.py"), "cannot be read"),
        (("check", SAMPLE, "--index", "no/such"), "no/such"),
        (("index", "info", SAMPLE.parent), "index"),
        (("index", "build", "no/such", "--out", "out"), "no/such"),
        (("index", "build", SAMPLE), "--out DIR"),
    ],
)
def test_bad_input_is_one_line_and_status_two(
    bare_home: Path, tmp_path: Path, words: tuple[object, ...], says: str
) -> None:
    """Each says what is wrong in one line on stderr."""
    assert says in complaint(run(*words, home=bare_home, cwd=tmp_path), 2)


@pytest.mark.parametrize(
    "words", [("complete", "x.py"), ("complete", "x.py", "--at", "3"), ("no-such",), ("lsp", "--tcp", "x")]
)
def test_wrong_use_is_status_two(words: tuple[str, ...]) -> None:
    """Argparse's own errors have the same status."""
    assert run(*words).returncode == 2


def test_a_minimum_run_below_the_guarantee_is_refused(small_index: Path) -> None:
    """What the index cannot promise is not pretended."""
    assert "50" in complaint(run("check", SAMPLE, "--index", small_index, "--min-run", "20"), 2)


def test_an_index_that_promises_only_longer_runs_is_searched_for_those(
    small_index: Path, repository: Path, tmp_path: Path
) -> None:
    """A guarantee of 100 and the default of 80 go together; asking for 80 from it is refused."""
    index = tmp_path / "x"
    run("index", "build", small_index.parent / "source", "--out", index, "--guarantee", "100")
    for named in ((index,), (index, small_index)):
        words = [word for path in named for word in ("--index", path)]
        assert run("check", "a.py", *words, cwd=repository).returncode == 1
        assert "100" in complaint(run("check", "a.py", *words, "--min-run", "80", cwd=repository), 2)


def test_a_model_that_was_not_pulled_says_how_to_pull_it(bare_home: Path) -> None:
    """Without weights the status is 3."""
    assert "starcite models pull" in complaint(run("complete", SAMPLE, "--at", "12:9", home=bare_home), 3)


def test_damaged_weights_are_found_by_their_checksum(bare_home: Path) -> None:
    """One flipped byte in the file of a card is an error that names the file."""
    weights = b"GGUF" + bytes(2000)
    cards, folder = bare_home / "models" / "cards", bare_home / "models" / "tiny"
    cards.mkdir(parents=True)
    folder.mkdir()
    (cards / "tiny.toml").write_text(
        f'id = "tiny"\nextends = "{DEFAULT_MODEL}"\n[[files]]\nname = "tiny.gguf"\nbytes = {len(weights)}\n'
        f'sha256 = "{hashlib.sha256(weights).hexdigest()}"\n'
        '[[files.sources]]\nkind = "hub"\nrepository = "a/b"\nfile = "tiny.gguf"\nrevision = "main"\n'
    )
    (folder / "tiny.gguf").write_bytes(weights[:1000] + b"\x01" + weights[1001:])
    line = complaint(run("complete", SAMPLE, "--at", "12:9", "--model", "tiny", home=bare_home), 3)
    assert "tiny.gguf" in line
    assert "starcite models remove tiny" in line


def test_a_damaged_index_is_named(small_index: Path, tmp_path: Path) -> None:
    """A truncated index is refused when it is named, with the file at fault; `verify` finds a flipped byte."""
    broken = tmp_path / "broken"
    shutil.copytree(small_index, broken)
    (text,) = broken.glob("text-*.bin")
    data = bytearray(text.read_bytes())
    data[len(data) // 2] ^= 1
    text.write_bytes(data)
    assert text.name in complaint(run("index", "verify", broken), 2)
    text.write_bytes(data[:-1])
    assert text.name in complaint(run("check", SAMPLE, "--index", broken), 2)


def test_a_daemon_of_another_version_is_refused(bare_home: Path) -> None:
    """A socket that speaks another protocol gives one line that says how to stop it."""
    folder = runtime_dir()
    folder.mkdir(mode=0o700, parents=True)
    hello = encode(DaemonHello(PROTOCOL_VERSION + 1, DEFAULT_MODEL, 1, "9.9.9"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / f"{DEFAULT_MODEL}.sock"))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(hello)
                connection.recv(4096)

        thread = threading.Thread(target=answer)
        thread.start()
        line = complaint(run("complete", SAMPLE, "--at", "12:9", home=bare_home), 3)
        thread.join()
    assert "starcite daemon stop" in line


@pytest.mark.parametrize(
    "words", [("models", "use", DEFAULT_MODEL), ("index", "build", SAMPLE.parent, "--name", "x"), ("daemon", "start")]
)
def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path, words: tuple[object, ...]) -> None:
    """A file where the folder should be, which not even root can write into, is no crash."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    ended = run(*words, home=blocked / "home")
    assert ended.returncode in {2, 3}
    assert len(ended.stderr.splitlines()) == 1


def test_an_interrupt_ends_a_waiting_command(small_index: Path) -> None:
    """Ctrl-C while stdin is awaited ends with 130 and without a traceback."""
    with subprocess.Popen(
        [STARCITE, "check", "-", "--index", small_index],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        wait_until_reading(process.pid)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in errors


def wait_until_reading(pid: int) -> None:
    """Wait until the process has imported everything and waits for its stdin."""
    opened = Path(f"/proc/{pid}/wchan")
    if not opened.exists():
        pytest.skip("no /proc to see what a process waits for")
    while "pipe" not in opened.read_text():
        os.sched_yield()


def test_the_daemons_times_are_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """The status has a line for each kind of request and time, and not the buckets, which are --json's."""
    histogram = Histogram()
    for value_ms in (10.0, 20.0, 3000.0):
        histogram.add(value_ms)
    kinds = {"interactive": {"total": histogram.to_map()}, "prefetch": {}}
    status = {"state": "ready", "histogram_bounds_ms": [1.0], "histograms": kinds}
    manage._print_status(status, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["state", "ready"]
    assert lines[-1].split() == ["interactive", "total", "3", "22.4", "2818.4", "2818.4", "3000.0"]
    assert len(lines) == 4
    manage._print_status(status, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"version": 1} | status
