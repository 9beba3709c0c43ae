"""How soon a solver reaches the objective that another method ends with."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxfuse.bench.timing import Call

Compile = Callable[[int | None], Call]
_LIMITED = ("max_iterations", "max_sweeps", "steps")


def limited(solver: Any, limit: int) -> Any:
    """Return a solver cut to `limit` iterations, sweeps or temperatures, without its polish.

    A portfolio cut to the sweeps of its opening, or fewer, is that opening.

    Examples:
        >>> from jaxfuse import FrankWolfe
        >>> limited(FrankWolfe(max_iterations=20), 3).max_iterations
        3
    """
    opening = getattr(solver, "opening", None)
    if opening is not None and limit <= opening.max_sweeps:
        return dataclasses.replace(opening, max_sweeps=limit)
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(solver):
        value = getattr(solver, field.name)
        if field.name in _LIMITED and isinstance(value, int):
            changes[field.name] = min(value, limit)
        elif field.name == "polish":
            changes["polish"] = None
        elif field.name == "solvers":
            changes["solvers"] = tuple(limited(member, limit) for member in value)
    return dataclasses.replace(solver, **changes)


def reach(
    compile_limited: Compile,
    objective: Callable[[Any], float],
    seconds: Callable[[Call], float],
    target: float,
) -> float | None:
    """Find the smallest limit of iterations whose result reaches the target, and time it.

    Limits are doubled until one reaches it, then bisected. Where none does, the solver is tried as
    it is; where that fails too, the target is out of reach.

    Args:
        compile_limited: the call of the solver cut to a limit, or as it is for None.
        objective: judges a result.
        seconds: times a call.
        target: the objective; a millionth less counts as rounding.

    Returns:
        The seconds of a call under that limit, or None.
    """

    def attempt(limit: int | None) -> float | None:
        call = compile_limited(limit)
        enough = target - 1e-6 * abs(target)
        return seconds(call) if objective(call()) >= enough else None

    failed = 0
    for limit in (1, 2, 4, 8, 16, 32):
        best = attempt(limit)
        if best is not None:
            break
        failed = limit
    else:
        return attempt(None)
    while limit - failed > 1:
        middle = (limit + failed) // 2
        faster = attempt(middle)
        if faster is None:
            failed = middle
        else:
            limit, best = middle, faster
    return best
