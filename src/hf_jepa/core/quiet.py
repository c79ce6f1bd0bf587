"""Loading without the report of transformers, for callers that tell themselves what does not fit."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence what transformers says of missing, unexpected and mismatched weights.

    Example:
        >>> before = logging.get_verbosity()
        >>> with quiet_loading():
        ...     logging.get_verbosity() == logging.ERROR
        True
        >>> logging.get_verbosity() == before
        True
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


__all__ = ["quiet_loading"]
