"""One of two processes that simulate a federation together: `of_two.py PORT RANK FILE`."""

import sys

import jax
import numpy as np
from jax.sharding import AxisType

from jaxfuse.federated import federate
from tests.federated import toy
from tests.federated.test_federate import CONFIG


def main(port: str, rank: int, file: str) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=rank)
    assert jax.process_count() == 2
    mesh = jax.make_mesh((len(jax.devices()),), ("clients",), (AxisType.Auto,))
    fixed = (toy.module(), toy.clients(), toy.dataset().test(), CONFIG)
    result = federate(*fixed, rounds=2, local="scaffold", mesh=mesh, key=jax.random.key(5))
    assert result.plan.executor == "shard_map"
    if rank == 1:
        np.savez(file, *jax.tree.leaves(result.params), [row.accuracy for row in result.history])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
