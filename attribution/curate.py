"""A manifest with its lock -> a corpus: rows of text with their sources, the same bytes on every machine.

    locked archives ──▶ cleaned packages ──▶ licence ──▶ near-duplicates ──▶ personal data, opt-out ──▶ benchmarks

    DIR/corpus.json                 name, id, documents, bytes, by language and licence, what was left out and why
    DIR/train/part-0000.jsonl …     {"text", "repo_name", "path", "revision", "url", "licenses", "language"}, UTF-8
    DIR/heldout/part-0000.jsonl …   the same, of one package in a hundred, chosen by the hash of its name

Rows lie in the order of the lock, and of paths within a package; `attribution.readers` reads them. Archives and cleaned
packages are kept in a cache, so that a killed build goes on where it was; what is published appears in one step.
Memory is that of near-duplicates: about 40 bytes a document, and one package in each thread that fetches.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from attribution import corpus, dedup, documents, durable, optout, packages, pii
from attribution.cleaning import language_of
from attribution.decontaminate import Table
from attribution.errors import CorpusError, RegistryError
from attribution.licenses import PERMISSIVE
from attribution.manifest import lock_line, read_lock
from attribution.shards import corpus_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from attribution.documents import Document
    from attribution.downloads import Downloads
    from attribution.manifest import Manifest
    from attribution.packages import Cleaned, Package

VERSION = 1
PART_BYTES = 64 << 20
HELD_OUT_ONE_IN = 100
CONNECTIONS = 8
FACTS = "corpus.json"

_AHEAD = 4 * CONNECTIONS
_SHOWN_FAILURES = 5


@dataclass(frozen=True, slots=True)
class Caches:
    """Where archives and cleaned packages are kept."""

    downloads: Downloads
    cleaned: Path


@dataclass(frozen=True, slots=True)
class Wish:
    """What of a manifest is to be built. `limit`: only so many packages; `benchmarks`: further files to keep clear of.

    `allow_missing`: go on without packages that cannot be had; the corpus then has another id.
    """

    profile: str | None = None
    limit: int | None = None
    benchmarks: tuple[Path, ...] = ()
    optouts: Path | None = None
    allow_missing: bool = False


def build(
    manifest: Manifest,
    out: Path,
    caches: Caches,
    wish: Wish,
    progress: Callable[[str, int, int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the corpus and return its facts. `progress(stage, done, packages, bytes)` is called as work is done.

    Raises `RegistryError` if an archive cannot be had, and `CorpusError`; nothing is published then.
    """
    profile = manifest.profile(wish.profile)
    chosen = read_lock(manifest.lock)[: profile.packages]
    if len(chosen) < profile.packages:
        raise CorpusError(f"{manifest.lock} has {len(chosen)} packages, and {profile.name} needs {profile.packages}.")
    chosen = chosen[: wish.limit] if wish.limit else chosen
    _check_output(out)
    with _no_half_corpus(out), durable.workspace(out) as work:
        run = _Run(manifest, chosen, caches, wish, progress)
        run.prepare()
        facts = run.write(work / "corpus", profile.name)
        known = profile.id if not (wish.limit or wish.benchmarks or wish.optouts or wish.allow_missing) else ""
        if known and facts["id"] != known:
            raise CorpusError(
                f"The corpus has the id {facts['id'][:12]}…, and {manifest.path} says {known[:12]}…: the rules have "
                "changed since. Give its profile the new id, and train and index anew."
            )
        _publish(work / "corpus", out, work)
    return facts


