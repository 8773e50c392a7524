"""What is found, what is missed, and whether what is shown is so."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from attribution import dedup
from attribution.index import MIN_RUN
from benchmarks.peers.corpora import language_of
from benchmarks.peers.edits import EDITS, lexemes, renamed_in, uncommented
from benchmarks.peers.engines import alerts, normalised
from benchmarks.peers.samples import Snippet, Windows, cuts, framed

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence

    from attribution.documents import Document
    from attribution.index import Match, Source
    from benchmarks.peers.engines import Engine, InfiniGram, Starcite

RUN_LENGTHS = (30, 40, 50, 60, 75, 99, 150, 300)
LONG_LEXEMES = 60
FEW_DOCUMENTS = 8
NOISE_RUNS = (50, 80, 100, 120, 150, 200, 300)
COPIED_SHARE = 0.3

Key = tuple[str, str, str]


class Evidence:
    """The texts of the indexed documents, to compare every shown match with; counts what they do not bear out."""

    def __init__(self, indexed: Iterable[Document]) -> None:
        """Keep the documents by source and path."""
        self._texts: dict[Key, list[str]] = defaultdict(list)
        for document in indexed:
            self._texts[document.source.name, document.source.revision, document.path].append(document.text)
        self._dense: dict[Key, list[str]] = {}
        self.checked = 0
        self.false: list[str] = []
        self.renamed = 0
        self.unlike: list[str] = []

    def texts(self, source: Source) -> list[str]:
        """Return the texts of a source's document."""
        return self._texts[source.name, source.revision, source.path]

    def dense(self, source: Source | Key) -> list[str]:
        """Return the normalised texts of a source's document."""
        key = source if isinstance(source, tuple) else (source.name, source.revision, source.path)
        if key not in self._dense:
            self._dense[key] = [normalised(text) for text in self._texts[key]]
        return self._dense[key]

    def check(self, text: str, matches: Iterable[Match]) -> None:
        """Compare each listed source of each match with its document: by characters, or by lexemes if renamed."""
        for match in matches:
            span = text[match.start : match.end]
            for source in match.sources:
                key = source.name, source.revision, source.path
                lines = slice(source.start_line - 1, source.end_line)
                places = ["\n".join(re.split(r"\r\n|\r|\n", whole)[lines]) for whole in self._texts[key]]
                shown = f"{key} lines {source.start_line}-{source.end_line}: {span[:60]!r}"
                if match.kind == "verbatim":
                    self.checked += 1
                    dense = normalised(span)
                    if len(dense) != match.run or not any(dense in normalised(place) for place in places):
                        self.false.append(shown)
                elif language := language_of(source.path):
                    self.renamed += 1
                    if not any(renamed_in(span, place, language) for place in places):
                        self.unlike.append(shown)


def guarantee(engine: Starcite, windows: Windows, count: int, rng: random.Random, evidence: Evidence) -> dict[str, Any]:
    """Return how many of `count` verbatim windows of 50 characters and more are missed: half have exactly 50.

    Each stands between random letters, and must lie within one match. Every hundredth answer is compared with the
    documents themselves.
    """
    missed = 0
    for number in range(count):
        run = 50 if number % 2 else rng.randrange(50, 301)
        window = windows.draw(run)
        text, start = framed(window, rng)
        found = engine.matches(text, min_run=50)
        missed += not any(match.start <= start and start + len(window) <= match.end for match in found)
        if number % 100 == 0:
            evidence.check(text, found)
    return {"sampled": count, "missed": missed}


def by_length(
    engines: Sequence[Engine], windows: Windows, count: int, rng: random.Random
) -> dict[str, dict[str, float]]:
    """Return for each threshold of each engine the share of verbatim windows found, by their length, in per cent.

    Each stands between a hundred and more random letters on both sides, because scanoss fingerprints no shorter text.
    Below 50, an index with that guarantee reports nothing by contract. Hits of a peer's filter by chance count.
    """
    rows: dict[str, dict[str, float]] = defaultdict(dict)
    for run in RUN_LENGTHS:
        drawn = [framed(windows.draw(run), rng, 100)[0] for _ in range(count)]
        for name, share in shares(engines, drawn).items():
            rows[name][str(run)] = share
    return dict(rows)


