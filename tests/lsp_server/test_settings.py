"""Settings: every bad value costs only itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.settings import Settings, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


def test_good_values_are_taken_with_or_without_the_section() -> None:
    """`{"starcite": {...}}` and `{...}` mean the same."""
    inner = {"model": "m", "completion": {"maxTokens": 7, "disabledLanguages": ["c"]}, "attribution": {"minRun": 60}}
    for options in (inner, {"starcite": inner}):
        settings, problems = parse(options)
        assert (settings.model, settings.completion.max_tokens, settings.attribution.min_run) == ("m", 7, 60)
        assert settings.completion.disabled_languages == ("c",)
        assert problems == ()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"enable": "yes"}, "starcite.enable cannot be 'yes'; write true or false."),
        ({"completion": {"maxTokens": 0}}, "a whole number from 1 to 512"),
        ({"completion": {"maxTokens": True}}, "a whole number from 1 to 512"),
        ({"completion": 3}, "starcite.completion cannot be 3"),
        ({"attribution": {"indexes": [1]}}, "write a list of strings"),
        ({"model": 3}, "write a string"),
        ([], "not an object"),
    ],
)
def test_a_bad_value_is_named_and_its_default_stands(options: object, says: str) -> None:
    """The sentence names the setting and what to write."""
    settings, problems = parse(options)
    assert settings == Settings()
    assert len(problems) == 1
    assert says in problems[0]


def test_a_bad_value_costs_only_itself() -> None:
    """The good values beside a bad one are taken."""
    settings, problems = parse({"model": "m", "completion": {"maxTokens": -1, "timeLimitMs": 200}})
    assert (settings.model, settings.completion.time_limit_ms, settings.completion.max_tokens) == ("m", 200, 64)
    assert len(problems) == 1


@given(JSON)
def test_any_json_gives_settings(options: object) -> None:
    """Nothing that an editor sends raises."""
    assert isinstance(parse(options)[0], Settings)
    assert isinstance(parse({"completion": options, "attribution": options})[0], Settings)
