"""`starcite eval`: how good models are at the rest of a line, and whether the index finds what a model memorised.

The measuring is done in `models.evaluation`, `memorisation` and `attribution.oracle`; here it is asked for and printed.
Exit status of `memorisation`: 1 where the index missed something, or found what is not there.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsp_server import terminal
from lsp_server.errors import FileInputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from lsp_server.memorisation import Checked, Verdict, Writing
    from models.evaluation import Baseline, Engine, Generation, Line, Text

    Answers = list[tuple[Line, Generation]]

BASELINE = "5-gram + copy"
REFERENCE = "qwen2.5-coder-0.5b"
_FAILURES = ("missed", "passages_not_found", "wrong_windows", "wrong_matches", "wrong_sources")


def add_eval(commands: terminal.Commands) -> None:
    """Add `starcite eval`."""
    group = terminal.group(
        commands,
        "eval",
        "measure how good models are, and whether the index finds what they memorised",
        "starcite eval fim --model qwen2.5-coder-0.5b --corpus ./corpus",
    )
    fim = terminal.command(
        group,
        "fim",
        _fim,
        "measure how often models get the rest of a line exactly, how fast, and bits per byte",
        "starcite eval fim --model starter --model qwen2.5-coder-0.5b --corpus ./corpus",
    )
    fim.add_argument("--model", metavar="ID", action="append", required=True, help="a model; more are measured beside")
    fim.add_argument("--corpus", metavar="DIR", type=Path, help="a corpus with heldout/ and train/, as built")
    fim.add_argument("--humaneval", metavar="F", type=Path, help="HumanEval-SingleLineInfilling.jsonl.gz")
    fim.add_argument("--lines", metavar="N", type=int, default=150, help="lines of each set (default: 150)")
    memorisation = terminal.command(
        group,
        "memorisation",
        _memorisation,
        "let a model recite its training files, and check the index against the files themselves",
        "starcite eval memorisation --model starter --index ./corpus/index --corpus ./corpus",
    )
    memorisation.add_argument("--model", metavar="ID", required=True, help="the model that writes")
    memorisation.add_argument("--index", metavar="DIR", type=Path, required=True, help="the index of DIR/train")
    memorisation.add_argument("--corpus", metavar="DIR", type=Path, required=True, help="a corpus with train/")
    memorisation.add_argument("--prompts", metavar="N", type=int, default=60, help="training passages (default: 60)")
    memorisation.add_argument(
        "--sampled", metavar="K", type=int, default=1, help="generations with a temperature beside the greedy one"
    )
    for parser in (fim, memorisation):
        parser.add_argument("--seed", metavar="S", type=int, default=0, help="fixes what is drawn (default: 0)")
        parser.add_argument("--threads", metavar="N", type=int, default=1, help="threads of the model (default: 1)")
        terminal.with_json(parser)


def rows(folder: Path) -> Iterator[Text]:
    """Yield the texts of the `part-*.jsonl` of a corpus' folder, in order. Raises FileInputError, naming the file."""
    from models.evaluation import Text

    parts = sorted(folder.glob("part-*.jsonl"))
    if not parts:
        raise FileInputError(f"{folder} holds no part-*.jsonl: make it with 'starcite corpus build'.")
    for part in parts:
        with part.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    row = json.loads(line)
                    place = (str(row[key]) for key in ("repo_name", "revision", "path"))
                    text = Text(row["text"], str(row["language"]), *place)
                except (ValueError, KeyError, TypeError) as error:
                    raise FileInputError(
                        f"{part}:{number} is no row of a corpus ({error}); build the corpus again."
                    ) from error
                yield text


def _least(options: argparse.Namespace, **least: int) -> int | None:
    """Complain about an option that is below its least value, and return the exit status; None if all are right."""
    for name, value in least.items():
        if getattr(options, name) < value:
            return terminal.complain(f"--{name} must be at least {value}", terminal.BAD_INPUT)
    return None


def _progress(label: str) -> tuple[terminal.Progress, Callable[[int, int], None]]:
    progress = terminal.Progress(label)
    return progress, progress.show_steps if sys.stderr.isatty() else lambda _done, _total: None


# --- fim -----------------------------------------------------------------------------------------------------------


