"""Weighted sums of a Gaussian kernel over pairs of edges, as one Pallas kernel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu, triton

from jaxfuse.affinity.bandwidth import centre_edges

_ROWS = 32
_COLUMNS = {"cuda": 64, "tpu": 128}
_EDGES_A = 32
_EDGES_B = 256


def pallas_scores(a: jax.Array, b: jax.Array, q: jax.Array, budget: int) -> jax.Array:
    """Return `S[i, j] = sum_ab Q[a, b] exp(-|A[i, a] - B[j, b]|^2)`.

    A program holds the sums of a tile of S in registers while it runs over pairs (a, b) of some
    columns of A and of B: an exponent takes e + 1 multiply-adds, and no kernel value is written.
    The programs share no output, so that they may run in any order: those of other columns of A
    write sums of their own, added up afterwards. Tiles are powers of two, as Triton wants them, and
    padded by edges of weight zero.

    Lowered by Triton for CUDA and by Mosaic for TPU, which the tests check without such a device;
    interpreted elsewhere, which is slow. Not measured on any accelerator.

    Args:
        a: edges of A over the root of sigma, `[n, m, e]`.
        b: those of B, `[l, k, e]`.
        q: weights `[m, k]`.
        budget: bytes that the sums of the programs may take.

    Returns:
        float32 `[n, l]`; not differentiable.

    Examples:
        >>> edges = jnp.array([[[0.0], [9.0]]])
        >>> pallas_scores(edges, edges, jnp.array([[2.0, 0.0], [0.0, 3.0]]), 1024)
        Array([[5.]], dtype=float32)
    """
    a, b = centre_edges(a, b)
    # exp(2 <x, y> - |x|^2 - |y|^2): the squares stand behind the entries.
    x = jnp.concatenate([2 * a, -jnp.sum(a * a, axis=-1, keepdims=True)], axis=-1)
    y = jnp.concatenate([b, -jnp.sum(b * b, axis=-1, keepdims=True)], axis=-1)
    return lax.platform_dependent(
        x.transpose(1, 0, 2),
        y.transpose(1, 2, 0),
        q,
        cuda=functools.partial(_scores, budget=budget, platform="cuda"),
        tpu=functools.partial(_scores, budget=budget, platform="tpu"),
        default=functools.partial(_scores, budget=budget, platform=None),
    )


def _scores(
    x: jax.Array, y: jax.Array, q: jax.Array, budget: int, platform: str | None
) -> jax.Array:
    """Return S `[n, l]` of `[m, n, e + 1]`, `[k, e + 1, l]` and weights `[m, k]`."""
    n, columns = x.shape[1], y.shape[2]
    width = _COLUMNS.get(platform or "cuda", 64)
    programs = max(1, budget // (4 * n * columns))
    edges_a = max(_EDGES_A, -(-len(x) // programs))
    x = _pad(_pad(x, 0, edges_a), 1, _ROWS)
    y = _pad(_pad(y, 0, min(_EDGES_B, len(y))), 2, width)
    q = _pad(_pad(q, 0, edges_a), 1, min(_EDGES_B, q.shape[1]))
    parts = len(y) // min(_EDGES_B, len(y))

    def part(total: jax.Array, of_b: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        y, q = of_b
        return total + jnp.sum(_call(x, y, q, edges_a, width, platform), axis=0), None

    start = jnp.zeros((x.shape[1], y.shape[2]), jnp.float32)
    pieces = y.reshape(parts, -1, *y.shape[1:]), q.reshape(len(q), parts, -1).swapaxes(0, 1)
    return lax.scan(part, start, pieces)[0][:n, :columns]


def _call(
    x: jax.Array, y: jax.Array, q: jax.Array, edges_a: int, width: int, platform: str | None
) -> jax.Array:
    """Return sums `[m / edges_a, n, l]`, those of `edges_a` columns of A each."""
    (m, n, taps), columns = x.shape, y.shape[2]
    across = np.int32(columns // width)
    # A TPU reads single numbers at an index it computes from its scalar memory only.
    scalars = tpu.SMEM if platform == "tpu" else None
    return pl.pallas_call(
        _kernel,
        out_shape=jax.ShapeDtypeStruct((m // edges_a, n, columns), jnp.float32),
        # Two axes, as Triton has three and `vmap` adds one.
        grid=(n // _ROWS * (columns // width), m // edges_a),
        in_specs=[
            pl.BlockSpec((edges_a, _ROWS, taps), lambda t, c: (c, lax.div(t, across), 0)),
            pl.BlockSpec((len(y), taps, width), lambda t, c: (0, 0, lax.rem(t, across))),
            pl.BlockSpec((edges_a, len(y)), lambda t, c: (c, 0), memory_space=scalars),
        ],
        out_specs=pl.BlockSpec(
            (1, _ROWS, width), lambda t, c: (c, lax.div(t, across), lax.rem(t, across))
        ),
        compiler_params=triton.CompilerParams() if platform == "cuda" else None,
        interpret=platform is None,
    )(x, y, q)


def _kernel(x_ref, y_ref, q_ref, sums_ref) -> None:
    """Sum over the pairs of edges of a tile."""
    last = x_ref.shape[2] - 1

    def one(a: jax.Array, b: jax.Array, sums: jax.Array) -> jax.Array:
        exponent = x_ref[a, :, pl.ds(last, 1)] + y_ref[b, pl.ds(last, 1), :]
        for tap in range(last):
            exponent += x_ref[a, :, pl.ds(tap, 1)] * y_ref[b, pl.ds(tap, 1), :]
        return sums + q_ref[a, b] * jnp.exp(jnp.minimum(exponent, 0.0))

    def row(a: jax.Array, sums: jax.Array) -> jax.Array:
        return lax.fori_loop(0, q_ref.shape[1], functools.partial(one, a), sums)

    sums_ref[0] = lax.fori_loop(0, q_ref.shape[0], row, jnp.zeros(sums_ref.shape[1:], jnp.float32))


def _pad(array: jax.Array, axis: int, multiple: int) -> jax.Array:
    """Pad an axis with zeros to a multiple."""
    padding = [(0, 0)] * array.ndim
    padding[axis] = (0, -array.shape[axis] % multiple)
    return jnp.pad(array, padding)
