"""The compiled code gives what the numpy code gives, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

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
    """What the language server imports to check a text does not import numba; once it is warm, questions use it."""
    code = """if True:
        import sys, lsp_server.attribute, attribution.index
        from attribution import kernels
        print('numba' in sys.modules, kernels.ready() is None, kernels.warm(), kernels.ready() is None)"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True", "True", "False"]


def test_a_numba_that_does_not_work_is_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong while it is loaded, nothing is raised, and numpy goes on serving."""
    monkeypatch.setitem(sys.modules, "attribution.compiled", None)
    monkeypatch.delattr("attribution.compiled", raising=False)
    monkeypatch.setattr(kernels, "_compiled", kernels._compiled.__wrapped__)
    monkeypatch.setattr(kernels._Loaded, "module", None)
    assert kernels.warm() is False
    assert kernels.ready() is None


@pytest.mark.parametrize("error", [RuntimeError("no locator available"), OSError("no space left on device")])
def test_where_nothing_can_be_cached_it_is_compiled_all_the_same(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that cannot be written, or is full, costs the cache and no more."""
    from attribution import compiled_text  # noqa: PLC0415 - it needs numba

    plain = compiled_text.njit

    def njit(*signature: Any, **options: Any) -> Any:  # noqa: ANN401 - passed on as they are
        if options.get("cache"):
            raise error
        return plain(*signature, **options)

    monkeypatch.setattr(compiled_text, "njit", njit)
    assert compiled_text.entry(compiled_text.INT)(lambda number: number + 1)(1) == 2


def test_nothing_is_compiled_while_someone_waits() -> None:
    """Every function has one signature, that of the arrays of an index: others are refused and not compiled."""
    assert kernels.warm()
    module = kernels.ready()
    assert module is not None
    for name in set(module.__all__) - {"DAMAGED"}:
        function = getattr(module, name)
        assert len(function.signatures) == 1
        assert not function._can_compile
