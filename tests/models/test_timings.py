"""Times of one generation, and histograms whose percentiles are right to the width of a bucket."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import timings
from models.timings import BOUNDS_MS, Histogram, TokenClock

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the clock by these seconds, the first of which is the next to be read."""
    seconds: list[float] = []

    def read() -> Iterator[float]:
        while True:
            yield seconds.pop(0)

    reading = read()
    monkeypatch.setattr(timings.time, "perf_counter", lambda: next(reading))
    return seconds


def test_a_generation_is_timed(ticks: list[float]) -> None:
    """Prefill, first token and decode are cut where they are, and what lies between two tokens is summed up."""
    ticks += [10.0, 10.5, 10.75, 11.0, 11.5, 13.5, 14.0]
    clock = TokenClock()
    clock.prefilled()
    for _ in range(4):
        clock.token()
    assert clock.timings_ms() == pytest.approx(
        {
            "prefill": 500,
            "decode": 3500,
            "time_to_first_token": 750,
            "inter_token_mean": 2750 / 3,
            "inter_token_p50": 500,
            "inter_token_max": 2000,
        }
    )


def test_limits_count_from_the_start_and_from_the_first_token(ticks: list[float]) -> None:
    """The wait is since the making, the writing since the first of the tokens."""
    ticks += [1.0, 3.0, 4.0, 5.0, 9.0]
    clock = TokenClock()
    assert clock.waited_ms() == pytest.approx(2000)
    clock.token()
    clock.token()
    assert clock.written_ms() == pytest.approx(5000)


def test_without_tokens_nothing_is_said_of_them(ticks: list[float]) -> None:
    """A generation that was ended in its prefill has no time to a first token, and one token has no neighbour."""
    ticks += [0.0, 1.0, 2.0, 3.0, 4.0]
    clock = TokenClock()
    clock.prefilled()
    assert set(clock.timings_ms()) == {"prefill", "decode"}
    clock.token()
    assert set(clock.timings_ms()) == {"prefill", "decode", "time_to_first_token"}


@given(
    st.lists(st.floats(BOUNDS_MS[0], BOUNDS_MS[-1]), min_size=1, max_size=200), st.sampled_from([1, 50, 95, 99, 100])
)
def test_percentiles_are_right_to_a_bucket(values_ms: list[float], percent: int) -> None:
    """A percentile is within a bucket's width of the value of that rank, and never above the maximum."""
    histogram = Histogram()
    for value_ms in values_ms:
        histogram.add(value_ms)
    exact = sorted(values_ms)[max(1, math.ceil(len(values_ms) * percent / 100)) - 1]
    found = histogram.percentile_ms(percent)
    assert exact / 1.26 <= found <= exact * 1.26
    assert found <= histogram.max_ms == max(values_ms)
    assert sum(histogram.counts) == len(values_ms)


def test_a_value_counts_in_the_bucket_that_it_does_not_exceed() -> None:
    """Bounds belong to the bucket below them; what is too small or too large has the first and the last."""
    histogram = Histogram()
    for value_ms in (0.0, BOUNDS_MS[0], BOUNDS_MS[3], BOUNDS_MS[-1] * 5):
        histogram.add(value_ms)
    assert [i for i, count in enumerate(histogram.counts) for _ in range(count)] == [0, 0, 3, len(BOUNDS_MS)]
    assert histogram.percentile_ms(100) == BOUNDS_MS[-1] * 5


def test_an_empty_histogram_is_plain_zeros() -> None:
    """Of no values every figure is 0."""
    found = Histogram().to_map()
    assert {name: value for name, value in found.items() if name != "counts"} == {
        "count": 0, "p50_ms": 0.0, "p95_ms": 0.0, "p99_ms": 0.0, "max_ms": 0.0
    }  # fmt: skip
