import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import softmax

from jaxfuse import mean_logits, mean_probabilities, vote

LOGITS = hnp.arrays(np.float32, (3, 2, 4), elements=st.floats(-30, 30, width=32))
ORACLES = {
    mean_probabilities: lambda z: softmax(np.float64(z), axis=-1).mean(axis=0),
    mean_logits: lambda z: softmax(np.float64(z).mean(axis=0), axis=-1),
    vote: lambda z: np.eye(z.shape[-1])[np.argmax(z, axis=-1)].mean(axis=0),
}


@pytest.mark.parametrize("combine", ORACLES, ids=lambda f: f.__name__)
@settings(deadline=None, max_examples=20)
@given(logits=LOGITS)
def test_matches_numpy(combine, logits):
    got = jax.jit(combine)(logits)
    np.testing.assert_allclose(got, ORACLES[combine](logits), atol=2e-6)
    np.testing.assert_allclose(jnp.sum(got, axis=-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("combine", ORACLES, ids=lambda f: f.__name__)
def test_one_network_and_vmap(combine, key):
    logits = jax.random.normal(key, (5, 1, 2, 4))
    batched = jax.vmap(combine)(logits)
    np.testing.assert_allclose(batched[3], combine(logits[3]), rtol=1e-6)
    np.testing.assert_array_equal(batched.argmax(-1), logits[:, 0].argmax(-1))


def test_huge_logits_do_not_overflow():
    logits = jnp.array([[1e4, 0.0], [-1e4, 0.0]])
    np.testing.assert_allclose(mean_probabilities(logits), [0.5, 0.5])
    np.testing.assert_allclose(mean_logits(logits), [0.5, 0.5])


def test_ties_go_to_the_first_class():
    np.testing.assert_array_equal(vote(jnp.zeros((2, 3))), [1.0, 0.0, 0.0])
