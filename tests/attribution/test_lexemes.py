"""Lexemes of any language: what is dropped, what is a name, and which stretches are the same but for the names."""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attribution import lexemes, normalise
from attribution.lexemes import NAME, K, chosen_grams, common_runs, every_gram, gram_hashes, lex, weight

PYTHON = '''
def total(prices, rate=0.2):  # with tax
    """Sum of it all."""
    result = 0
    for price in prices:
        result += price * (1 + rate)
    return round(result, 2)
'''
JAVASCRIPT = """
/* sums up
   everything */
export function total(prices, rate = 0.2) {
  let result = 0; // nothing yet
  for (const price of prices) { result += price * (1 + rate); }
  return Math.round(result * 100) / 100;
}
"""
C = """
#include <stdio.h>
static double total(const double *prices, size_t count) {
    double result = 0; /* nothing yet */
    for (size_t i = 0; i < count; i++) result += prices[i] * 1.2;
    return result;
}
"""
GO = """
// Total sums up.
func Total(prices []float64, rate float64) (float64, error) {
	if len(prices) == 0 { return 0, errors.New(`no "prices"`) }
	result := 0.0
	for _, price := range prices { result += price * (1 + rate) }
	return result, nil
}
"""
JAVA = """
public final class Prices {
    /** Sums up. */
    public static double total(List<Double> prices, double rate) {
        double result = 0.0;
        for (double price : prices) { result += price * (1 + rate); }
        return Math.round(result * 100) / 100.0;
    }
}
"""
LANGUAGES = {"python": PYTHON, "javascript": JAVASCRIPT, "c": C, "go": GO, "java": JAVA}
KEYWORDS = {"def", "for", "in", "return", "export", "let", "const", "static", "if", "nil", "public", "class", "sizeof"}


def words(text: str) -> list[str]:
    """Return the lexemes of a text as they are written."""
    found = lex(text)
    return [text[start:end] for start, end in zip(found.starts, found.ends, strict=True)]


def renamed(text: str, names: dict[str, str]) -> str:
    """Return a text with its names replaced; what is in strings and comments stays."""
    found = lex(text)
    parts, at = [], 0
    for start, end, symbol in zip(found.starts, found.ends, found.symbols, strict=True):
        word = text[start:end]
        parts += [text[at:start], names.setdefault(word, f"{word[::-1]}_x") if symbol == NAME else word]
        at = int(end)
    return "".join([*parts, text[at:]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = b # c", ["a", "=", "b"]),
        ("a(); // b 'c", ["a", "(", ")", ";"]),
        ("a /* b\n c */ d", ["a", "d"]),
        ("-- sql\nselect a", ["select", "a"]),
        ("i--; --j", ["i", "--", ";", "--", "j"]),
        ("#include <a.h>\n# not\n#\n", ["#include", "<", "a", ".", "h", ">"]),
        ("<!-- x --><p>", ["<", "p", ">"]),
        ("x = 'it\\'s' + f\"{y}\"", ["x", "=", "'it\\'s'", "+", 'f"{y}"']),
        ("don't stop", ["don", "'", "t", "stop"]),
        ('"""Words."""', ['"""', "Words", ".", '"""']),
        ("`a ${b}`", ["`", "a", "$", "{", "b", "}", "`"]),
        ("1e-5 0xFF 1.5f x1", ["1e-5", "0xFF", "1.5f", "x1"]),
        ("a>>>=b->c?.d...e", ["a", ">>>=", "b", "->", "c", "?.", "d", "...", "e"]),
        ("größe = 日本 + ²", ["größe", "=", "日本", "+", "²"]),
        ("a /* never closed", ["a"]),
        ("ls build/*.o", ["ls", "build", "/", "*", ".", "o"]),
        ("", []),
    ],
)
def test_lexemes(text: str, expected: list[str]) -> None:
    """Comments of the common styles and white space are dropped, all else is kept in the largest pieces."""
    assert words(text) == expected


@pytest.mark.parametrize("text", LANGUAGES.values(), ids=LANGUAGES)
def test_names_and_keywords_of_five_languages(text: str) -> None:
    """No keyword is a name, no name a keyword, and no word of a comment is there."""
    found = lex(text)
    written = words(text)
    names = {word for word, symbol in zip(written, found.symbols, strict=True) if symbol == NAME}
    assert {"result"} <= names
    assert not names & KEYWORDS
    assert not {"nothing", "sums", "tax"} & set(written)


@given(text=st.text(max_size=300) | st.text(alphabet="ab'\"\\/*#-<!>` \n1.e+", max_size=300))
def test_every_text_has_lexemes(text: str) -> None:
    """Lexemes are in order, do not overlap, hold no white space at their ends, and miss nothing but comments."""
    found = lex(text)
    assert (found.starts < found.ends).all()
    assert (found.starts[1:] >= found.ends[:-1]).all()
    for start, end in zip(found.starts, found.ends, strict=True):
        assert text[start:end].strip() == text[start:end]
    if not re.search(r"#|//|/\*|--|<!--", text):
        kept = "".join(text[start:end] for start, end in zip(found.starts, found.ends, strict=True))
        assert "".join(kept.split()) == "".join(text.split())


