"""Where data and state lie when clients are spread over devices."""

from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxfuse.federated.clients import Clients
from jaxfuse.federated.executors import client_shardings
from jaxfuse.federated.rounds import FederatedState

Tree = TypeVar("Tree")


def spread(state: FederatedState, clients: Clients, mesh: Mesh) -> tuple[FederatedState, Clients]:
    """Put the examples and the global network on every device, and the clients' tables over them.

    The rows of the tables, what every client remembers, are shared out where the devices divide
    the clients; else every device holds all. With several processes (`jax.distributed`), each must
    pass the same.

    Args:
        state: as before a round.
        clients: the examples.
        mesh: with one axis "clients".

    Returns:
        Both on the devices of the mesh.
    """
    whole, rows = client_shardings(mesh, clients.count)
    memory, statistics = _put((state.memory, state.statistics), rows)
    state = _put(state._replace(memory=(), statistics=None), whole)
    return state._replace(memory=memory, statistics=statistics), _put(clients, whole)


def here(tree: Tree) -> Tree:
    """Return a tree that every device holds whole, as arrays of this process' first device."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def _put(tree: Tree, sharding: NamedSharding) -> Tree:
    # From the host: what lies on one device of a process is not known to be the same in all.
    return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf), sharding), tree)
