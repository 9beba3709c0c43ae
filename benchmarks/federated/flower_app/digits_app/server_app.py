"""The server: it matches the clients' units, averages, and tests on digits that no client has."""

import jax
import jax.numpy as jnp
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from digits_app.task import INPUT_SHAPE, model
from jaxfuse.data import load_digits
from jaxfuse.federated.flower import FusionStrategy, from_record, to_record
from jaxfuse.models import functional
from jaxfuse.training import evaluate

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    config = context.run_config
    apply_fn, params = functional(model(config))
    images, labels = load_digits().test()

    def test(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        metrics = evaluate(apply_fn, from_record(arrays), images, labels)
        return MetricRecord({"accuracy": float(metrics.accuracy), "loss": float(metrics.loss)})

    clients = int(config["clients"])
    strategy = FusionStrategy(
        str(config["aggregator"]),
        apply_fn=apply_fn,
        inputs=[jax.ShapeDtypeStruct((1, *INPUT_SHAPE), jnp.float32)],
        key=jax.random.key(int(config["seed"])),
        min_train_nodes=clients,
        min_available_nodes=clients,
        fraction_evaluate=0.0,
    )
    result = strategy.start(
        grid,
        to_record(params),
        num_rounds=int(config["rounds"]),
        timeout=float(config["timeout"]),
        evaluate_fn=test,
    )
    for number, metrics in result.evaluate_metrics_serverapp.items():
        print(f"round {number}: accuracy {metrics['accuracy']:.4f} on the test digits")
