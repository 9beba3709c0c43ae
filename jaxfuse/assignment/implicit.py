"""The derivative of a Sinkhorn plan at its fixed point."""

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_jvp
def attach_derivative(scores: jax.Array, tau: jax.Array, plan: jax.Array) -> jax.Array:
    """Return the plan, with the implicit derivative with respect to scores and tau attached.

    The plan `P = exp((S + f + g) / tau)` keeps its row and column sums, so a change dS, dtau of the
    input changes the potentials by the solution of the linear system of size n + m

        diag(P 1) df + P dg = -(P * X) 1,    P' df + diag(P' 1) dg = -(P * X)' 1,

    with `X = dS - log(P) dtau`, and the plan by `dP = P * (X + df 1' + 1 dg') / tau` (Luise et
    al., "Differential properties of Sinkhorn approximation", 2018, theorem 2, and Cuturi et al.,
    "Optimal Transport Tools", 2022). Forward and reverse mode work, to any order.

    Args:
        scores: `[n, m]`, only their tangents are used.
        tau: scalar temperature.
        plan: `[n, m]`, a fixed point computed without derivatives; zero outside masks.

    Returns:
        The plan, `[n, m]`.
    """
    del scores, tau
    return plan


@attach_derivative.defjvp
def _attach_derivative_jvp(primals, tangents):
    scores, tau, plan = primals
    scores_dot, tau_dot, _ = tangents
    # Calling the function again, not reading `plan`, is what carries second derivatives.
    plan = attach_derivative(scores, tau, plan)
    log_plan = jnp.log(jnp.where(plan > 0, plan, 1.0))
    change = scores_dot - log_plan * tau_dot
    return plan, plan * _tangent_part(plan, change) / tau


def _tangent_part(plan: jax.Array, change: jax.Array) -> jax.Array:
    """Add the row and column terms to the change that leave the sums of the plan as they are."""
    row_sums = plan.sum(axis=1)
    conditional = plan / jnp.where(row_sums > 0, row_sums, 1.0)[:, None]
    centred = change - (conditional * change).sum(axis=1)[:, None]
    column = _solve_laplacian(plan, conditional, -(plan * centred).sum(axis=0))
    row = -jnp.dot(conditional, column, precision=lax.Precision.HIGHEST)
    return centred + row[:, None] + column[None, :]


def _solve_laplacian(plan: jax.Array, conditional: jax.Array, right: jax.Array) -> jax.Array:
    """Solve `(diag(P' 1) - P' diag(P 1)^-1 P) x = right`, the Schur complement of the rows.

    The matrix is the Laplacian of a graph on the columns, so constant vectors are its null space.
    Its diagonal is summed from the other entries, without the cancellation of a subtraction, which
    keeps the small differences of a nearly hard plan. Scaled to a unit diagonal, with the null
    vector deflated, it is positive definite.
    """
    m = plan.shape[1]
    weights = jnp.dot(plan.T, conditional, precision=lax.Precision.HIGHEST)
    weights = jnp.where(jnp.eye(m, dtype=bool), 0.0, (weights + weights.T) / 2)
    degree = weights.sum(axis=1)
    connected = degree > jnp.finfo(degree.dtype).tiny
    root = jnp.sqrt(jnp.where(connected, degree, 1.0))
    null = jnp.where(connected, root, 0.0)
    total = jnp.sum(null**2)
    null = null / jnp.sqrt(jnp.where(total > 0, total, 1.0))
    # A nearly hard plan falls into almost separate pieces, each with a null vector of its own.
    ridge = 16 * jnp.finfo(degree.dtype).eps
    matrix = (1 + ridge) * jnp.eye(m, dtype=degree.dtype) - weights / root[:, None] / root[None, :]
    factor = jax.scipy.linalg.cho_factor(matrix + null[:, None] * null[None, :])
    scaled = jnp.where(connected, right, 0.0) / root
    scaled = scaled - null * jnp.sum(null * scaled)
    return jax.scipy.linalg.cho_solve(factor, scaled) / root
