"""The backend with the real default model: what it says, what it never says, and what it can be interrupted in."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from models import backend_llama, generation
from models.backend_llama import Engine
from models.cards import DEFAULT_MODEL, load_card
from models.errors import BackendError, ContextOverflowError
from models.generation import Decoding
from models.protocol import Delta, Done, FimPrompt, GenerateRequest
from models.scheduler import CancelFlag, Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models.scheduler import Event

DEADLINE_S = 120.0
ADD = "def add(a, b):\n    return "
# About 1,700 tokens: more than one prompt, so that it is cut to the engine's 1,536.
LONG = "".join(
    f"def function_{number}(value):\n    return value * {number} + offset_{number}\n\n\n" for number in range(90)
)


def generate(engine: Engine, prefix: str, suffix: str = "\n", **options: object) -> tuple[str, Done]:
    """Return the text of a generation that nothing interrupts, and its end."""
    limit_ms = DEADLINE_S * 1000
    options = {"max_tokens": 16, "first_token_limit_ms": limit_ms, "time_limit_ms": limit_ms} | options
    request = GenerateRequest(FimPrompt(prefix, suffix), **options)  # type: ignore[arg-type]
    texts: list[str] = []
    done = engine.generate(request, CancelFlag(), texts.append)
    assert all(texts), "an empty delta"
    return "".join(texts), done


@pytest.mark.model
def test_it_completes(engine: Engine) -> None:
    """The model fills in what obviously stands there, and its end has counts and timings that agree."""
    text, done = generate(engine, ADD, stop=("\n",))
    assert text == "a + b"
    assert done.finish_reason == "stop"
    assert done.tokens.generated >= 3
    assert done.tokens.prompt_reused < done.tokens.prompt
    assert 0 < done.timings_ms["prefill"] <= done.timings_ms["time_to_first_token"]
    assert done.timings_ms["decode"] > 0
    assert 0 < done.timings_ms["inter_token_p50"] <= done.timings_ms["inter_token_max"]


@pytest.mark.model
def test_the_same_again_is_the_same_and_reused(engine: Engine) -> None:
    """A repeated request gives the same text, and computes but one token of its prompt."""
    first, _ = generate(engine, ADD)
    second, done = generate(engine, ADD)
    assert first == second
    assert done.tokens.prompt_reused == done.tokens.prompt - 1


@pytest.mark.model
def test_typing_on_reuses_the_prompt(engine: Engine) -> None:
    """A key typed in the middle of a file costs a few tokens and not the file."""
    prefix = LONG[:800] + "\n\ndef total(values):\n    re"
    generate(engine, prefix, max_tokens=1)
    _, done = generate(engine, prefix + "t", max_tokens=1)
    assert done.tokens.prompt - done.tokens.prompt_reused <= 8


@pytest.mark.model
def test_another_file_and_back(engine: Engine) -> None:
    """Prompts of other files stay in the cache beside each other."""
    files = [f"class Thing{letter}:\n    def __init__(self):\n        self.{letter} = " for letter in "ABC"]
    for file in files:
        generate(engine, file, max_tokens=2)
    _, done = generate(engine, files[0], max_tokens=2)
    assert done.tokens.prompt_reused == done.tokens.prompt - 1


@pytest.mark.model
def test_what_was_generated_does_not_stay_in_the_prompt(engine: Engine, weights: Path) -> None:
    """With a cache full of other texts the answer is that of a fresh engine."""
    generate(engine, LONG[:2000], max_tokens=8)
    generate(engine, ADD, max_tokens=32)
    fresh = Engine(weights, load_card(DEFAULT_MODEL), cached_prompts=1)
    try:
        for prefix in (ADD, "import os\n\nfor name in os.", "x = [1, 2, 3]\ny = sor"):
            assert generate(engine, prefix)[0] == generate(fresh, prefix)[0]
    finally:
        fresh.close()


@pytest.mark.model
@pytest.mark.parametrize(
    ("typed", "rest"), [("r", "eturn"), ("re", "turn"), ("ret", "urn"), ("retu", "rn"), ("retur", "n")]
)
def test_a_word_cut_in_two_is_healed(engine: Engine, typed: str, rest: str) -> None:
    """In the middle of a word its rest comes, without what was typed already."""
    text, _ = generate(engine, f"def add(a, b):\n    {typed}", stop=("\n",))
    assert text == f"{rest} a + b"


@pytest.mark.model
@pytest.mark.parametrize(
    "prefix",
    ["x = '🎉🎊", "# 日本語のコメント: ", "flags = ['🇩🇪', '🇫🇷', '", 'name = "Zo', "s = '👩‍👩‍👧", "# Привет, ми"],
)
def test_characters_are_never_split(engine: Engine, prefix: str) -> None:
    """Text whose characters take several tokens comes whole, wherever the generation ends."""
    for max_tokens in (1, 2, 3, 12):
        text, done = generate(engine, prefix, max_tokens=max_tokens)
        assert "\ufffd" not in text
        assert done.tokens.generated <= max_tokens


@pytest.mark.model
def test_special_tokens_are_never_text(engine: Engine) -> None:
    """Neither a text about markers nor a generation to the end of a file brings a special token into the text."""
    for prefix in ("<|fim_prefix|>def f(", "# the token <|", "print('done')\n"):
        text, _ = generate(engine, prefix, "", max_tokens=48)
        ids = engine._tokens.tokenize(text, parse_special=True)
        assert not any(engine._tokens.is_special[token] for token in ids) or "<|" in prefix


@pytest.mark.model
def test_stop_strings(engine: Engine) -> None:
    """The text ends before the first stop string, whatever tokens it is cut into."""
    whole, _ = generate(engine, ADD, max_tokens=24)
    assert "subtract" in whole
    for stop in ("b\n\ndef", "tract", "\n", "a"):
        text, done = generate(engine, ADD, max_tokens=24, stop=(stop, "never"))
        assert text == whole[: whole.index(stop)]
        assert done.finish_reason == "stop"


@pytest.mark.model
def test_limits(engine: Engine) -> None:
    """A generation ends at its token limit, and at its time limit with what is there; neither harms the next."""
    _, done = generate(engine, ADD, max_tokens=3)
    assert (done.finish_reason, done.tokens.generated) == ("length", 3)
    text, done = generate(engine, "# late\n" + LONG[:1000], max_tokens=10_000, time_limit_ms=0)
    assert (done.finish_reason, done.tokens.generated) == ("time", 1)
    assert text
    text, done = generate(engine, ADD, max_tokens=10_000, time_limit_ms=1000)
    assert done.finish_reason in ("time", "length", "stop")
    assert text.startswith("a + b")
    text, done = generate(engine, "# too late\n" + LONG[:1000], first_token_limit_ms=0)
    assert (text, done.finish_reason, done.tokens.generated) == ("", "time", 0)
    assert "time_to_first_token" not in done.timings_ms
    assert generate(engine, ADD, stop=("\n",))[0] == "a + b"


@pytest.mark.model
def test_a_prompt_is_computed_ahead(engine: Engine) -> None:
    """With no tokens to generate only the cache is filled, from which a later request starts."""
    prefix = "import json\n\n" + LONG[:300] + "value = "
    text, done = generate(engine, prefix, max_tokens=0)
    assert (text, done.finish_reason, done.tokens.generated) == ("", "length", 0)
    _, done = generate(engine, prefix, max_tokens=1)
    assert done.tokens.prompt_reused == done.tokens.prompt - 1


@pytest.mark.model
def test_a_cancelled_prefill_frees_the_model(engine: Engine) -> None:
    """A flag set in the middle of a long prefill ends it long before its end, and the next request is answered."""
    flag = CancelFlag()
    request = GenerateRequest(FimPrompt(f"# {time.time()}\n" + LONG, ""), time_limit_ms=DEADLINE_S * 1000)
    done: list[Done] = []
    thread = threading.Thread(target=lambda: done.append(engine.generate(request, flag, lambda _: None)))
    before = max(prompt.used_s for prompt in engine._prompts)
    thread.start()
    wait_until_computing(engine, since_s=before)
    flag.set()
    thread.join(DEADLINE_S)
    assert done[0].finish_reason == "cancelled"
    assert done[0].tokens.prompt > 1000
    assert done[0].tokens.generated == 0
    assert generate(engine, ADD, stop=("\n",))[0] == "a + b"


@pytest.mark.model
async def test_what_gave_way_goes_on_from_where_it_was(weights: Path) -> None:
    """A warm-up that ends for another editor's request finds what it had computed when it goes on."""
    engine = Engine(weights, load_card(DEFAULT_MODEL), prompt_tokens=1536)
    loop = asyncio.get_running_loop()
    scheduler = Scheduler(lambda: engine, loop)
    scheduler.start()
    ends: dict[str, asyncio.Future[Event]] = {name: loop.create_future() for name in ("warm-up", "urgent")}

    def sink(name: str) -> Callable[[Event], None]:
        return lambda event: None if isinstance(event, Delta) else ends[name].set_result(event)

    limits_ms = {"time_limit_ms": DEADLINE_S * 1000, "first_token_limit_ms": DEADLINE_S * 1000}
    warm_up = GenerateRequest(FimPrompt(LONG, ""), 0, priority="warm-up", **limits_ms)
    scheduler.submit("a", warm_up, sink("warm-up"))
    await asyncio.to_thread(wait_until_computing, engine, since_s=0.0)
    scheduler.submit("b", GenerateRequest(FimPrompt(ADD, "\n"), 8, ("\n",), **limits_ms), sink("urgent"))
    urgent, warmed = await ends["urgent"], await ends["warm-up"]
    await scheduler.stop()
    assert isinstance(urgent, Done)
    assert isinstance(warmed, Done)
    assert (urgent.finish_reason, warmed.finish_reason) == ("stop", "length")
    assert 0 < warmed.tokens.prompt_reused < warmed.tokens.prompt
    assert warmed.timings_ms["queue"] > urgent.timings_ms["total"]
    assert scheduler.counts.cancelled == 0


