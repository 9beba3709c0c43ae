"""Inputs without data: images that the networks themselves take for their classes."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfuse.networks import ApplyFunction
from jaxfuse.status import is_concrete

PyTree = Any


def invert(
    apply_fn: ApplyFunction,
    params: Sequence[PyTree],
    shape: jax.ShapeDtypeStruct,
    *,
    labels: jax.Array | None = None,
    steps: int = 100,
    learning_rate: float = 0.05,
    exponent: float = 1.0,
    correlation: float = 0.9,
    key: jax.Array | None = None,
) -> jax.Array:
    """Make inputs that K classifiers put into given classes: a stand-in for data.

    Pass them as `inputs=` to `align_params` and `fuse`: the activations on them tell units apart
    better than weights do, and layers fitted on them are nearer to those fitted on data than
    layers fitted on noise (`benchmarks/compact_ensemble`).

    An input is a field `x = A z` of unit mean square at first, with z white and the amplitudes of A
    falling with the spatial frequency as `1 / |f|^exponent`, as those of natural images do (Field,
    J. Opt. Soc. Am. A 1987), whose channels rise and fall together. Adam descends
    `sum_k CE(f_k(A z), label)` in z. In these coordinates the low frequencies move most, which is
    the only prior: there is no penalty, no augmentation, and no running statistics are needed.
    Model inversion itself is that of DeepInversion (Yin et al., CVPR 2020), which has all three.

    Args:
        apply_fn: `apply_fn(params, x) -> logits`, `[n, classes]`, of normalised inputs: zero mean
            and unit variance, more or less.
        params: K parameter trees; every input is made for all of them at once.
        shape: of the inputs and their dtype, real: `[n, ..., channels]`, of which the axes between
            the first and the last are space or time. `[n, features]` has none, and starts white.
        labels: `[n]` integers, the classes that are asked for; as many of each by default.
        steps: of Adam.
        learning_rate: of Adam, in z, which starts with a deviation of one.
        exponent: 0 for white fields, 1 for those of natural images.
        correlation: of the channels at first, where there is space or time: 0 for independent ones;
            colours have about 0.9.
        key: where the fields are drawn from; `jax.random.key(0)` by default.

    Returns:
        The inputs, in the shape and dtype asked for.

    Raises:
        ValueError: where the outputs are not logits `[n, classes]`, the inputs not real, labels of
            another shape, settings out of range; and outside jit for networks that are not finite
            on such inputs.

    Works under `jit` and `vmap`. It holds one gradient step of all inputs in memory; for more
    inputs, call it with several keys.

    Examples:
        >>> fn = lambda w, x: x @ w
        >>> towards = invert(fn, [jnp.eye(2)], jax.ShapeDtypeStruct((4, 2), jnp.float32))
        >>> jnp.argmax(towards, axis=1).tolist()
        [0, 1, 0, 1]
    """
    params = list(params)
    _check_settings(steps, learning_rate, exponent, correlation)
    labels = _check(apply_fn, params, shape, labels)
    key = jax.random.key(0) if key is None else key
    prior = _Prior(tuple(shape.shape), jnp.dtype(shape.dtype), exponent, correlation)
    inputs = _descend(apply_fn, prior, steps, learning_rate, params, labels, key)
    if is_concrete(inputs) and not bool(jnp.isfinite(inputs).all()):
        raise ValueError(
            f"the networks have no finite gradients on inputs {shape.shape}: look for NaN in their "
            "parameters, from a diverged training run or a broken checkpoint"
        )
    return inputs


def _check(
    apply_fn: ApplyFunction,
    params: list[PyTree],
    shape: jax.ShapeDtypeStruct,
    labels: jax.Array | None,
) -> jax.Array:
    """Refuse what can't be inverted, and return the labels."""
    if not params:
        raise ValueError("there is nothing to invert: pass at least one parameter tree")
    if not jnp.issubdtype(shape.dtype, jnp.floating) or len(shape.shape) < 2:
        raise ValueError(
            f"only inputs [n, ..., channels] of real numbers can be made, got {shape.dtype}"
            f"{list(shape.shape)}: pass real data as inputs= where networks take something else"
        )
    count = shape.shape[0]
    for index, own in enumerate(params):
        outputs = jax.eval_shape(apply_fn, own, shape)
        found = getattr(outputs, "shape", None)
        if found is None or len(found) != 2 or found[0] != count or found[1] < 2:
            raise ValueError(
                f"network {index} has outputs {found or type(outputs).__name__} on inputs "
                f"{shape.shape}, and inversion needs logits [{count}, classes]: for other outputs "
                "pass data, or the shape alone for noise (jaxfuse.fuse)"
            )
    if labels is None:
        return jnp.arange(count, dtype=jnp.int32) % found[1]
    labels = jnp.asarray(labels)
    if labels.shape != (count,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels must be [{count}] integers, one for each input, got {labels.dtype}"
            f"{list(labels.shape)}"
        )
    if is_concrete(labels) and count and not 0 <= int(labels.min()) <= int(labels.max()) < found[1]:
        raise ValueError(f"labels must be 0 to {found[1] - 1}, as many as the networks have logits")
    return labels


