"""What may be in a corpus: each filter by itself, their order, their counts, and an index built through all of them."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from attribution import corpus, optout
from attribution.build import build
from attribution.corpus import Filters, allowed_licenses, filtered
from attribution.documents import Document
from attribution.errors import SourceError
from attribution.format import SourceRecord
from attribution.index import Index
from attribution.licenses import PERMISSIVE
from attribution.optout import OptOuts

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def code(seed: int) -> str:
    """Return text that has no near-duplicate under another seed."""
    rng = random.Random(seed)  # noqa: S311
    return "\n".join(" ".join("".join(rng.choices("abcdef", k=6)) for _ in range(8)) for _ in range(40))


def document(name: str, path: str, text: str, *licenses: str) -> Document:
    """Return a document of a repository."""
    return Document(text, path, SourceRecord(name, "1", f"https://github.com/{name}", licenses, license_conflict=False))


DOCUMENTS = [
    document("ada/engine", "a.py", code(1), "MIT"),
    document("bob/copy", "a.py", code(1) + "\nanother line", "GPL-3.0-only"),
    document("cy/tool", "b.py", code(2), "GPL-3.0-only"),
    document("cy/tool", "c.py", code(3) + "\n# cy@tool.org", "Apache-2.0", "MIT"),
    document("Dee/x", "d.py", code(4)),
]


def passed(filters: Filters, documents: Iterable[Document] = DOCUMENTS) -> tuple[list[str], dict[str, int]]:
    """Return the paths that pass, with their sources, and the counts."""
    skipped: Counter[str] = Counter()
    found = filtered(lambda _: documents, filters, skipped)
    return [f"{document.source.name}/{document.path}" for document in found], dict(skipped)


def test_nothing_is_left_out_unless_asked_for() -> None:
    """Without filters the documents are the same objects."""
    assert list(filtered(lambda _: DOCUMENTS, Filters(), Counter())) == DOCUMENTS


def test_licences() -> None:
    """All of a document's licences must be allowed; one without a licence only where that is allowed."""
    mit = Filters(allowed=allowed_licenses(["MIT"]))
    assert passed(mit) == (["ada/engine/a.py"], {"licence not allowed": 3, "no licence": 1})
    permissive = Filters(allowed=allowed_licenses(["permissive"]))
    assert passed(permissive)[0] == ["ada/engine/a.py", "cy/tool/c.py"]
    unlicensed = Filters(allowed=allowed_licenses(["permissive", "NONE"]))
    assert passed(unlicensed)[0] == ["ada/engine/a.py", "cy/tool/c.py", "Dee/x/d.py"]


def test_words_for_licences() -> None:
    """SPDX ids and expressions, in any case that SPDX knows, and the named set; anything else is an error."""
    assert allowed_licenses(["mit", "GPL-3.0-only OR ISC"]) == {"MIT", "GPL-3.0-only", "ISC"}
    assert allowed_licenses(["Permissive"]) == PERMISSIVE
    with pytest.raises(SourceError, match="'free for all' is no SPDX id"):
        allowed_licenses(["free for all"])


def test_the_permissive_set() -> None:
    """Blue Oak Council's Model to Bronze: 152 licences, without those rated Lead and without copyleft."""
    assert len(PERMISSIVE) == 152
    assert {"BlueOak-1.0.0", "BSD-2-Clause-Patent", "MIT", "Apache-2.0", "BSD-3-Clause", "PSF-2.0"} <= PERMISSIVE
    assert not PERMISSIVE & {
        "WTFPL",
        "HPND",
        "Artistic-1.0",
        "MPL-2.0",
        "GPL-3.0-only",
        "LGPL-2.1-only",
        "CC-BY-SA-4.0",
    }


def test_near_duplicates() -> None:
    """The copy with the better licence stays; of the rest each stays."""
    assert passed(Filters(dedup=True)) == (
        ["ada/engine/a.py", "cy/tool/b.py", "cy/tool/c.py", "Dee/x/d.py"],
        {"near-duplicate": 1},
    )


def test_reading_twice_counts_once() -> None:
    """Near-duplicates are read for twice; what the source passes over is counted once."""

    def read(skipped: Counter[str]) -> list[Document]:
        skipped["binary"] += 1
        return DOCUMENTS

    skipped: Counter[str] = Counter()
    list(filtered(read, Filters(dedup=True), skipped))
    assert skipped == {"binary": 1, "near-duplicate": 1}


