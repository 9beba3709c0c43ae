"""Optimal transport plans between two sets of units, exact or entropic."""

import warnings
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.assignment import scaling

# Largest deviation of a row or column sum of an entropic plan, as a share of a unit's mean mass.
_TOLERANCE = 1e-3
_PIVOTS = 10_000_000
_OPTIMAL = 1


class Plan(NamedTuple):
    """A transport plan.

    Attributes:
        plan: `[n, m]`, with the row sums mu and the column sums nu.
        solved: whether it is optimal, or Sinkhorn's iteration converged; bool.
    """

    plan: jax.Array
    solved: jax.Array


def transport_plan(
    cost: jax.Array,
    mu: jax.Array,
    nu: jax.Array,
    *,
    transport: Literal["exact", "entropic"] = "exact",
    regularisation: float = 0.01,
    max_iterations: int = 2000,
) -> Plan:
    """Move the mass mu to the mass nu at the least cost.

    Return the T >= 0 with row sums mu and column sums nu that minimises `<T, cost>`, or, entropic,
    `<T, cost> - tau * entropy(T)` (Cuturi, 2013). The exact plan is a vertex: at most n + m - 1
    entries are not zero, and with equal masses and n = m it is a permutation over n.

    Args:
        cost: float32 `[n, m]`, finite.
        mu: `[n]`, positive, with sum one.
        nu: `[m]`, the same.
        transport: "exact" calls the network simplex of POT on the host, in float64; "entropic" runs
            Sinkhorn on the device.
        regularisation: tau relative to the mean cost.
        max_iterations: of Sinkhorn (2000, as OTT).

    Returns:
        A `Plan`.

    Works under `jit` and `vmap`; exact plans of a batch one after the other. Not differentiable.

    Examples:
        >>> half = jnp.full(2, 0.5)
        >>> transport_plan(jnp.array([[3.0, 1.0], [1.0, 2.0]]), half, half).plan.tolist()
        [[0.0, 0.5], [0.5, 0.0]]
    """
    cost, mu, nu = jax.lax.stop_gradient((cost, mu, nu))
    if transport == "exact":
        # Imported here, where the program is traced, and not first by a callback.
        import ot.lp  # noqa: F401

        shapes = (
            jax.ShapeDtypeStruct(cost.shape, jnp.float32),
            jax.ShapeDtypeStruct((), jnp.bool_),
        )
        return Plan(
            *jax.pure_callback(_solve_exact, shapes, mu, nu, cost, vmap_method="sequential")
        )
    mean = jnp.mean(cost)
    mass = min(cost.shape)
    problem = scaling.Problem(
        scores=-cost,
        allowed=jnp.ones(cost.shape, bool),
        row_marginals=mass * mu,
        column_marginals=mass * nu,
        tau=regularisation * jnp.where(mean > 0, mean, 1.0),
    )
    scaled, _, converged = scaling.scale_until(
        scaling.scale_kernel, problem, jnp.zeros_like(nu), _TOLERANCE, max_iterations
    )
    return Plan(scaled.plan / mass, converged)


def _solve_exact(mu: jax.Array, nu: jax.Array, cost: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Solve with POT: a callback must not call JAX or raise."""
    from ot.lp import emd

    source, target, costs = (np.asarray(each, np.float64) for each in (mu, nu, cost))
    with warnings.catch_warnings():
        # What it would warn of is in the code it returns.
        warnings.simplefilter("ignore")
        plan, account = emd(
            source / source.sum(), target / target.sum(), costs, numItermax=_PIVOTS, log=True
        )
    return plan.astype(np.float32), np.asarray(account["result_code"] == _OPTIMAL)
