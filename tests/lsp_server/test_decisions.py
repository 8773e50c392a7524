"""The log of decisions: every line whole, never the text, bounded in size, shared by several writers."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

from attribution.index import Match, Source
from lsp_server.attribute import Checked
from lsp_server.completion import Completion
from lsp_server.decisions import FILE_NAME, KEPT_FILES, DecisionLog
from models.protocol import TokenCounts

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "def secret_sauce(): return 42"


def completion(model: str = "m") -> Completion:
    """Return a suggestion with one reference."""
    source = Source("acme/lib", "1.0", "a.py", 1, 2, "", ("MIT",), license_conflict=False)
    match = Match(0, 20, 1, 1, 90, "rare", 1, (source,))
    checked = Checked("checked", None, ({"name": "i", "corpus": "c0ffee"},), "unknown", 0.1)
    counts = TokenCounts(1, 0, 1)
    return Completion(TEXT, (0, 0), "line", "stop", model, (match,), checked, "model", counts, {}, sha256="ab" * 32)


def test_an_entry_has_everything_but_the_text(tmp_path: Path) -> None:
    """Time, model, corpus, span, run, sources, licences, decision and hash stand in one line."""
    log = DecisionLog(tmp_path)
    log.add("shown", completion(), "/w/a.py")
    log.close()
    (line,) = (tmp_path / FILE_NAME).read_text().splitlines()
    assert TEXT not in line
    entry = json.loads(line)
    assert entry["time"].endswith("+00:00")
    assert (entry["event"], entry["model"], entry["file"], entry["corpora"]) == ("shown", "m", "/w/a.py", ["c0ffee"])
    assert (entry["decision"], entry["sha256"]) == ("annotate", "ab" * 32)
    (reference,) = entry["references"]
    assert (reference["start"], reference["end"], reference["run"], reference["decision"]) == (0, 20, 90, "annotate")
    assert reference["sources"][0]["licenses"] == ["MIT"]


def test_the_latest_of_an_event_come_first_and_survive_the_process(tmp_path: Path) -> None:
    """Another log over the same folder reads what was written before; damaged lines are passed over."""
    log = DecisionLog(tmp_path)
    for number in range(3):
        log.add("accepted", completion(f"m{number}"), "")
        log.add("shown", completion("other"), "")
    log.close()
    with (tmp_path / FILE_NAME).open("a") as file:
        file.write('{"event": "accep\n')
    later = DecisionLog(tmp_path)
    later.add("accepted", completion("m3"), "")
    assert [entry["model"] for entry in later.latest("accepted", 3)] == ["m3", "m2", "m1"]
    later.close()


def test_files_are_bounded_and_nothing_young_is_lost(tmp_path: Path) -> None:
    """A full file is set aside; of many the oldest go, and reading goes on over the border."""
    log = DecisionLog(tmp_path, file_bytes=2000)
    for number in range(60):
        log.add("accepted", completion(str(number)), "")
    log.close()
    files = list(tmp_path.glob("*.jsonl"))
    assert 2 < len(files) <= KEPT_FILES + 1
    assert all(file.stat().st_size < 4000 for file in files)
    assert [entry["model"] for entry in DecisionLog(tmp_path).latest("accepted", 12)] == [
        str(number) for number in range(59, 47, -1)
    ]


def test_several_writers_never_break_a_line(tmp_path: Path) -> None:
    """The servers of several editors share the file."""
    logs = [DecisionLog(tmp_path) for _ in range(4)]

    def write(log: DecisionLog) -> None:
        for _ in range(50):
            log.add("shown", completion(), "")
        log.close()

    threads = [threading.Thread(target=write, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / FILE_NAME).read_text().splitlines()
    assert len(lines) == 200
    assert {json.loads(line)["event"] for line in lines} == {"shown"}


def test_a_folder_that_cannot_be_written_costs_only_the_log(tmp_path: Path) -> None:
    """Nothing is raised where a key is waiting; there is just nothing to read."""
    (tmp_path / "file").write_text("")
    log = DecisionLog(tmp_path / "file" / "log")
    log.add("accepted", completion(), "")
    assert log.latest("accepted", 5) == []
    log.close()