@contextmanager
def _no_half_corpus(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise CorpusError(
                f"{out} does not fit on its disk, or the cache on its; free some space and run this again: it goes on "
                "with what it has."
            ) from error
        raise CorpusError(f"{out} cannot be written ({error}); give another folder.") from error


def _check_output(out: Path) -> None:
    if out.exists() and not (out / FACTS).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise CorpusError(f"{out} holds something that is no corpus; give another folder, or remove it.")


def _publish(new: Path, out: Path, work: Path) -> None:
    if out.exists():
        out.rename(work / "old")
    new.rename(out)
    durable.sync_folder(out.parent)


# --- one build -------------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    manifest: Manifest
    packages: Sequence[Package]
    caches: Caches
    wish: Wish
    progress: Callable[[str, int, int, int], None] | None
    missing: list[RegistryError] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def prepare(self) -> None:
        """Fetch and clean every package into the cache. Raises `RegistryError` naming those that cannot be had."""
        there = []
        size = 0
        for done, (package, archive) in enumerate(self._archives(), start=1):
            if archive is not None:
                there.append(package)
                size += archive.stat().st_size
                self._checked(package, archive)
            if self.progress:
                self.progress("fetching and cleaning", done, len(self.packages), size)
        if self.missing and not self.wish.allow_missing:
            told = "; ".join(str(error) for error in self.missing[:_SHOWN_FAILURES])
            raise RegistryError(
                f"{len(self.missing)} of {len(self.packages)} locked packages cannot be had: {told}. Try again later "
                "(what was fetched is kept), or build another corpus without them: --allow-missing."
            )
        if self.missing:
            self.left_out["package that its registry does not have any more"] += len(self.missing)
        self.packages = there

    def _archives(self) -> Iterator[tuple[Package, Path | None]]:
        """Yield every package with its archive, in order, some fetched ahead; None, and an error kept, without one."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            ahead: deque[tuple[Package, Future[Path]]] = deque()
            try:
                for package in self.packages:
                    ahead.append((package, pool.submit(self._archive, package)))
                    if len(ahead) >= _AHEAD:
                        yield self._arrived(*ahead.popleft())
                while ahead:
                    yield self._arrived(*ahead.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _archive(self, package: Package) -> Path:
        return self.caches.downloads.locked(
            package.registry, package.name, package.version, package.file, package.sha256
        )

    def _arrived(self, package: Package, archive: Future[Path]) -> tuple[Package, Path | None]:
        try:
            return package, archive.result()
        except RegistryError as error:
            self.missing.append(RegistryError(f"{package.label}: {error}"))
            return package, None

    def _cleaned(self, package: Package) -> Cleaned:
        return packages.cleaned(
            self.caches.downloads.path(package.sha256, package.file),
            self.caches.cleaned,
            registry=package.registry,
            name=package.name,
            version=package.version,
            sha256=package.sha256,
        )

    def _checked(self, package: Package, archive: Path) -> None:
        found = self._cleaned(package)
        if found.digest != package.digest:
            raise CorpusError(
                f"{package.label} comes out otherwise than {self.manifest.lock} says (from {archive}): the rules have "
                "changed since. Note anew what comes out: starcite corpus lock --keep."
            )

    def documents(self, skipped: Counter[str]) -> Iterable[Document]:
        """Yield the documents of all packages, in order; count what each package's cleaning left out."""
        for done, package in enumerate(self.packages, start=1):
            found = self._cleaned(package)
            skipped.update(found.left_out)
            yield from found.documents
            if self.progress:
                self.progress(self._stage, done, len(self.packages), 0)

    _stage = "comparing"

    def write(self, folder: Path, profile: str) -> dict[str, Any]:
        """Write the parts and the facts of the corpus below a new folder, and return the facts."""
        filters = corpus.Filters(allowed=PERMISSIVE, dedup=True, redact=True, optouts=self._optouts())
        table = self._table()
        held_out = self._held_out()
        folder.mkdir()
        counts: Counter[str] = Counter()
        digest = hashlib.sha256(_rules())
        for package in self.packages:
            digest.update(f"{lock_line(package)}\n".encode())
        sides = {side: _Side(folder / side, digest) for side in ("train", "heldout")}
        for document in corpus.finished(corpus.chosen(self.documents, filters, counts, folder), filters, counts):
            self._stage = "writing"
            if table.meets(document.text):
                counts["contaminated by a benchmark"] += 1
            else:
                sides["heldout" if document.source.name in held_out else "train"].write(document)
        for side in sides.values():
            side.close()
        facts = self._facts(profile, sides, counts, digest.hexdigest())
        # A model that learns from it covers what an index of it names so: its card says this id.
        facts["train"]["corpus"] = corpus_id(documents.read([folder / "train"], Counter()))
        durable.write_synced(folder / FACTS, json.dumps(facts, indent=1, ensure_ascii=False).encode() + b"\n")
        return facts

    def _optouts(self) -> optout.OptOuts | None:
        files = [path for path in (self.manifest.beside(self.manifest.optouts), self.wish.optouts) if path]
        found = optout.OptOuts()
        for path in files:
            found |= optout.read(path)
        return found or None

    def _table(self) -> Table:
        path = self.manifest.beside(self.manifest.decontamination)
        table = Table.from_file(path) if path else Table({})
        return table | Table.of_benchmarks(self.wish.benchmarks)

    def _held_out(self) -> frozenset[str]:
        """Return the names of one package in a hundred; of a slice that has none so chosen, the nearest to it."""
        places = {package.name: _place(package.name) for package in self.packages}
        chosen = frozenset(name for name, place in places.items() if place < 1 / HELD_OUT_ONE_IN)
        return chosen or frozenset(sorted(places, key=places.__getitem__)[: len(places) > 1])

    def _facts(self, profile: str, sides: dict[str, _Side], counts: Counter[str], digest: str) -> dict[str, Any]:
        train, heldout = sides["train"], sides["heldout"]
        left_out = self.left_out + counts
        return {
            "version": VERSION,
            "name": f"{self.manifest.name}-{profile}",
            "id": digest,
            "packages": len(self.packages),
            "documents": train.documents + heldout.documents,
            "bytes": train.bytes + heldout.bytes,
            "by_language": _table_of(train.by_language, heldout.by_language),
            "by_license": _table_of(train.by_license, heldout.by_license),
            "by_registry": dict(sorted(Counter(package.registry for package in self.packages).items())),
            "left_out": dict(left_out.most_common()),
            "train": train.facts(),
            "heldout": heldout.facts() | {"packages": sorted(self._held_out())},
        }


def _rules() -> bytes:
    versions = VERSION, packages.VERSION, corpus.VERSION, dedup.THRESHOLD, pii.EMAIL
    return f"starcite corpus {versions}\n".encode()


def _place(name: str) -> float:
    return int.from_bytes(hashlib.sha256(f"held out {name}".encode()).digest()[:8], "big") / 2**64


def _table_of(*counts: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    names = sorted(set().union(*(count["bytes"] for count in counts)))
    rows = {name: {key: sum(count[key][name] for count in counts) for key in ("documents", "bytes")} for name in names}
    return dict(sorted(rows.items(), key=lambda row: -row[1]["bytes"]))


class _Side:
    """The parts of one side of a corpus."""

    def __init__(self, folder: Path, digest: Any) -> None:  # noqa: ANN401 - hashlib's type has no public name
        folder.mkdir()
        self._folder, self._digest = folder, digest
        self._file: IO[bytes] | None = None
        self._parts: list[tuple[str, Any]] = []
        self._written = 0
        self.documents = self.bytes = 0
        self.by_language: dict[str, Counter[str]] = {"documents": Counter(), "bytes": Counter()}
        self.by_license: dict[str, Counter[str]] = {"documents": Counter(), "bytes": Counter()}

    def write(self, document: Document) -> None:
        source, language = document.source, language_of(document.path) or ""
        row = {
            "text": document.text,
            "repo_name": source.name,
            "path": document.path,
            "revision": source.revision,
            "url": source.url,
            "licenses": list(source.licenses),
            "language": language,
        }
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        file = self._part(len(line))
        file.write(line)
        self._parts[-1][1].update(line)
        self._digest.update(line)
        self._written += len(line)
        self._count(len(document.text.encode()), language, ", ".join(source.licenses))

    def _part(self, size: int) -> IO[bytes]:
        """Return the file that the next line goes to."""
        if self._file is None or self._written + size > PART_BYTES:
            self.close()
            name = f"part-{len(self._parts):04}.jsonl"
            self._file = (self._folder / name).open("wb")
            self._parts.append((name, hashlib.sha256()))
            self._written = 0
        return self._file

    def _count(self, size: int, language: str, license_ids: str) -> None:
        self.documents += 1
        self.bytes += size
        for table, name in ((self.by_language, language), (self.by_license, license_ids)):
            table["documents"][name] += 1
            table["bytes"][name] += size

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def facts(self) -> dict[str, Any]:
        parts = [{"file": f"{self._folder.name}/{name}", "sha256": digest.hexdigest()} for name, digest in self._parts]
        return {"documents": self.documents, "bytes": self.bytes, "parts": parts}
