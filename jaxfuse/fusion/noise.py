"""Inputs without data: noise with the directions that the first layers look at."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.networks import ApplyFunction
from jaxfuse.symmetry.trace.replay import Event, Layer, Named, replay

PyTree = Any


def shaped_noise(
    apply_fn: ApplyFunction, params: Sequence[PyTree], shapes: tuple[PyTree, ...], key: jax.Array
) -> tuple[PyTree, ...]:
    """Draw inputs in the directions of the first layers: `x = sum_k W_k e_k`, e_k white.

    Trained first layers look where the data vary, so the noise that their transposes make of white
    noise is nearer to data than white noise is. It is scaled to a mean square of one.

    Args:
        apply_fn: the function of the networks.
        params: K networks.
        shapes: of the inputs, as `jax.ShapeDtypeStruct`s; the first axis is the number of samples.
            Arrays among them stay.
        key: source of randomness.

    Returns:
        The inputs. Where the first layer does not take a single input of real numbers, plain
        standard normal numbers.

    Examples:
        >>> fn = lambda w, x: jax.nn.relu(x @ w)
        >>> x = jax.ShapeDtypeStruct((100, 2), jnp.float32)
        >>> draw = shaped_noise(fn, [jnp.array([[1.0], [0.0]])], (x,), jax.random.key(0))[0]
        >>> bool((draw[:, 1] == 0).all())
        True
    """
    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.random.split(key, len(leaves) + len(params))
    white = [
        jax.random.normal(k, leaf.shape, leaf.dtype)
        if isinstance(leaf, jax.ShapeDtypeStruct)
        else leaf
        for k, leaf in zip(keys, leaves, strict=False)
    ]
    if len(leaves) != 1:
        return jax.tree.unflatten(structure, white)

    drawn = _look(apply_fn, structure, list(params), white[0], keys[1:])
    return jax.tree.unflatten(structure, [drawn])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _look(
    apply_fn: ApplyFunction,
    structure: Any,
    params: list[PyTree],
    start: jax.Array,
    keys: jax.Array,
) -> jax.Array:
    """Return the directions that the first layers look at, drawn at random."""
    total = jnp.zeros_like(start)
    for own, key in zip(params, keys, strict=True):

        def product(x: jax.Array, own: PyTree = own) -> jax.Array:
            first = _First()
            replay(apply_fn, [own], jax.tree.unflatten(structure, [x]), first)
            return start if first.product is None else first.product

        outputs, transpose = jax.vjp(product, start)
        total += transpose(jax.random.normal(key, outputs.shape, outputs.dtype))[0]
    scale = jnp.sqrt(jnp.mean(jnp.square(total)))
    return jnp.where(scale > 0, total / jnp.where(scale > 0, scale, 1.0), start)


class _First:
    """Keeps what the first layer of a network computes."""

    def __init__(self) -> None:
        self.product: jax.Array | None = None

    def visit(self, event: Event, leaves: Sequence[Named]) -> None:
        del leaves
        if self.product is None and isinstance(event, Layer):
            self.product = event.outputs[0]
