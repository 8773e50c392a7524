"""Every error that `attribution` raises on purpose.

    AttributionError
    ├── SourceError           a source to be indexed is missing, is of an unknown kind, or holds no source code
    │   └── DamagedSourceError the file of a source cannot be read as what its name promises
    ├── OptOutError           a file of opt-outs cannot be read or understood
    ├── QueryError            a question that an index cannot answer (a minimum run below its guarantee)
    ├── IndexFormatError      the folder is no index, or its files are truncated or damaged
    │   └── IndexVersionError the index was written by a newer Starcite
    ├── IndexExistsError      the output folder already holds something that would be overwritten
    ├── IndexWriteError       the index could not be written (disk full, no permission)
    ├── CorpusError           a corpus manifest cannot be read, or its corpus cannot be built or written
    │   └── RegistryError     a package registry cannot be reached, or does not have what is locked
    ├── PipelineError         a rank of a build on many machines failed, or no machine has room for one
    ├── MissingPackageError   a package of an extra is needed and not installed
    └── PolicyError           a starcite.toml cannot be read, or says what it cannot say

Each message is one sentence that names the file and ends in what to do, fit to be shown as it is.
"""

from __future__ import annotations


class AttributionError(Exception):
    """Base of all errors of this package."""


class SourceError(AttributionError):
    """A source to be indexed is missing, is of an unknown kind, or holds no source code."""


class DamagedSourceError(SourceError):
    """The file of a source cannot be read as what its name promises, from the start or from somewhere on."""


class OptOutError(AttributionError):
    """A file of opt-outs cannot be read or understood."""


class QueryError(AttributionError):
    """A question that the index cannot answer."""


class IndexFormatError(AttributionError):
    """A folder is no index, or its files are truncated or damaged."""


class IndexVersionError(IndexFormatError):
    """An index was written by a newer Starcite than this one."""


class IndexExistsError(AttributionError):
    """The output folder already holds something that would be overwritten."""


class IndexWriteError(AttributionError):
    """An index could not be written."""


class CorpusError(AttributionError):
    """A corpus manifest cannot be read, or its corpus cannot be built or written."""


class RegistryError(CorpusError):
    """A package registry cannot be reached, has no such archive, or gives other bytes than those that are locked."""


class PipelineError(AttributionError):
    """A rank of a build on many machines failed, or no machine has room for one."""


class MissingPackageError(AttributionError):
    """A package of an extra is needed, and not installed."""


class PolicyError(AttributionError):
    """A `starcite.toml` cannot be read, or holds a key or value that means nothing."""
