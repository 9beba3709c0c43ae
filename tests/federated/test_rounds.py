"""The compiled round: executors, masks, participation, faults, statistics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxfuse.federated import AGGREGATORS, Clients, FedMA, Moon, RoundConfig, Scaffold, advance
from jaxfuse.federated.rounds import Plan
from jaxfuse.models import create, functional
from jaxfuse.models.functional import training_function
from jaxfuse.symmetry import infer_symmetry
from tests.federated import toy
from tests.oracles import federated as oracle


def assert_close(first, second, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), first, second)


def two_rounds(a_plan: Plan, data: Clients, net=None):
    state = toy.start(a_plan, data, net)
    reports = []
    for _ in range(2):
        state, report = advance(a_plan, data, state)
        reports.append(report)
    return state, reports


@pytest.mark.parametrize(("executor", "chunk"), [("map", 1), ("map", 2), ("shard_map", 1)], ids=str)
def test_executors_agree(executor, chunk):
    data, local = toy.clients(), Moon(mu=1.0)
    mesh = jax.make_mesh((len(jax.devices()),), ("clients",), (AxisType.Auto,))
    right, rights = two_rounds(toy.plan(local=local), data)
    a_plan = toy.plan(local=local, executor=executor, chunk=chunk, mesh=mesh)
    got, gots = two_rounds(a_plan, data)
    assert_close(got.params, right.params, rtol=1e-5, atol=1e-6)
    assert_close(got.memory, right.memory, rtol=1e-5, atol=1e-6)
    assert_close(gots[1].loss, rights[1].loss, rtol=1e-5)


def test_executors_are_checked():
    with pytest.raises(ValueError, match="needs a mesh"):
        toy.plan(executor="shard_map")
    with pytest.raises(ValueError, match="executor='loop' is none of"):
        toy.plan(executor="loop")


def test_tables_of_other_clients_are_refused():
    data, a_plan = toy.clients(), toy.plan(local=Scaffold())
    two = toy.clients(toy.SHARDS[:2])
    with pytest.raises(ValueError, match="state has a table"):
        advance(a_plan, data, toy.start(a_plan, two))
    a_plan = toy.plan()
    begin = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), functional(toy.module())[1])
    with pytest.raises(ValueError, match="begin has a table"):
        advance(a_plan, data, toy.start(a_plan, data), begin)


def test_a_small_client_does_not_move_while_a_large_one_goes_on():
    # With a client four times as large beside it, velocity and statistics of the small one must end
    # as they do alone.
    net = toy.module(norm="batch")
    sizes = (np.arange(4), np.arange(16))
    config = dataclasses.replace(toy.CONFIG, statistics="local", momentum=0.9)
    beside, data = toy.plan(net, config=config), toy.clients(sizes)
    alone = toy.clients(sizes[:1])
    one, _ = advance(beside, data, toy.start(beside, data, net))
    other, _ = advance(beside, alone, toy.start(beside, alone, net))
    first = jax.tree.map(lambda leaf: leaf[0], (one.statistics, other.statistics))
    assert_close(first[0], first[1], rtol=1e-5, atol=1e-6)


def test_participation_draws_other_clients_every_round_and_leaves_the_rest_alone():
    data = toy.clients()
    config = dataclasses.replace(toy.CONFIG, participation=0.34)
    a_plan = toy.plan(config=config, local=Scaffold())
    state = toy.start(a_plan, data)
    seen = set()
    for _ in range(6):
        before = jax.tree.map(np.asarray, state.memory)
        state, report = advance(a_plan, data, state)
        (client,) = np.asarray(report.cohort).tolist()
        seen.add(client)
        for other in {0, 1, 2} - {client}:
            assert_close(
                jax.tree.map(lambda leaf, k=other: leaf[k], state.memory),
                jax.tree.map(lambda leaf, k=other: leaf[k], before),
                rtol=0,
            )
    assert len(seen) > 1


def broken(client: int) -> Clients:
    """Return the clients with an image of one of them not finite."""
    images = toy.dataset().normalise(toy.dataset().train_images)
    images[toy.SHARDS[client][0]] = np.nan
    data = toy.clients()
    plain = data._replace(images=jnp.asarray(images))
    return plain._replace(factor=jnp.ones_like(data.factor), offset=jnp.zeros_like(data.offset))


@pytest.mark.parametrize("name", ["average", "matched", "fedma"])
def test_a_client_that_is_not_finite_is_left_out(name):
    data = broken(1)
    a_plan = toy.plan(aggregator=AGGREGATORS[name], local=Moon())
    state, (report, _) = two_rounds(a_plan, data)
    assert report.present.tolist() == [True, False, True]
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state.params))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state.memory))


def test_without_one_finite_client_nothing_changes():
    data = toy.clients(toy.SHARDS[:1])._replace(images=jnp.full((16, 2, 2, 1), jnp.nan))
    a_plan = toy.plan(local=Scaffold())
    state = toy.start(a_plan, data)
    before = jax.tree.map(np.asarray, (state.params, state.server, state.memory))
    state, report = advance(a_plan, data, state)
    assert not report.present.any()
    assert_close((state.params, state.server, state.memory), before, rtol=0)


def test_weighting():
    data = toy.clients()
    uniform = dataclasses.replace(toy.CONFIG, weighting="uniform", momentum=0.0)
    by_size = dataclasses.replace(uniform, weighting="examples")
    ends = []
    for shares, config in (([1, 1, 1], uniform), ([4, 8, 4], by_size)):
        a_plan = toy.plan(config=config)
        # One client at a time, with the draws it has among the others.
        state = toy.start(a_plan, data)
        begun = toy.weights_of(state.params)
        batches = toy.batches(a_plan, data, state)
        ends_here = [
            oracle.train(
                begun, batches[k], oracle.entropy_gradient, rate=0.1, momentum=0.0, decay=0.01
            )[0]
            for k in range(3)
        ]
        wanted = oracle.weighted_mean(ends_here, np.array(shares) / np.sum(shares))
        state, _ = advance(a_plan, data, state)
        for got, want in zip(toy.weights_of(state.params), wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
        ends.append(wanted)
    assert not np.allclose(ends[0][0], ends[1][0])


@pytest.mark.parametrize("policy", ["average", "local", "recompute"])
def test_statistics(policy):
    net = toy.module(norm="batch")
    data = toy.clients()
    config = dataclasses.replace(toy.CONFIG, statistics=policy)
    a_plan = toy.plan(net, config=config)
    state, _ = two_rounds(a_plan, data, net)
    statistics = a_plan.network.train.split(state.params)[1]
    mean = np.asarray(statistics["norm"]["0"]["mean"])
    if policy == "local":
        own = np.asarray(state.statistics["norm"]["0"]["mean"])
        assert own.shape == (3, 6)
        assert np.ptp(own, axis=0).max() > 1e-3
    else:
        assert state.statistics is None
    if policy == "recompute":
        # One batch of every client, through the layer before the norm.
        rows = np.concatenate([shard[np.arange(4) % len(shard)] for shard in toy.SHARDS])
        images, _ = data.take(jnp.asarray(rows))
        before = np.asarray(images).reshape(len(rows), -1) @ toy.weights_of(state.params)[0]
        np.testing.assert_allclose(mean, before.mean(axis=0), rtol=1e-4, atol=1e-5)


def test_one_program_serves_all_rounds():
    data = toy.clients()
    a_plan = toy.plan(config=dataclasses.replace(toy.CONFIG, learning_rate=0.05))
    state = toy.start(a_plan, data)
    before = advance._cache_size()
    for _ in range(3):
        state, _ = advance(a_plan, data, state)
    assert advance._cache_size() == before + 1


def test_the_buffers_of_the_state_are_taken():
    data = toy.clients()
    a_plan = toy.plan()
    state = toy.start(a_plan, data)
    params = functional(toy.module())[1]
    advance(a_plan, data, state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(params))


def test_networks_of_their_own_are_matched_to_the_first():
    # Permuted copies that do not train: matched they stay the network, averaged they do not.
    net, data = toy.module(), toy.clients()
    params = functional(net)[1]
    orders = [jnp.arange(6), jnp.arange(6)[::-1], jnp.roll(jnp.arange(6), 2)]
    begin = {
        "dense": {
            "0": {"kernel": jnp.stack([params["dense"]["0"]["kernel"][:, o] for o in orders])},
            "1": {"kernel": jnp.stack([params["dense"]["1"]["kernel"][o] for o in orders])},
        }
    }
    config = dataclasses.replace(toy.CONFIG, learning_rate=1e-9)
    same, kept = {}, {}
    for name in ("matched", "average"):
        a_plan = toy.plan(net, config=config, aggregator=AGGREGATORS[name])
        state, report = advance(a_plan, data, toy.start(a_plan, data, net), begin)
        same[name] = np.allclose(toy.weights_of(state.params)[0], params["dense"]["0"]["kernel"])
        kept[name] = float(report.kept)
    assert same == {"matched": True, "average": False}
    assert kept["matched"] < 1 == kept["average"]


def test_what_clients_apart_remember_is_forgotten():
    data, a_plan = toy.clients(), toy.plan(local=Moon())
    begin = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), functional(toy.module())[1])
    state, _ = advance(a_plan, data, toy.start(a_plan, data), begin)
    assert state.memory.known.tolist() == [0, 0, 0]
    state, _ = advance(a_plan, data, state)
    assert state.memory.known.tolist() == [1, 1, 1]
    for refused in (
        toy.plan(local=Scaffold()),
        toy.plan(config=dataclasses.replace(toy.CONFIG, statistics="local")),
    ):
        with pytest.raises(ValueError, match="other orders"):
            advance(refused, data, toy.start(refused, data), begin)


def test_recomputed_statistics_leave_out_who_is_left_out():
    net = toy.module(norm="batch")
    config = dataclasses.replace(toy.CONFIG, statistics="recompute")
    state, reports = two_rounds(toy.plan(net, config=config), broken(1), net)
    assert [report.present.tolist() for report in reports] == [[True, False, True]] * 2
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state.params))


def test_fedma_trains_the_output_layer_behind_the_last_hidden_one():
    data = toy.clients()
    ends = []
    for epochs in (1, 30):
        a_plan = toy.plan(aggregator=FedMA(retrain_epochs=epochs))
        state, _ = advance(a_plan, data, toy.start(a_plan, data))
        ends.append(toy.weights_of(state.params))
    np.testing.assert_array_equal(ends[0][0], ends[1][0])
    assert np.abs(ends[0][1] - ends[1][1]).max() > 0.1


def test_augmented_rounds_draw_anew():
    data = toy.clients()
    ends = []
    for augment in (False, True):
        a_plan = toy.plan(config=dataclasses.replace(toy.CONFIG, augment=augment))
        state, _ = advance(a_plan, data, toy.start(a_plan, data))
        ends.append(toy.weights_of(state.params)[0])
    assert not np.allclose(*ends)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"momentum": 1.0},
        {"participation": 0.0},
        {"weighting": "loudest"},
        {"statistics": "none"},
        {"weight_decay": -1.0},
    ],
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        RoundConfig(**change)


def test_fedma_refuses_methods_that_measure_the_journey():
    with pytest.raises(ValueError, match="several times"):
        toy.plan(aggregator=FedMA(), local=Scaffold())


def test_convolutional_clients_agree_with_one_by_one():
    dataset = toy.dataset()
    images = np.repeat(np.repeat(dataset.train_images, 4, axis=1), 4, axis=2)
    dataset = dataclasses.replace(dataset, train_images=images, test_images=images)
    data = Clients.of(dataset, toy.SHARDS)
    net = create("lenet", input_shape=(8, 8, 1), classes=3, width=0.3, key=jax.random.key(0))
    base = toy.plan(toy.module(), local=Moon())
    infer, _ = functional(net)
    symmetry = infer_symmetry(infer, functional(net)[1], jnp.zeros((2, 8, 8, 1)))
    ends = []
    for executor, products in (("vmap", True), ("map", False)):
        network = base.network._replace(
            train=training_function(net), infer=infer, products=products
        )
        a_plan = dataclasses.replace(base, network=network, symmetry=symmetry, executor=executor)
        state, _ = two_rounds(a_plan, data, net)
        ends.append(state.params)
    assert_close(ends[0], ends[1], rtol=2e-4, atol=2e-5)
