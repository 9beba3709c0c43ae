"""A server that fuses what its clients send, and writes the network to a file."""

import time

import numpy as np
from flwr.app import ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp

from jaxfuse.federated.flower import FusionStrategy, named_arrays, to_record

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    params = {
        "dense": {
            "0": {"kernel": np.arange(12.0, dtype=np.float32).reshape(3, 4)},
            "1": {"kernel": np.ones((4, 2), np.float32)},
        }
    }
    strategy = FusionStrategy(
        "average", min_train_nodes=4, min_available_nodes=4, fraction_evaluate=0.0
    )
    began = time.monotonic()
    result = strategy.start(
        grid, to_record(params), num_rounds=1, train_config=ConfigRecord({"dies": -1})
    )
    # Who is alive has half as long again as a whole round took, however busy the machine is.
    patience = 1.5 * (time.monotonic() - began)
    result = strategy.start(
        grid,
        result.arrays,
        num_rounds=1,
        timeout=patience,
        train_config=ConfigRecord({"dies": 3}),
    )
    np.savez(str(context.run_config["result"]), **named_arrays(result.arrays))
