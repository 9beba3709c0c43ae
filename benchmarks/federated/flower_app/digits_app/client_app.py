"""The client: it trains the global network on its own digits."""

import jax
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digits_app.task import model, shard
from jaxfuse.federated.flower import from_record, to_record
from jaxfuse.models import functional
from jaxfuse.training import TrainingConfig, train

app = ClientApp()


@app.train()
def fit(message: Message, context: Context) -> Message:
    """Train for a few epochs from the network of the round."""
    config, client = context.run_config, int(context.node_config["partition-id"])
    number = int(message.content["config"]["server-round"])
    params = from_record(message.content["arrays"])
    if config["own-start"] and number == 1:
        _, params = functional(model(config, 1 + client))
    images, labels = shard(config, client)
    key = jax.random.fold_in(
        jax.random.fold_in(jax.random.key(int(config["seed"])), client), number
    )
    result = train(
        model(config),
        images,
        labels,
        TrainingConfig(
            epochs=int(config["epochs"]),
            learning_rate=float(config["learning-rate"]),
            batch_size=32,
            schedule="constant",
        ),
        key=jax.random.fold_in(key, number),
        params=params,
    )
    metrics = {"num-examples": len(labels), "loss": float(result.history.loss[-1])}
    content = {"arrays": to_record(result.params), "metrics": MetricRecord(metrics)}
    return Message(RecordDict(content), reply_to=message)
