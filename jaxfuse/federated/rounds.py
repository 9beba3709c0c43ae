"""One compiled round: clients train apart, the server makes one network of theirs."""

import dataclasses
import functools
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxfuse.federated.aggregation import Aggregated, Aggregator, Layerwise, average_stack
from jaxfuse.federated.aggregation.average import choose_rows, finite_rows
from jaxfuse.federated.clients import Clients
from jaxfuse.federated.config import Executor, RoundConfig
from jaxfuse.federated.executors import client_shardings, run_clients
from jaxfuse.federated.local import FedDyn, LocalMethod, Returned, Scaffold, Start
from jaxfuse.federated.training import Client, Network, Outcome, steps_of, train_client
from jaxfuse.fusion.repair import ResetStatistics
from jaxfuse.fusion.repair.protocol import Merger
from jaxfuse.models.functional import Params
from jaxfuse.symmetry import Symmetry

PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a compiled round depends on besides arrays; static under jit.

    Attributes:
        network: the network.
        config: of the round.
        local: how clients train.
        aggregator: what the server does.
        symmetry: of the network.
        executor: how clients share the machine.
        chunk: clients at a time, for the executor "map".
        mesh: for the executor "shard_map".
    """

    network: Network
    config: RoundConfig
    local: LocalMethod
    aggregator: Aggregator
    symmetry: Symmetry
    executor: Executor = "vmap"
    chunk: int = 1
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        if self.executor not in get_args(Executor):
            raise ValueError(f"executor={self.executor!r} is none of {get_args(Executor)}")
        if self.executor == "shard_map" and self.mesh is None:
            raise ValueError("the executor 'shard_map' needs a mesh with the axis 'clients'")
        if isinstance(self.aggregator, Layerwise) and isinstance(self.local, Scaffold | FedDyn):
            raise ValueError(
                f"{type(self.local).__name__} measures how far a client comes in a round, and in "
                f"the phases of {type(self.aggregator).__name__} it sets out several times: take "
                "sgd, fedprox or moon with it"
            )


class FederatedState(NamedTuple):
    """All that goes from one round to the next.

    Attributes:
        params: the global network.
        server: what the server's method sends along.
        memory: what every client remembers, a table `[N, ...]`.
        statistics: every client's own normalisation statistics `[N, ...]`; None where they are
            averaged.
        round: int32, the rounds done.
        key: uint32, the data of the run's key.
    """

    params: Params
    server: PyTree
    memory: PyTree
    statistics: PyTree
    round: jax.Array
    key: jax.Array


class RoundReport(NamedTuple):
    """What happened in a round, of m clients.

    Attributes:
        cohort: int32 `[m]`, which clients took part.
        loss: float32 `[m]`, their mean cross entropy over the round.
        present: bool `[m]`, whether the result was finite; one that is not is left out.
        kept: float32, the share of units that the matching left in place, as `Aggregated` has it.
    """

    cohort: jax.Array
    loss: jax.Array
    present: jax.Array
    kept: jax.Array


def initial_state(plan: Plan, params: Params, clients: int, key: jax.Array) -> FederatedState:
    """Return the state before the first round.

    Args:
        plan: the plan.
        params: the global network.
        clients: how many there are.
        key: of everything that is drawn.
    """
    weights, statistics = plan.network.train.split(params)

    def table(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.repeat(leaf[None], clients, axis=0), tree)

    return FederatedState(
        # The round donates its state: the caller's arrays must not be among it.
        jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params),
        plan.local.announce(weights),
        table(plan.local.remember(weights, statistics)),
        table(statistics) if plan.config.statistics == "local" else None,
        jnp.int32(0),
        jnp.array(jax.random.key_data(key), copy=True),
    )


@functools.partial(jax.jit, static_argnames="plan", donate_argnames="state")
def advance(
    plan: Plan, data: Clients, state: FederatedState, begin: Params | None = None
) -> tuple[FederatedState, RoundReport]:
    """Do one round: one compiled program, whose buffers are those of the state.

    Args:
        plan: what is done.
        data: the examples of the clients.
        state: of the rounds before; its buffers are taken.
        begin: a tree `[N, ...]` of networks that the clients begin with in place of the global one:
            they set out apart. They are then matched to the first client of the round, as the
            global network has nothing of theirs, and remember nothing of it, as their units were
            in other orders.

    Returns:
        The new state, and what happened. A client whose network is not finite is left out; where
        none is left, network and server stay as they were.

    Raises:
        ValueError: at trace time, if the state or `begin` is of another number of clients, or the
            method adds up what clients that set out apart have in other orders.
    """
    _check(plan, data, state, begin)
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.round)
    cohort_key, client_key, server_key = jax.random.split(key, 3)
    cohort = draw_cohort(plan, data.count, cohort_key)
    start, clients = _set_out(plan, data, state, cohort, client_key)
    if begin is not None:
        weights, statistics = jax.vmap(plan.network.train.split)(
            jax.tree.map(lambda leaf: leaf[cohort], begin)
        )
        clients = clients._replace(weights=weights, statistics=statistics)
    rate = plan.config.learning_rate * plan.config.decay**state.round
    if isinstance(plan.aggregator, Layerwise):
        outcome, kept = plan.aggregator.train(
            functools.partial(_train, plan, data, rate=rate),
            start,
            clients,
            plan.network.train,
            _shares(plan, clients, jnp.ones(len(cohort), bool)),
            plan.symmetry,
            server_key,
        )
    else:
        outcome, kept = _train(plan, data, start, clients, rate=rate), None
    journey = outcome.journey
    present = finite_rows((journey.weights, journey.statistics, outcome.memory))
    outcome = _replace_absent(present, outcome, start, clients)
    shares = _shares(plan, clients, present)
    journey = outcome.journey
    arrived = jax.vmap(plan.network.train.merge)(journey.weights, journey.statistics)
    anchor = state.params
    if begin is not None:
        first = jnp.argmax(present)
        anchor = jax.tree.map(lambda leaf: leaf[first], arrived)
    if kept is None:
        made = plan.aggregator.aggregate(arrived, shares, anchor, plan.symmetry, server_key)
    else:  # matched on the way
        made = Aggregated(average_stack(arrived, shares), kept)
    weights, statistics = plan.network.train.split(made.params)
    back = Returned(
        start.weights,
        outcome.journey.weights,
        clients.memory,
        outcome.memory,
        present.astype(jnp.float32),
        data.count,
    )
    weights, server = plan.local.serve(weights, state.server, back)
    params = plan.network.train.merge(weights, statistics)
    if plan.config.statistics == "recompute":
        params = _measure(plan, data, clients, present, params)
    some = jnp.any(present)
    params, server = jax.tree.map(
        lambda new, old: jnp.where(some, new, old), (params, server), (state.params, state.server)
    )
    own = None
    if state.statistics is not None:
        own = _put(state.statistics, cohort, outcome.journey.statistics)
    # The units of clients that set out apart were in other orders than they are now: forgotten.
    remembered = outcome.memory if begin is None else clients.memory
    memory = _put(state.memory, cohort, remembered)
    advanced = FederatedState(params, server, memory, own, state.round + 1, state.key)
    report = RoundReport(cohort, outcome.loss, present, made.kept)
    return _settle(plan, data.count, advanced, report)


@functools.partial(jax.jit, static_argnames=("plan", "limit"))
def train_some(plan: Plan, data: Clients, state: FederatedState, limit: int) -> Outcome:
    """Let the clients of a round do their first few steps, and nothing else; for timings."""
    cohort_key, client_key = jax.random.split(jax.random.wrap_key_data(state.key))
    cohort = draw_cohort(plan, data.count, cohort_key)
    start, clients = _set_out(plan, data, state, cohort, client_key)
    return _train(plan, data, start, clients, rate=jnp.float32(0), limit=limit)


def draw_cohort(plan: Plan, clients: int, key: jax.Array) -> jax.Array:
    """Draw who takes part in a round, int32 `[m]`, sorted."""
    count = plan.config.cohort(clients)
    if count == clients:
        return jnp.arange(clients, dtype=jnp.int32)
    drawn = jax.random.choice(key, clients, (count,), replace=False)
    return jnp.sort(drawn).astype(jnp.int32)


def _check(plan: Plan, data: Clients, state: FederatedState, begin: Params | None) -> None:
    tables = (("state", (state.memory, state.statistics)), ("begin", begin))
    for name, table in tables:
        for leaf in jax.tree.leaves(table):
            if leaf.shape[:1] != (data.count,):
                raise ValueError(
                    f"{name} has a table of shape {leaf.shape} for {data.count} clients: its first "
                    "axis must have a row for each"
                )
    if begin is None:
        return
    if isinstance(plan.local, Scaffold | FedDyn) or state.statistics is not None:
        raise ValueError(
            "clients that begin with networks of their own have units in other orders, and "
            "scaffold, feddyn and statistics='local' keep numbers of every unit: take sgd, fedprox "
            "or moon and other statistics, or begin=None"
        )


def _settle(
    plan: Plan, clients: int, state: FederatedState, report: RoundReport
) -> tuple[FederatedState, RoundReport]:
    """Lay down what comes out as `spread` lays down what goes in, over the devices of the mesh."""
    if plan.executor != "shard_map" or plan.mesh is None:
        return state, report
    whole, rows = client_shardings(plan.mesh, clients)
    tables = jax.lax.with_sharding_constraint((state.memory, state.statistics), rows)
    others = (state._replace(memory=(), statistics=None), report)
    state, report = jax.lax.with_sharding_constraint(others, whole)
    return state._replace(memory=tables[0], statistics=tables[1]), report


def _set_out(
    plan: Plan, data: Clients, state: FederatedState, cohort: jax.Array, key: jax.Array
) -> tuple[Start, Client]:
    """Return what all clients of a round get, and what each has."""
    weights, statistics = plan.network.train.split(state.params)
    shard, memory, own = jax.tree.map(
        lambda leaf: leaf[cohort], (data.shards, state.memory, state.statistics)
    )
    # By the number of the client, so that its draws do not depend on who else takes part.
    keys = jax.vmap(lambda client: jax.random.fold_in(key, client))(cohort)
    return Start(weights, statistics, (), state.server), Client(shard, memory, None, own, keys)


def _train(
    plan: Plan,
    data: Clients,
    start: Start,
    clients: Client,
    *,
    rate: jax.Array,
    frozen: Params | None = None,
    epochs: int | None = None,
    limit: int | None = None,
) -> Outcome:
    config = plan.config if epochs is None else dataclasses.replace(plan.config, epochs=epochs)

    def run(shared: Any, client: Client, bound: jax.Array) -> Outcome:
        data, start, rate, frozen = shared
        return train_client(
            plan.network, config, plan.local, data, start, client, rate, bound, frozen
        )

    steps = steps_of(config, clients.shard.size)
    return run_clients(
        run,
        (data._replace(shards=()), start, rate, frozen),
        clients,
        steps if limit is None else jnp.minimum(steps, limit),
        executor=plan.executor,
        chunk=plan.chunk,
        mesh=plan.mesh,
    )


def _replace_absent(present: jax.Array, outcome: Outcome, start: Start, clients: Client) -> Outcome:
    """Put what a client set out with in place of a result that is not finite."""
    own = start.statistics if clients.statistics is None else clients.statistics
    journey = outcome.journey._replace(
        weights=choose_rows(present, outcome.journey.weights, start.weights),
        statistics=choose_rows(present, outcome.journey.statistics, own),
    )
    memory = choose_rows(present, outcome.memory, clients.memory)
    return outcome._replace(journey=journey, memory=memory)


def _shares(plan: Plan, clients: Client, present: jax.Array) -> jax.Array:
    sizes = clients.shard.size.astype(jnp.float32)
    raw = present * (sizes if plan.config.weighting == "examples" else jnp.ones_like(sizes))
    return raw / jnp.maximum(jnp.sum(raw), 1.0)


def _measure(
    plan: Plan, data: Clients, clients: Client, present: jax.Array, params: Params
) -> Params:
    """Measure statistics anew on one batch of every client of the round that counts."""
    # In the place of one that is left out stands the first that is not.
    source = jnp.where(present, jnp.arange(len(present)), jnp.argmax(present))
    shard = jax.tree.map(lambda leaf: leaf[source], clients.shard)
    slots = jnp.arange(plan.config.batch_size)[None] % shard.size[:, None]
    rows = jnp.take_along_axis(shard.indices, slots, axis=1).reshape(-1)
    images, _ = data.take(rows)
    merger = Merger(params, (params,), [1.0], plan.symmetry, plan.network.infer, (images,))
    return ResetStatistics().repair(merger)


def _put(table: PyTree, cohort: jax.Array, rows: PyTree) -> PyTree:
    return jax.tree.map(lambda whole, part: whole.at[cohort].set(part), table, rows)
