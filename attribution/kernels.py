"""What numba makes faster (extra `fast`): when the functions of `compiled` are used, and what serves in their place.

    builds        `normalised` and `prints` load or compile them when first called
    questions     use them once they are `ready`, and numpy before: `warm` makes them so, in a thread while others ask

Loading takes half a second, compiling some twenty seconds the first time; what is compiled is cached on disk, where
that can be written. The results are bit for bit those of the numpy code, which is the definition, and serves where
numba is not installed. A document is still in the processor's cache when the second pass over it begins.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from attribution import normalise
from attribution.fingerprint import Fingerprints, fingerprints, rolling

if TYPE_CHECKING:
    from types import ModuleType

U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


class _Loaded:
    """The compiled functions, once all of them are there."""

    module: ModuleType | None = None


def ready() -> ModuleType | None:
    """Return the module `compiled`, None as long as it is not loaded."""
    return _Loaded.module


def warm() -> bool:
    """Load or compile what numba compiles, and return whether there is numba; it may be called from any thread."""
    return _compiled() is not None


def normalised(raw: bytes) -> tuple[U8, U32]:
    """Return the normalised bytes of UTF-8, and how many of them stand before each of its lines."""
    compiled = _compiled()
    if compiled is None:
        text = raw.decode("utf-8", "surrogatepass")
        plain = normalise.text(text)
        return plain.data, np.searchsorted(plain.offsets, normalise.line_starts(text)).astype(np.uint32)
    source = np.frombuffer(raw, dtype=np.uint8)
    data, lines = np.empty(len(raw), dtype=np.uint8), np.empty(len(raw) + 1, dtype=np.uint32)
    size, count = compiled.normalised(source, *normalise.tables(), data, lines)
    return data[:size].copy(), lines[:count].copy()


def prints(data: U8, k: int, w: int) -> Fingerprints:
    """Return what `fingerprint.fingerprints` returns."""
    compiled = _compiled()
    if compiled is None or len(data) < k + w - 1:
        return fingerprints(data, k, w)
    positions, firsts = np.empty((2, len(data)), dtype=np.int64)
    keys = np.empty(len(data), dtype=np.uint32)
    number = compiled.fingerprint(data, k, w, *rolling(k), positions, keys, firsts)
    return Fingerprints(positions[:number].copy(), keys[:number].copy())


@cache
def _compiled() -> ModuleType | None:
    """Return the module `compiled`; None where numba is not installed or does not work, which is no one's error."""
    try:
        from attribution import compiled  # noqa: PLC0415 - see the module
    except Exception:  # noqa: BLE001 - whatever is wrong with a compiler, numpy serves
        return None
    _Loaded.module = compiled
    return compiled