def _fim(options: argparse.Namespace) -> int:
    from models import evaluation

    if (status := _least(options, lines=1, threads=1)) is not None:
        return status
    if not (options.corpus or options.humaneval):
        return terminal.complain("say what to measure on: --corpus DIR, --humaneval F, or both", terminal.BAD_INPUT)
    sets: dict[str, list[Line]] = {}
    texts: list[Text] = []
    if options.humaneval:
        sets["humaneval"] = evaluation.humaneval_lines(options.humaneval, options.lines, options.seed)
    if options.corpus:
        texts = evaluation.sample(rows(options.corpus / "heldout"), options.lines, options.seed)
        sets["heldout"] = evaluation.cut_lines(texts, options.lines, options.seed)
    for name, lines in sets.items():
        if not lines:
            return terminal.complain(f"there is no line to complete in {name}: give other files", terminal.BAD_INPUT)
    engines: dict[str, Engine] = {}
    try:
        for model in dict.fromkeys(options.model):
            engines[model] = evaluation.open_engine(model, options.threads)
        baseline = _baseline(options.corpus)
        answers = _answers(engines, baseline, sets)
        bits = _bits(engines, texts)
    finally:
        for engine in engines.values():
            engine.close()
    facts = {"seed": options.seed, "threads": options.threads, "lines": {name: len(sets[name]) for name in sets}}
    models = {name: _model_facts(of_sets) | {"bits_per_byte": bits.get(name, {})} for name, of_sets in answers.items()}
    answer = {"version": 1} | facts | {"models": models, "goals": _goals(models)}
    print(json.dumps(answer) if options.json else "\n".join(_fim_view(answer)))
    return 0


def _baseline(corpus: Path | None) -> Baseline | None:
    from models.evaluation import Baseline

    return Baseline.train(text.text for text in rows(corpus / "train")) if corpus else None


def _answers(
    engines: dict[str, Engine], baseline: Baseline | None, sets: dict[str, list[Line]]
) -> dict[str, dict[str, Answers]]:
    """Return what each model, and the baseline if there is one, wrote for each line of each set, asked in turns."""
    from models import evaluation

    found: dict[str, dict[str, Answers]] = {name: {s: [] for s in sets} for name in engines}
    if baseline:
        found[BASELINE] = {name: [] for name in sets}
    progress, show = _progress("lines")
    total = sum(map(len, sets.values()))
    asked = [(name, line) for name, lines in sets.items() for line in lines]
    for done, (name, line) in enumerate(asked):
        show(done, total)
        for model, engine in engines.items():
            found[model][name].append((line, evaluation.complete(engine, line)))
        if baseline:
            found[BASELINE][name].append((line, evaluation.Generation(baseline.complete(line))))
    progress.clear()
    return found


def _bits(engines: dict[str, Engine], texts: list[Text]) -> dict[str, dict[str, float]]:
    """Return the bits per byte that each model needs for the same passages, of all and by language."""
    from models import evaluation

    scored = list(evaluation.passages(texts))
    found: dict[str, dict[str, evaluation.Bits]] = {name: {} for name in engines}
    progress, show = _progress("passages")
    for done, passage in enumerate(scored):
        show(done, len(scored))
        for model, engine in engines.items():
            bits = evaluation.score(engine, passage)
            for group in ("all", passage.language):
                found[model].setdefault(group, evaluation.Bits()).add(bits)
    progress.clear()
    return {model: {group: bits.value for group, bits in of.items()} for model, of in found.items()}


def _model_facts(answers: dict[str, Answers]) -> dict[str, Any]:
    """Return the shares of exact lines, by set, language and cut, and the speed over all sets."""
    facts: dict[str, Any] = {name: _exact(found) for name, found in answers.items()}
    generations = [generation for found in answers.values() for _, generation in found]
    if any(generation.prompt_tokens for generation in generations):
        facts["speed"] = _speed(generations)
    return facts


def _exact(answers: Answers) -> dict[str, Any]:
    from models.evaluation import is_exact

    by: dict[str, list[bool]] = {}
    for line, generation in answers:
        for group in ("all", line.language, line.cut):
            by.setdefault(group, []).append(is_exact(line, generation.text))
    order = sorted(by, key=lambda group: (group != "all", group))
    return {group: {"lines": len(by[group]), "exact": sum(by[group]) / len(by[group])} for group in order}


