"""What every method finds: how the units of K networks correspond."""

from typing import NamedTuple, Protocol, runtime_checkable

import jax

from jaxfuse.many.problem import Orders
from jaxfuse.networks import Networks
from jaxfuse.transport.maps import Maps


class Correspondence(NamedTuple):
    """How the units of K networks correspond: orders of them, or linear maps.

    Attributes:
        orders: per node int32 `[K, N]`, as `jaxfuse.many.Matchings` has them, with network 0 in its
            own order; None where the method finds no permutations.
        maps: the maps into the common space; None where `orders` says it all.
        objective: what the method maximised, float32; each says in its docstring what that is.
        status: int32, a `jaxfuse.Status`.
        trace: float32 `[steps]`, the objective along the way.
    """

    orders: Orders | None
    maps: Maps | None
    objective: jax.Array
    status: jax.Array
    trace: jax.Array


@runtime_checkable
class Method(Protocol):
    """Finds how the units of K networks correspond. Frozen and hashable, so static under `jit`."""

    def align(self, networks: Networks, key: jax.Array | None = None) -> Correspondence:
        """Align the networks to the first."""
        ...