def _check_settings(steps: int, learning_rate: float, exponent: float, correlation: float) -> None:
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, got {steps}")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be positive, got {learning_rate}")
    if not exponent >= 0:
        raise ValueError(f"exponent must be 0 or more, got {exponent}")
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation must lie between 0 and 1, got {correlation}")


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _descend(
    apply_fn: ApplyFunction,
    prior: "_Prior",
    steps: int,
    learning_rate: float,
    params: list[PyTree],
    labels: jax.Array,
    key: jax.Array,
) -> jax.Array:
    optimiser = optax.adam(learning_rate)

    def surprise(white: jax.Array) -> jax.Array:
        inputs = prior.field(white)
        entropy = optax.softmax_cross_entropy_with_integer_labels
        each = [entropy(apply_fn(own, inputs).astype(jnp.float32), labels) for own in params]
        return jnp.sum(jnp.stack(each))

    def step(carry: Any, _: None) -> tuple[Any, None]:
        white, state = carry
        updates, state = optimiser.update(jax.grad(surprise)(white), state)
        return (optax.apply_updates(white, updates), state), None

    white = jax.random.normal(key, prior.shape, jnp.float32)
    (white, _), _ = jax.lax.scan(step, (white, optimiser.init(white)), None, length=steps)
    return prior.field(white)


class _Prior(NamedTuple):
    """Where inputs come from: the map A, and what comes out of it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    exponent: float
    correlation: float

    def field(self, white: jax.Array) -> jax.Array:
        """Return A z, of mean square one for white z."""
        sizes, channels = self.shape[1:-1], self.shape[-1]
        if not sizes:
            return white.astype(self.dtype)
        axes = tuple(range(1, 1 + len(sizes)))
        waves = jnp.fft.rfftn(white, axes=axes) * _amplitudes(sizes, self.exponent)[None, ..., None]
        apart = math.sqrt(1 - self.correlation)
        # The root of the matrix of ones and correlations: its large eigenvalue is the mean's.
        together = math.sqrt(1 - self.correlation + channels * self.correlation) - apart
        fields = jnp.fft.irfftn(waves, sizes, axes=axes)
        mixed = apart * fields + together * jnp.mean(fields, axis=-1, keepdims=True)
        return mixed.astype(self.dtype)


def _amplitudes(sizes: tuple[int, ...], exponent: float) -> np.ndarray:
    """Return the amplitudes of the frequencies of a real transform, of mean square one.

    The mean itself has that of the longest wave.
    """
    grids = np.meshgrid(*map(np.fft.fftfreq, sizes), indexing="ij", sparse=True)
    radius = np.maximum(np.sqrt(sum(grid**2 for grid in grids)), 1 / max(sizes))
    amplitudes = radius**-exponent
    amplitudes /= np.sqrt(np.mean(amplitudes**2))
    return amplitudes[..., : sizes[-1] // 2 + 1].astype(np.float32)
