"""The files of an index: every damage is found, and no damage is answered from."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from attribution import format as index_format
from attribution.build import build_documents
from attribution.documents import Document
from attribution.errors import AttributionError, IndexExistsError, IndexFormatError, IndexVersionError, IndexWriteError
from attribution.format import TEXT_MODES, Reader, SourceRecord
from attribution.index import Index

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = SourceRecord("owner/repo", "abc", "https://example.org/{path}", ("MIT",), license_conflict=False)
OTHER = SourceRecord("package", "1.0", "", ("ISC",), license_conflict=True)


def text(seed: int, size: int = 400) -> str:
    """Return random lines."""
    rng = random.Random(seed)  # noqa: S311
    return "".join(rng.choice("abcdefghij    \n") for _ in range(size))


DOCUMENTS = [Document(text(n), f"src/{n}.py", SOURCE if n % 2 else OTHER) for n in range(8)]
HEADER = text(100)
DOCUMENTS += [Document(f"{HEADER}{n}", f"common/{n}.py", SOURCE) for n in range(20)]  # so that it is a frequent one
QUERY = text(3) + "?" + text(4)[50:] + "?" + HEADER


@pytest.fixture(params=TEXT_MODES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return an index of each kind."""
    build_documents(DOCUMENTS, tmp_path / "index", text=request.param)
    return tmp_path / "index"


def answers(folder: Path) -> list[dict[str, Any]]:
    """Open, verify and ask an index."""
    with Index.open(folder) as index:
        index.verify()
        return [match.to_json() for match in index.matches(QUERY)]


def held(reader: Reader) -> bytes:
    """Return the normalised text that is in an index."""
    return b"".join(reader.normalised(number).tobytes() for number in range(reader.facts.documents))


def files(folder: Path) -> list[Path]:
    """Return an index's files, by name."""
    return sorted(folder.iterdir())


def listed(folder: Path) -> list[Path]:
    """Return the files that index.json names, and itself."""
    header = json.loads((folder / "index.json").read_bytes())
    return [folder / "index.json", *(folder / entry["name"] for entry in header["files"].values())]


def test_the_folder_holds_what_its_header_names(folder: Path) -> None:
    """There is no file beside those that index.json lists, each under the start of its SHA-256."""
    assert sorted(listed(folder)) == files(folder)
    for path in files(folder):
        if path.name != "index.json":
            assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] in path.name


def test_a_flipped_bit_is_an_error_or_changes_no_answer(folder: Path) -> None:
    """For many bytes of every file: an error that names the file and says what to do, or the very same answers."""
    expected = answers(folder)
    assert len(expected) == 3
    rng = random.Random(0)  # noqa: S311
    for path in files(folder):
        data = path.read_bytes()
        for offset in {0, len(data) - 1, *(rng.randrange(len(data)) for _ in range(60))}:
            flipped = bytearray(data)
            flipped[offset] ^= 1 << rng.randrange(8)
            path.write_bytes(flipped)
            try:
                assert answers(folder) == expected
            except IndexFormatError as error:
                assert str(path) in str(error)  # noqa: PT017
                assert str(error).endswith(".")  # noqa: PT017
        path.write_bytes(data)
    assert answers(folder) == expected


def test_unverified_damage_never_gives_an_unconfirmed_match(folder: Path) -> None:
    """Without `verify`, noise in any file is an error or gives matches that the text file really holds."""
    rng = random.Random(1)  # noqa: S311
    for path in files(folder):
        data = path.read_bytes()
        for _ in range(40):
            start = rng.randrange(len(data))
            path.write_bytes(data[:start] + rng.randbytes(len(data[start : start + 64])) + data[start + 64 :])
            try:
                with Index.open(folder) as index:
                    content = held(index.reader).decode("latin-1")
                    for match in index.matches(QUERY):
                        assert "".join(QUERY[match.start : match.end].split()) in content
            except IndexFormatError as error:
                assert str(folder) in str(error)  # noqa: PT017
        path.write_bytes(data)


