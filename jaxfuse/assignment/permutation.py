"""Permutations as index vectors and as matrices."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike


def permutation_matrix(
    columns: ArrayLike, m: int | None = None, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Return the 0/1 matrix P with `P[i, columns[i]] = 1`.

    Args:
        columns: int `[..., n]`, the column of every row; -1 leaves the row zero.
        m: number of columns of P, n by default.
        dtype: dtype of P.

    Returns:
        `[..., n, m]`.

    Raises:
        ValueError: if `columns` has no axis or m is negative.

    Examples:
        >>> permutation_matrix(jnp.array([1, -1]), m=3, dtype=jnp.int32).tolist()
        [[0, 1, 0], [0, 0, 0]]
    """
    columns = jnp.asarray(columns)
    if columns.ndim == 0:
        raise ValueError("permutation_matrix: got a scalar, want columns of shape [..., n]")
    if m is not None and m < 0:
        raise ValueError(f"permutation_matrix: got m={m}, want a number of columns >= 0")
    return jax.nn.one_hot(columns, columns.shape[-1] if m is None else m, dtype=dtype)


def invert_permutation(columns: ArrayLike, m: int | None = None) -> jax.Array:
    """Return the row of every column, the inverse of an assignment.

    Args:
        columns: int `[..., n]`, distinct columns; -1 marks an unmatched row.
        m: number of columns, n by default.

    Returns:
        int32 `[..., m]`: i where `columns[i] = j`, -1 where no row has column j.

    Raises:
        ValueError: if `columns` has no axis or m is negative.

    Examples:
        >>> invert_permutation(jnp.array([2, 0, 1])).tolist()
        [1, 2, 0]
        >>> invert_permutation(jnp.array([2, -1]), m=3).tolist()
        [-1, -1, 0]
    """
    columns = jnp.asarray(columns)
    if columns.ndim == 0:
        raise ValueError("invert_permutation: got a scalar, want columns of shape [..., n]")
    if m is not None and m < 0:
        raise ValueError(f"invert_permutation: got m={m}, want a number of columns >= 0")
    n = columns.shape[-1]
    m = n if m is None else m

    # A negative index would count from the end: unmatched rows go to a column that is cut off.
    size = math.prod(columns.shape[:-1])
    target = jnp.where(columns < 0, m, columns).reshape(size, n)
    rows = jnp.arange(n, dtype=jnp.int32)
    inverse = jnp.full((size, m + 1), -1, jnp.int32)
    inverse = jax.vmap(lambda row, index: row.at[index].set(rows))(inverse, target)
    return inverse[:, :m].reshape(*columns.shape[:-1], m)
