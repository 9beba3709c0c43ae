"""A tiny federation: three clients of 4, 8 and 4 examples, a two-layer network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfuse.data import Dataset
from jaxfuse.federated import Average, Clients, LocalSGD, Plan, RoundConfig, initial_state
from jaxfuse.federated.rounds import draw_cohort
from jaxfuse.federated.training import Network, _orders
from jaxfuse.models import MLP, functional
from jaxfuse.models.functional import training_function
from jaxfuse.symmetry import infer_symmetry

SHARDS = (np.array([0, 1, 2, 3]), np.array([4, 5, 6, 7, 8, 9, 10, 11]), np.array([12, 13, 14, 15]))
CONFIG = RoundConfig(epochs=2, batch_size=4, learning_rate=0.1, momentum=0.5, weight_decay=0.01)


def dataset() -> Dataset:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 16).astype(np.int32)
    images = generator.normal(size=(16, 2, 2, 1)).astype(np.float32)
    images += labels[:, None, None, None]
    return Dataset("toy", images, labels, images, labels, 3, 2.0, (0.1,), (1.5,))


def clients(shards=SHARDS) -> Clients:
    return Clients.of(dataset(), shards)


def module(seed: int = 0, norm=None) -> nnx.Module:
    return MLP(4, 3, hidden=(6,), norm=norm, rngs=nnx.Rngs(seed))


def plan(net: nnx.Module | None = None, **changes) -> Plan:
    net = module() if net is None else net
    infer, params = functional(net)
    symmetry = infer_symmetry(infer, params, jnp.zeros((2, 2, 2, 1)))
    base = Plan(
        network=Network(training_function(net), infer, products=True),
        config=CONFIG,
        local=LocalSGD(),
        aggregator=Average(),
        symmetry=symmetry,
    )
    return dataclasses.replace(base, **changes)


def start(a_plan: Plan, data: Clients, net: nnx.Module | None = None, seed: int = 3):
    net = module() if net is None else net
    return initial_state(a_plan, functional(net)[1], data.count, jax.random.key(seed))


def weights_of(params) -> list[np.ndarray]:
    return [np.asarray(params["dense"][name]["kernel"], np.float64) for name in ("0", "1")]


def batches(a_plan: Plan, data: Clients, state) -> dict[int, list[tuple[np.ndarray, np.ndarray]]]:
    """Return the batches of every client of the next round, in the order that it takes them."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.round)
    cohort_key, client_key, _ = jax.random.split(key, 3)
    found = {}
    for client in np.asarray(draw_cohort(a_plan, data.count, cohort_key)).tolist():
        shard = jax.tree.map(lambda leaf, k=client: leaf[k], data.shards)
        order_key, _ = jax.random.split(jax.random.fold_in(client_key, client))
        orders = np.asarray(_orders(a_plan.config, shard, order_key))
        size, batch = int(shard.size), a_plan.config.batch_size
        found[client] = []
        for order in orders:
            for first in range(0, size, batch):
                slots = order[(first + np.arange(batch)) % size]
                images, labels = data.take(shard.indices[slots])
                flat = np.asarray(images, np.float64).reshape(batch, -1)
                found[client].append((flat, np.asarray(labels)))
    return found