def shares(engines: Sequence[Engine], texts: Sequence[str]) -> dict[str, float]:
    """Return the share of the texts that each engine flags, by threshold, in per cent."""
    return _columns(engines, [_flags(engines, text) for text in texts])


def _flags(engines: Sequence[Engine], text: str) -> list[bool]:
    return [flag for engine in engines for flag in engine.flags(text)]


def _columns(engines: Sequence[Engine], flags: Sequence[Sequence[bool]]) -> dict[str, float]:
    names = [name for engine in engines for name in engine.columns]
    flagged = [100 * sum(column) / len(flags) for column in zip(*flags, strict=True)] or [float("nan")] * len(names)
    return {name: round(share, 2) for name, share in zip(names, flagged, strict=True)}


def recall(engines: Sequence[Engine], taken: Sequence[Snippet], rng: random.Random) -> dict[str, dict[str, Any]]:
    """Return for each edit the share of snippets that are still flagged, by threshold: all, and those of 60 lexemes.

    A snippet that an edit leaves as it was says nothing about the edit and is left out; "n" tells how many remain.
    Where comments are changed, those with a run of 80 characters without them are a row of their own: the others hold
    nothing that could be found at a threshold of 80, and "left out" tells how many they are.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, edit in EDITS.items():
        edited = [(snippet, edit(snippet.text, snippet.language, rng)) for snippet in taken]
        changed = [(s, text) for s, text in edited if text != s.text or name == "verbatim"]
        rows |= _all_and_long(engines, changed, name)
        if name.startswith("comments"):
            run = [(s, text) for s, text in changed if len(normalised(uncommented(s.text, s.language, rng))) >= MIN_RUN]
            found = shares(engines, [text for _, text in run])
            rows[f"{name}, run >=80"] = {"n": len(run), "left out": len(changed) - len(run)} | found
    return rows


def copies(engine: Starcite, documents: Iterable[Document], evidence: Evidence) -> set[Document]:
    """Return the documents that are copies, in part, of an indexed one: what is found in these is no noise.

    A document is one if 30 % of its characters stand in one indexed document, in runs of 80 that are not common, or if
    it is a near-duplicate of one that it shares such a run with (MinHash of word 5-grams, 0.7).
    """
    return {document for document in documents if _is_copy(engine, document, evidence)}


def _is_copy(engine: Starcite, document: Document, evidence: Evidence) -> bool:
    shared: Counter[Source] = Counter()
    for match in engine.matches(document.text):
        if match.classification != "common":
            for source in {(each.name, each.revision, each.path): each for each in match.sources}.values():
                shared[replace(source, start_line=0, end_line=0)] += match.run
    if max(shared.values(), default=0) >= COPIED_SHARE * len(normalised(document.text)):
        return True
    others = (text for source in shared for text in evidence.texts(source))
    return any(dedup.similarity(document.text, other) >= dedup.THRESHOLD for other in others)


def noise(engines: Sequence[Engine], taken: Sequence[Snippet], copied: set[Document]) -> dict[str, dict[str, Any]]:
    """Return the share of snippets of unrelated packages that each engine flags: all, and those of 60 lexemes.

    Of all documents, and of those that are not copied.
    """
    own = [(snippet, snippet.text) for snippet in taken if snippet.document not in copied]
    return _all_and_long(engines, [(snippet, snippet.text) for snippet in taken], "all") | _all_and_long(
        engines, own, "without copied files"
    )


def _all_and_long(
    engines: Sequence[Engine], asked: Sequence[tuple[Snippet, str]], name: str
) -> dict[str, dict[str, Any]]:
    flags = [_flags(engines, text) for _, text in asked]
    long = [row for (s, _), row in zip(asked, flags, strict=True) if lexemes(s.text, s.language) >= LONG_LEXEMES]
    return {
        name: {"n": len(flags)} | _columns(engines, flags),
        f"{name}, >=60 lexemes": {"n": len(long)} | _columns(engines, long),
    }


def causes(
    engine: Starcite, taken: Sequence[Snippet], copied: set[Document], evidence: Evidence
) -> dict[str, dict[str, Any]]:
    """Return what is found in unrelated code, by length; what of it alerts, with and without copied files; the alerts.

    All of it is real: the run stands in the source, which is checked. See `copies`.
    """
    by_run: Counter[int] = Counter()
    alerting: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for snippet in taken:
        found = engine.matches(snippet.text, min_run=50)
        evidence.check(snippet.text, found)
        evidence.check(snippet.text, engine.matches(snippet.text, renamed=True) if engine.renames else ())
        longest = max((match.run for match in found), default=0)
        for run in NOISE_RUNS:
            by_run[run] += longest >= run
        rare = [match for match in found if match.run >= MIN_RUN and alerts([match])]
        if rare:
            alerting[snippet.document in copied].append(_example(snippet, max(rare, key=lambda match: match.run)))
    total = len(taken) or 1
    own = sum(snippet.document not in copied for snippet in taken) or 1
    return {
        "snippets": total,
        "of documents that are not copied": own,
        "per cent by run": {f">={run}": round(100 * by_run[run] / total, 2) for run in NOISE_RUNS},
        "per cent alerting": round(100 * (len(alerting[True]) + len(alerting[False])) / total, 2),
        "per cent alerting without copied files": round(100 * len(alerting[False]) / own, 2),
        "others": alerting[False][:20],
    }


def _example(snippet: Snippet, match: Match) -> dict[str, Any]:
    text = " ".join(snippet.text[match.start : match.end].split())[:100]
    places = [f"{snippet.document.source.name} {snippet.document.path}"]
    places += [f"{source.name} {source.path}" for source in match.sources[:1]]
    return {"run": match.run, "documents": match.source_count, "places": places, "text": text}


def sources(engine: Starcite, taken: Sequence[Snippet], evidence: Evidence, rng: random.Random) -> dict[str, Any]:
    """Return how often the first source of the longest span is right, for spans in at most eight documents.

    "holds all": the first source's document holds the snippet as it was before the edit. "very document": it is the
    one that the snippet was cut from; where several hold the same text, no engine could tell.
    """
    result = {}
    for name in ("verbatim", "comments changed", "1 lexeme in 40 changed", "all names renamed"):
        counts: Counter[str] = Counter()
        for snippet in taken:
            text = EDITS[name](snippet.text, snippet.language, rng)
            found = engine.matches(text, renamed=True)
            evidence.check(text, found)
            best = max(found, key=lambda match: match.run, default=None)
            if best is None or best.source_count > FEW_DOCUMENTS:
                continue
            first, origin = best.sources[0], snippet.document
            key = origin.source.name, origin.source.revision, origin.path
            counts["spans"] += 1
            counts["very document"] += (first.name, first.revision, first.path) == key
            counts["holds all"] += any(normalised(snippet.text) in dense for dense in evidence.dense(first))
        spans = counts["spans"] or 1
        result[name] = {
            "spans": counts["spans"],
            "holds all %": round(100 * counts["holds all"] / spans, 1),
            "very document %": round(100 * counts["very document"] / spans, 1),
        }
    return result


def oracle(
    engine: Starcite, peer: InfiniGram, indexed: list[Document], count: int, rng: random.Random
) -> dict[str, int]:
    """Return on how many queries the maximal spans are exactly those of the suffix array.

    The queries are pieces of the corpus with changes in them, so that they hold several spans, common ones too.
    """
    result = Counter(queries=0, spans=0, differing=0)
    changed = EDITS["1 lexeme in 20 changed"]
    while result["queries"] < count:
        query = changed(cuts(indexed, 400, 1, rng)[0], "Python", rng)
        if not query.isascii():
            continue
        ours = {
            (len(normalised(query[: match.start])), len(normalised(query[: match.end])))
            for match in engine.matches(query, min_run=50)
        }
        theirs = set(peer.spans(normalised(query).encode(), 50, 1 << 40))
        result["queries"] += 1
        result["spans"] += len(theirs)
        result["differing"] += ours != theirs
    return dict(result)
