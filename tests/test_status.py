import jax
import jax.numpy as jnp
import pytest

from jaxfuse import Status
from jaxfuse.status import is_concrete


@pytest.mark.parametrize("status", Status)
def test_every_status_has_a_message_and_an_array(status):
    assert status.message
    assert status.array().dtype == jnp.int32
    assert Status(int(status.array())) is status
    assert status.array() == status


def test_messages_differ():
    assert len({status.message for status in Status}) == len(Status)


def test_values_do_not_change():
    assert {status.name: status.value for status in Status} == {
        "CONVERGED": 0,
        "ALREADY_ALIGNED": 1,
        "NOT_CONVERGED": 2,
        "NON_FINITE": 3,
    }


def test_tracers_are_not_concrete():
    seen = []

    def record(x):
        seen.append(is_concrete(1.0, x))
        return x

    x = jnp.ones(2)
    record(x)
    jax.jit(record)(x)
    jax.vmap(record)(x)
    jax.grad(lambda x: record(x).sum())(x)
    assert seen == [True, False, False, False]
    assert is_concrete()
