"""Fingerprints: the vectorised code is the definition, and the definition is local."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attribution import fingerprint

K = fingerprint.K
WINDOWS = sorted(fingerprint.GUARANTEES.values())
BYTES = st.binary(max_size=400) | st.builds(
    lambda unit, count, tail: (unit * count)[:400] + tail,
    st.binary(min_size=1, max_size=15),
    st.integers(1, 200),
    st.binary(max_size=60),
)


def mix(value: int) -> int:
    """Splitmix64's finaliser in plain integers."""
    value ^= value >> 30
    value = value * 0xBF58476D1CE4E5B9 % 2**64
    value ^= value >> 27
    value = value * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


TABLE = [mix((byte + 1) * 0x9E3779B97F4A7C15 % 2**64) for byte in range(256)]


def winnowed(data: bytes, w: int) -> dict[int, int]:
    """Return position -> key of the right-most minimum of each window, by the definition in the module."""
    base = 0x9E3779B97F4A7C15
    hashes = [
        mix(sum(TABLE[byte] * base**t for t, byte in enumerate(data[i : i + K])) % 2**64)
        for i in range(len(data) - K + 1)
    ]
    chosen = {}
    for start in range(len(hashes) - w + 1):
        position = min(range(start, start + w), key=lambda i: (hashes[i] >> 32, -i))
        chosen[position] = hashes[position] % 2**32
    return chosen


def thinned(data: bytes, chosen: dict[int, int]) -> dict[int, int]:
    """Return the chosen positions without those that repeat the one chosen at most k // 2 bytes before."""
    kept = {}
    before = None
    for position in sorted(chosen):
        near = before is not None and position - before <= K // 2
        if not (near and data[position : position + K] == data[before : before + K]):
            kept[position] = chosen[position]
        before = position
    return kept


@pytest.mark.parametrize("w", WINDOWS)
@settings(deadline=None)  # a busy machine is no failure
@given(data=BYTES)
def test_fingerprints_are_their_definition(w: int, data: bytes) -> None:
    """Positions and keys equal those of a plain loop, for random and for periodic bytes."""
    found = fingerprint.fingerprints(np.frombuffer(data, dtype=np.uint8), K, w)
    expected = thinned(data, winnowed(data, w))
    assert dict(zip(found.positions.tolist(), found.keys.tolist(), strict=True)) == expected


@pytest.mark.parametrize("w", WINDOWS)
def test_chunks_leave_no_seam(w: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data far longer than a chunk has the fingerprints that it has in one piece."""
    data = np.random.default_rng(1).integers(0, 7, 9_000).astype(np.uint8)
    whole = fingerprint.fingerprints(data, K, w)
    monkeypatch.setattr(fingerprint, "_CHUNK_BYTES", 331)
    pieces = fingerprint.fingerprints(data, K, w)
    assert np.array_equal(whole.positions, pieces.positions)
    assert np.array_equal(whole.keys, pieces.keys)


@pytest.mark.parametrize(("guarantee", "w"), fingerprint.GUARANTEES.items())
@settings(deadline=None)  # a busy machine is no failure
@given(run=st.binary(min_size=100, max_size=160), left=st.binary(max_size=90), right=st.binary(max_size=90))
def test_choice_is_local(guarantee: int, w: int, run: bytes, left: bytes, right: bytes) -> None:
    """Every guarantee-long window of a run chooses the same place in the run, whatever stands around the run."""
    alone = winnowed(run, w)
    framed = {position - len(left) for position in winnowed(left + run + right, w)}
    assert len(run) >= guarantee
    assert set(alone) <= framed


def test_a_line_of_dashes_costs_one_posting() -> None:
    """A million equal bytes have one fingerprint, and bytes of period 8 one."""
    dashes = np.full(1_000_000, ord("-"), dtype=np.uint8)
    assert len(fingerprint.fingerprints(dashes, K, 35).keys) == 1
    assert len(fingerprint.fingerprints(np.resize(np.arange(8, dtype=np.uint8), 100_000), K, 35).keys) <= 2


def test_density_is_that_of_winnowing() -> None:
    """Random bytes have 2 / (w + 1) fingerprints each, as the paper says."""
    data = np.random.default_rng(2).integers(0, 256, 400_000).astype(np.uint8)
    for w in WINDOWS:
        assert abs(len(fingerprint.fingerprints(data, K, w).keys) / len(data) * (w + 1) / 2 - 1) < 0.03


@pytest.mark.parametrize("w", WINDOWS)
@settings(deadline=None)  # a busy machine is no failure
@given(data=st.binary(min_size=K + 84, max_size=400) | st.binary(min_size=9, max_size=20).map(lambda unit: unit * 14))
def test_first_windows_are_those_that_chose(w: int, data: bytes) -> None:
    """Each position comes with the first window, by its start, of which it is the right-most minimum."""
    hashes = fingerprint._gram_hashes(np.frombuffer(data, dtype=np.uint8), K).tolist()
    expected: dict[int, int] = {}
    for start in range(len(hashes) - w + 1):
        position = min(range(start, start + w), key=lambda i: (hashes[i] >> 32, -i))
        expected.setdefault(position, start)
    positions, firsts = fingerprint.first_windows(np.frombuffer(data, dtype=np.uint8), K, w)
    assert dict(zip(positions.tolist(), firsts.tolist(), strict=True)) == expected
