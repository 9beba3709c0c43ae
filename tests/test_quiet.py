"""Chatter is held back for the length of a block."""

import logging

import pytest

from jaxfuse.quiet import only_errors


def messages(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_only_errors_pass_and_only_inside_the_block(caplog):
    logger = logging.getLogger("jaxfuse-tests.chatter")
    with caplog.at_level(logging.DEBUG):
        logger.info("before")
        with only_errors(logger.name):
            logger.info("chatter")
            logger.warning("chatter")
            logging.getLogger("jaxfuse-tests.other").warning("other")
            logger.error("wrong")
            logger.critical("very wrong")
        logger.warning("after")
    assert messages(caplog) == ["before", "other", "wrong", "very wrong", "after"]


def test_logger_is_as_before_after_an_error(caplog):
    logger = logging.getLogger("jaxfuse-tests.chatter")
    level, filters = logger.level, list(logger.filters)

    def fail():
        with only_errors(logger.name):
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert (logger.level, logger.filters) == (level, filters)
    logger.warning("after")
    assert messages(caplog) == ["after"]


def test_blocks_nest(caplog):
    logger = logging.getLogger("jaxfuse-tests.chatter")
    with only_errors(logger.name):
        with only_errors(logger.name):
            logger.warning("inner")
        logger.warning("outer")
    logger.warning("after")
    assert messages(caplog) == ["after"]
