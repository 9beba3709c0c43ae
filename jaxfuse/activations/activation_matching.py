"""Activation matching: units that do the same on the same inputs correspond."""

import functools
import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from jaxfuse.activations.moments import Moments, Role, measure_moments
from jaxfuse.activations.mutual_information import measure_mutual_information
from jaxfuse.activations.similarity import Similarity, compare_units
from jaxfuse.activations.to_first import join_matchings, match_to_first, raise_non_finite
from jaxfuse.correspondence import Correspondence
from jaxfuse.matching.nodes import list_nodes
from jaxfuse.matching.problem import Backend, Scores, picked
from jaxfuse.matching.projection import assign
from jaxfuse.matching.result import Matching, select
from jaxfuse.networks import Networks
from jaxfuse.status import Status
from jaxfuse.symmetry.spec import Symmetry

PyTree = Any


@jax.tree_util.register_static
@dataclass(frozen=True)
class ActivationMatching:
    """Match the units of every node by what they do on a batch, each node by one assignment.

    Li et al. (2015), and activation matching of Git Re-Basin (Ainsworth et al., ICLR 2023, section
    3.1). The nodes do not look at one another, so there is nothing to iterate: one pass over the
    inputs, one assignment a node, an optimum for the similarity. Units inside heads are matched
    together with the heads. Networks beyond the second are matched to the first as the second is.

    Attributes:
        similarity: "correlation", "covariance", "l2", "transport" (`compare_units` says what they
            are; "transport" is OTFusion with exact transport), or "mutual_information"
            (`measure_mutual_information`).
        role: "input" compares what layers take, after the nonlinearity; "output" what they compute,
            before bias and nonlinearity. With correlations the first measured better on both
            published pairs. A node that is seen in one of the two only, as queries and keys are,
            is compared there.
        batch_size: examples that are in flight at once; None for all inputs as they are.
        bins: of the mutual information.
        backend: who solves assignments, as in `jaxfuse.hungarian`.

    Examples:
        >>> from jaxfuse.symmetry import infer_symmetry
        >>> mlp = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
        >>> x, w = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(9, 4), (4, 3)]))
        >>> a, b = ({"in": w[:, o], "out": jnp.ones((3, 2))} for o in ([0, 1, 2], [2, 0, 1]))
        >>> symmetry = infer_symmetry(mlp, a, x)
        >>> both = Networks((a, b), (symmetry, symmetry), (x,), None, mlp)
        >>> ActivationMatching().align(both).orders["in"].tolist()
        [[0, 1, 2], [1, 2, 0]]
    """

    similarity: Similarity | Literal["mutual_information"] = "correlation"
    role: Role = "input"
    batch_size: int | None = 100
    bins: int = 10
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        known = (*get_args(Similarity), "mutual_information")
        if self.similarity not in known:
            raise ValueError(f"similarity={self.similarity!r} is none of {known}")

    def align(self, networks: Networks, key: jax.Array | None = None) -> Correspondence:
        """Match all networks to the first. About 100 unlabelled examples are enough.

        Args:
            networks: K networks of one width, their function and a batch of inputs.
            key: not used.

        Returns:
            The orders; the objective is the sum of the similarities of all matched units, over all
            networks, nodes and their places. The status is NON_FINITE, and the orders are as they
            were, where an activation is NaN or infinite.

        Raises:
            ValueError: without data, for networks of different widths, and outside jit for
                activations that are NaN or infinite.

        Works under `jit` and `vmap`. Not differentiable; `compare_units` is.
        """
        networks.function("ActivationMatching")
        networks.check_one_width("ActivationMatching")
        found = _align(self, networks)
        raise_non_finite(found.status, "an activation")
        return found

    def scores(self, networks: Networks) -> Scores:
        """Return per node the similarity `[n, n]` of the units of two networks."""
        scores = self._compare(networks, self.role)
        if len(scores) == len(list_nodes(networks.symmetry)):
            return scores
        # No layer takes queries and keys, and none computes an input that is permuted.
        return {**self._compare(networks, "output" if self.role == "input" else "input"), **scores}

    def _compare(self, networks: Networks, role: Role) -> Scores:
        moments = measure_moments(networks, role=role, batch_size=self.batch_size)
        if self.similarity == "mutual_information":
            return measure_mutual_information(
                networks, moments, role=role, bins=self.bins, batch_size=self.batch_size
            )
        return compare_units(moments, self.similarity)


