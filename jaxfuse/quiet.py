"""Hold back the chatter of a library for the length of a call."""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def only_errors(logger_name: str) -> Iterator[None]:
    """Let only errors through a logger inside the block, and leave it as it was."""

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger = logging.getLogger(logger_name)
    logger.addFilter(is_error)
    try:
        yield
    finally:
        logger.removeFilter(is_error)
