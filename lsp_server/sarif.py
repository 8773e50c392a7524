"""The answer of `check --sarif`: SARIF 2.1.0 (OASIS), as code scanning takes it.

Sources stand in `properties` and as links in the message, not as related locations: code scanning refuses a whole file
for one location whose address is not a file's (github/codeql-action#754).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from attribution.policy import license_class
from lsp_server import __version__
from lsp_server.documents import Snapshot
from lsp_server.report import named_licenses

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from attribution.index import Match, Source
    from lsp_server.report import Result

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
ROOT_ID = "%SRCROOT%"

_INFORMATION = "https://github.com/starcite/starcite"
_LEVELS = {"allow": "note", "annotate": "warning", "block": "error"}
_KINDS = {"verbatim": "Copy", "renamed": "Possible renamed copy"}
# The class that names a match's rule: of its licences the one that asks most of who copies.
_CLASSES = {
    "own": "of your own code",
    "common": "of common code",
    "copyleft": "of code under a copyleft licence",
    "other": "of code under an uncommon licence",
    "unknown": "of code without a known licence",
    "weak-copyleft": "of code under a weak copyleft licence",
    "permissive": "of code under a permissive licence",
}


def log(results: Sequence[Result], root: Path, *, allowed: bool) -> dict[str, Any]:
    """Return the SARIF log; files are named relative to `root`. `allowed`: matches that the policy allows too.

    A file that was not checked makes the run unsuccessful: an empty list of results never means "nothing found" then.
    """
    found = [(result, match) for result in results for match in result.matches if allowed or match.decision != "allow"]
    rules = sorted({_rule(match) for _, match in found})
    reasons = sorted({result.checked.reason or "" for result in results if result.checked.state == "not_checked"})
    invocation: dict[str, Any] = {"executionSuccessful": not reasons}
    if reasons:
        invocation["toolExecutionNotifications"] = [
            {"level": "error", "message": {"text": f"Not checked: {reason}"}} for reason in reasons
        ]
    run = {
        "tool": {"driver": _driver(rules)},
        "invocations": [invocation],
        "originalUriBaseIds": {ROOT_ID: {"description": {"text": "The folder that was checked, or its work tree."}}},
        "columnKind": "unicodeCodePoints",
        "newlineSequences": ["\r\n", "\n", "\r"],
        "results": _results(found, rules, root),
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _driver(rules: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {
        "name": "Starcite",
        "informationUri": _INFORMATION,
        "version": __version__,
        "rules": [_described(kind, name) for kind, name in rules],
    }


def _rule(match: Match) -> tuple[str, str]:
    """Return the kind and the class by which a match's rule is named."""
    held = {license_class(one) for source in match.sources for one in source.licenses}
    if not all(source.licenses for source in match.sources):
        held.add("unknown")
    own = match.classification in {"own", "common"}
    return match.kind, match.classification if own else next(name for name in _CLASSES if name in held | {"permissive"})


def _described(kind: str, name: str) -> dict[str, Any]:
    title = f"{_KINDS[kind]} {_CLASSES[name]}"
    return {
        "id": f"{kind}/{name}",
        "name": "".join(word.capitalize() for word in f"{kind}-{name}".split("-")),
        "shortDescription": {"text": title},
        "fullDescription": {"text": f"{title}, found in an index of training data."},
        "help": {
            "text": "Rewrite the passage, keep it and meet the licence of its source, or allow it in starcite.toml.",
        },
        "defaultConfiguration": {"level": "warning"},
        "properties": {"tags": ["attribution", "licence", name]},
    }


def _results(
    found: Sequence[tuple[Result, Match]], rules: Sequence[tuple[str, str]], root: Path
) -> list[dict[str, Any]]:
    seen: Counter[tuple[str, str]] = Counter()
    answers = []
    for result, match in found:
        name, text = result.target.name, result.target.text
        digest = hashlib.sha256("".join(text[match.start : match.end].split()).encode(errors="surrogatepass"))
        seen[name, digest.hexdigest()] += 1
        kind, class_name = _rule(match)
        answers.append(
            {
                "ruleId": f"{kind}/{class_name}",
                "ruleIndex": rules.index((kind, class_name)),
                "level": _LEVELS[match.decision],
                "message": {"text": _message(match)},
                "locations": [{"physicalLocation": _place(result, match, root)}],
                # Of the text alone: it stays when lines are put before it or it is indented anew.
                "partialFingerprints": {
                    "starciteSpan/v1": f"{digest.hexdigest()[:32]}:{seen[name, digest.hexdigest()]}"
                },
                "properties": match.to_json(),
            }
        )
    return answers


def _message(match: Match) -> str:
    verb = "may be a renamed copy of" if match.kind == "renamed" else "stand in"
    listed = "; ".join(_cited(source) for source in match.sources[:3]) or "an index"
    more = match.source_count - min(len(match.sources), 3)
    least = "at least " * (match.classification == "common")
    rest = f" and {least}{more} more" if more > 0 else ""
    blocked = " The policy blocks it." * (match.decision == "block")
    return f"{match.run} characters {verb} {listed}{rest}.{blocked}"


def _cited(source: Source) -> str:
    place = f"{source.path}:{source.start_line}-{source.end_line}"
    name = " ".join(filter(None, (source.name, source.revision, place)))
    linked = urlsplit(source.url).scheme in {"http", "https"}
    escaped = name.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    conflict = ", which conflict" * source.license_conflict
    return f"{f'[{escaped}]({_address(source.url)})' if linked else escaped} ({named_licenses(source)}{conflict})"


def _address(url: str) -> str:
    """Return an address in which nothing ends the link that holds it, nor is outside what RFC 3986 allows."""
    return quote(url, safe="/:?#@!$&'*+,;=~%-._")


def _place(result: Result, match: Match, root: Path) -> dict[str, Any]:
    snapshot = Snapshot("", "", 0, result.target.text)
    start, end = (snapshot.position_at(offset, "utf-32") for offset in (match.start, match.end))
    region = {
        "startLine": start.line + 1,
        "startColumn": start.character + 1,
        "endLine": end.line + 1,
        "endColumn": end.character + 1,
        "charOffset": match.start,
        "charLength": match.end - match.start,
    }
    return {"artifactLocation": _artifact(result.target.path, root), "region": region}


def _artifact(path: Path | None, root: Path) -> dict[str, str]:
    if path is None:
        return {"uri": "stdin"}
    whole = path.absolute()
    if not whole.is_relative_to(root):
        return {"uri": whole.as_uri()}
    return {"uri": quote(whole.relative_to(root).as_posix()), "uriBaseId": ROOT_ID}
