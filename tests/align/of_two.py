"""One of two processes that align pairs together; run by `test_processes`."""

import os
import sys

if __name__ == "__main__":
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=2"

import jax
import numpy as np
from jax.experimental.multihost_utils import global_array_to_host_local_array
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxfuse import CoordinateAscent, align_pairs
from tests.align.networks import batch, item

COUNT = 8
PLAIN = {"method": CoordinateAscent()}
RANDOM = {"method": CoordinateAscent(order="random")}


def main(rank: int, port: str, folder: str) -> None:
    """Align this process's half of the pairs and write what it finds."""
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=rank)
    mesh = jax.make_mesh((4,), ("pairs",), (AxisType.Auto,))
    sharding = NamedSharding(mesh, P("pairs"))
    own = slice(rank * COUNT // 2, (rank + 1) * COUNT // 2)

    def spread(tree):
        return [jax.make_array_from_process_local_data(sharding, leaf[own]) for leaf in tree]

    def local(tree):
        return jax.tree.map(np.asarray, global_array_to_host_local_array(tree, mesh, P("pairs")))

    a, b = batch(COUNT), batch(COUNT, seed=1)
    refused = ""
    try:
        align_pairs(a, b)
    except ValueError as error:
        refused = str(error)
    pairs = align_pairs(spread(a), spread(b), **PLAIN)
    assert not pairs.params[0].is_fully_addressable
    to_one = align_pairs(
        item(a, 0), spread(b), mesh=mesh, one_reference=True, key=jax.random.key(1), **RANDOM
    )
    np.savez(
        f"{folder}/{rank}.npz",
        refused=refused,
        objective=local(pairs.objective),
        **{f"params/{index}": local(leaf) for index, leaf in enumerate(pairs.params)},
        **{f"to_one/{group}": local(order) for group, order in to_one.permutations.items()},
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
