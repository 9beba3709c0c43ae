"""Weighted sums of a Gaussian kernel over pairs of edges, in tiles that XLA fuses to one loop."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxfuse.affinity.bandwidth import centre_edges
from jaxfuse.affinity.block import HIGHEST

_COLUMNS = 128
_VECTOR = 8
_VALUES = 2**17
_PAIRS = 4
LONGEST = 32

Arrays = tuple[jax.Array, ...]


def tiled_scores(a: jax.Array, b: jax.Array, q: jax.Array, budget: int) -> jax.Array:
    """Return `S[i, j] = sum_ab Q[a, b] exp(-|A[i, a] - B[j, b]|^2)`.

    A loop runs over the pairs (a, b), and its body is one fusion: distances, exponentials, weights
    and sum of four pairs, of which the sums alone are written, `[g, n, c]`. They are of c units of
    B, few enough that the edges at hand stay in the first cache, and of g units of A's columns
    apart, many enough that a step outweighs its start. Differentiable; the backward pass streams
    again.

    Args:
        a: edges of A over the root of sigma, `[n, m, e]`.
        b: those of B, `[l, k, e]`.
        q: weights `[m, k]`.
        budget: bytes that the sums may take.

    Returns:
        float32 `[n, l]`.

    Examples:
        >>> edges = jnp.array([[[0.0], [9.0]]])
        >>> tiled_scores(edges, edges, jnp.array([[2.0, 0.0], [0.0, 3.0]]), 1024)
        Array([[5.]], dtype=float32)
    """
    a, b = centre_edges(a, b)
    width, groups = _cut(a, b, budget)
    steps, pairs = _pieces(b.shape[1], _PAIRS)
    x = _split(a.swapaxes(0, 1), groups)
    w = jax.vmap(lambda rows: _split(rows.T, (steps, pairs)))(_split(q, groups))

    def columns(y: jax.Array) -> jax.Array:
        y = _split(y.transpose(1, 2, 0), (steps, pairs))[:, :, None]
        zeros = jnp.zeros((groups[1], len(a), width), jnp.float32)

        # A sum for each part, and a sum of these: fewer roundings than one long sum.
        @jax.checkpoint
        def part(total: jax.Array, of_a: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            x, w = of_a

            def step(total: jax.Array, of_b: Arrays) -> jax.Array:
                return _add(total, ((x, *each) for each in zip(*of_b, strict=True)))

            return total + _fold(step, zeros, (y, w)), None

        return jnp.sum(lax.scan(part, zeros, (x, w))[0], axis=0)

    return _by_columns(columns, b, width)


def paired_scores(a: jax.Array, b: jax.Array, budget: int) -> jax.Array:
    """Return `S[i, j] = sum_a exp(-|A[i, a] - B[j, a]|^2)`: where Q is the identity.

    Args:
        a: edges of A over the root of sigma, `[n, m, e]`.
        b: those of B, `[l, m, e]`.
        budget: bytes that the sums may take.

    Returns:
        float32 `[n, l]`; differentiable.

    Examples:
        >>> edges = jnp.array([[[0.0], [9.0]]])
        >>> paired_scores(edges, edges, 1024)
        Array([[2.]], dtype=float32)
    """
    a, b = centre_edges(a, b)
    width, (count, group) = _cut(a, b, budget)
    steps, pairs = _pieces(count, _PAIRS)

    def arrange(edges: jax.Array) -> jax.Array:
        return _split(_split(edges, (steps * pairs, group)), (steps, pairs))

    x = arrange(a.swapaxes(0, 1))
    w = arrange(jnp.ones(a.shape[1], jnp.float32))

    def columns(y: jax.Array) -> jax.Array:
        def step(total: jax.Array, of_both: Arrays) -> jax.Array:
            return _add(total, zip(*of_both, strict=True))

        zeros = jnp.zeros((group, len(a), width), jnp.float32)
        return jnp.sum(_fold(step, zeros, (x, arrange(y.transpose(1, 2, 0)), w)), axis=0)

    return _by_columns(columns, b, width)


def _fold(
    step: Callable[[jax.Array, Arrays], jax.Array], start: jax.Array, arrays: Arrays
) -> jax.Array:
    """Add to `start` by a step for each entry of arrays `[steps, ...]`.

    The entries wait in the carry: XLA would fuse a slice into the step, and the loop, whose index
    it loads anew for every number, would not be vectorised.
    """

    @jax.checkpoint
    def held(carry: tuple[jax.Array, Arrays], following: Arrays) -> tuple[Any, None]:
        return (step(*carry), following), None

    first = tuple(each[0] for each in arrays)
    following = tuple(jnp.roll(each, -1, axis=0) for each in arrays)
    return lax.scan(held, (start, first), following)[0][0]


def _add(total: jax.Array, pairs: Iterable[Sequence[jax.Array]]) -> jax.Array:
    """Add kernels of edges `[g, n, e]` and `[g or 1, e, c]` to sums `[g, n, c]`."""
    for x, y, w in pairs:
        total = total + w[:, None, None] * jnp.exp(-_squared_distances(x, y))
    return total


def _squared_distances(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return |x - y|^2 `[g, n, c]`: of short edges by differences, which keep all their digits.

    Of long ones a product is faster, as it is no longer the exponential that takes the time.
    """
    if x.shape[-1] > LONGEST:
        squares = jnp.sum(x * x, axis=-1)[:, :, None] + jnp.sum(y * y, axis=-2)[:, None, :]
        sizes = ("gne,ec->gnc", x, y[0]) if len(y) == 1 else ("gne,gec->gnc", x, y)
        return jnp.maximum(squares - 2 * jnp.einsum(*sizes, precision=HIGHEST), 0.0)
    squares = [jnp.square(x[:, :, t, None] - y[:, t, None, :]) for t in range(x.shape[-1])]
    return sum(squares[1:], start=squares[0])


def _cut(a: jax.Array, b: jax.Array, budget: int) -> tuple[int, tuple[int, int]]:
    """Return how many columns S has a tile, and how many groups of how many units A's columns."""
    most = max(1, min(_COLUMNS, budget // (4 * len(a))) // _VECTOR)
    width = _VECTOR * _pieces(-(-len(b) // _VECTOR), most)[1]
    values = min(_VALUES, budget // 4)
    return width, _pieces(a.shape[1], values // (len(a) * width))


def _pieces(size: int, most: int) -> tuple[int, int]:
    """Return a number of pieces of at most `most`, and how long the longest is."""
    count = -(-size // max(1, min(size, most)))
    return count, -(-size // count)


def _split(array: jax.Array, pieces: tuple[int, int]) -> jax.Array:
    """Split the first axis `[size, ...]` in `[count, each, ...]`, zeros behind."""
    count, each = pieces
    padding = [(0, count * each - len(array))] + [(0, 0)] * (array.ndim - 1)
    return jnp.pad(array, padding).reshape(count, each, *array.shape[1:])


def _by_columns(columns: Callable[[jax.Array], jax.Array], b: jax.Array, width: int) -> jax.Array:
    """Map edges `[width, k, e]` of B to scores `[n, width]`; return them side by side."""
    tiles = lax.map(columns, _split(b, (-(-len(b) // width), width)))
    return jnp.moveaxis(tiles, 0, 1).reshape(tiles.shape[1], -1)[:, : len(b)]
