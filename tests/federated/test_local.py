"""Update rules against float64 NumPy, and what they reduce to."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from jaxfuse.federated import (
    FedDyn,
    FedProx,
    LocalSGD,
    Moon,
    RoundConfig,
    Scaffold,
    advance,
)
from tests.federated import toy
from tests.oracles import federated as oracle

SIZES = [len(shard) for shard in toy.SHARDS]


def slopes(method, w, own, shared, previous, v, x, labels):
    """Return what a client follows at the weights v, of a round that began at w."""
    extra = None
    if isinstance(method, Moon) and previous is not None:
        near, far = oracle.hidden(w, x), oracle.hidden(previous, x)
        extra = functools.partial(
            oracle.moon_slope,
            z_global=near,
            z_previous=far,
            mu=method.mu,
            temperature=method.temperature,
        )
    plain = oracle.entropy_gradient(v, x, labels, extra)
    rows = list(zip(plain, v, w, own, shared, strict=True))
    if isinstance(method, FedProx):
        return [g + method.mu * (a - b) for g, a, b, _, _ in rows]
    if isinstance(method, FedDyn):
        return [g - o + method.alpha * (a - b) for g, a, b, o, _ in rows]
    if isinstance(method, Scaffold):
        return [g - o + s for g, _, _, o, s in rows]
    return plain


def reference(method, config, data, a_plan, state, rounds):
    """Yield the global weights after every round, by the papers' algorithms."""
    w = toy.weights_of(state.params)
    zero = [np.zeros_like(each) for each in w]
    own = dict.fromkeys(range(data.count), zero)
    previous, shared = {}, zero
    for _ in range(rounds):
        arrived, changes, present = [], [], []
        for client, batches in toy.batches(a_plan, data, state).items():
            gradient = functools.partial(
                slopes, method, w, own[client], shared, previous.get(client)
            )
            end, length = oracle.train(
                w,
                batches,
                gradient,
                rate=config.learning_rate * config.decay ** int(state.round),
                momentum=config.momentum,
                decay=config.weight_decay,
            )
            before = own[client]
            if isinstance(method, FedDyn):
                own[client] = [
                    o - method.alpha * (a - b) for o, a, b in zip(before, end, w, strict=True)
                ]
            if isinstance(method, Scaffold):
                own[client] = [
                    o - s + (b - a) / length
                    for o, s, b, a in zip(before, shared, w, end, strict=True)
                ]
                pairs = zip(own[client], before, strict=True)
                changes.append([a - b for a, b in pairs])
            previous[client] = end
            arrived.append(end)
            present.append(client)
        shares = np.array([SIZES[client] for client in present], float)
        mean = oracle.weighted_mean(arrived, shares / shares.sum())
        if isinstance(method, FedDyn):
            shared = [
                h - sum(end[i] - w[i] for end in arrived) / data.count for i, h in enumerate(shared)
            ]
            mean = [a - h for a, h in zip(mean, shared, strict=True)]
        if isinstance(method, Scaffold):
            shared = [
                s + sum(change[i] for change in changes) / data.count for i, s in enumerate(shared)
            ]
        w = mean
        state = yield w


METHODS = [LocalSGD(), FedProx(mu=0.3), Scaffold(), FedDyn(alpha=0.2), Moon(mu=2.0)]


@pytest.mark.parametrize("participation", [1.0, 0.67])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_rounds_follow_the_published_update(method, participation):
    config = dataclasses.replace(toy.CONFIG, participation=participation, decay=0.9)
    a_plan, data = toy.plan(local=method, config=config), toy.clients()
    state = toy.start(a_plan, data)
    right = reference(method, config, data, a_plan, state, rounds=3)
    wanted = next(right)
    for _ in range(3):
        state, report = advance(a_plan, data, state)
        assert bool(report.present.all())
        for got, want in zip(toy.weights_of(state.params), wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)
        try:
            wanted = right.send(state)
        except StopIteration:
            break


def run(method, *, data=None, rounds=2, **changes):
    data = toy.clients() if data is None else data
    a_plan = toy.plan(local=method, **changes)
    state = toy.start(a_plan, data)
    for _ in range(rounds):
        state, _ = advance(a_plan, data, state)
    return state


@pytest.mark.parametrize(
    "method", [FedProx(mu=0), FedDyn(alpha=0), Moon(mu=0)], ids=lambda m: type(m).__name__
)
def test_without_its_term_a_method_is_fedavg(method):
    for got, want in zip(
        toy.weights_of(run(method).params), toy.weights_of(run(LocalSGD()).params), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


def test_scaffold_of_one_client_is_fedavg():
    data = toy.clients(toy.SHARDS[:1])
    one, other = (run(method, data=data, rounds=3) for method in (Scaffold(), LocalSGD()))
    for got, want in zip(toy.weights_of(one.params), toy.weights_of(other.params), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_identical_clients_are_one_client():
    # A batch is the whole shard, so that the clients' orders do not matter.
    shards = (toy.SHARDS[0],) * 3
    many = run(LocalSGD(), data=toy.clients(shards))
    one = run(LocalSGD(), data=toy.clients(shards[:1]))
    for got, want in zip(toy.weights_of(many.params), toy.weights_of(one.params), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


def test_control_variates_are_mean_gradients_under_momentum():
    # One client, a batch that is all of its data, small steps: its variate is the mean gradient of
    # its journey, which no momentum stretches.
    config = RoundConfig(
        epochs=50, batch_size=4, learning_rate=1e-5, momentum=0.9, weight_decay=0.0
    )
    data = toy.clients(toy.SHARDS[:1])
    a_plan = toy.plan(local=Scaffold(), config=config)
    state = toy.start(a_plan, data)
    (x, labels), *_ = toy.batches(a_plan, data, state)[0]
    right = oracle.entropy_gradient(toy.weights_of(state.params), x, labels)
    state, _ = advance(a_plan, data, state)
    found = toy.weights_of(jax.tree.map(lambda leaf: leaf[0], state.memory))
    for got, want in zip(found, right, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FedProx(mu=-1.0),
        lambda: FedDyn(alpha=-1.0),
        lambda: Moon(temperature=0.0),
        lambda: Scaffold(server_rate=0.0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="must"):
        make()
