"""The import arrows of ARCHITECTURE.md, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("lsp_server", "models", "attribution")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# What a package may import of ours; lsp_server sees models only through its doors.
ALLOWED = {
    "attribution": ("attribution",),
    "models": ("models",),
    "lsp_server": (
        "lsp_server",
        "attribution",
        "models.backends",
        "models.cards",
        "models.client",
        "models.daemon",
        "models.errors",
        "models.evaluation",
        "models.paths",
        "models.protocol",
        "models.starter.run",
        "models.store",
    ),
}
# A library that only one file knows.
ONLY_IN = {
    "pygls": "lsp_server/server.py",
    "lsprotocol": "lsp_server/server.py",
    "llama_cpp": "models/backend_llama.py",
    "huggingface_hub": "models/sources.py",
    "datatrove": "attribution/pipeline.py",
    "ray": "attribution/pipeline.py",
    "pydivsufsort": "attribution/oracle.py",
    "accelerate": "models/starter/training.py",
    "gguf": "models/starter/export.py",
}
# Libraries that only the backend knows which the daemon loads, and the training.
BACKEND_AND_TRAINING = {"torch", "transformers", "tokenizers"}
# The one look of the doctor that asks whether the library loads at all.
EXCEPTIONS = {("llama_cpp", "lsp_server/doctor.py")}


def imports(path: Path) -> set[str]:
    """Return every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrows"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_arrows(path: Path) -> None:
    """A module imports of ours only what its package may know."""
    allowed = ALLOWED[path.relative_to(ROOT).parts[0]]
    ours = {name for name in imports(path) if name.split(".")[0] in PACKAGES}
    wrong = {name for name in ours if not any(f"{name}.".startswith(f"{good}.") for good in allowed)}
    assert wrong <= {"lsp_server.__version__"}, f"{path.relative_to(ROOT)} must not import {sorted(wrong)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_one_file_knows_a_library(path: Path) -> None:
    """Each library stands behind one file, so that its changes are met in one place."""
    name = path.relative_to(ROOT).as_posix()
    for module in imports(path):
        library = module.split(".")[0]
        if library in BACKEND_AND_TRAINING:
            assert name == "models/backend_transformers.py" or name.startswith("models/starter/"), f"{name}: {library}"
        home = ONLY_IN.get(library, name)
        assert name == home or (library, name) in EXCEPTIONS, f"{name} imports {library}, which only {home} may"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("lsp_server.server", ("llama_cpp", "huggingface_hub", "torch", "transformers")),
        ("models.client", ("llama_cpp", "numpy", "huggingface_hub", "attribution", "lsp_server")),
        ("attribution.index", ("models", "lsp_server", "pygls")),
        ("lsp_server.cli", ("pygls", "numpy", "llama_cpp", "huggingface_hub", "torch")),
        ("models.daemon", ("numpy", "llama_cpp", "torch", "transformers", "tokenizers", "huggingface_hub")),
        ("models.evaluation", ("llama_cpp", "torch", "transformers")),
        ("models.backends", ("numpy", "llama_cpp", "torch", "transformers")),
        ("models.starter.run", ("numpy", "torch", "transformers", "llama_cpp")),
    ],
)
def test_importing_stays_light(module: str, absent: tuple[str, ...]) -> None:
    """Importing a door does not load what it may never need."""
    code = f"import {module}, sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(absent) & set(loaded)
