"""How long requests take: the times of one generation, and histograms of many, all from one monotonic clock.

A histogram has fixed buckets, ten in each factor of ten, so that those of any two daemons can be added up, and its
size does not grow. What it says of percentiles is right to the width of a bucket, a factor of 1.26.
"""

from __future__ import annotations

import math
import statistics
import time
from bisect import bisect_left
from itertools import accumulate, pairwise
from typing import Any, Final

_BUCKETS_PER_DECADE = 10
_BUCKET_WIDTH = 10.0 ** (1 / _BUCKETS_PER_DECADE)
# From 0.1 ms to 100 s; a value counts in the first bucket whose bound it does not exceed, or behind the last.
BOUNDS_MS: Final = tuple(10 ** (step / _BUCKETS_PER_DECADE) for step in range(-10, 51))
_PERCENTILES = (50, 95, 99)


class TokenClock:
    """Times one generation from its making on: `prefilled` and `token` are called when that has happened."""

    __slots__ = ("_prefilled_s", "_started_s", "_tokens_s")

    def __init__(self) -> None:
        """Start."""
        self._started_s = time.perf_counter()
        self._prefilled_s = self._started_s
        self._tokens_s: list[float] = []

    def prefilled(self) -> None:
        """Note that the prompt is computed, or that its computation was ended."""
        self._prefilled_s = time.perf_counter()

    def token(self) -> None:
        """Note that a token was chosen."""
        self._tokens_s.append(time.perf_counter())

    def waited_ms(self) -> float:
        """Return the time that has passed."""
        return (time.perf_counter() - self._started_s) * 1000

    def written_ms(self) -> float:
        """Return the time since the first token was chosen; there must be one."""
        return (time.perf_counter() - self._tokens_s[0]) * 1000

    def timings_ms(self) -> dict[str, float]:
        """Return "prefill" and "decode", and of the tokens, where there were any, what `models.protocol.Done` says."""
        timings_ms = {
            "prefill": (self._prefilled_s - self._started_s) * 1000,
            "decode": (time.perf_counter() - self._prefilled_s) * 1000,
        }
        if self._tokens_s:
            timings_ms["time_to_first_token"] = (self._tokens_s[0] - self._started_s) * 1000
        if gaps_s := [after - before for before, after in pairwise(self._tokens_s)]:
            timings_ms["inter_token_mean"] = statistics.fmean(gaps_s) * 1000
            timings_ms["inter_token_p50"] = statistics.median(gaps_s) * 1000
            timings_ms["inter_token_max"] = max(gaps_s) * 1000
        return timings_ms


class Histogram:
    """How often a time fell into each bucket; `counts[i]` is of those up to `BOUNDS_MS[i]`, the last of all above."""

    __slots__ = ("counts", "max_ms")

    def __init__(self) -> None:
        """Hold nothing."""
        self.counts = [0] * (len(BOUNDS_MS) + 1)
        self.max_ms = 0.0

    def add(self, value_ms: float) -> None:
        """Count a time."""
        self.counts[bisect_left(BOUNDS_MS, value_ms)] += 1
        self.max_ms = max(self.max_ms, value_ms)

    def percentile_ms(self, percent: float) -> float:
        """Return the nearest-rank percentile, placed inside its bucket as if the bucket's values were log-uniform."""
        rank = max(1, math.ceil(sum(self.counts) * percent / 100))
        bucket = bisect_left(list(accumulate(self.counts)), rank)
        if bucket >= len(BOUNDS_MS):  # above all bounds, or there is no value
            return self.max_ms
        place = (rank - 0.5 - sum(self.counts[:bucket])) / self.counts[bucket]
        return min(self.max_ms, BOUNDS_MS[bucket] * math.pow(_BUCKET_WIDTH, place - 1))

    def to_map(self) -> dict[str, Any]:
        """Return plain values: "count", "p50_ms", "p95_ms", "p99_ms", "max_ms" and the buckets' "counts"."""
        percentiles = {f"p{percent}_ms": self.percentile_ms(percent) for percent in _PERCENTILES}
        return {"count": sum(self.counts), **percentiles, "max_ms": self.max_ms, "counts": self.counts}
