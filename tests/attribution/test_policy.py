"""Policies: what is decided about a match, for every mixture of licences, paths and sources; and what is refused."""

from __future__ import annotations

import re
import subprocess
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attribution.build import build
from attribution.errors import PolicyError
from attribution.index import Index, Match, Source
from attribution.policy import (
    CLASSES,
    DECISIONS,
    LICENSE_CLASSES,
    Decision,
    Policies,
    Policy,
    Rules,
    glob_pattern,
    license_class,
    load,
    located,
)
from attribution.policy import __doc__ as policy_documentation

if TYPE_CHECKING:
    from collections.abc import Callable

README = Path(__file__).parents[2] / "README.md"
IDS = ("MIT", "LGPL-2.1-only", "GPL-3.0-or-later", "BUSL-1.1", "NOASSERTION")
decisions = st.sampled_from(DECISIONS)
rules = st.builds(
    Rules,
    st.dictionaries(st.sampled_from(LICENSE_CLASSES), decisions),
    st.dictionaries(st.sampled_from([*(one.lower() for one in IDS), "gpl-*", "*"]), decisions),
)


def source(*licenses: str, name: str = "acme/lib", conflict: bool = False) -> Source:
    """Return a place with these licences."""
    return Source(name, "1.0", "a.py", 1, 9, "", licenses, conflict)


def match(*sources: Source, classification: str = "rare") -> Match:
    """Return a match of these sources."""
    return Match(0, 90, 1, 3, 90, classification, len(sources), sources)


def decided(policy: Policy, found: Match, path: Path | None = None) -> str:
    """Return the decision about one match."""
    (after,) = policy.applied([found], path)
    return after.decision


def written(folder: Path, text: str) -> Path:
    """Write a policy file and return it."""
    file = folder / "starcite.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("license_id", "name"),
    [
        ("MIT", "permissive"),
        ("apache-2.0", "permissive"),
        ("LicenseRef-BSD", "permissive"),
        ("LGPL-2.1-or-later", "weak-copyleft"),
        ("MPL-2.0", "weak-copyleft"),
        ("GPL-2.0+", "copyleft"),
        ("AGPL-3.0-only", "copyleft"),
        ("CECILL-C", "weak-copyleft"),
        ("CECILL-2.1", "copyleft"),
        ("BUSL-1.1", "other"),
        ("NOASSERTION", "unknown"),
    ],
)
def test_licenses_have_classes(license_id: str, name: str) -> None:
    """Whatever its version or spelling, an id falls into the class of its family; what nobody placed is `other`."""
    assert license_class(license_id) == name


def test_without_a_file_licences_are_annotated_and_own_and_common_allowed() -> None:
    """The defaults show everything with marks but what is the user's own or everybody's."""
    policy = Policy(own=("me/*",))
    assert decided(policy, match(source("GPL-3.0-only"))) == "annotate"
    assert decided(policy, match(source())) == "annotate"
    assert decided(policy, match(source("GPL-3.0-only"), classification="common")) == "allow"
    (own,) = policy.applied([match(source("GPL-3.0-only", name="Me/Tool"))], None)
    assert (own.classification, own.decision) == ("own", "allow")


def test_the_base_decides_what_no_rule_names() -> None:
    """An editor set to block blocks every licence class, but neither own nor common code."""
    policy = Policy(base="block", own=("me/x",), rules=Rules({"permissive": "allow"}))
    assert decided(policy, match(source("GPL-3.0-only"))) == "block"
    assert decided(policy, match(source("MIT"))) == "allow"
    assert decided(policy, match(source("MIT", name="me/x"))) == "allow"