def wait_until_computing(engine: Engine, *, since_s: float) -> None:
    """Wait until the first slice of a long prompt is in the cache, so that the flag meets a running computation."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not any(prompt.used_s > since_s and prompt.tokens for prompt in engine._prompts):
        assert time.monotonic() < deadline_s
        os.sched_yield()


@pytest.mark.model
def test_a_flag_that_is_set_before(engine: Engine) -> None:
    """A request that is cancelled before it starts costs nothing."""
    flag = CancelFlag()
    flag.set()
    done = engine.generate(GenerateRequest(FimPrompt(LONG[:500], "")), flag, pytest.fail)
    assert (done.finish_reason, done.tokens.generated) == ("cancelled", 0)


@pytest.mark.model
@pytest.mark.parametrize(("status", "kind"), [(1, ContextOverflowError), (-1, BackendError), (-3, BackendError)])
def test_failures_of_the_library(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[Exception]
) -> None:
    """Each failure that llama_decode reports is a typed error, after which the engine answers as before."""
    with monkeypatch.context() as patch:
        patch.setattr(backend_llama.llama, "llama_decode", lambda _context, _batch: status)
        with pytest.raises(kind):
            generate(engine, ADD)
    assert generate(engine, ADD, stop=("\n",))[0] == "a + b"


@pytest.mark.model
def test_lone_surrogates_are_text(engine: Engine) -> None:
    """Half a character, which an editor may hold, does not keep the rest from being completed."""
    text, _ = generate(engine, "# \ud83c\n" + ADD, stop=("\n",))
    assert text == "a + b"


@pytest.mark.model
@pytest.mark.parametrize("damage", ["cut", "header", "other"])
def test_damaged_weights(weights: Path, tmp_path: Path, damage: str) -> None:
    """A file that is cut off, damaged or no model at all is an error that names it and says what to do."""
    data = bytearray(weights.read_bytes()[: 8 * 1024 * 1024])
    if damage == "header":
        data[8:24] = b"\xff" * 16
    path = tmp_path / "model.gguf"
    path.write_bytes(b"hello" if damage == "other" else data)
    with pytest.raises(BackendError, match=r"model\.gguf cannot be loaded \(.+\): run 'starcite models pull"):
        Engine(path, load_card(DEFAULT_MODEL))


@pytest.mark.model
def test_a_smaller_context(weights: Path) -> None:
    """A card of a short context bounds what is generated, and the cut prompt still works."""
    card = dataclasses.replace(load_card(DEFAULT_MODEL), context_length=256)
    engine = Engine(weights, card, cached_prompts=1, threads=1)
    try:
        assert engine.threads == 1
        _, done = generate(engine, LONG, max_tokens=4096)
        assert done.tokens.prompt <= 192
        assert done.tokens.prompt + done.tokens.generated <= 256
    finally:
        engine.close()


def test_no_machine_is_taken_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cores that may be used are those of this process, not of the machine."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {1, 5, 7}, raising=False)
    assert generation.usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert generation.usable_cores() == (os.cpu_count() or 1)


@pytest.mark.model
def test_a_plain_prompt_goes_on_without_the_suffix(engine: Engine) -> None:
    """What stands behind the cursor changes nothing, as it is not shown."""
    texts = []
    for suffix in ("\n", ")\n\nprint(add(1, 2))\n"):
        request = GenerateRequest(FimPrompt(ADD, suffix), 8, ("\n",), DEADLINE_S * 1000)
        found: list[str] = []
        engine.generate(request, CancelFlag(), found.append, Decoding(plain=True))
        texts.append("".join(found))
    assert texts[0] == texts[1]
    assert "a + b" in texts[0]


@pytest.mark.model
def test_probabilities_do_not_depend_on_how_a_text_is_cut(engine: Engine) -> None:
    """The same tokens have the same probabilities with more of the text as context, wherever slices end."""
    lines = LONG.splitlines(keepends=True)[:32]
    whole = engine.log_probabilities(lines[0], "".join(lines[1:]))
    assert len(whole) > 2 * backend_llama.SLICE_TOKENS
    assert (whole <= 0).all()
    rest = engine.log_probabilities("".join(lines[:20]), "".join(lines[20:]))
    assert rest == pytest.approx(whole[-len(rest) :], abs=0.05)


@pytest.mark.model
def test_the_probabilities_of_all_that_can_follow_do_not_exceed_one(engine: Engine) -> None:
    """And what is generated is the likeliest of them."""
    words = [" a", " b", " x", "\n", " sum", " None", " self"]
    chances = {word: float(np.exp(engine.log_probabilities(ADD.rstrip(), word)[0])) for word in words}
    assert 0 < sum(chances.values()) <= 1
    assert max(chances, key=chances.__getitem__) == " a"


@pytest.mark.model
def test_a_text_that_is_too_long_to_be_scored_is_refused(engine: Engine) -> None:
    """With a sentence that says what to do."""
    with pytest.raises(ContextOverflowError, match="cut it into parts"):
        engine.log_probabilities("x", LONG * 3)


@pytest.mark.model
def test_the_beginning_of_a_text_is_cut_after_whole_tokens(engine: Engine) -> None:
    """So many tokens of it, or all of a text that has fewer."""
    assert engine.cut("def add(a, b):", 2) == "def add"
    assert engine.cut("def", 5) == "def"
