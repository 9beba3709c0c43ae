"""SCAFFOLD over client apps in this process, against the published updates in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from jaxfuse.federated.flower import (
    ScaffoldStrategy,
    from_record,
    named_arrays,
    recall,
    remember,
    to_record,
    train_scaffold,
)
from tests.federated.flower.grid import InProcessGrid

RATE, STEPS, CLIENTS = 0.1, 3, 4
_RNG = np.random.default_rng(0)
# Client i minimises (w - t)^T diag(h) (w - t) / 2 for a target that differs from step to step.
CURVATURES = _RNG.uniform(0.5, 2.0, (CLIENTS, 5))
TARGETS = _RNG.normal(size=(CLIENTS, STEPS, 5))
START = _RNG.normal(size=5)


@jax.grad
def gradient(params, batch):
    return jnp.sum(batch["curvature"] * (params["layer"]["w"] - batch["target"]) ** 2) / 2


def client_app(spoiled=()):
    app = ClientApp()

    @app.train()
    def fit(message, context):
        client = context.node_config["partition-id"]
        params = from_record(message.content["arrays"])
        own = recall(context, "own") or jax.tree.map(np.zeros_like, params)
        batches = {
            "target": jnp.asarray(TARGETS[client], jnp.float32),
            "curvature": jnp.tile(jnp.asarray(CURVATURES[client], jnp.float32), (STEPS, 1)),
        }
        shared = from_record(message.content["control"])
        made = train_scaffold(gradient, params, batches, shared, own, RATE)
        number = message.content["config"]["server-round"]
        if (client, number) in spoiled:
            made = jax.tree.map(lambda leaf: leaf * jnp.nan, made)
        remember(context, "own", made.own)
        content = {
            "arrays": to_record(made.params),
            "control-change": to_record(made.change),
            "metrics": MetricRecord({"num-examples": 1 + client}),
        }
        return Message(RecordDict(content), reply_to=message)

    return app


def reference(rounds, server_rate=1.0, spoiled=()):
    """Algorithm 1 with option II, all clients in every round but those that are spoiled."""
    x, c, own = START.copy(), np.zeros(5), np.zeros((CLIENTS, 5))
    for number in range(1, rounds + 1):
        moves, changes = [], []
        for client in range(CLIENTS):
            if (client, number) in spoiled:
                continue
            y = x.copy()
            for target in TARGETS[client]:
                y = y - RATE * (CURVATURES[client] * (y - target) - own[client] + c)
            new = own[client] - c + (x - y) / (STEPS * RATE)
            moves.append(y - x)
            changes.append(new - own[client])
            own[client] = new
        x = x + server_rate * np.mean(moves, axis=0)
        c = c + np.sum(changes, axis=0) / CLIENTS
    return x, c, own


@pytest.mark.parametrize(
    ("server_rate", "spoiled"), [(1.0, ()), (0.5, ()), (1.0, ((1, 1), (2, 3)))]
)
def test_scaffold_is_the_published_one(server_rate, spoiled):
    grid = InProcessGrid(client_app(spoiled), CLIENTS)
    strategy = ScaffoldStrategy(
        server_rate=server_rate, min_train_nodes=CLIENTS, fraction_evaluate=0.0
    )
    params = {"layer": {"w": START.astype(np.float32)}}
    result = strategy.start(grid, to_record(params), num_rounds=4)
    x, c, own = reference(4, server_rate, spoiled)
    made = named_arrays(result.arrays)["layer/w"]
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, x, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(strategy.control["layer"]["w"], c, rtol=2e-5, atol=2e-5)
    for client, context in enumerate(grid.contexts.values()):
        kept = recall(context, "own")["layer"]["w"]
        np.testing.assert_allclose(kept, own[client], rtol=2e-5, atol=2e-5)


def test_a_reply_without_the_change_is_refused(caplog):
    app = ClientApp()

    @app.train()
    def fit(message, context):
        content = {"arrays": message.content["arrays"]}
        content["metrics"] = MetricRecord({"num-examples": 1})
        return Message(RecordDict(content), reply_to=message)

    strategy = ScaffoldStrategy(fraction_evaluate=0.0)
    result = strategy.start(InProcessGrid(app, 2), to_record({"w": np.ones(2)}), num_rounds=1)
    assert not result.arrays
    assert "record 'control-change' is missing; there are ['arrays']" in caplog.text


def test_the_servers_rate_must_be_positive():
    with pytest.raises(ValueError, match="server_rate"):
        ScaffoldStrategy(server_rate=0.0)
