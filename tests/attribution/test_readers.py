"""Rows of data sets in the layouts of The Stack v1 to v3 and Stack-Edu, as they are on disk: written, then read."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from attribution import archives, documents, readers
from attribution.build import build
from attribution.errors import DamagedSourceError, SourceError
from attribution.index import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    WriteTree = Callable[[str, Mapping[str, str | bytes]], Path]

CODE = "def area(width, height):\n    return width * height\n"
OTHER = 'fn main() { println!("hello"); }\n'
SHA = "0123456789abcdef0123456789abcdef01234567"

V1 = {
    "hexsha": SHA,
    "size": len(CODE),
    "ext": "py",
    "lang": "Python",
    "max_stars_repo_path": "src/area.py",
    "max_stars_repo_name": "ada/shapes",
    "max_stars_repo_head_hexsha": SHA,
    "max_stars_repo_licenses": ["MIT"],
    "max_stars_count": 3,
    "max_stars_repo_stars_event_min_datetime": "2020-01-01T00:00:00.000Z",
    "max_issues_repo_path": "area.py",
    "max_issues_repo_name": "bob/fork",
    "max_issues_repo_head_hexsha": SHA[::-1],
    "max_issues_repo_licenses": ["MIT", "Apache-2.0"],
    "max_forks_repo_path": "src/area.py",
    "max_forks_repo_name": "ada/shapes",
    "max_forks_repo_head_hexsha": SHA,
    "max_forks_repo_licenses": ["MIT"],
    "content": CODE,
    "avg_line_length": 20.5,
    "max_line_length": 28,
    "alphanum_fraction": 0.7,
}
V2 = {
    "blob_id": SHA,
    "directory_id": SHA,
    "path": "/src/area.py",
    "content_id": SHA,
    "detected_licenses": ["MIT"],
    "license_type": "permissive",
    "repo_name": "ada/shapes",
    "snapshot_id": SHA,
    "revision_id": SHA,
    "branch_name": "refs/heads/main",
    "github_id": 7,
    "gha_license_id": None,
    "src_encoding": "UTF-8",
    "language": "Python",
    "is_vendor": False,
    "is_generated": False,
    "length_bytes": len(CODE),
    "extension": "py",
    "content": CODE,
}
V3 = {
    "repo_path": "ada/shapes",
    "repo_id": 483087790,
    "commit_id": SHA,
    "github_metadata": {"branch": "main", "stars": 3, "is_fork": False},
    "num_files": 2,
    "files": [
        {
            "content_id": SHA,
            "content": CODE,
            "size_bytes": len(CODE),
            "file_path": "src/area.py",
            "file_timestamp": 1674821846,
            "language": "Python",
            "is_vendor": False,
            "license_type": "permissive",
            "detected_licenses": ["MIT"],
        },
        {
            "content_id": SHA[::-1],
            "content": OTHER,
            "size_bytes": len(OTHER),
            "file_path": "main.rs",
            "file_timestamp": 1674821846,
            "language": "Rust",
            "is_vendor": False,
            "license_type": "permissive",
            "detected_licenses": ["Apache-2.0"],
        },
    ],
}
EDU = {
    "blob_id": SHA,
    "language": "Python",
    "repo_name": "ada/shapes",
    "path": "/src/area.py",
    "src_encoding": "UTF-8",
    "length_bytes": len(CODE),
    "score": 3.4,
    "int_score": 3,
    "detected_licenses": ["MIT"],
    "license_type": "permissive",
    "text": CODE,
    "download_success": True,
}


def json_lines(*rows: object) -> bytes:
    """Return JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(path: Path, *rows: Mapping[str, Any], large: bool = False) -> Path:
    """Write a parquet file, its strings and lists large ones if asked for."""
    pa = pytest.importorskip("pyarrow", reason="the extra `corpus` is not installed")
    from pyarrow import parquet as file_format  # noqa: PLC0415

    table = pa.Table.from_pylist(list(rows))
    if large:
        kinds = {pa.string(): pa.large_string(), pa.list_(pa.string()): pa.large_list(pa.large_string())}
        table = table.cast(pa.schema([(field.name, kinds.get(field.type, field.type)) for field in table.schema]))
    file_format.write_table(table, path, row_group_size=3)
    return path


def zstd(data: bytes) -> bytes:
    """Return data compressed."""
    zstandard = pytest.importorskip("zstandard", reason="the extra `corpus` is not installed")
    compressed: bytes = zstandard.ZstdCompressor().compress(data)
    return compressed


def read(*sources: Path, **options: Any) -> tuple[list[tuple[str, str, str, tuple[str, ...]]], dict[str, int]]:  # noqa: ANN401
    """Return name, path, text and licences of the documents, and what was skipped."""
    skipped: Counter[str] = Counter()
    found = [
        (document.source.name, document.path, document.text, document.source.licenses)
        for document in documents.read(sources, skipped, **options)
    ]
    return found, dict(+skipped)


