"""The features of one network, or of a sum of networks, as they stand in the universe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxfuse.affinity.block import HIGHEST
from jaxfuse.many.stack import FeatureStack, MultilinearStack
from jaxfuse.matching.problem import Backend, Balance, Problem
from jaxfuse.matching.stacked import Link, stack_slots

Stack = FeatureStack | MultilinearStack


class Weights(NamedTuple):
    """Of features in the balanced problem: the reciprocal of their tensor's mean square.

    Attributes:
        units: per node, of what each unit has of its own, `[e]`.
        factors: per block and tensor, `[L]`.
    """

    units: dict[str, jax.Array]
    factors: tuple[jax.Array, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bundle:
    """The features of one network, or of a sum of networks: what a two-model problem compares.

    Attributes:
        units: per node the features of what each unit has of its own, `[n, e]`.
        blocks: those of the tensors that join groups, tensors of one shape side by side, without
            the axis of the networks.
        links: per block and tensor its nodes.
    """

    units: dict[str, jax.Array]
    blocks: tuple[Stack, ...]
    links: tuple[tuple[Link, ...], ...] = field(metadata={"static": True})

    def hard(self, orders: Mapping[str, jax.Array]) -> "Bundle":
        """Return the features in orders int32 `[N]` per node; units of -1 are zero."""
        units = {}
        for node, features in self.units.items():
            order = orders[node]
            taken = jnp.take(features, order, axis=0, mode="clip")
            units[node] = taken * (order >= 0).astype(features.dtype)[:, None]
        return Bundle(
            units, self._moved(lambda block, *moves: block.hard(*moves), orders), self.links
        )

    def soft(self, matchings: Mapping[str, jax.Array]) -> "Bundle":
        """Return the features moved by soft matchings `[n, N]` per node."""
        units = {
            node: jnp.dot(matchings[node].T, features, precision=HIGHEST)
            for node, features in self.units.items()
        }
        return Bundle(
            units, self._moved(lambda block, *moves: block.soft(*moves), matchings), self.links
        )

    def match(
        self,
        other: "Bundle",
        backend: Backend = "auto",
        parents: tuple[tuple[str, str], ...] = (),
        weights: Weights | None = None,
        order: tuple[str, ...] | None = None,
    ) -> Problem:
        """Return the problem of matching another bundle to this one.

        Args:
            other: what is matched; its units may stand in any order.
            backend: who solves assignments.
            parents: pairs of a node and its parent.
            weights: of the features in the balanced problem.
            order: the nodes from input to output.
        """

        def compare(units: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            return {
                node: jnp.dot(features, other.units[node].T, precision=HIGHEST)
                for node, features in units.items()
            }

        balance = None
        if weights is not None:
            even = {node: own * weights.units[node][None] for node, own in self.units.items()}
            balance = Balance(compare(even), weights.factors)
        blocks = tuple(
            jax.vmap(lambda mine, theirs: mine.block(mine.features, theirs.features))(*both)
            for both in zip(self.blocks, other.blocks, strict=True)
        )
        return Problem(compare(self.units), blocks, self.links, backend, parents, balance, order)

    def norm(self) -> jax.Array:
        """Return the squared norm of all features."""
        leaves = jax.tree.leaves((self.units, self.blocks))
        return sum(
            (jnp.vdot(leaf, leaf, precision=HIGHEST) for leaf in leaves), start=jnp.float32(0)
        )

    def __add__(self, other: "Bundle") -> "Bundle":
        return jax.tree.map(jnp.add, self, other)

    def __sub__(self, other: "Bundle") -> "Bundle":
        return jax.tree.map(jnp.subtract, self, other)

    def _moved(
        self, move: Callable[..., jax.Array], moves: Mapping[str, jax.Array]
    ) -> tuple[Stack, ...]:
        return tuple(
            replace(block, features=jax.vmap(move)(block, *stack_slots(moves, links)))
            for links, block in zip(self.links, self.blocks, strict=True)
        )
