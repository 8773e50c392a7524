"""The compiled code gives what the numpy code gives, bit for bit."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attribution import kernels, normalise
from attribution.fingerprint import GUARANTEES, K, fingerprints

pytest.importorskip("numba", reason="numba is not installed (extra `fast`)")

TEXTS = st.text(st.sampled_from("ab'\"` \t\r\n\u00a0\u0085\u2028\u3000\u200a\u200b\u3001é漢𝔸\x1f\ud800"), max_size=80)
BYTES = st.binary(max_size=400) | st.builds(
    lambda unit, count, tail: (unit * count)[:900] + tail,
    st.binary(min_size=1, max_size=40),
    st.integers(1, 200),
    st.binary(max_size=60),
)


@settings(deadline=None)  # a busy machine is no failure
@given(TEXTS | st.text(max_size=60))
def test_text_is_normalised_as_by_numpy(text: str) -> None:
    """Bytes and line tables are equal for any text, lone surrogates and all kinds of line ends included."""
    plain = normalise.text(text)
    data, lines = kernels.normalised(text.encode("utf-8", "surrogatepass"))
    assert np.array_equal(data, plain.data)
    assert np.array_equal(lines, np.searchsorted(plain.offsets, normalise.line_starts(text)))
    assert (data.dtype, lines.dtype) == (np.uint8, np.uint32)


def test_every_code_point_is_normalised_as_by_numpy() -> None:
    """Of all of Unicode, the same characters are dropped and folded."""
    text = "".join(map(chr, range(sys.maxunicode + 1)))
    assert np.array_equal(kernels.normalised(text.encode("utf-8", "surrogatepass"))[0], normalise.text(text).data)


@pytest.mark.parametrize("w", GUARANTEES.values())
@settings(deadline=None)
@given(data=BYTES)
def test_fingerprints_are_those_of_numpy(w: int, data: bytes) -> None:
    """Positions and keys are equal, for random and for periodic bytes of any length."""
    compare(np.frombuffer(data, dtype=np.uint8), w)


@pytest.mark.parametrize("w", GUARANTEES.values())
def test_fingerprints_of_long_texts_are_those_of_numpy(w: int) -> None:
    """So they are for text that is longer than what numpy treats at a time, with much and with little in it."""
    for letters in (256, 5, 2, 1):
        compare(np.random.default_rng(letters).integers(0, letters, 200_000).astype(np.uint8), w)


def compare(data: normalise.npt.NDArray[np.uint8], w: int) -> None:
    """Check that both ways give the same."""
    ours, theirs = kernels.prints(data, K, w), fingerprints(data, K, w)
    assert np.array_equal(ours.positions, theirs.positions)
    assert np.array_equal(ours.keys, theirs.keys)
    assert (ours.positions.dtype, ours.keys.dtype) == (theirs.positions.dtype, theirs.keys.dtype)


def test_without_numba_numpy_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where numba is not installed, the same functions give the same."""
    raw = "x = 'é'\r\n\ty = 2\n".encode() * 20
    fast = kernels.normalised(raw)
    monkeypatch.setattr(kernels, "_compiled", lambda: None)
    plain = kernels.normalised(raw)
    assert np.array_equal(fast[0], plain[0])
    assert np.array_equal(fast[1], plain[1])
    compare(plain[0], GUARANTEES[50])


def test_questions_do_not_load_numba() -> None:
    """What the language server imports to check a text does not import numba."""
    code = "import sys, lsp_server.attribute, attribution.index; print('numba' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
