"""How alike the units of two networks are, told from joint moments."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxfuse.activations.moments import Moments, Site

Similarity = Literal["correlation", "covariance", "l2", "transport"]


def compare_units(
    moments: Moments,
    similarity: Similarity = "correlation",
    k: int = 0,
    l: int = 1,  # noqa: E741
) -> dict[str, jax.Array]:
    """Return the similarity of every unit of one network with every unit of another.

    With a and b the activations of two units on the same samples, each similarity is

    - "correlation": Pearson's, `cov(a, b) / (std(a) std(b))`, that of Li et al. (2015); zero where
      a unit is dead, that is constant.
    - "covariance": `cov(a, b)`: units count by their variance, and dead ones not at all. Git
      Re-Basin (Ainsworth et al., 2023, section 3.1) minimises "l2", of which this is what remains
      once the units are centred.
    - "l2": `-mean((a - b)^2)`, Git Re-Basin's objective.
    - "transport": `-sqrt(mean((a - b)^2))`, the Euclidean distance that is the ground cost of
      OTFusion (Singh and Jaggi, 2020); the best assignment is its exact transport with uniform
      masses.

    Where a node is seen at several places of the program the mean over them is taken.

    Args:
        moments: the joint moments, of two networks or more, of any widths.
        similarity: which of the four.
        k: the network of the rows.
        l: the network of the columns.

    Returns:
        Per node float32 `[n_k, n_l]`, higher is more alike.

    Raises:
        ValueError: for an unknown similarity.

    Differentiable; "transport" has a derivative of zero where two units agree on every sample.

    Examples:
        >>> from jaxfuse.activations.moments import Site
        >>> covariance = jnp.array([[1.0, 0.5], [0.5, 1.0]])
        >>> sites = {"h": (Site(jnp.float32(1), jnp.zeros(2), covariance),)}
        >>> moments = Moments(sites, (("h", (1, 1)),))
        >>> compare_units(moments)["h"], compare_units(moments, "l2")["h"]
        (Array([[0.5]], dtype=float32), Array([[-1.]], dtype=float32))
    """
    if similarity not in get_args(Similarity):
        raise ValueError(f"similarity={similarity!r} is none of {get_args(Similarity)}")
    result = {}
    for node, sites in moments.sites.items():
        if similarity == "correlation":
            joint = moments.correlation(node)
            result[node] = moments.between(node, joint, k, l)
        elif similarity == "covariance":
            joint = moments.covariance(node)
            result[node] = moments.between(node, joint, k, l)
        else:
            squares = [_mean_square(moments, node, site, k, l) for site in sites]
            distances = [_root(each) for each in squares] if similarity == "transport" else squares
            result[node] = -sum(distances[1:], start=distances[0]) / len(distances)
    return result


def _mean_square(moments: Moments, node: str, site: Site, k: int, l: int) -> jax.Array:  # noqa: E741
    """Return the mean squared differences `[n_k, n_l]`, from centred moments: less is cancelled."""
    covariance = site.covariance
    variances = moments.split(node, jnp.diagonal(covariance))
    means = moments.split(node, site.mean)
    spread = variances[k][:, None] + variances[l][None, :]
    shift = jnp.square(means[k][:, None] - means[l][None, :])
    return jnp.maximum(spread - 2 * moments.between(node, covariance, k, l), 0.0) + shift


def _root(squares: jax.Array) -> jax.Array:
    """Take the square root, with a derivative of zero at zero."""
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
