"""The error tree: everything Headrace raises on purpose.

    HeadraceError
    ├─ ConfigError
    ├─ DataError     (SchemaError, JoinError, SourceEnded)
    ├─ StoreError    (CapacityError, RowRuleMismatch, CorruptSnapshot)
    ├─ VersionError  (GapError, StaleError)
    ├─ ClusterError  (LeaseLost, WorkerLost)
    └─ NumericError  (NonFiniteLoss)

A message says what is wrong, what was got, what was expected and what to do about it. The four parts are kept as
attributes, so that a program (or a test) need not parse the text.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HeadraceError(Exception):
    """Root of the tree; catch it to catch everything Headrace raises on purpose.

    Args:
        what: The thing that is wrong, named as the user knows it (``Table 'user'``, ``File x.csv, line 7``).
        got: What was found there; empty when the sentence needs none.
        expected: What would have been right; empty when the sentence needs none.
        do: The next step for the reader.

    Example:
        >>> str(ConfigError("batch_size", got="0", expected="a positive integer", do="Use 512 to start with."))
        'batch_size: got 0, expected a positive integer. Use 512 to start with.'
    """

    def __init__(self, what: str, *, got: object = "", expected: str = "", do: str = "") -> None:
        self.what, self.got, self.expected, self.do = what, str(got), expected, do
        middle = ", ".join(
            part for part in (f"got {self.got}" if self.got else "", f"expected {expected}" if expected else "") if part
        )
        text = f"{what}: {middle}" if middle else what
        if do:
            text = f"{text.rstrip('.')}. {do}"
        super().__init__(text)

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild from the four parts, so that the error crosses process borders whole."""
        return (_rebuild, (type(self), self.what, self.got, self.expected, self.do))


def _rebuild(kind: type[HeadraceError], what: str, got: str, expected: str, do: str) -> HeadraceError:
    return kind(what, got=got, expected=expected, do=do)


class ConfigError(HeadraceError):
    """A setting is unknown, missing or has a value that cannot work."""


class DataError(HeadraceError):
    """Input data cannot be read as what it claims to be."""


class SchemaError(DataError):
    """A column is unknown, missing or of another type than the schema says."""


class JoinError(DataError):
    """Events cannot be joined: a required column is absent or times are unusable."""


class SourceEnded(DataError):
    """A finite source has no more events; drivers take it as the normal end of a stream."""


class StoreError(HeadraceError):
    """A table refused an operation."""


class CapacityError(StoreError):
    """A table is full, or its memory budget would be exceeded."""


class RowRuleMismatch(StoreError):
    """Saved rows belong to another dimension, row rule or seed than the table that should take them."""


class CorruptSnapshot(StoreError):
    """A file's checksum or structure is wrong; nothing of it was used."""


class VersionError(HeadraceError):
    """A version cannot be applied, published or served."""


class GapError(VersionError):
    """A change does not follow the version that the replica has."""


class StaleError(VersionError):
    """The changes asked for are no longer kept; start again from a snapshot."""


class ClusterError(HeadraceError):
    """Something went wrong between processes."""


class LeaseLost(ClusterError):
    """A lease ran out or was fenced; its work belongs to somebody else now."""


class WorkerLost(ClusterError):
    """A worker process died or stopped answering."""


class NumericError(HeadraceError):
    """Arithmetic went wrong."""


class NonFiniteLoss(NumericError):
    """A loss or a gradient is NaN or infinite; the step was not applied."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a phrase with the three known names nearest to `name`, for "unknown name" messages.

    Example:
        >>> nearest("adagrd", ["adam", "adagrad", "sgd"])
        "one of 'adagrad', 'adam', 'sgd'"
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
    return "one of " + ", ".join(repr(item) for item in close) if close else "no name (none is known here)"
