"""A case: contestants with one task, run side by side, their answers judged by one function."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from jaxfuse.bench.ceilings import Work
from jaxfuse.bench.memory import growth
from jaxfuse.bench.record import Row
from jaxfuse.bench.timing import Call, Plan, ratio, time_in_turns

Judge = Callable[[Any], Mapping[str, float]]


@dataclass(frozen=True)
class Contestant:
    """One that can run.

    Attributes:
        name: what the row is called.
        call: what is timed.
        judge: turns its result into a quality.
        work: what a call has to do, where it can be counted.
        reach: where asked for, turns an objective into the seconds until it is reached, or None.
        predicted: exponents of its own, beside those of the case.
        note: what is to be said of it.
    """

    name: str
    call: Call
    judge: Judge
    work: Work = Work()
    reach: Callable[[float], float | None] | None = None
    predicted: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Absent:
    """One that cannot run here, and what it would need."""

    name: str
    needs: str


@dataclass(frozen=True)
class Case:
    """One task at one size.

    Attributes:
        name: `series/size`, unique in its suite.
        enter: makes the contestants, ours first.
        axis: what the size counts.
        size: the size.
        predicted: exponents of `seconds` and `program` in the size, as theory has them.
        rival: the contestant whose objective the others' `reach` is asked for.
        weigh: whether every contestant's memory is measured, in a process of its own.
        environment: variables that the case needs: it then runs in a process of its own.
    """

    name: str
    enter: Callable[[], list[Contestant | Absent]]
    axis: str = ""
    size: float | None = None
    predicted: Mapping[str, float] = field(default_factory=dict)
    rival: str = ""
    weigh: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def series(self) -> str:
        """The name without the size."""
        return self.name.rsplit("/", 1)[0]


class Program:
    """A function compiled for its arguments at its first call, so that its memory is known."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._function, self._arguments = jax.jit(function), arguments
        self._compiled: Any = None

    def __call__(self) -> Any:
        """Run it, compiled if need be."""
        if self._compiled is None:
            self._compiled = self._function.lower(*self._arguments).compile()
        return self._compiled(*self._arguments)

    @property
    def mebibytes(self) -> float | None:
        """MiB of the results and the scratch space, where the compiler tells."""
        analysis = self._compiled and self._compiled.memory_analysis()
        if not analysis:
            return None
        return (analysis.temp_size_in_bytes + analysis.output_size_in_bytes) / 2**20


def measure(case: Case, suite: str, ceilings: Mapping[str, float], plan: Plan) -> list[Row]:
    """Run a case in this process and return a row for every contestant."""
    entered = case.enter()
    present = [entry for entry in entered if isinstance(entry, Contestant)]
    timings, results = time_in_turns([entry.call for entry in present], plan)
    qualities = [dict(entry.judge(result)) for entry, result in zip(present, results, strict=True)]
    of_rival = [q for entry, q in zip(present, qualities, strict=True) if entry.name == case.rival]
    rows = []
    for entry, timing, quality in zip(present, timings, qualities, strict=True):
        rates = entry.work.rates(timing.median)
        reach, note = None, entry.note
        if entry.reach and of_rival:
            reach = entry.reach(of_rival[0]["objective"])
            note = note if reach is not None else f"{note} {case.rival}'s J not reached".strip()
        row = Row(
            suite,
            case.name,
            entry.name,
            seconds=timing.median,
            quartiles=timing.quartiles,
            first=timing.first,
            rounds=len(timing.samples),
            ratio=None if entry is present[0] else ratio(timings[0], timing),
            quality=quality,
            reach=reach,
            rates=rates,
            shares={k: v / ceilings[k] for k, v in rates.items() if ceilings.get(k)},
            program=entry.call.mebibytes if isinstance(entry.call, Program) else None,
            predicted={**case.predicted, **entry.predicted},
            note=note,
        )
        rows.append(row)
    absent = [entry for entry in entered if isinstance(entry, Absent)]
    rows += [Row(suite, case.name, each.name, note=each.needs) for each in absent]
    about = {"series": case.series, "axis": case.axis, "size": case.size}
    return [replace(row, **about) for row in rows]


def weigh(case: Case, name: str) -> float:
    """Return by how many MiB one contestant's first call raises the peak of this process."""
    for entry in case.enter():
        if isinstance(entry, Contestant) and entry.name == name:
            return growth(entry.call)
    return math.nan
