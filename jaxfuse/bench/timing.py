"""Time the contestants of one case in turns, so that noise hits all alike."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

Call = Callable[[], Any]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Plan:
    """How often a case is measured.

    Attributes:
        repeats: rounds, in each of which every contestant is timed once.
        least: rounds that the budget never cuts.
        budget: seconds of a case, an equal share for each contestant: one that has used up its
            share sits out the later rounds, so a slow peer costs the others none. A call that
            takes more than all of it has its second as its only sample.
        shortest: seconds that one sample takes at least: a faster call is repeated within it.
    """

    repeats: int = 9
    least: int = 3
    budget: float = 30.0
    shortest: float = 2e-3

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.repeats:
            raise ValueError(f"want 1 <= least <= repeats, got {self}")


@dataclass(frozen=True)
class Timing:
    """What the clock said of one contestant, in seconds a call.

    Attributes:
        first: the first call, with tracing and compilation.
        samples: one number a round, after a call to warm up.
    """

    first: float
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return float(np.median(self.samples))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile over the rounds."""
        low, high = np.quantile(self.samples, (0.25, 0.75))
        return float(low), float(high)


@dataclass(frozen=True)
class Ratio:
    """Seconds of one contestant over those of another, round by round.

    Attributes:
        median: over the rounds.
        low: first quartile.
        high: third quartile.
        best: the fastest round of each against the other's, which a busy machine disturbs least.
    """

    median: float
    low: float
    high: float
    best: float


def time_in_turns(
    calls: Sequence[Call], plan: Plan = Plan(), clock: Clock = time.perf_counter
) -> tuple[list[Timing], list[Any]]:
    """Time calls in the order A B C A B C ..., each until all of its arrays are ready.

    Args:
        calls: the contestants.
        plan: how often.
        clock: seconds since some moment.

    Returns:
        A timing of each, and the result of each one's first call.
    """
    firsts, results, counts = [], [], []
    samples: list[list[float]] = []
    for call in calls:
        result, first = timed(call, 1, clock)
        _, again = timed(call, 1, clock)
        firsts.append(first)
        results.append(result)
        too_long = again > plan.budget
        samples.append([again] if too_long else [])
        counts.append(0 if too_long else max(1, math.ceil(plan.shortest / max(again, 1e-9))))
    share = plan.budget / max(len(calls), 1)
    for index in range(plan.repeats):
        for own, call, count in zip(samples, calls, counts, strict=True):
            within = index < plan.least or (len(own) == index and count * sum(own) <= share)
            if count and within:
                own.append(timed(call, count, clock)[1])
    return [Timing(f, tuple(own)) for f, own in zip(firsts, samples, strict=True)], results


def timed(call: Call, count: int = 1, clock: Clock = time.perf_counter) -> tuple[Any, float]:
    """Return the result of `count` calls in a row, and the seconds of one of them."""
    result = None
    started = clock()
    for _ in range(count):
        result = jax.block_until_ready(call())
    return result, (clock() - started) / count


def ratio(ours: Timing, peer: Timing) -> Ratio:
    """Return ours over the peer's, round by round as long as both ran.

    Examples:
        >>> ratio(Timing(9.0, (1.0, 2.0, 3.0)), Timing(9.0, (2.0, 4.0, 6.0)))
        Ratio(median=0.5, low=0.5, high=0.5, best=0.5)
    """
    both = min(len(ours.samples), len(peer.samples))
    each = np.divide(ours.samples[:both], peer.samples[:both])
    low, median, high = (float(q) for q in np.quantile(each, (0.25, 0.5, 0.75)))
    return Ratio(median, low, high, min(ours.samples) / min(peer.samples))
