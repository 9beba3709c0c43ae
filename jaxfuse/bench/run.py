"""Run the cases of a suite one by one, and keep what there is after each."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch

import jax

from jaxfuse.bench.cases import SUITES
from jaxfuse.bench.contest import Case, measure, weigh
from jaxfuse.bench.memory import alone
from jaxfuse.bench.record import Report, Row
from jaxfuse.bench.timing import Plan

PLAN = Plan()
QUICK = Plan(repeats=15, budget=3.0)
CHECK = Plan(repeats=40, budget=4.0)

Told = Callable[[Report, str, int, int], None]
"""Called with the report, the next case, how many are done and how many there are."""


def select(suite: str, quick: bool, only: str) -> list[Case]:
    """Return the cases of a suite whose names match a pattern.

    Raises:
        ValueError: for an unknown suite and for a pattern that matches nothing.
    """
    if suite not in SUITES:
        raise ValueError(f"unknown suite {suite!r}: choose one of {', '.join(SUITES)}")
    every = SUITES[suite](quick)
    cases = [case for case in every if fnmatch(case.name, only)]
    if not cases:
        names = ", ".join(case.name for case in every)
        raise ValueError(f"no case of suite {suite!r} matches {only!r}: it has {names}")
    return cases


def run(
    selected: Sequence[tuple[str, Case]],
    report: Report,
    tell: Told,
    plan: Plan,
) -> Report:
    """Measure the cases that the report does not hold yet.

    Args:
        selected: pairs of suite and case.
        report: what is known; its ceilings are taken for the shares.
        tell: called before each case and after the last.
        plan: how often each contestant is timed.

    Returns:
        The report with all of them.
    """
    for index, (suite, case) in enumerate(selected):
        tell(report, f"{suite}: {case.name}", index, len(selected))
        if (suite, case.name) in report.done:
            continue
        try:
            rows = _rows(case, suite, report, plan)
        except Exception as error:
            # One broken peer or a size too large costs its own case, not the rest of a long run.
            reason = f"failed: {type(error).__name__}: {error}".splitlines()[0]
            report = report.plus(suite, case.name, [Row(suite, case.name, "all", note=reason)])
            report = report.without({(suite, case.name)})
            continue
        report = report.plus(suite, case.name, rows)
    tell(report, "", len(selected), len(selected))
    return report


def _rows(case: Case, suite: str, report: Report, plan: Plan) -> list[Row]:
    where = (suite, report.quick, case.name)
    platform = report.machine.get("platform")
    if case.environment:
        ceilings = dict(report.ceilings)
        return alone(_measure_alone, where, ceilings, plan, environment=case.environment)
    rows = measure(case, suite, report.ceilings, plan)
    # A TPU belongs to one process, and this one has it.
    if not case.weigh or platform == "tpu":
        return rows
    return [
        row
        if row.seconds is None
        else dataclasses.replace(row, peak=alone(_weigh_alone, where, platform, row.contestant))
        for row in rows
    ]


Where = tuple[str, bool, str]


def _found(where: Where) -> Case:
    """Return a case by suite, whether the run is quick, and name; cases can't be pickled."""
    without_cache()
    suite, quick, name = where
    return next(case for case in SUITES[suite](quick) if case.name == name)


def _measure_alone(where: Where, ceilings: Mapping[str, float], plan: Plan) -> list[Row]:
    return measure(_found(where), where[0], ceilings, plan)


def _weigh_alone(where: Where, platform: str | None, contestant: str) -> float:
    jax.config.update("jax_default_device", jax.devices(platform)[0])
    return weigh(_found(where), contestant)


def without_cache() -> None:
    """Compile everything anew: a program read from the persistent cache has no compile time."""
    jax.config.update("jax_enable_compilation_cache", False)
