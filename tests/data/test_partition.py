"""How examples are shared out."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfuse.data import (
    client_dirichlet,
    dirichlet,
    homogeneous,
    iid,
    label_skew,
    mixed,
    partition,
    personalised,
    quantity_skew,
)
from jaxfuse.data.partitions.client_dirichlet import _draw_counts

LABELS = np.random.default_rng(0).integers(0, 10, 1000)


def assert_partition(parts: tuple[np.ndarray, ...], count: int) -> None:
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(count))
    for part in parts:
        assert (np.diff(part) > 0).all()


def class_counts(parts: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.stack([np.bincount(LABELS[part], minlength=10) for part in parts])


def test_homogeneous_gives_everything_to_everyone():
    parts = homogeneous(LABELS, clients=3)
    assert len(parts) == 3
    for part in parts:
        np.testing.assert_array_equal(part, np.arange(1000))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), special=st.integers(0, 9), fraction=st.floats(0, 1))
def test_personalised_is_a_partition_by_class(seed, special, fraction):
    a, b = personalised(LABELS, key=jax.random.key(seed), special_class=special, fraction=fraction)
    assert_partition((a, b), 1000)
    assert special not in LABELS[b]
    for label in set(range(10)) - {special}:
        expected = fraction * (label == LABELS).sum()
        assert abs((LABELS[a] == label).sum() - expected) <= 0.5


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), clients=st.integers(1, 6), alpha=st.floats(0.2, 50))
@pytest.mark.parametrize("split", [dirichlet, quantity_skew])
def test_is_a_partition_of_parts_large_enough(split, seed, clients, alpha):
    parts = split(LABELS, key=jax.random.key(seed), clients=clients, concentration=alpha)
    assert len(parts) == clients
    assert_partition(parts, 1000)
    assert min(len(part) for part in parts) >= 10


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), clients=st.integers(1, 1000), alpha=st.floats(1e-3, 1e3))
def test_is_a_partition_of_equal_parts(seed, clients, alpha):
    key = jax.random.key(seed)
    for parts in (
        iid(LABELS, key=key, clients=clients),
        client_dirichlet(LABELS, key=key, clients=clients, concentration=alpha),
    ):
        assert len(parts) == clients
        assert_partition(parts, 1000)
        assert {len(part) for part in parts} <= {1000 // clients, -(-1000 // clients)}


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), clients=st.integers(1, 25), each=st.integers(1, 10))
def test_label_skew_cuts_each_class_equally_for_those_who_have_it(seed, clients, each):
    parts = label_skew(LABELS, key=jax.random.key(seed), clients=clients, classes_per_client=each)
    counts = class_counts(parts)
    assert ((counts > 0).sum(axis=1) == each).all()
    assert (counts[np.arange(clients), np.arange(clients) % 10] > 0).all()
    for own, total in zip(counts.T, np.bincount(LABELS), strict=True):
        held = own[own > 0]
        assert not held.size or (held.sum() == total and np.ptp(held) <= 1)
    used = counts.any(axis=0)
    assert used.all() or clients < 10
    np.testing.assert_array_equal(
        np.sort(np.concatenate(parts)), np.flatnonzero(np.isin(LABELS, np.flatnonzero(used)))
    )


def test_label_skew_takes_the_classes_that_occur():
    labels = np.array([7, 7, 7, -3, -3, 100])
    parts = label_skew(labels, key=jax.random.key(0), clients=3, classes_per_client=1)
    assert [labels[part].tolist() for part in parts] == [[-3, -3], [7, 7, 7], [100]]


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), alpha=st.floats(0.3, 50))
def test_mixed_gives_each_class_to_two_clients(seed, alpha):
    parts = mixed(LABELS, key=jax.random.key(seed), clients=10, concentration=alpha, minimum=1)
    assert_partition(parts, 1000)
    has = class_counts(parts) > 0
    assert has.sum(axis=0).max() <= 2
    assert has.sum(axis=1).max() <= 2
    assert (has | np.eye(10, dtype=bool)).sum(axis=1).max() <= 2


def test_dirichlet_concentration_makes_clients_alike():
    def spread(concentration):
        parts = dirichlet(LABELS, key=jax.random.key(0), concentration=concentration)
        shares = [np.bincount(LABELS[part], minlength=10) / len(part) for part in parts]
        return np.abs(shares[0] - shares[1]).sum()

    assert spread(1000.0) < spread(0.1)


@pytest.mark.parametrize("split", [dirichlet, quantity_skew])
def test_shares_have_the_moments_of_the_dirichlet_distribution(split):
    labels, clients, alpha = np.zeros(2000, int), 4, 0.5
    shares = np.array(
        [
            [len(part) / 2000 for part in split(labels, key=key, clients=clients, minimum=0)]
            for key in jax.random.split(jax.random.key(1), 400)
        ]
    )
    np.testing.assert_allclose(shares.mean(axis=0), 1 / clients, atol=0.05)
    variance = (clients - 1) / clients**2 / (clients * alpha + 1)
    np.testing.assert_allclose(shares.var(axis=0), variance, rtol=0.25)


def test_client_dirichlet_has_the_moments_of_a_dirichlet_multinomial():
    labels, alpha, size = np.repeat(np.arange(10), 500), 3.0, 250
    shares = np.array(
        [
            np.bincount(labels[parts[0]], minlength=10) / size
            for key in jax.random.split(jax.random.key(2), 120)
            for parts in [client_dirichlet(labels, key=key, clients=20, concentration=alpha)]
        ]
    )
    np.testing.assert_allclose(shares.mean(axis=0), 0.1, atol=0.05)
    variance = 0.1 * 0.9 * (1 + alpha / size) / (alpha + 1)
    np.testing.assert_allclose(shares.var(axis=0).mean(), variance, rtol=0.2)


def test_client_dirichlet_draws_as_if_one_by_one_when_classes_run_out():
    proportions, stock, size = np.array([0.6, 0.3, 0.1]), np.array([1, 3, 2]), 4

    def expected(counts):
        if sum(counts) == size:
            return np.array(counts, float)
        weights = np.where(np.array(counts) < stock, proportions, 0.0)
        weights /= weights.sum()
        return sum(
            weight * expected([c + (i == label) for i, c in enumerate(counts)])
            for label, weight in enumerate(weights)
            if weight
        )

    generator = np.random.default_rng(0)
    drawn = [_draw_counts(proportions, proportions, stock, size, generator) for _ in range(2000)]
    assert (np.sum(drawn, axis=1) == size).all()
    np.testing.assert_allclose(np.mean(drawn, axis=0), expected([0, 0, 0]), atol=0.06)


def test_client_dirichlet_of_small_concentration_gives_few_classes_even_as_they_run_out():
    labels = np.repeat(np.arange(10), 50)
    for seed in range(5):
        parts = client_dirichlet(labels, key=jax.random.key(seed), clients=5, concentration=1e-4)
        assert [len(np.unique(labels[part])) for part in parts] == [2] * 5


SPLITS = {
    "personalised": personalised,
    "dirichlet": dirichlet,
    "iid": iid,
    "label_skew": label_skew,
    "quantity_skew": quantity_skew,
    "client_dirichlet": client_dirichlet,
    "mixed": lambda labels, key: mixed(labels, key=key, clients=10, concentration=5.0),
}


@pytest.mark.parametrize("name", SPLITS)
def test_the_key_decides(name):
    split = SPLITS[name]
    first = split(LABELS, key=jax.random.key(3))
    again = split(LABELS, key=jax.random.key(3))
    other = split(LABELS, key=jax.random.key(4))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not all(map(np.array_equal, first, other))


def test_another_process_draws_the_same():
    program = """
