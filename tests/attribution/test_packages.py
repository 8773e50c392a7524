"""An archive comes out as the documents that may be learnt from."""

from __future__ import annotations

import io
import lzma
import tarfile
from typing import TYPE_CHECKING

import pytest

from attribution import packages
from attribution.packages import Cleaned, cleaned
from tests.attribution.registry import GPL, MIT, code, sdist
from tests.attribution.test_provenance import DEP5

if TYPE_CHECKING:
    from pathlib import Path


def clean(tmp_path: Path, data: bytes, registry: str = "pypi", file: str = "a.tar.gz") -> Cleaned:
    """Return what comes out of an archive."""
    path = tmp_path / file
    path.write_bytes(data)
    return cleaned(path, tmp_path / "cache", registry=registry, name="demo", version="1.0", sha256="ab" * 32)


def test_what_stays_and_what_goes(tmp_path: Path) -> None:
    """Each file that is left out is counted by its reason; the others come in the order of their paths."""
    files: dict[str, str | bytes] = {
        "src/b.py": code("b").replace("\n", "\r\n"),
        "src/a.py": code("a"),
        "dist/a.js": code("c"),
        "vendor/v.py": code("d"),
        "plugin/LICENSE": GPL,
        "plugin/p.py": code("e"),
        "tag.py": "# SPDX-License-Identifier: MPL-2.0\n" + code("f"),
        "same.py": "# SPDX-License-Identifier: MIT\n" + code("f2"),
        "latin.py": b"# caf\xe9\n" + code("g").encode(),
        "nul.py": code("h") + "\0",
        "large.py": "x = 1\n" * 300_000,
        "README.md": "text",
    }
    found = clean(tmp_path, sdist("demo", "1.0", files))
    assert [document.path for document in found.documents] == ["same.py", "src/a.py", "src/b.py"]
    assert found.documents[-1].text == code("b")
    assert found.left_out == {
        "generated, built or minified": 1,
        "vendored": 1,
        "under a licence of its folder's own": 1,
        "names a licence of its own": 1,
        "of an unknown encoding": 2,
        "larger than 1 MiB": 1,
    }
    assert found.source is not None
    assert found.source.licenses == ("MIT",)


def test_the_cache_gives_the_same(tmp_path: Path) -> None:
    """What was cleaned is read again, without the archive; a damaged file of the cache is made anew."""
    data = sdist("demo", "1.0", {"a.py": code("a") + "# ünïcode \u2028 line\n"})
    first = clean(tmp_path, data)
    assert clean(tmp_path, b"not read") == first
    (kept,) = (tmp_path / "cache").rglob("*.gz")
    kept.write_bytes(kept.read_bytes()[:-20])
    assert clean(tmp_path, data) == first
    assert first.digest == clean(tmp_path, data).digest


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (sdist("demo", "1.0", {"a.py": code("a")}, text=""), "package without a licence file"),
        (b"no archive", "package that cannot be unpacked"),
    ],
)
def test_a_doubtful_package_stays_out(tmp_path: Path, data: bytes, reason: str) -> None:
    """It has no source and no documents, from the cache too."""
    for _ in range(2):
        found = clean(tmp_path, data)
        assert (found.source, found.documents, found.left_out) == (None, (), {reason: 1})


def test_no_member_leads_out_of_its_archive(tmp_path: Path) -> None:
    """Paths with .. are left out and counted."""
    found = clean(tmp_path, sdist("demo", "1.0", {"../../evil.py": code("x"), "a.py": code("a")}))
    assert [document.path for document in found.documents] == ["a.py"]
    assert found.left_out == {"path outside its archive": 1}


def test_one_package_brings_no_more_than_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which files stay does not depend on their order; they are whole."""
    files: dict[str, str | bytes] = {f"m{number}.py": code(str(number)) for number in range(10)}
    monkeypatch.setattr(packages, "MAX_PACKAGE_BYTES", 3 * len(code("0")))
    found = clean(tmp_path, sdist("demo", "1.0", files))
    assert len(found.documents) == 3
    assert found.left_out == {"beyond the share of one package": 7}
    backwards = clean(tmp_path / "cache", sdist("demo", "1.0", dict(reversed(files.items()))))
    assert backwards.documents == found.documents


def test_debian(tmp_path: Path) -> None:
    """The source in a binary package is read from its data, below the folder that Go and Rust keep source in."""
    raw = io.BytesIO()
    files = {
        "./usr/share/gocode/src/example.org/demo/a.go": code("a"),
        "./usr/share/doc/golang-demo-dev/copyright": DEP5.format(license="Expat"),
    }
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for path, text in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    deb = b"!<arch>\n" + member(b"debian-binary", b"2.0\n") + member(b"control.tar.xz", b"odd")
    found = clean(tmp_path, deb + member(b"data.tar.xz", lzma.compress(raw.getvalue())), "debian", "a.deb")
    assert [document.path for document in found.documents] == ["example.org/demo/a.go"]
    broken = clean(tmp_path / "cache", deb, "debian", "b.deb")
    assert broken.left_out == {"package that cannot be unpacked": 1}


def member(name: bytes, data: bytes) -> bytes:
    """Return a member of an ar archive."""
    return name.ljust(48) + str(len(data)).encode().ljust(10) + b"`\n" + data + b"\n" * (len(data) % 2)


def test_the_texts_of_licences_are_no_documents(tmp_path: Path) -> None:
    """A licence file, whatever its ending, confirms; it is not learnt from."""
    found = clean(tmp_path, sdist("demo", "1.0", {"a.py": code("a"), "COPYING": MIT}))
    assert [document.path for document in found.documents] == ["a.py"]
