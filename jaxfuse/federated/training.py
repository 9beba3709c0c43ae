"""The training of one client in one round."""

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxfuse.federated.clients import Clients, Shard
from jaxfuse.federated.config import RoundConfig
from jaxfuse.federated.convolution import as_products
from jaxfuse.federated.features import with_features
from jaxfuse.federated.local import Journey, LocalMethod, Start
from jaxfuse.models.functional import InferenceFunction, Params, TrainingFunction
from jaxfuse.training import shift_and_mirror


class Network(NamedTuple):
    """A network as pure functions, static under jit.

    Attributes:
        train: in training mode.
        infer: in inference mode.
        products: whether convolutions are computed as matrix products, which batch over clients.
    """

    train: TrainingFunction
    infer: InferenceFunction
    products: bool


class Client(NamedTuple):
    """One client in one round; with a leading axis, several.

    Attributes:
        shard: its examples.
        memory: what it remembers.
        weights: what it begins with, or None for the global ones.
        statistics: of its own normalisation layers, or None for the global ones.
        key: of the order of its examples, and of the augmentation.
    """

    shard: Shard
    memory: object
    weights: Params | None
    statistics: Params | None
    key: jax.Array


class Outcome(NamedTuple):
    """What a client brings back.

    Attributes:
        journey: where it arrived.
        memory: what it remembers now.
        loss: float32, mean cross entropy over its steps, without what the method adds.
    """

    journey: Journey
    memory: object
    loss: jax.Array


def steps_of(config: RoundConfig, size: ArrayLike) -> jax.Array:
    """Return the steps of a client of so many examples in one round, int32; 0 for none."""
    return config.epochs * -(-jnp.asarray(size) // config.batch_size)


def train_client(
    network: Network,
    config: RoundConfig,
    method: LocalMethod,
    data: Clients,
    start: Start,
    client: Client,
    rate: jax.Array,
    bound: jax.Array,
    frozen: Params | None = None,
) -> Outcome:
    """Train one client from the global network.

    Steps beyond the client's own change nothing, neither weights nor velocity nor statistics, so
    that clients of unequal sizes share a loop under `vmap`.

    Args:
        network: the network.
        config: of the round.
        method: what is added to plain descent.
        data: the examples.
        start: the global network and what the server sends along; the memory is the client's.
        client: the client.
        rate: learning rate.
        bound: int32, steps of the loop: those of the largest client that shares it.
        frozen: per leaf a scalar that the gradients are multiplied with; all move by default.

    Returns:
        The outcome.
    """
    start = Start(
        start.weights if client.weights is None else client.weights,
        start.statistics if client.statistics is None else client.statistics,
        client.memory,
        start.server,
    )
    shard = client.shard
    order_key, augment_key = jax.random.split(client.key)
    orders = _orders(config, shard, order_key)
    per_epoch = jnp.maximum(steps_of(config, shard.size) // config.epochs, 1)
    steps = steps_of(config, shard.size)
    transform = optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.trace(config.momentum) if config.momentum else optax.identity(),
    )
    forward = _functions(network, method.features)

    def batch(step: jax.Array) -> tuple[jax.Array, jax.Array]:
        slots = (step % per_epoch) * config.batch_size + jnp.arange(config.batch_size)
        slots = orders[step // per_epoch, slots % jnp.maximum(shard.size, 1)]
        images, labels = data.take(shard.indices[slots])
        if config.augment:
            images = shift_and_mirror(images, key=jax.random.fold_in(augment_key, step))
        return images, labels

    def advance(step: jax.Array, state: _State) -> _State:
        images, labels = batch(step)

        def total(weights: Params) -> tuple[jax.Array, tuple[jax.Array, Params]]:
            logits, statistics, own = forward.train(weights, state.statistics, images)
            entropy = jnp.mean(
                optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
            )

            def represent(weights: Params, statistics: Params) -> jax.Array:
                return forward.represent(weights, statistics, images)

            more = method.loss(start, weights, own, represent)
            return entropy + more, (entropy, statistics)

        gradients, (entropy, statistics) = jax.grad(total, has_aux=True)(state.weights)
        gradients = method.direction(gradients, state.weights, start)
        updates, velocity = transform.update(gradients, state.velocity, state.weights)
        if frozen is not None:
            updates = jax.tree.map(jnp.multiply, updates, frozen)
        weights = jax.tree.map(lambda w, u: w - rate * u, state.weights, updates)
        moved = _State(
            weights,
            statistics,
            velocity,
            1 + config.momentum * state.pace,
            state.length + rate * (1 + config.momentum * state.pace),
            state.loss + entropy,
        )
        return jax.tree.map(lambda new, old: jnp.where(step < steps, new, old), moved, state)

    zero = jnp.float32(0)
    optimiser = transform.init(start.weights)
    first = _State(start.weights, start.statistics, optimiser, zero, zero, zero)
    last = cast(_State, jax.lax.fori_loop(0, bound, advance, first))
    journey = Journey(last.weights, last.statistics, last.length)
    memory = method.finish(start, journey)
    return Outcome(journey, memory, last.loss / jnp.maximum(steps, 1))


class _State(NamedTuple):
    weights: Params
    statistics: Params
    velocity: optax.OptState
    pace: jax.Array
    length: jax.Array
    loss: jax.Array


class _Functions(NamedTuple):
    train: Callable[..., tuple[jax.Array, Params, jax.Array]]
    represent: Callable[..., jax.Array]


def _functions(network: Network, features: bool) -> _Functions:
    """Return `(weights, statistics, images) -> (logits, statistics, features)`, and features."""
    train: Callable = network.train
    infer: Callable = network.infer
    if network.products:
        train, infer = as_products(train), as_products(infer)

    def train_split(
        weights: Params, statistics: Params, images: jax.Array
    ) -> tuple[jax.Array, Params, jax.Array]:
        params = network.train.merge(weights, statistics)
        if features:
            (logits, params), own = with_features(train)(params, images)
        else:
            (logits, params), own = train(params, images), jnp.zeros((len(images), 0))
        return logits, network.train.split(params)[1], own

    def represent(weights: Params, statistics: Params, images: jax.Array) -> jax.Array:
        return with_features(infer)(network.train.merge(weights, statistics), images)[1]

    return _Functions(train_split, represent)


def _orders(config: RoundConfig, shard: Shard, key: jax.Array) -> jax.Array:
    """Draw an order of the client's own examples for every epoch, `[epochs, most]`."""
    most = len(shard.indices)
    draws = jax.random.uniform(key, (config.epochs, most))
    return jnp.argsort(jnp.where(jnp.arange(most) < shard.size, draws, jnp.inf), axis=1)