AREA = ("ada/shapes", "src/area.py", CODE, ("MIT",))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (V1, [AREA, ("bob/fork", "area.py", CODE, ("Apache-2.0", "MIT"))]),
        (V2, [AREA]),
        (V3, [AREA, ("ada/shapes", "main.rs", OTHER, ("Apache-2.0",))]),
        (EDU, [AREA]),
    ],
    ids=["v1", "v2", "v3", "edu"],
)
@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", "large"])
def test_layouts(tmp_path: Path, row: Mapping[str, Any], expected: list[tuple[str, ...]], kind: str) -> None:
    """A row of every layout, in every kind of file, gives its text with every source that it names."""
    path = tmp_path / f"train{kind}"
    if kind == "large":
        path = parquet(tmp_path / "train.parquet", row, large=True)
    elif kind == ".parquet":
        parquet(path, row)
    else:
        pack = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstd}[kind]
        path.write_bytes(pack(json_lines(row)))
    assert read(path) == (expected, {})


def test_the_commit_is_in_the_address(tmp_path: Path) -> None:
    """Name, revision and address of a source are those of the repository at its commit."""
    (tmp_path / "v2.jsonl").write_bytes(json_lines(V2))
    (document,) = documents.read([tmp_path / "v2.jsonl"], Counter())
    assert document.source.revision == SHA
    assert document.source.url == f"https://github.com/ada/shapes/blob/{SHA}/{{path}}"


@pytest.mark.parametrize(
    "value",
    [
        "MIT",
        ["MIT"],
        ["mit", None],
        {"list": [{"item": "MIT"}]},
        {"list": [{"element": "MIT"}, {"element": "NOASSERTION"}]},
        "MIT License",
    ],
)
def test_forms_of_licences(tmp_path: Path, value: object) -> None:
    """Licences are words, lists, or lists as records, as BigQuery's export of v1-dedup has them."""
    row = {name: cell for name, cell in V1.items() if not name.startswith(("max_issues", "max_forks"))}
    (tmp_path / "v1.jsonl").write_bytes(json_lines(row | {"max_stars_repo_licenses": value}))
    assert read(tmp_path / "v1.jsonl") == ([AREA], {})


def test_statements_that_differ_are_a_conflict(tmp_path: Path) -> None:
    """Two columns that name different licences are kept as a conflict; the detected licence is shown."""
    (tmp_path / "v2.jsonl").write_bytes(json_lines(V2 | {"gha_license_id": "GPL-3.0"}))
    (document,) = documents.read([tmp_path / "v2.jsonl"], Counter())
    assert (document.source.licenses, document.source.license_conflict) == (("MIT",), True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"content": None}, "row without text"),
        ({"content": ""}, "row without text"),
        ({"content": 7}, "row without text"),
        ({"content": " \n"}, "empty"),
        ({"content": "a\0b"}, "binary"),
        ({"content": "x" * (documents.MAX_DOCUMENT_BYTES + 1)}, "larger than 4 MiB"),
        ({"detected_licenses": None}, "row without a licence"),
        ({"detected_licenses": [], "license_type": "no_license"}, "row without a licence"),
        ({"detected_licenses": ["NOASSERTION"], "gha_license_id": "other"}, "row without a licence"),
        ({"detected_licenses": "what? ever!"}, "row without a licence"),
        ({"detected_licenses": 7}, "row without a licence"),
        ({"download_success": False}, "row whose text was not downloaded"),
        ({"files": []}, None),
        ({"files": [None, 7, {"content": 3}]}, "row without text"),
    ],
)
def test_rows_that_are_no_documents(tmp_path: Path, change: Mapping[str, Any], reason: str | None) -> None:
    """A row without text or licence, and one that is damaged, is counted with its reason; the others are read."""
    (tmp_path / "v2.jsonl").write_bytes(json_lines(V2 | change, V2))
    found, skipped = read(tmp_path / "v2.jsonl")
    assert found == [AREA]
    assert set(skipped) == ({reason} if reason else set())


def test_rows_without_a_licence_can_be_asked_for(tmp_path: Path) -> None:
    """They have a licence where one is given for all, and none where those without are wanted too."""
    (tmp_path / "v2.jsonl").write_bytes(json_lines(V2 | {"detected_licenses": []}))
    assert read(tmp_path / "v2.jsonl", license_id="ISC") == ([(*AREA[:3], ("ISC",))], {})
    assert read(tmp_path / "v2.jsonl", unlicensed=True) == ([(*AREA[:3], ())], {})


def test_texts_as_bytes_have_the_encoding_of_their_row(tmp_path: Path) -> None:
    """Bytes are decoded as `src_encoding` says; an encoding that is none, or another, is a reason to skip them."""
    rows = [
        V2 | {"content": CODE.replace("width", "größe").encode(encoding), "src_encoding": name}
        for encoding, name in (
            ("latin-1", "ISO-8859-1"),
            ("utf-8", "UTF-8"),
            ("latin-1", "UTF-8"),
            ("utf-8", "no-such"),
        )
    ]
    found, skipped = read(parquet(tmp_path / "v2.parquet", *rows))
    assert [text for _, _, text, _ in found] == [CODE.replace("width", "größe")] * 2
    assert skipped == {"of an unknown encoding": 2}


