"""What is to be done about a match: the policy of a repository, read from its `starcite.toml`, checked and applied.

    min-run = 100                        # shorter runs are not reported; white space does not count
    own = ["acme/*", "acme-tools"]       # sources whose text is ours, besides the git remotes of the work tree

    [classes]                            # permissive weak-copyleft copyleft other unknown, and: own common
    permissive = "allow"                 # "allow" shows without marks, "annotate" shows with them, "block" shows not
    copyleft = "block"

    [licenses]                           # SPDX ids, `*` stands for any characters; they overrule the classes
    "MPL-2.0" = "allow"

    [[paths]]                            # for files of the repository that match; they overrule all of the above
    match = ["vendor/", "**/*_pb2.py"]
    classes = { copyleft = "annotate" }

The file that counts is the nearest one, from the checked file's folder up to the root of its work tree. What it does
not name is decided by the editor's setting; text of the user's own and common code are allowed then.

Conflicts take the strictest: of a source's licences, of all sources that hold the passage, of all patterns that fit.
Sources that contradict themselves count as unknown too. A file that cannot be read or understood allows nothing.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from attribution import origins
from attribution.errors import PolicyError
from attribution.licenses import PERMISSIVE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from attribution.index import Match, Terms

Decision = Literal["allow", "annotate", "block"]

FILE_NAME = "starcite.toml"
DECISIONS: tuple[Decision, ...] = ("allow", "annotate", "block")  # from the mildest to the strictest
LICENSE_CLASSES = ("permissive", "weak-copyleft", "copyleft", "other", "unknown")
CLASSES = (*LICENSE_CLASSES, "own", "common")
MIN_RUNS = (50, 1_000_000)

# Families of SPDX ids by the reach of their copyleft, as ScanCode's categories have it; the longest prefix decides.
_FAMILIES = {
    "weak-copyleft": "lgpl licenseref-lgpl mpl epl cpl cddl cecill-c apsl ms-rl ipl artistic-1.0 eupl",
    "copyleft": "gpl licenseref-gpl agpl osl cc-by-sa cecill qpl sleepycat rpl parity",
    "unknown": "noassertion none licenseref-unknown licenseref-scancode-unknown",
}
_PERMISSIVE = frozenset(one.lower() for one in PERMISSIVE) | {"licenseref-bsd"}
_CLASS_OF_PREFIX = {prefix: name for name, prefixes in _FAMILIES.items() for prefix in prefixes.split()}

_MAX_FILE_BYTES = 1 << 20
_KEYS = ("min-run", "own", "classes", "licenses", "paths")
_PATH_KEYS = ("match", "classes", "licenses")
_LICENSE_PATTERN = re.compile(r"[A-Za-z0-9.+*-]+")
_GLOB_TOKEN = re.compile(r"\*+|\?|[^*?]+")
_GLOB_MEANING = {"*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True, slots=True)
class Rules:
    """Decisions by class, and by patterns of SPDX ids in lower case."""

    classes: Mapping[str, Decision] = field(default_factory=dict)
    licenses: Mapping[str, Decision] = field(default_factory=dict)

    def of_license(self, license_id: str) -> Decision | None:
        """Return the strictest decision whose pattern fits an id, else that of its class, else None."""
        named = [made for pattern, made in self.licenses.items() if fnmatchcase(license_id.lower(), pattern)]
        return strictest(named) if named else self.classes.get(license_class(license_id))

    def to_json(self) -> dict[str, Any]:
        """Return the tables as the file has them."""
        return {"classes": dict(self.classes), "licenses": dict(self.licenses)}


_Chain = tuple[tuple[Rules, ...], ...]


@dataclass(frozen=True, slots=True)
class PathRules:
    """Rules for the files of a repository whose paths match one of the globs."""

    globs: tuple[str, ...]
    rules: Rules

    def fit(self, path: str) -> bool:
        """Return whether a path, relative to the policy's folder and with `/`, matches."""
        return any(glob_pattern(glob).fullmatch(path) for glob in self.globs)


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as it takes effect; `file` is None where nobody wrote one.

    `own` holds patterns of sources' names in lower case. `base` decides what no rule names. With a `problem` nothing is
    allowed, and nothing counts as checked: the policy that was meant is not known.
    """

    file: Path | None = None
    min_run: int | None = None
    own: tuple[str, ...] = ()
    rules: Rules = Rules()
    paths: tuple[PathRules, ...] = ()
    base: Decision = "annotate"
    problem: str = ""

    def applied(self, matches: Iterable[Match], path: Path | None) -> tuple[Match, ...]:
        """Return the matches in a file of the user's with the decision about each, and with the class `own` set."""
        chain = self._chain(path)
        return tuple(self._decided(match, chain) for match in matches)

    def to_json(self) -> dict[str, Any]:
        """Return all that decides, the defaults filled in."""
        classes = {name: self.rules.classes.get(name, self._default(name)) for name in CLASSES}
        return {
            "file": str(self.file) if self.file else None,
            "min_run": self.min_run,
            "own": list(self.own),
            "classes": classes,
            "licenses": dict(self.rules.licenses),
            "paths": [{"match": list(entry.globs)} | entry.rules.to_json() for entry in self.paths],
            "problem": self.problem or None,
        }

    def _decided(self, match: Match, chain: _Chain) -> Match:
        if self.problem:
            return replace(match, decision="block")
        own = any(self._is_own(source.name) for source in match.sources)
        classification = "own" if own else match.classification
        if classification in {"own", "common"}:
            return replace(match, classification=classification, decision=self._of_class(classification, chain))
        terms = match.terms or [(source.licenses, source.license_conflict) for source in match.sources]
        decisions = [decision for held in terms or [((), False)] for decision in self._of_terms(held, chain)]
        return replace(match, decision=strictest(decisions))

    def _of_terms(self, terms: Terms, chain: _Chain) -> list[Decision]:
        """Return the decisions about a source's licences; without any, or where they conflict, of the unknown too."""
        license_ids, conflict = terms
        found = [self._of_class("unknown", chain)] if conflict or not license_ids else []
        for license_id in license_ids:
            levels = ([rules.of_license(license_id) for rules in level] for level in chain)
            decided = (strictest([one for one in level if one]) for level in levels if any(level))
            found.append(next(decided, self.base))
        return found

    def _of_class(self, name: str, chain: _Chain) -> Decision:
        for level in chain:
            if made := [rules.classes[name] for rules in level if name in rules.classes]:
                return strictest(made)
        return self._default(name)

    def _default(self, name: str) -> Decision:
        return self.base if name in LICENSE_CLASSES else "allow"

    def _chain(self, path: Path | None) -> _Chain:
        """Return the rules that speak about a file, those that overrule first; within a level the strictest counts."""
        relative = _relative(path, self.file)
        fitting = tuple(entry.rules for entry in self.paths if relative and entry.fit(relative))
        return (fitting, (self.rules,)) if fitting else ((self.rules,),)

    def _is_own(self, name: str) -> bool:
        return any(fnmatchcase(name.lower(), pattern) for pattern in self.own)

    @classmethod
    def refusing(cls, problem: str) -> Self:
        """Return the policy in the place of one that cannot be read: it blocks whatever is found."""
        return cls(base="block", problem=problem)