def test_conflicts_take_the_strictest(tmp_path: Path) -> None:
    """Of the licences of a source, of several sources, and of what a source that contradicts itself may be."""
    policy = load(
        written(tmp_path, '[classes]\npermissive = "allow"\ncopyleft = "block"\nunknown = "annotate"\n'), "allow"
    )
    assert decided(policy, match(source("MIT"))) == "allow"
    assert decided(policy, match(source("MIT", "GPL-3.0-only"))) == "block"
    assert decided(policy, match(source("MIT"), source("GPL-3.0-only"))) == "block"
    assert decided(policy, match(source("MIT", conflict=True))) == "annotate"
    assert decided(policy, match(source("MIT"), source())) == "annotate"


def test_sources_that_are_not_listed_count_too(write_tree: Callable[..., Path], tmp_path: Path) -> None:
    """Of a passage in more places than are listed, the licence of each is looked at."""
    text = "def passage(first, second):\n" + "".join(f"    value_{n} = first + second * {n}\n" for n in range(9))
    for number in range(15):
        folder = write_tree(f"corpus/s{number:02}", {".git/HEAD": "", f"a{number}.py": text + f"# {number}\n"})
        words = "Permission is hereby granted, free of charge; the above copyright notice and this permission notice"
        gpl = "GNU GENERAL PUBLIC LICENSE Version 3, 29 June 2007"
        (folder / "LICENSE").write_text(gpl if number == 14 else words)
    build([tmp_path / "corpus"], tmp_path / "index", name="x")
    with Index.open(tmp_path / "index") as index:
        (found,) = index.matches(text)
    assert found.source_count == 15
    assert {one.licenses for one in found.sources} == {("MIT",)}
    assert decided(Policy(rules=Rules({"copyleft": "block"})), found) == "block"


def test_ids_overrule_classes_and_paths_overrule_both(tmp_path: Path) -> None:
    """The most specific rule that speaks about a licence is the one that counts."""
    file = written(
        tmp_path,
        """
        [classes]
        copyleft = "block"
        [licenses]
        "GPL-2.0-*" = "allow"
        [[paths]]
        match = ["vendor/", "*.gen.py"]
        classes = { copyleft = "annotate" }
        [[paths]]
        match = ["vendor/strict/**"]
        licenses = { "GPL-3.0-only" = "block" }
        """,
    )
    policy = load(file)
    gpl2, gpl3 = match(source("GPL-2.0-only")), match(source("GPL-3.0-only"))
    assert decided(policy, gpl3, tmp_path / "src/a.py") == "block"
    assert decided(policy, gpl2, tmp_path / "src/a.py") == "allow"
    assert decided(policy, gpl2, tmp_path / "vendor/a.py") == "annotate"
    assert decided(policy, gpl3, tmp_path / "src/deep/a.gen.py") == "annotate"
    assert decided(policy, gpl3, tmp_path / "vendor/strict/a.py") == "block"
    assert decided(policy, gpl3, tmp_path.parent / "vendor/a.py") == "block"
    assert decided(policy, gpl3, None) == "block"


@given(rules, st.lists(st.lists(st.sampled_from(IDS), max_size=3), min_size=1, max_size=4), decisions)
def test_more_sources_never_make_a_decision_milder(given_rules: Rules, held: list[list[str]], base: Decision) -> None:
    """Whatever the rules, a further source can only make the decision stricter, and their order does not matter."""
    policy = Policy(rules=given_rules, base=base)
    sources = [source(*licenses) for licenses in held]
    fewer = decided(policy, match(*sources[:-1])) if sources[:-1] else "allow"
    whole = decided(policy, match(*sources))
    assert DECISIONS.index(whole) >= DECISIONS.index(fewer)
    assert decided(policy, match(*reversed(sources))) == whole


