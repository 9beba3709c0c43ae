"""Activations in the objective: one more tensor `[samples, units]` on every group."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfuse.activations.moments import Role, measure_moments
from jaxfuse.matching.graduated_assignment import double_centred
from jaxfuse.networks import Networks


def activation_scores(
    networks: Networks, noise: Mapping[str, jax.Array], weight: float, *, role: Role = "output"
) -> dict[str, jax.Array]:
    """Return what activations add to the scores of every node, for every pair of networks.

    The standardised activations of a group on a batch are a tensor `[samples, units]` with one
    axis that may be permuted, whose linear affinity is the correlation of two units. It is scaled
    to the noise of the weights: the standard deviation of a correlation between unrelated units
    counts as much as that of a score from the tensors (`noise_scale`), so the two are added in
    equal units whatever the scale of weights, the width and the number of samples.

    Args:
        networks: the networks and the data.
        noise: per node the noise of the weights, a number, or `[K, K]` for every pair.
        weight: of the activations against the weights.
        role: whether pre-activations ("output") or what layers take ("input") are compared.

    Returns:
        Per node that activations carry, `[K, K, n, n]`.
    """
    moments = measure_moments(networks, role=role)
    count, scores = networks.count, {}
    for node, widths in moments.widths:
        shape = (count, widths[0]) * 2
        joint = moments.correlation(node).reshape(shape).transpose(0, 2, 1, 3)
        # Of different networks, all pairs alike: no order of them counts.
        apart = jnp.std(double_centred(joint), axis=(2, 3)) * (1 - jnp.eye(count))
        own = jnp.sum(apart) / (count * (count - 1))
        scale = weight * noise[node] / jnp.where(own > 0, own, 1.0)
        scores[node] = jnp.broadcast_to(scale, (count, count))[:, :, None, None] * joint
    return scores