class Policies:
    """The policies of the repositories that are worked in; a file is read again when it changed."""

    def __init__(self) -> None:
        """Start with none read."""
        self._known: dict[tuple[Path | None, Path | None, Decision], tuple[object, Policy]] = {}

    def of(self, path: Path | None, base: Decision = "annotate") -> Policy:
        """Return the policy for a file or folder; `base` decides what its file does not name.

        Costs about ten looks at the disk. Raises `PolicyError` naming the file and the key at fault.
        """
        file, root = located(path) if path else (None, None)
        stamp = _stamp(file), _stamp(root / ".git" / "config" if root else None)
        known = self._known.get((file, root, base))
        if known and known[0] == stamp:
            return known[1]
        policy = load(file, base)
        if root:
            policy = replace(policy, own=(*policy.own, *sorted(origins.remote_names(root))))
        self._known[file, root, base] = stamp, policy
        return policy


def located(path: Path) -> tuple[Path | None, Path | None]:
    """Return the nearest policy file above a file or folder, and the root of its work tree; None for what is not."""
    start = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links out of the repository
    file = None
    for folder in (start, *start.parents):
        if file is None and os.path.lexists(folder / FILE_NAME):
            file = folder / FILE_NAME
        if os.path.lexists(folder / ".git"):
            return file, folder
    return file, None


