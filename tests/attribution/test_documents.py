"""Sources: what becomes a document, under which name, revision, address and licence, and what is skipped and why."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from attribution import archives, documents
from attribution.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    WriteTree = Callable[[str, Mapping[str, str | bytes]], Path]

MIT = "Permission is hereby granted, free of charge, ... The above copyright notice and this permission notice shall"
GPL = "GNU GENERAL PUBLIC LICENSE Version 3, 29 June 2007"
CODE = "print('hello')\n"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def read(*sources: Path, **options: str | bool) -> tuple[list[documents.Document], dict[str, int]]:
    """Return the documents and what was skipped."""
    skipped: Counter[str] = Counter()
    return list(documents.read(sources, skipped, **options)), dict(+skipped)  # type: ignore[arg-type]


def zipped(path: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write a zip archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: Mapping[str, str | bytes], mode: str) -> Path:
    """Write a tar archive with some compression."""
    with tarfile.open(path, f"w:{mode}") as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def metadata(*lines: str) -> str:
    """Return core metadata with some more fields."""
    return "\n".join(["Metadata-Version: 2.4", "Name: Pack-Age", "Version: 1.2", *lines, "", "License: in the body"])


def test_a_folder_is_named_by_itself(write_tree: WriteTree) -> None:
    """Source code is read in the order of its paths; documentation is too only if asked for."""
    folder = write_tree(
        "project", {"b.py": CODE, "a/z.rs": "fn main() {}", "Makefile": "all:", "README.md": "# Hi", "x.bin": ""}
    )
    found, skipped = read(folder)
    assert [document.path for document in found] == ["Makefile", "a/z.rs", "b.py"]
    assert {document.source.name for document in found} == {"project"}
    assert skipped == {}
    assert [document.path for document in read(folder, docs=True)[0]][1] == "README.md"


def test_what_is_no_document_is_counted_by_reason(write_tree: WriteTree, tmp_path: Path) -> None:
    """Binary, undecodable, oversized, empty and linked files are skipped, never an error; so are caches."""
    folder = write_tree(
        "project",
        {
            "binary.c": b"int\0x;",
            "latin.py": b"s = '\xe9'",
            "bad_cookie.py": b"# coding: no-such-thing\ns = '\xe9'",
            "rot.py": b"# coding: rot13\nprint(1)",
            "big.js": b"x" * (documents.MAX_DOCUMENT_BYTES + 1),
            "empty.py": " \n",
            "inner.zip": b"PK",
            "__pycache__/a.py": CODE,
            "node_modules/b.js": CODE,
            "good.py": CODE,
            "limit.js": b"x" * documents.MAX_DOCUMENT_BYTES,
        },
    )
    (tmp_path / "outside.py").write_text(CODE, encoding="utf-8")
    (folder / "link.py").symlink_to(tmp_path / "outside.py")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.py")
    found, skipped = read(folder)
    assert [document.path for document in found] == ["good.py", "limit.js"]
    assert skipped == {
        "binary": 1,
        "of an unknown encoding": 3,
        "larger than 4 MiB": 1,
        "empty": 1,
        "archive inside a folder (give it as a source of its own)": 1,
        "symbolic link": 2,
    }


def test_unreadable_files_are_counted(write_tree: WriteTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be opened is skipped and counted."""
    folder = write_tree("project", {"a.py": CODE, "b.py": CODE})
    original = Path.open

    def denied(self: Path, *arguments: str) -> object:
        if self.name == "a.py":
            raise PermissionError
        return original(self, *arguments)

    monkeypatch.setattr(Path, "open", denied)
    found, skipped = read(folder)
    assert ([document.path for document in found], skipped) == (["b.py"], {"unreadable": 1})


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("é = 1".encode(), "é = 1"),
        (b"\xef\xbb\xbfx = 1", "x = 1"),
        (b"# -*- coding: latin-1 -*-\ns = '\xe9'", "# -*- coding: latin-1 -*-\ns = 'é'"),
        (b"#!/usr/bin/python\n# vim: set fileencoding=cp1252 :\ns = '\x80'", None),
        (b"a\r\nb\rc", "a\r\nb\rc"),
    ],
)
def test_decoding(data: bytes, text: str | None) -> None:
    """UTF-8 with or without a mark, or what the first two lines declare; line ends stay."""
    assert documents.decode(data) == (data.decode("cp1252") if text is None else text)


