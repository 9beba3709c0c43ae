"""The cases over devices and processes: their answers are those of one device."""

import os

import pytest

from jaxfuse.bench.cases import devices
from jaxfuse.bench.contest import measure
from jaxfuse.bench.memory import alone
from jaxfuse.bench.timing import Plan

PLAN = Plan(repeats=1, least=1, shortest=0.0)


def rows(name):
    case = next(case for case in devices.cases(quick=True) if case.name == name)
    return measure(case, "scale", {}, PLAN)


@pytest.mark.parametrize(
    "name", ["sharded/devices=4", "sharded networks/devices=4", "processes/processes=2"]
)
def test_answers_are_those_of_one_device(name):
    case = next(case for case in devices.cases(quick=True) if case.name == name)
    # Compiled as the other tests are; a benchmark compiles as users do.
    flags = f"{os.environ.get('XLA_FLAGS', '')} {case.environment['XLA_FLAGS']}"
    ours, whole = alone(rows, name, environment={**case.environment, "XLA_FLAGS": flags})
    for row in (ours, whole):
        assert row.quality["difference"] == 0
        assert row.quality["units"] == 1
    assert ours.seconds > 0
    if ours.program is not None:
        assert ours.program < 0.5 * whole.program
