"""Which library runs a model on this machine, and why; none of them is imported before it is chosen.

Full precision on a GPU where the card has such files, they are here, and the free memory suffices; else the GGUF file
on the CPU. A card that has only files for transformers runs by that library, on the CPU where need be.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

from models.errors import BackendError

if TYPE_CHECKING:
    from models.cards import Card
    from models.generation import CachingEngine
    from models.store import Store

# bfloat16 weights; the rest, for the library, the caches and the recorded graphs, is a guess: not measured on a GPU.
_BYTES_PER_PARAMETER = 2
_OTHER_BYTES = 2_000_000_000
_QUERY = ("nvidia-smi", "--query-gpu=name,memory.free", "--format=csv,noheader,nounits")
_QUERY_TIMEOUT_S = 10.0
_MIB = 1 << 20

_INSTALL = "pip install 'starcite[gpu]'"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device, and its memory that nobody uses at the moment."""

    name: str
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs a model: the card with the files to load, where, and the reason as a part of a sentence."""

    card: Card
    device: Literal["cpu", "cuda"]
    reason: str

    def __str__(self) -> str:
        """Return it as one line."""
        library = "llama.cpp" if self.card.format == "gguf" else "transformers"
        return f"{library} on the {'GPU' if self.device == 'cuda' else 'CPU'}: {self.reason}"


def choose(card: Card, store: Store) -> Choice:
    """Return what runs a model here; nothing is loaded, and the driver is asked only where that matters."""
    full = card.in_full_precision()
    if full is None:
        return Choice(card, "cpu", "the card binds a GGUF file alone")
    if full != card and not store.is_pulled(full):
        return Choice(
            card, "cpu", f"its files in full precision are not here (starcite models pull {card.id} --full-precision)"
        )
    needed = card.parameters * _BYTES_PER_PARAMETER + _OTHER_BYTES
    obstacle = _obstacle(needed)
    if obstacle is None:
        return Choice(full, "cuda", f"full precision fits into its free memory ({_gigabytes(needed)} needed)")
    return Choice(card, "cpu", obstacle)


def open_engine(card: Card, store: Store, *, device: str = "cpu", **options: Any) -> CachingEngine:  # noqa: ANN401  # the engine's own types
    """Load the files of a card; `options` are the engine's own. Raises ModelError."""
    path = store.path(card)
    if card.format == "gguf":
        from models.backend_llama import Engine  # noqa: PLC0415 - seconds, and the doctor needs none of it

        return Engine(path, card, **options)
    try:
        from models import backend_transformers  # noqa: PLC0415 - as above
    except ImportError as error:
        raise BackendError(f"'{card.id}' needs torch and transformers ({error}): {_INSTALL}.") from error
    return backend_transformers.Engine(path.parent, card, device=device, **options)


def find_gpu() -> Gpu | None:
    """Return the device that CUDA would use, None where there is none or its driver does not answer."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    query = list(_QUERY) if visible is None else [*_QUERY, f"--id={visible.split(',')[0]}"]
    if visible in ("", "-1"):
        return None
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=_QUERY_TIMEOUT_S)
        name, free = answer.stdout.splitlines()[0].rsplit(", ", 1)
        return Gpu(name, int(free) * _MIB)
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return None


def _obstacle(needed: int) -> str | None:
    """Return why the GPU is not used, None where it can be."""
    for library in ("transformers", "torch"):
        try:
            found = version(library)
        except PackageNotFoundError:
            return f"{library} is not installed ({_INSTALL} for a GPU)"
    if found.endswith("+cpu"):
        return "the torch that is installed is built for CPUs alone"
    gpu = find_gpu()
    if gpu is None:
        return "there is no CUDA device whose driver answers"
    if gpu.free_bytes < needed:
        return f"{gpu.name} has {_gigabytes(gpu.free_bytes)} free, and full precision needs {_gigabytes(needed)}"
    return None


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