def test_personal_data() -> None:
    """Redaction changes the text and nothing else."""
    found = list(filtered(lambda _: DOCUMENTS, Filters(redact=True), Counter()))
    assert found[3].text == DOCUMENTS[3].text.replace("cy@tool.org", "<EMAIL>")
    assert [d.source for d in found] == [d.source for d in DOCUMENTS]
    assert found[:3] == DOCUMENTS[:3]


def test_keys_by_their_entropy() -> None:
    """Keys without a known form are found if detect-secrets is asked for, which redacts the rest as well."""
    pytest.importorskip("detect_secrets", reason="the extra `corpus` is not installed")
    text = 'author = "cy@tool.org"\npassphrase = "c3VwZXIgbG9uZyBzdHJpbmcgc2hvdWxkIGNhdXNlIGVub3VnaCBlbnRyb3B5"\n'
    found = list(filtered(lambda _: [document("a/b", "x", text)], Filters(detect_secrets=True), Counter()))
    assert found[0].text == 'author = "<EMAIL>"\npassphrase = "<KEY>"\n'


def test_opt_outs() -> None:
    """Owners in any case, repositories by owner and name."""
    optouts = OptOuts(owners=frozenset({"dee"}), repos=frozenset({"cy/tool"}))
    assert passed(Filters(optouts=optouts)) == (["ada/engine/a.py", "bob/copy/a.py"], {"opted out": 3})


def test_the_order_of_the_filters() -> None:
    """A licence that is not allowed hides no duplicate; an opted-out source does not bring back its copies."""
    copyleft = Filters(allowed=allowed_licenses(["GPL-3.0-only"]), dedup=True)
    assert passed(copyleft)[0] == ["bob/copy/a.py", "cy/tool/b.py"]
    optouts = OptOuts(owners=frozenset({"ada"}))
    assert passed(Filters(dedup=True, optouts=optouts)) == (
        ["cy/tool/b.py", "cy/tool/c.py", "Dee/x/d.py"],
        {"near-duplicate": 1, "opted out": 1},
    )


def test_an_index_of_a_corpus(tmp_path: Path) -> None:
    """A build with all filters holds what passes them, and reports the rest by reason; jobs change nothing."""
    rows = [
        {
            "content": document.text,
            "repo_name": document.source.name,
            "path": document.path,
            "detected_licenses": list(document.source.licenses),
        }
        for document in DOCUMENTS
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "optouts.jsonl").write_text('{"optout_repos": ["CY/tool"]}\n', encoding="utf-8")
    report = build(
        [tmp_path / "rows.jsonl"],
        tmp_path / "index",
        allow_license=["permissive", "GPL-3.0-only"],
        dedup=True,
        redact=True,
        optouts=optout.read(tmp_path / "optouts.jsonl"),
    )
    assert report.documents == 1
    assert report.skipped == {"near-duplicate": 1, "opted out": 2, "row without a licence": 1}
    with Index.open(tmp_path / "index") as index:
        assert [source.name for match in index.matches(code(1)) for source in match.sources] == ["ada/engine"]
        assert index.matches(code(3)) == []


def test_the_index_holds_what_the_model_saw(tmp_path: Path) -> None:
    """After redaction neither address nor key stands in any file of the index; the placeholder does."""
    key = "ghp_" + "a1B2c3D4e5" * 3 + "a1B2c3"
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text(
        f"{code(5)}\nauthor = 'ada@lovelace.org'; token = '{key}'\n", encoding="utf-8"
    )
    build([tmp_path / "src"], tmp_path / "index", redact=True)
    data = b"".join(path.read_bytes() for path in (tmp_path / "index").iterdir())
    assert key.encode() not in data
    assert b"ada@lovelace.org" not in data


def test_all_filtered_out_is_an_error(tmp_path: Path) -> None:
    """Where nothing passes, there is no index, and the error says so."""
    (tmp_path / "a.py").write_text(code(1), encoding="utf-8")
    with pytest.raises(SourceError, match="No source code"):
        build([tmp_path], tmp_path / "index", allow_license=["permissive"])
    assert not (tmp_path / "index").exists()


def test_rules_decide_what_is_the_same() -> None:
    """Filters that change a document's text have another identity; the licence does not change what a run holds."""
    assert Filters().identity() == Filters(allowed=frozenset({"MIT"}), dedup=True).identity()
    changing = Filters(), Filters(redact=True), Filters(detect_secrets=True), Filters(optouts=OptOuts())
    assert len({str(filters.identity()) for filters in changing}) == len(changing)
    assert corpus.VERSION == 1
