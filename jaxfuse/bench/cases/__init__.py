"""The suites: which cases each has, small ones for a quick run."""

from collections.abc import Callable

from jaxfuse.bench.cases import align, assignment, check, gaussian, many, scale, sinkhorn
from jaxfuse.bench.contest import Case


def _kernels(quick: bool) -> list[Case]:
    return [*sinkhorn.cases(quick), *assignment.cases(quick), *gaussian.cases(quick)]


SUITES: dict[str, Callable[[bool], list[Case]]] = {
    "kernels": _kernels,
    "align": align.cases,
    "many": many.cases,
    "scale": scale.cases,
    "check": check.cases,
}
"""By name, a function of whether the run is quick. `check` is always small: `make bench-check`."""

__all__ = ["SUITES"]