def _speed(generations: Sequence[Generation]) -> dict[str, float]:
    """Return rates in tokens a second, and times in milliseconds, of the wall clock or as their names say.

    The processor's time is known of a generation as a whole, and is divided as the wall clock's.
    """
    first_ms = [generation.first_token_ms for generation in generations]
    decode_ms = sum(generation.decode_ms for generation in generations if generation.computed)
    prefill_ms = sum(generation.prefill_ms for generation in generations)
    cpu_ms = 1000 * sum(g.cpu_s for g in generations)
    computed = sum(g.computed for g in generations)
    share = cpu_ms / max(prefill_ms + sum(g.decode_ms for g in generations), 1e-9)
    return {
        "decode_tokens_per_cpu_s": 1000 * computed / max(decode_ms * share, 1e-9),
        "decode_tokens_per_s": 1000 * computed / max(decode_ms, 1e-9),
        "prefill_tokens_per_s": 1000 * sum(g.prompt_tokens for g in generations) / max(prefill_ms, 1e-9),
        "first_token_ms_p50": statistics.median(first_ms),
        "first_token_ms_p95": _quantile(first_ms, 0.95),
        "cpu_ms_per_generation": cpu_ms / len(generations),
    }


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _goals(models: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the goals of our own models that can be told from what was measured."""
    goals = []
    for name in ("heldout", "humaneval"):
        exact = {model: facts[name]["all"]["exact"] for model, facts in models.items() if facts.get(name)}
        goals += _goal(f"starter's exact lines, {name}, beside {REFERENCE}", exact, "starter", REFERENCE, 0.5)
        goals += _goal(f"seedling's exact lines, {name}, beside {BASELINE}", exact, "seedling", BASELINE, 3.0)
    speed = {model: facts["speed"]["decode_tokens_per_cpu_s"] for model, facts in models.items() if "speed" in facts}
    return [
        *goals,
        *_goal(f"starter's tokens/s of the processor beside {REFERENCE}", speed, "starter", REFERENCE, 5.0),
    ]


def _goal(what: str, values: dict[str, float], ours: str, theirs: str, least: float) -> list[dict[str, Any]]:
    if ours not in values or not values.get(theirs):
        return []
    ratio = values[ours] / values[theirs]
    return [{"goal": what, "at_least": least, "measured": ratio, "met": ratio >= least}]


def _fim_view(answer: dict[str, Any]) -> Iterator[str]:
    models: dict[str, dict[str, Any]] = answer["models"]
    threads = f"{answer['threads']} thread" + ("s" if answer["threads"] > 1 else "")
    yield f"seed {answer['seed']}, {threads}; the rest of the line exactly, of lines:"
    yield _table_row("", "lines", *models)
    for name in answer["lines"]:
        first = next(iter(models.values()))[name]
        for group in first:
            shares = (f"{facts[name][group]['exact']:.1%}" for facts in models.values())
            yield _table_row(name if group == "all" else f"  {group}", str(first[group]["lines"]), *shares)
    for group in next(iter(models.values()))["bits_per_byte"]:
        values = (_number(facts["bits_per_byte"], group, 3) for facts in models.values())
        yield _table_row("bits per byte" if group == "all" else f"  {group}", "", *values)
    for key, label in (
        ("decode_tokens_per_s", "decode, tokens/s"),
        ("prefill_tokens_per_s", "prefill, tokens/s"),
        ("first_token_ms_p50", "first token, ms, p50"),
        ("first_token_ms_p95", "first token, ms, p95"),
        ("cpu_ms_per_generation", "processor, ms a line"),
        ("decode_tokens_per_cpu_s", "decode, tokens/s of it"),
    ):
        yield _table_row(label, "", *(_number(facts.get("speed", {}), key, 1) for facts in models.values()))
    for goal in answer["goals"]:
        verdict = "reached" if goal["met"] else "MISSED"
        yield f"{verdict}: {goal['goal']}: {goal['measured']:.2f} times, goal {goal['at_least']:g}"


def _number(values: dict[str, float], key: str, digits: int) -> str:
    return f"{values[key]:.{digits}f}" if key in values else ""


def _table_row(label: str, *cells: str) -> str:
    first, *others = cells
    return f"{label:24} {first:>7}" + "".join(f"  {cell:>20}" for cell in others)


# --- memorisation --------------------------------------------------------------------------------------------------


def _memorisation(options: argparse.Namespace) -> int:
    from attribution.index import Index
    from lsp_server import memorisation
    from models import evaluation

    if (status := _least(options, prompts=1, sampled=0, threads=1)) is not None:
        return status
    train: Path = options.corpus / "train"
    with Index.open(options.index) as index:
        guarantee = int(index.summary["guarantee"])
        engine = evaluation.open_engine(options.model, options.threads)
        try:
            prompts = memorisation.draw_prompts(engine, index, rows(train), options.prompts, options.seed)
            writings = []
            progress, show = _progress("generations")
            for writing in memorisation.write(engine, prompts, options.sampled, options.seed):
                writings.append(writing)
                show(len(writings), 2 * len(prompts) * (1 + options.sampled))
            progress.clear()
        finally:
            engine.close()
        checked = [memorisation.check(index, writing, guarantee) for writing in writings]
    if not prompts:
        return terminal.complain(
            f"{train} holds no passage that is long enough: give a larger corpus", terminal.BAD_INPUT
        )
    verdicts = memorisation.judge(writings, checked, (text.text for text in rows(train)), guarantee)
    sources = memorisation.check_sources(writings, checked, lambda: rows(train))
    answer = {
        "version": 1,
        "model": options.model,
        "index": str(options.index),
        "seed": options.seed,
        "guarantee": guarantee,
        "prompts": len(prompts),
        "check": _check_facts(verdicts)
        | {"sources": sources.named, "wrong_sources": sources.wrong}
        | {"passages_not_found": sum(not prompt.copies for prompt in prompts)},
        "recited": memorisation.groups(verdicts),
        "speed": _writing_speed(writings, checked),
    }
    print(json.dumps(answer) if options.json else "\n".join(_memorisation_view(answer)))
    bad = (answer["check"][key] for key in _FAILURES)
    return terminal.FOUND if any(bad) else 0


def _check_facts(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    compared = [one for verdict in verdicts for one in (verdict.with_context, verdict.alone)]
    windows, missed = sum(one.windows for one in compared), sum(one.missed for one in compared)
    return {
        "windows": windows,
        "missed": missed,
        "recall": 1 - missed / windows if windows else None,
        "reported_windows": sum(one.reported for one in compared),
        "wrong_windows": sum(one.wrong for one in compared),
        "wrong_matches": sum(one.wrong_matches for one in compared),
    }


def _writing_speed(writings: Sequence[Writing], checked: Sequence[Checked]) -> dict[str, float]:
    generations = [writing.generation for writing in writings]
    taken_ms = [elapsed for found in checked for elapsed in found.elapsed_ms]
    speed = _speed(generations) if generations else {}
    return speed | {"check_ms_p50": _quantile(taken_ms, 0.5), "check_ms_p99": _quantile(taken_ms, 0.99)}


def _memorisation_view(answer: dict[str, Any]) -> Iterator[str]:
    check, speed = answer["check"], answer["speed"]
    found = answer["prompts"] - check["passages_not_found"]
    yield f"{answer['model']}, seed {answer['seed']}"
    yield f"training passages that the index has whole: {found} of {answer['prompts']}"
    yield f"{'recited beyond the prompt':36} {'writings':>9}" + "".join(f" {f'≥ {n}':>8}" for n in (50, 80, 150))
    for name, group in answer["recited"].items():
        for value, shares in group.items():
            label = value if name == "all" else f"{name}: {value}"
            cells = "".join(f" {share:8.1%}" for least, share in shares.items() if least != "writings")
            yield f"{label:36} {shares['writings']:9,}{cells}"
    if check["recall"] is None:
        yield "nothing was recited, so that nothing could be missed"
    else:
        found = check["windows"] - check["missed"]
        yield (
            f"recall: {check['recall']:.4%}, {found:,} of {check['windows']:,} windows of {answer['guarantee']} "
            "characters that stand in the corpus"
        )
    yield (
        f"wrong alarms: {check['wrong_windows']:,} of {check['reported_windows']:,} windows, "
        f"{check['wrong_matches']:,} matches, {check['wrong_sources']:,} of {check['sources']:,} sources"
    )
    if "decode_tokens_per_s" in speed:
        yield (
            f"decode {speed['decode_tokens_per_s']:.1f} tokens/s, prefill {speed['prefill_tokens_per_s']:.1f}; "
            f"check {speed['check_ms_p50']:.2f} ms (p50), {speed['check_ms_p99']:.2f} ms (p99)"
        )
