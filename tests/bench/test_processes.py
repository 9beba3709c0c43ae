"""Processes that answer together, started for good and gone for good."""

import functools
import os

import jax
import pytest

from jaxfuse.bench.processes import ProcessGroup


def enter_sums():
    """Answer with how many calls there were, and what all processes know of one another."""
    calls = []

    def call():
        calls.append(0)
        return len(calls), jax.process_index(), jax.device_count(), os.getpid()

    return call


def enter_broken(rank):
    def call():
        if jax.process_index() == rank:
            os._exit(3)
        return 0

    return call


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_they_are_joined_answer_in_order_and_end(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    group = ProcessGroup(2, enter_sums)
    first, second = group(), group()
    assert [answer[:3] for answer in first] == [(1, 0, 2), (1, 1, 2)]
    assert [answer[:3] for answer in second] == [(2, 0, 2), (2, 1, 2)]
    pids = [answer[3] for answer in second]
    assert len({os.getpid(), *pids}) == 3
    del group
    assert not any(map(is_alive, pids))


def test_one_that_dies_ends_all(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    group = ProcessGroup(2, functools.partial(enter_broken, 1))
    with pytest.raises(RuntimeError, match="process 1 of 2 ended"):
        group()
    group.close()