@given(st.sampled_from(IDS), st.sampled_from(["rare", "common"]))
def test_a_refusing_policy_blocks_whatever_is_found(license_id: str, classification: str) -> None:
    """In the place of a file that cannot be read nothing is allowed, not even common code."""
    assert decided(Policy.refusing("why"), match(source(license_id), classification=classification)) == "block"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("min-run = 10", "min-run cannot be 10"),
        ("min-run = true", "min-run cannot be True"),
        ('own = "acme"', "own cannot be 'acme'; write a list of strings"),
        ("own = [1]", "own cannot be [1]"),
        ('[classes]\nrestrictive = "block"', "classes.restrictive is no key of a policy; write one of permissive"),
        ('[classes]\ncopyleft = "forbid"', "classes.copyleft cannot be 'forbid'"),
        ('[classes]\ncopyleft = ["block"]', "classes.copyleft cannot be ['block']"),
        ('classes = "block"', "classes cannot be 'block'"),
        ('[licenses]\nMIT = "no"', "licenses.MIT cannot be 'no'"),
        ('[licenses]\n"MIT OR X" = "block"', "is no SPDX id"),
        ('[paths]\nmatch = ["a"]', "write [[paths]]"),
        ("[[paths]]\nmatch = []", "paths[0] has no match"),
        ('[[paths]]\nmatch = ["a"]\nmin-run = 60', "paths[0].min-run is no key"),
        ('[[paths]]\nmatch = ["a"]\nclasses = { copyleft = 1 }', "paths[0].classes.copyleft cannot be 1"),
        ('[polices]\nx = "block"', "polices is no key of a policy; write one of min-run, own"),
        ("min-run = ", "is not TOML"),
    ],
)
def test_what_a_file_cannot_say_names_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    """A slip of the pen is an error with the file's name and the key, never a rule that is passed over."""
    file = written(tmp_path, text)
    with pytest.raises(PolicyError) as raised:
        load(file)
    assert str(file) in str(raised.value)
    assert says in str(raised.value)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A folder, a dangling link or bytes that are no text in the place of the file do not count as no policy."""
    for make in (
        lambda file: file.mkdir(),
        lambda file: file.symlink_to("gone"),
        lambda file: file.write_bytes(b"\xff"),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        make(folder / "starcite.toml")
        with pytest.raises(PolicyError, match=r"starcite\.toml"):
            Policies().of(folder / "a.py")


def test_the_nearest_file_within_the_work_tree_counts(tmp_path: Path) -> None:
    """Searched upwards, but not beyond the root of the repository."""
    outer = written(tmp_path, "")
    root = tmp_path / "repo"
    (root / ".git").mkdir(parents=True)
    (root / "src" / "deep").mkdir(parents=True)
    assert located(root / "src" / "a.py") == (None, root)
    inner = written(root / "src", "")
    assert located(root / "src" / "deep" / "a.py") == (inner, root)
    assert located(tmp_path / "other" / "a.py") == (outer, None)


def test_remotes_of_the_work_tree_are_the_users_own(tmp_path: Path) -> None:
    """Every remote counts, an upstream too, however its address is written; the file adds patterns."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text(
        '[remote "origin"]\n\turl = git@github.com:Me/Fork.git\n[remote "upstream"]\n\turl = https://github.com/them/it\n'
    )
    written(tmp_path, 'own = ["acme/*"]\n')
    policy = Policies().of(tmp_path / "a.py")
    for name in ("me/fork", "them/it", "Acme/Tools"):
        assert decided(policy, match(source("GPL-3.0-only", name=name))) == "allow"
    assert decided(policy, match(source("GPL-3.0-only", name="them/other"))) == "annotate"


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """While an editor runs, the policy that is saved is the one that counts, and a broken one is an error at once."""
    policies = Policies()
    written(tmp_path, "min-run = 60")
    assert policies.of(tmp_path / "a.py").min_run == 60
    assert policies.of(tmp_path / "a.py") is policies.of(tmp_path / "b.py")
    written(tmp_path, "min-run = 600")
    assert policies.of(tmp_path / "a.py").min_run == 600
    written(tmp_path, "min-run = 6")
    with pytest.raises(PolicyError):
        policies.of(tmp_path / "a.py")


