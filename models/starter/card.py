"""The card of a starter model: what `models.cards` reads, written after the training."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from models.cards import Card, Fim, License
from models.starter.files import replace_text
from models.starter.infilling import ANCHOR_LINES
from models.starter.sizes import CONTEXT_TOKENS
from models.starter.tokenizer import (
    FILE_SEPARATOR,
    FIM_MIDDLE,
    FIM_PAD,
    FIM_PREFIX,
    FIM_SUFFIX,
    REPO_NAME,
    SPECIAL_TOKENS,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from models.starter.sizes import Size

ARCHITECTURE = "starcoder2"
LICENSE = License("Apache-2.0", "Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0", must_accept=False)
FIM = Fim(
    prefix=FIM_PREFIX,
    middle=FIM_MIDDLE,
    suffix=FIM_SUFFIX,
    order="PSM",
    form="starcoder2",
    pad=FIM_PAD,
    repo_name=REPO_NAME,
    file_separator=FILE_SEPARATOR,
    anchor_lines=ANCHOR_LINES,
)


def draft(size: Size, corpus: str, parameters: int) -> Card:
    """Return the card of a model that has no files yet: enough for the layout of its prompts."""
    name = f"Starcite {size.name} ({parameters / 1e6:.0f} M)"
    return Card(
        size.name, name, ARCHITECTURE, parameters, CONTEXT_TOKENS, corpus, LICENSE, FIM, (), SPECIAL_TOKENS, notes="-"
    )


def write_card(  # what a card binds
    card: Card, notes: str, weights: Path, parts: Sequence[Path], full: Sequence[Path], path: Path
) -> None:
    """Write the card of a file of weights, whose `parts`, in their order, lie beside the card.

    `full` are the files for transformers, in a folder beside the card.
    """
    general = {
        "id": card.id,
        "name": card.name,
        "architecture": card.architecture,
        "parameters": card.parameters,
        "context_length": card.context_length,
        "corpus": card.corpus,
        "stops": list(card.stops),
        "notes": notes,
    }
    blocks = [_table("", general), _table("[license]", asdict(card.license)), _table("[fim]", asdict(card.fim))]
    blocks += _file("files", weights, parts, path.parent)
    for file in full:
        blocks += _file("transformers", file, [file], path.parent)
    replace_text(path, "\n\n".join(blocks) + "\n")


def _file(key: str, file: Path, parts: Sequence[Path], folder: Path) -> list[str]:
    """Return the tables that bind a file, whose parts lie in a folder or below."""
    with file.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    facts = {"name": file.name, "bytes": file.stat().st_size, "sha256": digest}
    source = {"kind": "file", "parts": [part.relative_to(folder).as_posix() for part in parts]}
    return [_table(f"[[{key}]]", facts), _table(f"[[{key}.sources]]", source)]


def _table(head: str, values: dict[str, Any]) -> str:
    """Return a table of TOML, whose strings, lists of strings, numbers and truths are written as JSON writes them."""
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value is not None]
    return "\n".join([head, *lines] if head else lines)