def test_truncated_and_missing_files_are_named(folder: Path) -> None:
    """A file that is too short, too long or gone is found on opening."""
    for path in files(folder):
        data = path.read_bytes()
        for changed in (data[:-1], data[: len(data) // 2], b"", data + b"\0"):
            path.write_bytes(changed)
            with pytest.raises(IndexFormatError) as caught:
                Index.open(folder)
            assert str(path) in str(caught.value)
            path.write_bytes(data)
        path.unlink()
        with pytest.raises(IndexFormatError, match="starcite index build"):
            Index.open(folder)
        path.write_bytes(data)


def rewrite(folder: Path, **changes: Any) -> None:  # noqa: ANN401
    """Change index.json as a writer of that kind would: with a valid checksum."""
    header = json.loads((folder / "index.json").read_bytes())
    header |= {key: value for key, value in changes.items() if key != "facts"}
    header["facts"] |= changes.get("facts", {})
    header["checksum"] = index_format.checksum(header)
    (folder / "index.json").write_text(json.dumps(header), encoding="utf-8")


def test_a_newer_index_says_so(folder: Path) -> None:
    """A newer format, normaliser or guarantee is an error that asks for an upgrade."""
    for changes in ({"version": 4}, {"facts": {"normaliser": 2}}, {"facts": {"k": 30}}, {"facts": {"guarantee": 75}}):
        rewrite(folder, **changes)
        with pytest.raises(IndexVersionError, match=r"index\.json .* upgrade Starcite\."):
            Index.open(folder)
        rewrite(folder, version=3, facts={"normaliser": 1, "k": 16, "guarantee": 50})
    assert Index.open(folder).summary["guarantee"] == 50


def test_an_older_index_is_to_be_rebuilt(folder: Path) -> None:
    """A former format, of which no reader is kept, is an error that says how to get a new index."""
    for version in (1, 2):
        rewrite(folder, version=version)
        with pytest.raises(IndexVersionError, match=rf"index\.json has format {version}, .*'starcite index build'"):
            Index.open(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\xfe", b'{"format": "tar"}', b"[" * 100_000])
def test_foreign_folders_are_no_index(tmp_path: Path, content: bytes) -> None:
    """A folder without our index.json is refused, whatever is in that file."""
    with pytest.raises(IndexFormatError, match="is no index"):
        Index.open(tmp_path)
    with pytest.raises(IndexFormatError, match="is no index"):
        Index.open(tmp_path / "missing")
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(IndexFormatError, match=r"index\.json"):
        Index.open(tmp_path)


def test_an_index_is_replaced_in_one_step(folder: Path) -> None:
    """Replacing needs `overwrite` and leaves no file of the former index, which searches in flight can still read.

    An index that was open before answers from the new one: nobody goes on being told of what a new build left out.
    """
    expected = answers(folder)
    with Index.open(folder) as before:
        reader = before.reader
        text = held(reader)
        with pytest.raises(IndexExistsError, match="already holds an index"):
            build_documents(DOCUMENTS[:1], folder)
        build_documents(DOCUMENTS[:1], folder, overwrite=True)
        assert before.matches(QUERY) == []
        assert held(reader) == text
    assert answers(folder) == []
    assert sorted(listed(folder)) == files(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["index"]
    (folder / "index.json").write_bytes(b'"starcite-index", but damaged')
    build_documents(DOCUMENTS, folder, overwrite=True)
    assert answers(folder) == expected


def test_an_index_that_is_replaced_while_it_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that vanish between index.json and their opening are no damage: the new index is opened."""
    original = Reader._map

    def replaced(self: Reader, kind: str) -> Any:  # noqa: ANN401
        monkeypatch.undo()
        build_documents(DOCUMENTS[3:4], folder, overwrite=True)
        return original(self, kind)

    monkeypatch.setattr(Reader, "_map", replaced)
    with Index.open(folder) as index:
        assert index.summary["documents"] == 1
        assert len(index.matches(QUERY)) == 1


def test_threads_share_an_index(folder: Path) -> None:
    """Searches at the same time do not disturb each other."""
    expected = answers(folder)
    with Index.open(folder) as index, ThreadPoolExecutor(8) as pool:
        for found in pool.map(index.matches, [QUERY] * 200):
            assert [match.to_json() for match in found] == expected


def test_other_people_s_files_are_not_overwritten(tmp_path: Path) -> None:
    """A folder that holds something else, or a file, is refused even when overwriting; an empty folder is taken."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("mine", encoding="utf-8")
    for out in (tmp_path / "notes", tmp_path / "notes" / "todo.txt"):
        with pytest.raises(IndexExistsError, match="choose another output folder"):
            build_documents(DOCUMENTS, out, overwrite=True)
    (tmp_path / "empty").mkdir()
    build_documents(DOCUMENTS, tmp_path / "empty")
    assert answers(tmp_path / "empty")


class _FullDisk:
    """Stands in for os.fsync on a disk that is full from the third file on, or when Ctrl-C is pressed there."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.calls = 0

    def __call__(self, _descriptor: int) -> None:
        self.calls += 1
        if self.calls == 3:
            raise self.error


@pytest.mark.parametrize("existing", [False, True])
def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, existing: bool) -> None:
    """A full disk is an error that says so; after it, and after Ctrl-C, all is as it was before."""
    out = tmp_path / "index"
    if existing:
        build_documents(DOCUMENTS[:4], out)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for error, raised in ((OSError(28, "No space left on device"), IndexWriteError), (KeyboardInterrupt(),) * 2):
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", _FullDisk(error))
            with pytest.raises(raised if isinstance(raised, type) else KeyboardInterrupt) as caught:
                build_documents(DOCUMENTS, out, overwrite=True)
        if isinstance(caught.value, AttributionError):
            assert f"{out}: the index cannot be written (No space left on device)" in str(caught.value)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """An output below a file is an error of one sentence."""
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(IndexWriteError, match="choose another folder"):
        build_documents(DOCUMENTS, tmp_path / "file" / "index")


def test_an_index_may_be_moved(folder: Path, tmp_path: Path) -> None:
    """Nothing in an index depends on where it lies."""
    expected = answers(folder)
    shutil.move(folder, tmp_path / "elsewhere")
    assert answers(tmp_path / "elsewhere") == expected
