"""The exception tree.

Every error inherits from the builtin that people already catch, and its message says three things: what was
asked, what exists, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PhaseZooError(Exception):
    """Root of all errors that phasezoo raises on purpose.

    >>> import phasezoo
    >>> try:
    ...     phasezoo.load("mlp-digit")
    ... except PhaseZooError as error:
    ...     print(str(error)[:60])
    no zoo named 'mlp-digit', and no directory of that name. Did
    """

    def __str__(self) -> str:
        # KeyError prints the repr of its argument; a sentence should be printed as a sentence.
        return str(self.args[0]) if self.args else ""


class ZooNotFoundError(PhaseZooError, FileNotFoundError):
    """No zoo of that name or at that place."""


class MissingFileError(PhaseZooError, FileNotFoundError):
    """The manifest names a table or shard that is not there."""


class FormatError(PhaseZooError, ValueError):
    """The files exist but do not follow the format, or follow a version that this release cannot read."""


class IntegrityError(PhaseZooError, OSError):
    """The bytes that were read are not the bytes that were written."""


class SourceError(PhaseZooError, ConnectionError):
    """A remote file could not be read."""


class AccessError(PhaseZooError, PermissionError):
    """A server refuses: there is no token, it is a wrong one, or it has not the right that is needed."""


class AddressError(PhaseZooError, ValueError):
    """An address that cannot be read, or that names a place of another kind than the one that is needed."""


class RangesNotSupportedError(SourceError):
    """A server sends whole files only, whatever part is asked for."""


class SourceNotSupportedError(PhaseZooError, NotImplementedError):
    """A kind of place that this release cannot open yet."""


class WeightsUnavailableError(PhaseZooError, FileNotFoundError):
    """The zoo has tables only: its weights are not among its files."""


class WriteError(PhaseZooError, OSError):
    """A zoo or file could not be written."""


class ColumnNotFoundError(PhaseZooError, KeyError):
    """No column of that name in the tables that were asked."""


class TableNotFoundError(PhaseZooError, KeyError):
    """No table of that name in the zoo."""


class ModelNotFoundError(PhaseZooError, KeyError):
    """No model of that id in the zoo or view."""


class EpochNotFoundError(PhaseZooError, KeyError):
    """The model has no checkpoint at that epoch."""


class TensorNotFoundError(PhaseZooError, KeyError):
    """The checkpoint has no tensor of that name."""


class ArchitectureError(PhaseZooError, ValueError):
    """No architecture of that name, or arguments that do not fit it."""


class TopologyError(PhaseZooError, ValueError):
    """Networks of another shape than the call can take."""


class LeakageError(PhaseZooError, ValueError):
    """Parts of a split share what the split is meant to keep apart."""


class FilterError(PhaseZooError, ValueError):
    """A filter expression that cannot be read."""


class ThresholdError(PhaseZooError, ValueError):
    """No threshold, or set of thresholds, of that name."""


class DataNotFoundError(PhaseZooError, FileNotFoundError):
    """No data set of that name, or its files are neither here nor within reach."""


class MeasureError(PhaseZooError, ValueError):
    """A metric cannot be computed on what was given."""


class TrainError(PhaseZooError, RuntimeError):
    """A training did not finish."""


class DependencyError(PhaseZooError, ImportError):
    """An optional library is needed for this call and is not installed."""


def nearest(asked: str, existing: Iterable[str], *, limit: int = 8) -> str:
    """Say what exists, nearest names first.

    Args:
        asked: the name that was not found.
        existing: the names that exist.
        limit: how many names to print at most.

    Returns:
        A clause such as ``did you mean 'width'? There are: width, lr, seed``.

    >>> nearest("widht", ["lr", "seed", "width"])
    "Did you mean 'width'? There are: lr, seed, width."
    """
    names = [str(name) for name in existing]
    if not names:
        return "There are none."
    close = difflib.get_close_matches(str(asked), names, n=1, cutoff=0.6)
    listing = ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
    return (f"Did you mean '{close[0]}'? " if close else "") + f"There are: {listing}."
