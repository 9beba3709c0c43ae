"""A call in a process of its own; the children import no more than they are asked for."""

import functools
import operator
import os

import pytest

from jaxfuse.bench.memory import alone, growth, host_peak


def test_alone_is_another_process_with_its_own_environment(monkeypatch):
    monkeypatch.delenv("JAXFUSE_TEST", raising=False)
    assert alone(os.getpid) != os.getpid()
    assert alone(os.getenv, "JAXFUSE_TEST", environment={"JAXFUSE_TEST": "here"}) == "here"
    assert "JAXFUSE_TEST" not in os.environ


def test_errors_come_back():
    with pytest.raises(ZeroDivisionError):
        alone(operator.truediv, 1, 0)


def test_growth_is_what_a_call_takes():
    call = functools.partial(operator.mul, b"x", 2**26)
    assert 60 < alone(growth, call) < 100


def test_the_peak_never_falls():
    first = host_peak()
    held = b"x" * 2**24
    assert host_peak() >= first > len(held) / 2**20
