"""How examples are shared out."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfuse.data import dirichlet, homogeneous, personalised

LABELS = np.random.default_rng(0).integers(0, 10, 1000)


def assert_partition(parts: tuple[np.ndarray, ...], count: int) -> None:
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(count))
    for part in parts:
        assert (np.diff(part) > 0).all()


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
def test_dirichlet_is_a_partition_of_parts_large_enough(seed, clients, alpha):
    parts = dirichlet(LABELS, key=jax.random.key(seed), clients=clients, concentration=alpha)
    assert len(parts) == clients
    assert_partition(parts, 1000)
    assert min(len(part) for part in parts) >= 10


def test_dirichlet_concentration_makes_clients_alike():
    def spread(concentration):
        parts = dirichlet(LABELS, key=jax.random.key(0), concentration=concentration)
        shares = [np.bincount(LABELS[part], minlength=10) / len(part) for part in parts]
        return np.abs(shares[0] - shares[1]).sum()

    assert spread(1000.0) < spread(0.1)


@pytest.mark.parametrize("split", [personalised, dirichlet])
def test_the_key_decides(split):
    first = split(LABELS, key=jax.random.key(3))
    again = split(LABELS, key=jax.random.key(3))
    other = split(LABELS, key=jax.random.key(4))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda key: homogeneous(LABELS, clients=0), "one client or more"),
        (lambda key: homogeneous(LABELS[:, None]), r"\[n\] integers"),
        (lambda key: homogeneous(LABELS.astype(float)), r"\[n\] integers"),
        (lambda key: personalised(LABELS, key=key, fraction=1.5), "between 0 and 1"),
        (lambda key: personalised(LABELS, key=key, special_class=10), "special_class"),
        (lambda key: dirichlet(LABELS, key=key, concentration=0.0), "must be positive"),
        (lambda key: dirichlet(LABELS, key=key, minimum=501), "lower minimum"),
        (lambda key: dirichlet(LABELS[:40], key=key, clients=20, minimum=2), "no split in"),
    ],
)
def test_bad_requests_are_refused(call, message, key):
    with pytest.raises(ValueError, match=message):
        call(key)