@pytest.mark.parametrize("part", ["/*", "<!--", "'", '"', "`", "\\'", '"\\', "'''x", '"""x', "/*/", "1e+", "rb'"])
def test_no_text_takes_long(part: str) -> None:
    """The time grows with the length and not with its square: half a megabyte of what never ends."""
    start = time.process_time()
    lex(part * (500_000 // len(part)))
    assert time.process_time() - start < 5


@given(text=st.text(alphabet="ab x=(),+.\n", max_size=200))
def test_previous_is_the_distance_to_the_last_use(text: str) -> None:
    """`previous` is what a plain loop finds."""
    found = lex(text)
    last: dict[str, int] = {}
    for number, (word, symbol) in enumerate(zip(words(text), found.symbols, strict=True)):
        assert found.previous[number] == (number - last[word] if symbol == NAME and word in last else 0)
        last[word] = number


TOKEN = st.sampled_from(["a", "b", "c", "(", ")", "=", "+", "if", "1", "'s'", ",", "["])
TOKENS = st.lists(TOKEN, max_size=120)


@settings(deadline=None)
@given(
    before=TOKENS,
    gram=st.lists(TOKEN, min_size=K, max_size=40),
)
def test_the_hash_of_a_gram_depends_on_the_gram_alone(before: list[str], gram: list[str]) -> None:
    """What stands before a gram changes nothing."""
    alone = gram_hashes(lex(" ".join(gram)))
    framed = gram_hashes(lex(" ".join([*before, *gram])))
    assert np.array_equal(alone, framed[len(framed) - len(alone) :])


@pytest.mark.parametrize("text", LANGUAGES.values(), ids=LANGUAGES)
def test_grams_stay_when_names_and_comments_change(text: str) -> None:
    """Consistent new names, other comments, another layout: the varied grams are the same ones."""
    changed = re.sub(r"//.*|# .*", "", renamed(text, {})).replace("    ", "\t").replace("{", "{\n/* what follows */\n")
    assert changed != text
    ours, theirs = gram_hashes(lex(text)), gram_hashes(lex(changed))
    same = len(set(ours.tolist()) & set(theirs.tolist()))
    assert same > 0.6 * len(ours)  # the others hardly vary, and their spellings count


@settings(deadline=None)
@given(text=st.lists(st.sampled_from([*"abc01(),=", "if", "for", "return", "'s'"]), max_size=120).map(" ".join))
def test_a_query_asks_for_more_than_is_chosen(text: str) -> None:
    """Every key that the index would keep of a text is among those that a query asks for."""
    lexed = lex(text)
    assert set(chosen_grams(lexed)[1].tolist()) <= set(every_gram(lexed)[1].tolist())


@settings(deadline=None)
@given(st.lists(st.sampled_from("ab1(,"), min_size=1, max_size=60), st.data())
def test_weight_counts_each_pair_three_times_at_most(words: list[str], data: st.DataObject) -> None:
    """The weight of a stretch is what a plain loop counts; a name is what its last use inside the stretch makes it."""
    end = data.draw(st.integers(1, len(words)))
    start = data.draw(st.integers(0, end - 1))
    codes = []
    for at in range(start, end):
        before = [other for other in range(start, at) if words[other] == words[at]]
        is_name = words[at] in "ab"
        codes.append(("name", at - before[-1] if before else 0) if is_name else (words[at], 0))
    pairs = Counter(itertools.pairwise(codes))
    assert weight(lex(" ".join(words)), start, end) == sum(min(3, count) for count in pairs.values())


def test_a_list_weighs_little() -> None:
    """However long it is: a name and a comma, a comma and a name."""
    names = ", ".join(f"name{number}" for number in range(500))
    assert weight(lex(names), 0, 999) == 6


def slow_runs(ours: str, theirs: str, diagonal: int, shortest: int) -> list[tuple[int, int]]:
    """Return the maximal stretches that a loop finds which tries every start and keeps a mapping of names."""
    a, b = lex(ours), lex(theirs)
    mine, its = words(ours), words(theirs)
    found: list[tuple[int, int]] = []
    for start in range(max(0, -diagonal), min(len(a), len(b) - diagonal)):
        there: dict[str, str] = {}
        back: dict[str, str] = {}
        end = start
        while end < min(len(a), len(b) - diagonal) and a.symbols[end] == b.symbols[end + diagonal]:
            x, y = mine[end], its[end + diagonal]
            if a.symbols[end] == NAME and (there.setdefault(x, y) != y or back.setdefault(y, x) != x):
                break
            end += 1
        if end - start >= shortest and (not found or end > found[-1][1]):
            found.append((start, end))
    return found


@settings(deadline=None)
@given(ours=TOKENS, theirs=TOKENS, diagonal=st.integers(-6, 6), copied=st.booleans())
def test_common_runs_are_those_with_a_mapping_of_names(
    ours: list[str], theirs: list[str], diagonal: int, *, copied: bool
) -> None:
    """The vectorised stretches are what trying every start and every mapping gives."""
    if copied:
        mapping = {"a": "b", "b": "c", "c": "a"}
        theirs = [mapping.get(token, token) for token in ours]
    a, b = " ".join(ours), " ".join(theirs)
    assert common_runs(lex(a), lex(b), diagonal, 3) == slow_runs(a, b, diagonal, 3)


def test_an_inconsistent_name_ends_a_run() -> None:
    """Where one name stands for two, or two for one, the stretch is cut."""
    text = "a = f(x); b = g(x, y); c = h(y, z)"
    whole = len(lex(text))
    assert common_runs(lex(text), lex(renamed(text, {})), 0, 3) == [(0, whole)]
    for wrong in (text.replace("(y, z)", "(x, z)"), text.replace("(x, y)", "(x, x)")):
        runs = common_runs(lex(text), lex(wrong), 0, 3)
        assert runs
        assert all(end - start < whole for start, end in runs)


@given(text=st.text(alphabet="ab x=(),+.\n'", max_size=400))
def test_fingerprints_are_places_of_normalised_bytes(text: str) -> None:
    """Each place is where a lexeme starts in the normalised text."""
    places, keys = lexemes.fingerprints(text)
    offsets = normalise.text(text).offsets
    assert len(places) == len(keys)
    assert set(offsets[places].tolist()) <= set(lex(text).starts.tolist())
