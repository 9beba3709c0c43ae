"""Client apps and strategies of the tests, over nodes in this process."""

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from jaxfuse.federated.flower import FusionStrategy, named_arrays, to_record

PARAMS = {
    "dense": {
        "0": {"kernel": np.arange(12.0, dtype=np.float32).reshape(3, 4)},
        "1": {"kernel": np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)},
    }
}


def app_of(change, examples=lambda client: 10 * (client + 1), more=lambda client: {}):
    """A client app whose client k replies `change(k, arrays)`."""
    app = ClientApp()

    @app.train()
    def fit(message, context):
        client = context.node_config["partition-id"]
        arrays = change(client, named_arrays(message.content["arrays"]))
        metrics = {"num-examples": examples(client), "loss": float(client), **more(client)}
        content = {"arrays": to_record(arrays), "metrics": MetricRecord(metrics)}
        return Message(RecordDict(content), reply_to=message)

    return app


def shifted(client, arrays):
    return {name: each + np.float32(client) for name, each in arrays.items()}


def run(grid, strategy, params=PARAMS, rounds=1):
    return strategy.start(grid, to_record(params), num_rounds=rounds)


def strategy_of(aggregator="average", nodes=3, **options):
    options = {"fraction_evaluate": 0.0, "min_train_nodes": nodes, **options}
    return FusionStrategy(aggregator, **options)
