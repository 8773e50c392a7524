"""What every suite shares: the real weights."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from models.cards import DEFAULT_MODEL, load_card
from models.errors import NotPulledError
from models.store import Store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def weights() -> Path:
    """Find the default model's weights, from wherever the user who runs the tests has them."""
    card = load_card(DEFAULT_MODEL)
    try:
        return Store().path(card)
    except NotPulledError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(f"{error} These tests were not run.")


def pytest_unconfigure() -> None:
    """Close what llama-cpp-python opens and leaves open, or Python warns of it after pytest's last line."""
    library = sys.modules.get("llama_cpp._utils")
    for name in ("outnull_file", "errnull_file"):
        if library:
            getattr(library, name).close()