@jax.jit
def _align(method: ActivationMatching, networks: Networks) -> Correspondence:
    symmetry = networks.symmetry

    def match(other: PyTree, key: jax.Array | None) -> Matching:
        pair = replace(networks, params=(networks.params[0], other), symmetries=(symmetry,) * 2)
        return _match(method.scores(pair), symmetry, method.backend)

    return match_to_first(networks, None, match)


def match_moments(
    moments: Moments,
    symmetry: Symmetry,
    similarity: Similarity = "correlation",
    backend: Backend = "auto",
) -> Correspondence:
    """Match networks by moments that are there already, as from batches that came one by one.

    Args:
        moments: joint moments of K networks of one width.
        symmetry: their symmetry.
        similarity: as in `compare_units`.
        backend: as in `jaxfuse.hungarian`.

    Returns:
        As `ActivationMatching.align`.

    Raises:
        ValueError: for networks of different widths, an unknown similarity, and outside jit for
            moments that are NaN or infinite.

    Examples:
        >>> from jaxfuse.activations.moments import Site
        >>> covariance = jnp.kron(jnp.array([[1.0, 0.9], [0.9, 1.0]]), jnp.eye(2))
        >>> swapped = covariance[:, jnp.array([0, 1, 3, 2])][jnp.array([0, 1, 3, 2])]
        >>> site = Site(jnp.float32(1), jnp.zeros(4), swapped)
        >>> moments = Moments({"h": (site,)}, (("h", (2, 2)),))
        >>> match_moments(moments, Symmetry((("h", 2),), ())).orders["h"].tolist()
        [[0, 1], [1, 0]]
    """
    for node, widths in moments.widths:
        if len(set(widths)) > 1:
            raise ValueError(
                f"node {node!r} has {widths} units in the networks: permutations need one width"
            )
    count = len(moments.widths[0][1]) if moments.widths else 1
    found = _match_moments(moments, symmetry, similarity, backend, count)
    raise_non_finite(found.status, "an activation")
    return found


@functools.partial(jax.jit, static_argnames=("similarity", "backend", "count"))
def _match_moments(
    moments: Moments, symmetry: Symmetry, similarity: Similarity, backend: Backend, count: int
) -> Correspondence:
    found = [
        _match(compare_units(moments, similarity, 0, k), symmetry, backend) for k in range(1, count)
    ]
    return join_matchings(found, symmetry)


def _match(scores: Scores, symmetry: Symmetry, backend: Backend) -> Matching:
    """Find the best permutation of every node; where no order beats the present one, keep it."""
    nodes = list_nodes(symmetry)
    sizes = {name: math.prod(node.shape) for name, node in nodes.items()}
    finite = jnp.bool_(True)
    for matrix in scores.values():
        finite &= jnp.all(jnp.isfinite(matrix))
    full = {
        name: jnp.where(finite, scores[name], 0.0) if name in scores else jnp.zeros((n, n))
        for name, n in sizes.items()
    }
    parents = [(name, node.parent) for name, node in nodes.items() if node.parent]
    columns = assign(full, backend, parents)
    identity = {name: jnp.arange(n, dtype=jnp.int32) for name, n in sizes.items()}
    objective, at_identity = picked(full, columns), picked(full, identity)
    aligned = at_identity >= objective
    status = jnp.where(aligned, Status.ALREADY_ALIGNED, Status.CONVERGED)
    status = jnp.where(finite, status, Status.NON_FINITE).astype(jnp.int32)
    objective = jnp.maximum(objective, at_identity)
    columns = select(aligned, identity, columns)
    return Matching(columns, objective, status, objective[None], jnp.int32(1))