@pytest.mark.parametrize(
    ("glob", "fits", "misses"),
    [
        ("*.py", ["a.py", "x/y/a.py"], ["a.pyc"]),
        ("/*.py", ["a.py"], ["x/a.py"]),
        ("vendor", ["vendor", "vendor/a/b.c", "x/vendor/a"], ["vendored/a"]),
        ("vendor/", ["vendor/a", "x/vendor/a/b"], ["vendor"]),
        ("src/**/gen_?.c", ["src/gen_a.c", "src/x/y/gen_1.c"], ["src/gen_10.c", "x/src/gen_a.c"]),
        ("src/*/a", ["src/x/a", "src/x/a/b"], ["src/x/y/a"]),
        ("a[1].py", ["a[1].py"], ["a1.py"]),
    ],
)
def test_globs_mean_what_they_mean_in_gitignore(glob: str, fits: list[str], misses: list[str]) -> None:
    """Names at any depth, anchored paths, folders with all that is in them; brackets stand for themselves."""
    pattern = glob_pattern(glob)
    assert [path for path in fits if not pattern.fullmatch(path)] == []
    assert [path for path in misses if pattern.fullmatch(path)] == []


NAMES = st.sampled_from(["a", "b", "ab", "a.b", "ba"])
PATHS = st.lists(st.lists(NAMES, min_size=1, max_size=4).map("/".join), min_size=1, max_size=30, unique=True)
GLOBS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "/", "**/"]),
    st.lists(st.sampled_from(["a", "b", "*", "?", "a*", "*b", "**", "a?b", "*.b"]), min_size=1, max_size=3).map(
        "/".join
    ),
    st.sampled_from(["", "/"]),
)


@pytest.fixture(scope="session")
def ignoring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty repository."""
    root = tmp_path_factory.mktemp("ignoring")
    subprocess.run(["git", "init", "-q", root], check=True)
    return root


@settings(max_examples=60, deadline=None)
@given(glob=GLOBS, paths=PATHS)
def test_globs_mean_what_git_takes_them_for(ignoring: Path, glob: str, paths: list[str]) -> None:
    """Git itself is asked which paths a .gitignore with this line would ignore."""
    (ignoring / ".git" / "info" / "exclude").write_text(glob + "\n")
    asked = subprocess.run(
        ["git", "check-ignore", "--no-index", "--stdin", "-z"],
        cwd=ignoring,
        input="\0".join(paths),
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.stderr == ""
    pattern = glob_pattern(glob)
    assert {path for path in paths if pattern.fullmatch(path)} == set(asked.stdout.split("\0")) - {""}


def test_the_examples_of_the_documentation_are_policies(tmp_path: Path) -> None:
    """The README's example and that of the module are read as they stand."""
    (example,) = re.findall(r"^```toml\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    ours = textwrap.dedent("\n".join(re.findall(r"^ {4}.*$|^$", policy_documentation or "", re.MULTILINE)))
    for text in (example, ours):
        policy = load(written(tmp_path, text))
        assert (policy.min_run, policy.own) == (100, ("acme/*", "acme-tools"))
        assert policy.rules.classes["copyleft"] == "block"
        gpl = match(source("GPL-3.0-only", name="other/lib"))
        assert decided(policy, gpl, tmp_path / "vendor" / "a.py") == "annotate"
        assert decided(policy, match(source("MPL-2.0", name="other/lib")), tmp_path / "a.py") == "allow"


def test_the_effective_policy_names_every_class(tmp_path: Path) -> None:
    """What is shown on demand holds the decisions that nobody wrote down too."""
    shown = load(written(tmp_path, '[classes]\ncommon = "annotate"\n'), "block").to_json()
    assert set(shown["classes"]) == set(CLASSES)
    assert (shown["classes"]["copyleft"], shown["classes"]["common"], shown["classes"]["own"]) == (
        "block",
        "annotate",
        "allow",
    )
