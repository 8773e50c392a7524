"""Which k-grams of a query are looked up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attribution import kernels
from attribution.fingerprint import K, chosen_of_window, fingerprints
from attribution.windows import Windows


@settings(deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    size=st.integers(50, 400),
    least=st.sampled_from([50, 51, 64, 80, 100]),
    bounds=st.lists(st.tuples(st.integers(0, 400), st.integers(50, 200)), max_size=4),
)
def test_every_run_outside_common_spans_meets_a_gram(
    seed: int, size: int, least: int, bounds: list[tuple[int, int]]
) -> None:
    """Of each run that lies in no common span, a k-gram is looked up that one of the run's windows chose."""
    rng = np.random.default_rng(seed)
    query = rng.integers(97, 105, size, dtype=np.uint8)
    held = {(start, min(start + length, size)) for start, length in bounds if start + 50 <= size}
    spans = [one for one in held if not any(two != one and two[0] <= one[0] and one[1] <= two[1] for two in held)]
    common = np.array(sorted(spans), dtype=np.int64).reshape(-1, 2)
    positions = fingerprints(query, K, 35).positions
    costs = rng.choice([1, 3, 300, 4000], len(positions))
    windows = Windows.of(query, 35, positions)
    chosen_ones = windows.needed(costs, least, common)
    if kernels.warm():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "ready", lambda: None)
            assert np.array_equal(windows.needed(costs, least, common), chosen_ones)
    needed = positions[chosen_ones]
    chosen = np.array([chosen_of_window(query[start : start + 50], K)[0] + start for start in range(size - 49)])
    looked_up = np.isin(chosen, needed)
    for start in range(size - least + 1):
        for end in range(start + least, size + 1):
            inside = any(low <= start and end <= high for low, high in spans)
            assert inside or looked_up[start : end - 49].any()