@pytest.mark.parametrize(
    ("remote", "name", "url"),
    [
        ("https://github.com/owner/repo.git", "owner/repo", f"https://github.com/owner/repo/blob/{COMMIT}/{{path}}"),
        (
            "https://user:secret@github.com/owner/repo",
            "owner/repo",
            f"https://github.com/owner/repo/blob/{COMMIT}/{{path}}",
        ),
        ("git@github.com:owner/repo.git", "owner/repo", f"https://github.com/owner/repo/blob/{COMMIT}/{{path}}"),
        ("ssh://git@gitlab.com:22/a/b/c.git", "a/b/c", f"https://gitlab.com/a/b/c/-/blob/{COMMIT}/{{path}}"),
        ("", "clone", ""),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_work_trees(write_tree: WriteTree, remote: str, name: str, url: str, *, packed: bool) -> None:
    """A work tree is named owner/repo at its commit, without a password from the remote's address."""
    ref = "refs/heads/main"
    refs = {".git/packed-refs": f"# pack-refs\n{COMMIT} {ref}\n"} if packed else {f".git/{ref}": COMMIT + "\n"}
    config = f'[core]\n\tbare = false\n[remote "origin"]\n\turl = {remote}\n\tfetch = x\n' if remote else ""
    folder = write_tree(
        "clone", {".git/HEAD": f"ref: {ref}\n", ".git/config": config, **refs, "src/a.py": CODE, "COPYING": GPL}
    )
    ((document,), _) = read(folder)
    assert (document.path, document.source.name, document.source.revision) == ("src/a.py", name, COMMIT)
    assert (document.source.url, document.source.licenses) == (url, ("GPL-3.0-only",))


def test_a_folder_of_clones(write_tree: WriteTree) -> None:
    """Each file belongs to the innermost work tree around it; what is in none, to the folder."""
    git = {".git/HEAD": COMMIT, ".git/config": '[remote "origin"]\nurl = https://github.com/o/one.git'}
    other = {".git/HEAD": COMMIT, ".git/config": '[remote "origin"]\nurl = https://github.com/o/two.git'}
    files = {"loose.py": CODE, "one/a.py": CODE, "one/LICENSE": MIT, "one/sub/b.py": CODE}
    files |= {f"one/{path}": content for path, content in git.items()}
    files |= {f"one/sub/{path}": content for path, content in other.items()}
    found, _ = read(write_tree("clones", files))
    assert [(document.source.name, document.path, document.source.licenses) for document in found] == [
        ("clones", "loose.py", ()),
        ("o/one", "a.py", ("MIT",)),
        ("o/two", "b.py", ()),
    ]


def test_a_linked_work_tree(write_tree: WriteTree, tmp_path: Path) -> None:
    """A `.git` file leads to the repository that the work tree belongs to."""
    repository = {
        ".git/config": '[remote "origin"]\nurl = git@github.com:o/r.git',
        ".git/refs/heads/topic": COMMIT,
        ".git/worktrees/w/HEAD": "ref: refs/heads/topic",
        ".git/worktrees/w/commondir": "../..",
    }
    write_tree("repository", repository)
    folder = write_tree("w", {"a.py": CODE, ".git": f"gitdir: {tmp_path}/repository/.git/worktrees/w"})
    ((document,), _) = read(folder)
    assert (document.source.name, document.source.revision) == ("o/r", COMMIT)


DISTRIBUTION = {
    "pack_age/__init__.py": CODE,
    "pack_age-1.2.dist-info/METADATA": metadata(
        "License-Expression: MIT OR Apache-2.0", "Project-URL: Source, https://example.org/source"
    ),
    "pack_age-1.2.dist-info/RECORD": "pack_age/__init__.py,sha256=x,15\n../../bin/tool,,\nx.dist-info/METADATA,,\n",
}


@pytest.mark.parametrize("kind", ["folder", "wheel"])
def test_distributions(write_tree: WriteTree, tmp_path: Path, kind: str) -> None:
    """An installed distribution and a wheel are sources of their own, described by their metadata."""
    place = tmp_path / "pack_age-1.2-py3-none-any.whl"
    source = write_tree("site", DISTRIBUTION) if kind == "folder" else zipped(place, DISTRIBUTION)
    ((document,), skipped) = read(source)
    assert (document.path, document.source.name, document.source.revision) == (
        "pack_age/__init__.py",
        "Pack-Age",
        "1.2",
    )
    assert document.source.url == "https://example.org/source"
    assert (document.source.licenses, document.source.license_conflict) == (("Apache-2.0", "MIT"), False)
    assert skipped == {}


def test_several_distributions_in_a_virtual_environment(write_tree: WriteTree) -> None:
    """Each distribution has the files of its RECORD; a file that is in none is counted."""
    site = "lib/python3.11/site-packages/"
    files = {site + path: content for path, content in DISTRIBUTION.items()}
    files |= {
        site + "other.py": CODE,
        site
        + "other-2.dist-info/METADATA": "Name: other\nVersion: 2\nClassifier: License :: OSI Approved :: BSD License\n",
        site + "other-2.dist-info/RECORD": "other.py,,\n",
        site + "other-2.dist-info/licenses/LICENSE": MIT,
        site + "stray.py": CODE,
        "bin/activate.py": CODE,
    }
    found, skipped = read(write_tree("venv", files))
    assert [(document.source.name, document.path) for document in found] == [
        ("other", "other.py"),
        ("Pack-Age", "pack_age/__init__.py"),
        ("venv", "bin/activate.py"),
    ]
    assert (found[0].source.licenses, found[0].source.license_conflict) == (("LicenseRef-BSD",), True)
    assert skipped == {"in no distribution's RECORD": 1}


@pytest.mark.parametrize(
    ("suffix", "mode"), [("tar", ""), ("tar.gz", "gz"), ("tgz", "gz"), ("tar.bz2", "bz2"), ("tar.xz", "xz")]
)
def test_source_distributions(tmp_path: Path, suffix: str, mode: str) -> None:
    """In an sdist of any compression the top folder is no part of the paths, and PKG-INFO describes it."""
    files = {
        "pack_age-1.2/src/a.py": CODE,
        "pack_age-1.2/LICENSE": GPL,
        "pack_age-1.2/PKG-INFO": metadata("License: MIT License", "Home-page: https://example.org"),
    }
    ((document,), _) = read(tarred(tmp_path / f"pack_age-1.2.{suffix}", files, mode))
    assert (document.path, document.source.name, document.source.revision) == ("src/a.py", "Pack-Age", "1.2")
    assert (document.source.licenses, document.source.license_conflict) == (("MIT",), True)


@pytest.mark.parametrize(
    ("manifest", "licenses"),
    [
        ({"license": "MIT"}, ("MIT",)),
        ({"license": {"type": "ISC", "url": "u"}}, ("ISC",)),
        ({"licenses": [{"type": "MIT"}, {"type": "Apache-2.0"}]}, ("Apache-2.0", "MIT")),
        ({"license": "(MIT OR Apache-2.0)"}, ("Apache-2.0", "MIT")),
        ({"license": "SEE LICENSE IN x"}, ()),
        ({"license": 3}, ()),
        ({}, ()),
    ],
)
def test_npm_packages_are_named_by_their_manifest(
    tmp_path: Path, manifest: dict[str, object], licenses: tuple[str, ...]
) -> None:
    """The folder of every npm archive is called `package`; name, version, address and licence are in its manifest."""
    stated = {
        "name": "@scope/pack",
        "version": "1.2.3",
        "repository": {"url": "git+https://x.org/o/pack.git"},
    } | manifest
    files = {"package/package.json": json.dumps(stated), "package/lib/index.js": CODE}
    ((document,), _) = read(tarred(tmp_path / "pack-1.2.3.tgz", files, "gz"))
    source = document.source
    assert (source.name, source.revision, source.url) == ("@scope/pack", "1.2.3", "https://x.org/o/pack")
    assert source.licenses == licenses
    assert document.path == "lib/index.js"


@pytest.mark.parametrize("manifest", ["{", "[]", '{"name": 3}', '{"version": "1"}'])
def test_a_manifest_that_names_nothing_is_passed_over(tmp_path: Path, manifest: str) -> None:
    """Without a name in its manifest an archive is named by its folder, as any other."""
    files = {"package/package.json": manifest, "package/index.js": CODE}
    ((document,), _) = read(tarred(tmp_path / "pack-1.2.3.tgz", files, "gz"))
    assert document.source.name == "package"


def test_other_archives(tmp_path: Path) -> None:
    """An archive without metadata is named by its top folder, and without one by its file."""
    ((document,), _) = read(zipped(tmp_path / "x.zip", {"tool-3.1/a.py": CODE, "tool-3.1/LICENSE": MIT}))
    assert (document.path, document.source.name, document.source.revision) == ("a.py", "tool", "3.1")
    assert document.source.licenses == ("MIT",)
    ((one, two), _) = read(zipped(tmp_path / "loose.zip", {"a.py": CODE, "d/b.py": CODE}))
    assert (one.source.name, one.path, two.path) == ("loose", "a.py", "d/b.py")


def test_a_given_licence_overrules_and_contradictions_show(write_tree: WriteTree) -> None:
    """`license_id` is what is reported; that the licence file says otherwise is flagged."""
    folder = write_tree("project", {"a.py": CODE, "LICENSE": GPL})
    ((document,), _) = read(folder, license_id="MIT")
    assert (document.source.licenses, document.source.license_conflict) == (("MIT",), True)


def test_a_folder_is_under_the_licence_that_lies_in_it(write_tree: WriteTree) -> None:
    """What is vendored is not under the licence at the top, nor what is within it under that of its parent."""
    files = {"a.py": CODE, "LICENSE": MIT, "src/b.py": CODE, "src/license.py": CODE}
    vendored = {"vendor/c.py": CODE, "vendor/COPYING": GPL, "vendor/x/d.py": CODE, "vendor/x/e/LICENSE": MIT}
    documents, _ = read(write_tree("project", files | vendored | {"vendor/x/e/f.py": CODE}))
    held = {document.path: document.source.licenses for document in documents}
    assert held["a.py"] == held["src/b.py"] == held["src/license.py"] == held["vendor/x/e/f.py"] == ("MIT",)
    assert held["vendor/c.py"] == held["vendor/x/d.py"] == ("GPL-3.0-only",)
    assert {document.source.name for document in documents} == {"project"}


STDLIB = {
    f"lib/python3.12/{name}": CODE
    for name in (
        "os.py",
        "ast.py",
        "encodings/__init__.py",
        "importlib/__init__.py",
        "collections/__init__.py",
        "x y.py",
    )
}


@pytest.mark.parametrize("headers", [True, False])
def test_the_standard_library(write_tree: WriteTree, *, headers: bool) -> None:
    """A standard library is known by its files; its version comes from the headers beside it, else from its folder."""
    files = STDLIB | {
        "lib/python3.12/site-packages/a.py": CODE,
        "lib/python3.12/site-packages/b-1.dist-info/METADATA": "x",
    }
    if headers:
        files |= {"include/python3.12/patchlevel.h": '#define PY_VERSION  "3.12.1+"\n'}
    root = write_tree("root", files)
    for given in (root / "lib" / "python3.12", root):
        found, skipped = read(given)
        source = next(document.source for document in found if document.path == "os.py")
        tag = "v3.12.1" if headers else "3.12"
        assert (source.name, source.revision, source.licenses) == ("cpython", tag.removeprefix("v"), ("PSF-2.0",))
        assert source.url == f"https://github.com/python/cpython/blob/{tag}/Lib/{{path}}"
        assert len([document for document in found if document.source == source]) == len(STDLIB)
        assert skipped["site-packages in a standard library"] == 1


def test_hostile_archives(tmp_path: Path) -> None:
    """Members that lead out of the archive, links and damaged members are skipped; nothing is written to disk."""
    place = tmp_path / "evil.tar"
    with tarfile.open(place, "w") as archive:
        for name in ("../up.py", "/etc/root.py", "ok/good.py"):
            info = tarfile.TarInfo(name)
            info.size = len(CODE)
            archive.addfile(info, io.BytesIO(CODE.encode()))
        link = tarfile.TarInfo("ok/link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    found, skipped = read(place)
    assert [document.path for document in found] == ["good.py"]
    assert skipped == {"path outside its archive": 2, "link in an archive": 1}
    damaged = zipped(tmp_path / "damaged.zip", {"a.py": CODE * 99, "b.py": CODE})
    data = bytearray(damaged.read_bytes())
    data[35:45] = bytes(10)
    damaged.write_bytes(data)
    found, skipped = read(damaged)
    assert ([document.path for document in found], skipped) == (["b.py"], {"unreadable": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.zip", "evil.tar"]


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_zip_bombs(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that expands beyond all reason is read up to the limit, whatever its headers promise."""
    monkeypatch.setattr(archives, "RATIO_FREE_BYTES", 1 << 20)
    zeros = b"0" * (3 << 20)
    files = {"a.py": CODE} | {f"{n}.py": zeros for n in range(9)} | {"z.py": CODE}
    place = tmp_path / f"bomb.{suffix}"
    (zipped(place, files) if suffix == "zip" else tarred(place, files, "gz"))
    found, skipped = read(place)
    assert skipped["rest of an archive that expands too much"] == 1
    assert {document.path for document in found} < set(files)
    assert "z.py" not in {document.path for document in found}


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing source, an unknown kind and a damaged archive are errors that name the file and say what to do."""
    (tmp_path / "table.xls").write_bytes(b"x")
    for name in ("bad.zip", "bad.tar.gz", "bad.tar", "bad.tar.xz"):
        (tmp_path / name).write_bytes(b"this is no archive" * 99)
    for name, what in (("missing", "does not exist"), ("table.xls", "unknown kind"), ("bad.zip", "fetch it again")):
        with pytest.raises(SourceError, match=rf"{name} .*{what}"):
            read(tmp_path / name)
    for name in ("bad.tar.gz", "bad.tar", "bad.tar.xz"):
        with pytest.raises(SourceError, match="fetch it again or leave it out"):
            read(tmp_path / name)


def test_the_size_of_what_is_to_be_read(write_tree: WriteTree, tmp_path: Path) -> None:
    """It is that of the source code in folders and of plain rows; what is packed says nothing about it."""
    folder = write_tree("project", {"a.py": CODE, "b/c.py": CODE, "d.bin": "x" * 999})
    (tmp_path / "rows.jsonl").write_text("{}\n" * 10, encoding="utf-8")
    assert documents.total_bytes([folder]) == 2 * len(CODE)
    assert documents.total_bytes([folder, tmp_path / "rows.jsonl"]) == 2 * len(CODE) + 30
    assert documents.total_bytes([folder, zipped(tmp_path / "x.zip", {"a.py": CODE})]) is None
    with pytest.raises(SourceError, match="does not exist"):
        documents.total_bytes([tmp_path / "none"])


def test_large_archives_are_unpacked_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that holds more than is kept in memory gives the same documents, and leaves no file."""
    path = zipped(tmp_path / "x.zip", {f"{n}.py": f"{CODE}# {n}\n" * n for n in range(1, 30)})
    expected = read(path)
    monkeypatch.setattr(documents, "_UNPACKED_IN_MEMORY_BYTES", 100)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert read(path) == expected
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.zip"]