def load(file: Path | None, base: Decision = "annotate") -> Policy:
    """Return the policy that a file holds; raises `PolicyError` for what it should not hold."""
    if file is None:
        return Policy(base=base)
    try:
        with file.open("rb") as content:
            data = content.read(_MAX_FILE_BYTES)
        table = tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        raise PolicyError(f"{file} cannot be read ({error.strerror}); make it readable, or remove it.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PolicyError(f"{file} is not TOML ({error}); mend it.") from error
    _only(file, "", table, _KEYS)
    entries = _of_type(file, "paths", table.get("paths", []), list, "write [[paths]] before each entry")
    return Policy(
        file=file,
        min_run=_min_run(file, table.get("min-run")),
        own=tuple(name.lower() for name in _strings(file, "own", table.get("own", []))),
        rules=_rules(file, "", table),
        paths=tuple(_path_rules(file, f"paths[{number}]", entry) for number, entry in enumerate(entries)),
        base=base,
    )


def strictest(decisions: Iterable[Decision]) -> Decision:
    """Return the strictest of at least one decision."""
    return max(decisions, key=DECISIONS.index)


def license_class(license_id: str) -> str:
    """Return the class of an SPDX id: permissive is what the Blue Oak Council lists, other what nobody has placed."""
    folded = license_id.lower().removesuffix("+")
    if folded in _PERMISSIVE:
        return "permissive"
    words = folded.split("-")
    prefixes = ("-".join(words[:length]) for length in range(len(words), 0, -1))
    return next((_CLASS_OF_PREFIX[prefix] for prefix in prefixes if prefix in _CLASS_OF_PREFIX), "other")


def glob_pattern(glob: str) -> re.Pattern[str]:
    """Return the pattern of a glob, which means what it means in .gitignore, but that brackets stand for themselves.

    `*` and `?` stay within a name, `**` as a whole name is any folders; a glob without a slash (but at its end) fits at
    any depth, any other from the policy's folder on; one of a folder means all that is in it.
    """
    names = glob.removeprefix("/").removesuffix("/").split("/")
    translated = "" if "/" in glob.removesuffix("/") else "(?:.*/)?"
    for name in names[:-1]:
        translated += "(?:.*/)?" if name == "**" else f"{_translated(name)}/"
    translated += ".+" if names[-1] == "**" else _translated(names[-1])
    return re.compile(translated + ("/.*" if glob.endswith("/") else "(?:/.*)?"), re.DOTALL)


def _translated(name: str) -> str:
    return "".join(_GLOB_MEANING.get(token[0]) or re.escape(token) for token in _GLOB_TOKEN.findall(name))


def _relative(path: Path | None, file: Path | None) -> str:
    """Return a path relative to the policy's folder, "" where it lies outside or is none."""
    if path is None or file is None:
        return ""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - as in `located`
    return absolute.relative_to(file.parent).as_posix() if absolute.is_relative_to(file.parent) else ""


def _stamp(path: Path | None) -> tuple[int, ...] | None:
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


# --- reading, key by key ---------------------------------------------------------------------------------------------


def _rules(file: Path, prefix: str, table: dict[str, Any]) -> Rules:
    classes = _decisions(file, f"{prefix}classes", table.get("classes", {}))
    named = _decisions(file, f"{prefix}licenses", table.get("licenses", {}))
    _only(file, f"{prefix}classes.", classes, CLASSES)
    for license_id in named:
        if not _LICENSE_PATTERN.fullmatch(license_id):
            raise PolicyError(f"{file}: {prefix}licenses.{license_id!r} is no SPDX id; write one, such as 'GPL-3.0-*'.")
    return Rules(classes, {license_id.lower(): made for license_id, made in named.items()})


def _path_rules(file: Path, name: str, entry: object) -> PathRules:
    table = _of_type(file, name, entry, dict, "write [[paths]] before each entry")
    _only(file, f"{name}.", table, _PATH_KEYS)
    globs = _strings(file, f"{name}.match", table.get("match", []))
    if not globs:
        raise PolicyError(f"{file}: {name} has no match; write the globs of the files that it is for.")
    return PathRules(globs, _rules(file, f"{name}.", table))


def _decisions(file: Path, name: str, value: object) -> dict[str, Decision]:
    table = _of_type(file, name, value, dict, "write a table of decisions")
    for key, decision in table.items():
        if decision not in DECISIONS:
            raise PolicyError(f'{file}: {name}.{key} cannot be {decision!r}; write "allow", "annotate" or "block".')
    return cast("dict[str, Decision]", table)


def _min_run(file: Path, value: object) -> int | None:
    if value is None:
        return None
    low, high = MIN_RUNS
    if type(value) is not int or not low <= value <= high:
        raise PolicyError(f"{file}: min-run cannot be {value!r}; write a whole number from {low} to {high}.")
    return value


def _strings(file: Path, name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise PolicyError(f"{file}: {name} cannot be {value!r}; write a list of strings.")
    return tuple(value)


def _of_type(file: Path, name: str, value: object, kind: type, wanted: str) -> Any:  # noqa: ANN401 - what TOML gives
    if not isinstance(value, kind):
        raise PolicyError(f"{file}: {name} cannot be {value!r}; {wanted}.")
    return value


def _only(file: Path, prefix: str, table: Mapping[str, object], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise PolicyError(f"{file}: {prefix}{key} is no key of a policy; write one of {', '.join(known)}.")
