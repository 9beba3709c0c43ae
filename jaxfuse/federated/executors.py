"""How the clients of a round share the machine: at once, in turn, or over devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxfuse.federated.config import Executor

PyTree = Any
Run = Callable[[PyTree, PyTree, jax.Array], PyTree]
"""`(shared, one client, steps of the loop) -> outcome`."""


def run_clients(
    run: Run,
    shared: PyTree,
    clients: PyTree,
    steps: jax.Array,
    *,
    executor: Executor,
    chunk: int = 1,
    mesh: Mesh | None = None,
) -> PyTree:
    """Run every client of a round.

    Args:
        run: what one client does; its last argument bounds the loop that it shares with others.
        shared: what all clients get.
        clients: a tree with a leading axis `[m]`.
        steps: int32 `[m]`, the steps of each.
        executor: "vmap": all at once, for as many steps as the largest takes. "map": `chunk` at a
            time, the largest first, each chunk for its own largest. "shard_map": each device of the
            mesh its part, at once.
        chunk: for "map".
        mesh: with one axis "clients", for "shard_map".

    Returns:
        The outcomes with a leading axis `[m]`, in the order of the clients.
    """
    count = len(steps)
    if executor == "vmap":
        return _together(run, shared, clients, steps)
    if executor == "map":
        order = jnp.argsort(-steps)
        order = jnp.pad(order, (0, -count % chunk), mode="edge")
        # The clients that fill up the last chunk repeat one, and are dropped below.
        parts = jax.tree.map(
            lambda leaf: leaf[order].reshape(-1, chunk, *leaf.shape[1:]), (clients, steps)
        )
        made = jax.lax.map(lambda part: _together(run, shared, *part), parts)
        place = jnp.argsort(order[:count])
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count][place], made)
    assert mesh is not None, "a Plan sees to it"
    filled = jnp.pad(jnp.arange(count), (0, -count % mesh.size), mode="edge")
    parts = jax.tree.map(lambda leaf: leaf[filled], (clients, steps))
    split, whole = PartitionSpec("clients"), PartitionSpec()
    made = jax.shard_map(
        lambda shared, part: _together(run, shared, *part),
        mesh=mesh,
        in_specs=(whole, split),
        out_specs=split,
        check_vma=False,
    )(shared, parts)
    return jax.tree.map(lambda leaf: leaf[:count], made)


def client_shardings(mesh: Mesh, clients: int) -> tuple[NamedSharding, NamedSharding]:
    """Return the shardings of what all clients share, and of tables with a row for every client.

    Rows are shared out where the devices divide the clients; else every device holds all.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    rows = NamedSharding(mesh, PartitionSpec("clients"))
    return whole, rows if clients % mesh.size == 0 else whole


def _together(run: Run, shared: PyTree, clients: PyTree, steps: jax.Array) -> PyTree:
    return jax.vmap(run, in_axes=(None, 0, None))(shared, clients, jnp.max(steps))
