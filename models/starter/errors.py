"""What a person who trains a model can do wrong."""

from __future__ import annotations

from typing import ClassVar

from models.errors import ModelError


class TrainingError(ModelError):
    """The corpus, the options or the folder of a run do not go together; one sentence that says what to do."""

    exit_status: ClassVar[int] = 2
