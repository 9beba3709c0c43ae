"""The clock is a fake one: no test depends on how long anything takes."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.bench.timing import Plan, Ratio, Timing, ratio, time_in_turns, timed


class Clock:
    """A clock that stands still but for the work of the calls."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def __call__(self):
        return self.now

    def worker(self, name, *seconds):
        """A call that takes the given seconds one after the other, and the last ever after."""
        left = list(seconds)

        def call():
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]
            return name

        return call


def test_first_call_and_warm_up_are_no_samples():
    clock = Clock()
    (timing,), (result,) = time_in_turns([clock.worker("a", 100, 20, 1)], Plan(5, 3), clock)
    assert timing.first == 100
    assert timing.samples == (1, 1, 1, 1, 1)
    assert result == "a"


def test_contestants_take_turns():
    clock = Clock()
    time_in_turns([clock.worker("a", 1), clock.worker("b", 2)], Plan(3, 3), clock)
    assert clock.log == ["a", "a", "b", "b"] + ["a", "b"] * 3


def test_budget_cuts_rounds_but_not_the_least():
    clock = Clock()
    plan = Plan(repeats=9, least=3, budget=10.0)
    (slow,), _ = time_in_turns([clock.worker("a", 8.0)], plan, clock)
    (quick,), _ = time_in_turns([clock.worker("a", 2.0)], plan, clock)
    assert (len(slow.samples), len(quick.samples)) == (3, 6)


def test_a_slow_contestant_sits_out_and_costs_the_others_nothing():
    clock = Clock()
    plan = Plan(repeats=9, least=3, budget=10.0)
    calls = [clock.worker("a", 0.08), clock.worker("b", 8.0)]
    (quick, slow), _ = time_in_turns(calls, plan, clock)
    assert (len(quick.samples), len(slow.samples)) == (9, 3)
    assert ratio(quick, slow).median == pytest.approx(1e-2)


def test_a_call_longer_than_the_budget_is_made_twice():
    clock = Clock()
    calls = [clock.worker("a", 30.0, 20.0, 1.0), clock.worker("b", 1.0)]
    (slow, quick), _ = time_in_turns(calls, Plan(repeats=3, least=3, budget=10.0), clock)
    assert (slow.first, slow.samples, len(quick.samples)) == (30.0, (20.0,), 3)
    assert clock.log.count("a") == 2


def test_fast_calls_are_repeated_within_a_sample():
    clock = Clock()
    plan = Plan(repeats=1, least=1, shortest=1.0)
    (timing,), _ = time_in_turns([clock.worker("a", 0.25)], plan, clock)
    assert timing.samples == (0.25,)
    assert len(clock.log) == 2 + 4


def test_results_are_ready_and_kept():
    result, _ = timed(lambda: {"x": jnp.arange(3), "y": np.arange(2), "z": 1.5})
    assert result["x"].tolist() == [0, 1, 2]


def test_median_and_quartiles():
    timing = Timing(9.0, (1.0, 2.0, 3.0, 4.0, 100.0))
    assert timing.median == 3.0
    assert timing.quartiles == (2.0, 4.0)


def test_ratios_are_taken_round_by_round():
    # Noise that doubles one round of both leaves the ratio as it is.
    ours, peer = Timing(0.0, (1.0, 2.0, 1.0)), Timing(0.0, (4.0, 8.0, 4.0))
    assert ratio(ours, peer) == Ratio(0.25, 0.25, 0.25, 0.25)


def test_plan_refuses_no_rounds():
    with pytest.raises(ValueError, match="least"):
        Plan(repeats=2, least=3)
