"""`starcite check`: which spans of a text are in the training data, whose they are, and what the policy says of them.

Exit status: 0 nothing was found that the policy does not allow; 1 something was; 2 bad input, or not checked.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lsp_server import terminal

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from attribution.index import Source
    from attribution.policy import Policies
    from lsp_server.attribute import Corpora
    from lsp_server.report import Result
    from lsp_server.targets import Target, Targets


def add_check(commands: terminal.Commands) -> None:
    """Add `starcite check`."""
    parser = terminal.command(
        commands,
        "check",
        _check,
        "find which spans of a text are in the training data, and whose they are",
        "starcite check src/ --min-run 50 --json",
    )
    parser.add_argument(
        "files", metavar="FILE", nargs="*", help="files and folders to check; - is stdin (default without --diff)"
    )
    parser.add_argument(
        "--index", metavar="DIR", type=Path, action="append", help="an index to search (default: every installed one)"
    )
    parser.add_argument(
        "--min-run",
        metavar="N",
        type=int,
        help="report runs of so many characters and more (default: the policy's, else 80)",
    )
    parser.add_argument(
        "--diff", metavar="REV", help="check only the lines that were added since a git revision (of FILEs, or of all)"
    )
    parser.add_argument("--all", action="store_true", help="show and count what the policy allows too")
    parser.add_argument("--show-policy", action="store_true", help="only show the policy that is in effect for FILEs")
    answer = parser.add_mutually_exclusive_group()
    answer.add_argument("--json", action="store_true", help="print the answer as JSON")
    answer.add_argument("--sarif", action="store_true", help="print the answer as SARIF 2.1.0, for code scanning")


def _check(options: argparse.Namespace) -> int:
    from attribution.index import Index
    from attribution.policy import Policies
    from lsp_server.attribute import Corpora
    from lsp_server.session import installed_indexes
    from lsp_server.targets import STDIN, Targets

    policies = Policies()
    if options.show_policy:
        return _show_policy(policies, options)
    for path in options.index or ():  # an index that was named must be good; those that lie about need not all be
        Index.open(path).close()
    corpora = Corpora(lambda: tuple(options.index) if options.index else installed_indexes())
    names = options.files or ([] if options.diff is not None else [STDIN])
    targets = Targets(names, options.diff)
    corpora.open()
    try:
        results = [_result(target, corpora, policies, options.min_run) for target in targets]
        _print(results, targets, corpora.excerpt, options)
    finally:
        corpora.close()
    return _status(results, targets, allowed=options.all)


def _result(target: Target, corpora: Corpora, policies: Policies, min_run: int | None) -> Result:
    """Return what was found in a text; raises PolicyError where it is not known what is allowed there."""
    from attribution.index import MIN_RUN
    from lsp_server.report import Result

    policy = policies.of(target.path or Path.cwd())
    shortest = policy.min_run or MIN_RUN if min_run is None else min_run
    found, checked = corpora.check(target.text, min_run=shortest, exact=min_run is not None, renamed=True)
    matches = policy.applied((match for match in found if target.counts(match)), target.path)
    return Result(target if matches else replace(target, text=""), matches, checked)


def _print(
    results: list[Result], targets: Targets, excerpt: Callable[[Source], str | None], options: argparse.Namespace
) -> None:
    from lsp_server import report, sarif
    from lsp_server.errors import GitError
    from lsp_server.targets import work_tree

    if options.json:
        print(json.dumps(report.as_json(results, targets.skipped)))
    elif options.sarif:
        try:
            root = work_tree() or Path.cwd()
        except GitError:
            root = Path.cwd()
        print(json.dumps(sarif.log(results, root, allowed=options.all)))
    else:
        width = shutil.get_terminal_size((120, 24)).columns
        for line in report.for_a_person(results, width, excerpt, allowed=options.all):
            print(line)


def _status(results: list[Result], targets: Targets, *, allowed: bool) -> int:
    for reason, number in sorted(targets.skipped.items()):
        sys.stderr.write(f"starcite: passed over {number:,}: {reason}\n")
    for result in results:
        if result.checked.state == "not_checked":
            return terminal.complain(f"not checked: {result.checked.reason}", terminal.BAD_INPUT)
    if not results:
        sys.stderr.write("starcite: there is nothing to check here\n")
    return terminal.FOUND if any(result.matches if allowed else result.not_allowed for result in results) else 0


def _show_policy(policies: Policies, options: argparse.Namespace) -> int:
    shown = {name: policies.of(Path(name)).to_json() for name in options.files or ["."]}
    if options.json:
        print(json.dumps({"version": 1, "policies": [{"for": name} | facts for name, facts in shown.items()]}))
        return 0
    for name, facts in shown.items():
        print(f"{name}: {facts['file'] or 'no starcite.toml: the defaults'}")
        print(f"  {'min-run':14} {facts['min_run'] or '80, the default'}")
        print(f"  {'own':14} {', '.join(facts['own']) or 'nothing'}")
        for key, decision in [*facts["classes"].items(), *facts["licenses"].items()]:
            print(f"  {key:14} {decision}")
        for entry in facts["paths"]:
            rules = ", ".join(f"{key} {decision}" for key, decision in (entry["classes"] | entry["licenses"]).items())
            print(f"  {' '.join(entry['match'])}: {rules or 'nothing else'}")
    return 0
