"""Activations in the objective: one more tensor `[samples, units]` on every group."""

import jax
import jax.numpy as jnp

from jaxfuse.activations.moments import Role, measure_moments
from jaxfuse.matching.graduated_assignment import double_centred, noise_scale
from jaxfuse.matching.problem import Problem
from jaxfuse.networks import Networks


def activation_scores(
    networks: Networks, problem: Problem, weight: float, *, role: Role = "output"
) -> dict[str, jax.Array]:
    """Return what activations add to the scores of every node, for every pair of networks.

    The standardised activations of a group on a batch are a tensor `[samples, units]` with one
    axis that may be permuted, whose linear affinity is the correlation of two units. It is scaled
    to the noise of the weights: the standard deviation of a correlation between unrelated units
    counts as much as that of a score from the tensors (`noise_scale`), so the two are added in
    equal units whatever the scale of weights, the width and the number of samples.

    Args:
        networks: the networks and the data.
        problem: of two of the networks, which tells the noise of the weights.
        weight: of the activations against the weights.
        role: whether pre-activations ("output") or what layers take ("input") are compared.

    Returns:
        Per node that activations carry, `[K, K, n, n]`.
    """
    moments = measure_moments(networks, role=role)
    noise = noise_scale(problem, problem.second_moments())
    count, scores = networks.count, {}
    for node in moments.sites:
        n = problem.sizes[node]
        joint = moments.correlation(node).reshape(count, n, count, n).transpose(0, 2, 1, 3)
        own = jnp.std(double_centred(joint[0, 1]))
        scale = weight * noise[node] / jnp.where(own > 0, own, 1.0)
        scores[node] = scale * joint
    return scores
