import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.assignment import invert_permutation, permutation_matrix


def test_permutation_matrix_takes_rows(key):
    columns = jax.random.permutation(key, 6)
    x = jax.random.normal(key, (6, 3))
    np.testing.assert_array_equal(
        jnp.dot(permutation_matrix(columns), x, precision="highest"), x[columns]
    )


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_inverse_is_the_transpose(key, batch):
    columns = jax.vmap(lambda k: jax.random.permutation(k, 7)[:5])(
        jax.random.split(key, int(np.prod(batch)))
    ).reshape(*batch, 5)
    inverse = jax.jit(lambda c: invert_permutation(c, 7))(columns)
    assert inverse.shape == (*batch, 7)
    assert inverse.dtype == jnp.int32
    np.testing.assert_array_equal(
        permutation_matrix(inverse, 5), jnp.swapaxes(permutation_matrix(columns, 7), -1, -2)
    )


def test_unmatched_rows_and_empty_vectors():
    np.testing.assert_array_equal(invert_permutation(jnp.array([-1, 0, -1]), 2), [1, -1])
    assert invert_permutation(jnp.zeros(0, jnp.int32)).shape == (0,)
    assert invert_permutation(jnp.zeros((3, 0), jnp.int32), 2).tolist() == [[-1, -1]] * 3
    assert permutation_matrix(jnp.zeros(0, jnp.int32), 2).shape == (0, 2)


@pytest.mark.parametrize("function", [permutation_matrix, invert_permutation])
def test_bad_shapes(function):
    with pytest.raises(ValueError, match=r"want columns of shape"):
        function(3)
    with pytest.raises(ValueError, match="m=-1"):
        function(jnp.arange(2), -1)