def test_rows_that_name_nothing_but_a_text(tmp_path: Path) -> None:
    """A mirror's row with no repository or path is called by its file and its id, or its number."""
    rows = [{"body": CODE, "license": "MIT"}, {"code": OTHER, "license": "MIT", "id": 12}]
    (tmp_path / "part-0.jsonl").write_bytes(json_lines(*rows))
    assert read(tmp_path / "part-0.jsonl")[0] == [("part-0", "0", CODE, ("MIT",)), ("part-0", "12", OTHER, ("MIT",))]


def test_lines_that_are_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is no object, or too long, is counted; blank lines are nothing; the last needs no end."""
    monkeypatch.setattr(readers, "MAX_ROW_BYTES", 2000)
    lines = [b"{not json\n", b"[1]\n", b"\n", b"[" * 1500 + b"\n", json_lines(V2 | {"pad": "x" * 3000}), json_lines(V2)]
    (tmp_path / "v2.jsonl").write_bytes(b"".join(lines).removesuffix(b"\n"))
    found, skipped = read(tmp_path / "v2.jsonl")
    assert found == [AREA]
    assert skipped == {"row that is not a JSON object": 3, "row larger than 0 MiB": 1}


def test_a_bomb_of_rows_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that expands too much is read as far as its budget goes, then left with a count."""
    monkeypatch.setattr(archives, "RATIO_FREE_BYTES", 20_000)
    monkeypatch.setattr(archives, "MAX_RATIO", 2)
    rows = json_lines(*({"text": f"{CODE}{n}", "license": "MIT"} for n in range(2000)))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(rows))
    found, skipped = read(tmp_path / "rows.jsonl.gz")
    assert 0 < len(found) < 2000
    assert skipped == {"rest of a file that expands too much": 1}


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.zip", "a.tar.zst"])
def test_damaged_files(tmp_path: Path, name: str) -> None:
    """A damaged file is an error that names it, where it is all there is; beside others it is counted."""
    zstd(b"")
    (tmp_path / name).write_bytes(b"no such thing, but long enough to have a footer")
    with pytest.raises(DamagedSourceError, match=f"{name} cannot be read as .*; fetch it again or leave it out"):
        read(tmp_path / name)
    (tmp_path / "good.jsonl").write_bytes(json_lines(V2))
    assert read(tmp_path / name, tmp_path / "good.jsonl") == ([AREA], {"damaged source": 1})


@pytest.mark.parametrize(
    ("name", "package"), [("a.parquet", "pyarrow"), ("a.jsonl.zst", "zstandard"), ("a.tar.zst", "zstandard")]
)
def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    """Without the package that reads a file, the error names the extra to install, whatever else is given."""
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / "good.jsonl").write_bytes(json_lines(V2))
    with pytest.raises(SourceError, match=rf"{package}, which is not installed: pip install 'starcite\[corpus\]'"):
        read(tmp_path / name, tmp_path / "good.jsonl")


def test_parquet_is_read_in_small_batches(tmp_path: Path) -> None:
    """All rows of a file of several row groups come in order, and columns that are not known are not read."""
    rows = [V2 | {"content": f"{CODE}{n}", "embedding": [0.5] * 9} for n in range(200)]
    found, skipped = read(parquet(tmp_path / "v2.parquet", *rows))
    assert [text for _, _, text, _ in found] == [f"{CODE}{n}" for n in range(200)]
    assert skipped == {}


def test_folders_of_rows(write_tree: WriteTree) -> None:
    """A folder that holds only files of rows gives their rows; among source code they are data, and counted."""
    corpus = write_tree("corpus", {"b/1.jsonl": json_lines(EDU), "a.jsonl": json_lines(V2), "README.md": "# Corpus"})
    assert read(corpus) == ([AREA, AREA], {})
    project = write_tree("project", {"a.py": CODE, "data/x.jsonl": json_lines(V2)})
    found, skipped = read(project)
    assert [name for name, *_ in found] == ["project"]
    assert skipped == {"file of rows among source code (give it as a source of its own)": 1}


def test_tar_zst(tmp_path: Path) -> None:
    """A `.tar.zst` is an archive like the others."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("shapes-1.0/area.py")
        info.size = len(CODE)
        archive.addfile(info, io.BytesIO(CODE.encode()))
    (tmp_path / "shapes-1.0.tar.zst").write_bytes(zstd(buffer.getvalue()))
    assert read(tmp_path / "shapes-1.0.tar.zst") == ([("shapes", "area.py", CODE, ())], {})


def test_an_index_of_rows_cites_them(tmp_path: Path) -> None:
    """What was built from rows is found with repository, path, commit and licence."""
    longer = V2 | {"content": CODE + "def volume(width, height, depth):\n    return area(width, height) * depth\n"}
    build([parquet(tmp_path / "v2.parquet", longer)], tmp_path / "index")
    with Index.open(tmp_path / "index") as index:
        (match,) = index.matches(longer["content"])
    (source,) = match.sources
    assert (source.name, source.path, source.revision, source.licenses) == ("ada/shapes", "src/area.py", SHA, ("MIT",))
    assert source.url == f"https://github.com/ada/shapes/blob/{SHA}/src/area.py"
