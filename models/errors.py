"""Everything that can go wrong with a model, its card, its weights or its daemon.

ModelError                       exit status 3 unless said otherwise
├── CardError                    2  a card's file does not say what a card must say
├── UnknownModelError            2  there is no card of that id
├── NotPulledError               3  the weights are not on this machine
├── WeightsDamagedError          3  the weights are not the bytes that the card binds
├── PullError                    3  the weights could not be brought here
│   ├── SourcesFailedError       3  no source had them
│   ├── DiskFullError            3  there is no room for them
│   └── StoreReadOnlyError       3  the store cannot be written
├── LicenseNotAcceptedError      2  the model's terms must be accepted first
├── DaemonError                  3  the daemon did not do what a client needs
│   ├── DaemonUnavailableError   3  it is not there and could not be started
│   ├── DaemonVersionError       3  it speaks another version of the protocol
│   ├── DaemonBusyError          3  its queue is full
│   └── FrameError               3  a message is oversized, truncated or not a message
├── EvaluationDataError          2  a file to evaluate on cannot be read
├── ContextOverflowError         2  the prompt does not fit the model's context
└── BackendError                 3  the inference library failed

Each message is one sentence that ends in what to do; `exit_status` is what the command line returns for it.
"""

from __future__ import annotations

from typing import ClassVar


class ModelError(Exception):
    """The root of this package's errors."""

    exit_status: ClassVar[int] = 3


class CardError(ModelError):
    """A card's file is not a card; the message names the file, the key and what to write there."""

    exit_status: ClassVar[int] = 2


class UnknownModelError(ModelError):
    """No card has this id."""

    exit_status: ClassVar[int] = 2


class NotPulledError(ModelError):
    """The weights of a card are not on this machine."""


class WeightsDamagedError(ModelError):
    """The weights on this machine are not the bytes whose SHA-256 the card binds."""


class PullError(ModelError):
    """The weights could not be brought to this machine."""


class SourcesFailedError(PullError):
    """None of the sources had the file; the message has each source's reason."""


class DiskFullError(PullError):
    """There is not enough room for the weights."""


class StoreReadOnlyError(PullError):
    """The folder of the models cannot be written."""


class LicenseNotAcceptedError(ModelError):
    """The model's licence has to be accepted before its weights are pulled."""

    exit_status: ClassVar[int] = 2


class DaemonError(ModelError):
    """The model daemon did not do what its client needs."""


class DaemonUnavailableError(DaemonError):
    """No daemon answers and none could be started."""


class DaemonVersionError(DaemonError):
    """The daemon speaks another version of the protocol."""


class DaemonBusyError(DaemonError):
    """The daemon's queue is full."""


class FrameError(DaemonError):
    """A message is oversized, truncated, or not a message."""


class EvaluationDataError(ModelError):
    """A file that a model is to be evaluated on is missing, or is not of the kind that its place asks for."""

    exit_status: ClassVar[int] = 2


class ContextOverflowError(ModelError):
    """The prompt does not fit into the model's context."""

    exit_status: ClassVar[int] = 2


class BackendError(ModelError):
    """The inference library failed; its own error is the cause."""