import jax, numpy as np
from jaxfuse.data import partition
labels = np.random.default_rng(0).integers(0, 10, 1000)
for name in ("homo", "noniid-#label3", "noniid-labeldir", "iid-diff-quantity", "hsu", "mixed"):
    parts = partition(name, labels, clients=10, key=jax.random.key(7), concentration=2.0).clients
    print(name, *(index for part in parts for index in (len(part), *part)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        name, *told = line.split()
        parts = partition(
            name, LABELS, clients=10, key=jax.random.key(7), concentration=2.0
        ).clients
        assert [int(each) for each in told] == [i for part in parts for i in (len(part), *part)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda key: homogeneous(LABELS, clients=0), "one client or more"),
        (lambda key: homogeneous(LABELS[:, None]), r"\[n\] integers"),
        (lambda key: homogeneous(LABELS.astype(float)), r"\[n\] integers"),
        (lambda key: personalised(LABELS, key=key, fraction=1.5), "between 0 and 1"),
        (lambda key: personalised(LABELS, key=key, special_class=10), "special_class"),
        (lambda key: dirichlet(LABELS, key=key, concentration=0.0), "must be positive"),
        (lambda key: dirichlet(LABELS, key=key, concentration=float("nan")), "must be positive"),
        (lambda key: dirichlet(LABELS, key=key, minimum=501), "lower minimum"),
        (lambda key: dirichlet(LABELS[:40], key=key, clients=20, minimum=2), "no split in"),
        (lambda key: iid(LABELS, key=key, clients=1001), "1001 clients cannot share 1000 examples"),
        (lambda key: label_skew(LABELS, key=key, classes_per_client=0), "from 1 to the 10 classes"),
        (lambda key: label_skew(LABELS, key=key, classes_per_client=11), "from 1 to the 10"),
        (
            lambda key: label_skew(np.arange(4), key=key, clients=5, classes_per_client=1),
            "lower clients or classes_per_client",
        ),
        (lambda key: quantity_skew(LABELS, key=key, concentration=-1.0), "must be positive"),
        (lambda key: quantity_skew(LABELS, key=key, clients=3, minimum=334), "lower minimum"),
        (lambda key: quantity_skew(LABELS, key=key, clients=100, minimum=10), "no split in 500 "),
        (lambda key: client_dirichlet(LABELS, key=key, concentration=0.0), "must be positive"),
        (lambda key: client_dirichlet(LABELS, key=key, clients=1001), "cannot share"),
        (lambda key: mixed(LABELS, key=key, clients=9), "as many clients as classes"),
        (lambda key: mixed(LABELS * 0, key=key, clients=1), "two or more"),
        (lambda key: mixed(LABELS, key=key, clients=10, minimum=95), "no split in"),
    ],
)
def test_bad_requests_are_refused(call, message, key, monkeypatch):
    module = sys.modules["jaxfuse.data.partitions.quantity_skew"]  # the function has its name
    monkeypatch.setattr(module, "_NUMBERS", 50_000)
    with pytest.raises(ValueError, match=message):
        call(key)
