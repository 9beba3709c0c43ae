"""Clients whose images differ by noise."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

NoiseRule = Literal["code", "paper"]


def noise_levels(clients: int, noise: float, *, rule: NoiseRule = "code") -> np.ndarray:
    """Say how much Gaussian noise each client adds to its images.

    The noise-based feature imbalance of NIID-Bench (Li et al., 2022), of images between 0 and 1.
    Its paper and its released code differ.

    Args:
        clients: Number of clients N.
        noise: Noise of the noisiest client: its standard deviation in the code, its variance in the
            paper. NIID-Bench takes 0.1.
        rule: "code" for standard deviation `noise * i / (N - 1)` with i from 0, so that the first
            client has none; "paper" for variance `noise * i / N` with i from 1. Default: "code", by
            which the results of NIID-Bench came about.

    Returns:
        `[clients]` float32 standard deviations, in units of the largest pixel value.

    Raises:
        ValueError: The noise is negative or not finite, or there are fewer than one client.

    Examples:
        >>> noise_levels(5, 0.1)
        array([0.   , 0.025, 0.05 , 0.075, 0.1  ], dtype=float32)
        >>> noise_levels(4, 0.04, rule="paper").round(3)
        array([0.1  , 0.141, 0.173, 0.2  ], dtype=float32)
    """
    if clients < 1:
        raise ValueError(f"there must be one client or more, got {clients}")
    if not 0 <= noise < np.inf:
        raise ValueError(f"noise must be 0 or more and finite, got {noise}")
    match rule:
        case "code":
            levels = noise * np.arange(clients) / max(clients - 1, 1)
        case "paper":
            levels = np.sqrt(noise * np.arange(1, clients + 1) / clients)
        case _:
            raise ValueError(f"rule must be one of {get_args(NoiseRule)}, got {rule!r}")
    return levels.astype(np.float32)


def add_noise(
    images: ArrayLike,
    level: ArrayLike,
    *,
    key: jax.Array,
    client: ArrayLike,
    examples: ArrayLike,
) -> jax.Array:
    """Add a client's Gaussian noise to its images.

    The noise of an image depends on the key, the client and the example alone: not on the batch it
    comes in, nor on its place there. NIID-Bench draws it anew whenever an image is read; for that
    fold the epoch into the key. Runs under `jit` and `vmap`, over clients too; it can be
    differentiated by images and level.

    Args:
        images: `[n, h, w, c]`, or any shape that begins with n, of a floating type.
        level: Standard deviation of the noise, `[]` or `[c]`, as `noise_levels` returns it for
            images between 0 and 1. Normalised images need it in their own units, which is
            `level / np.asarray(dataset.std)`.
        key: Which noise is drawn.
        client: `[]` integer, the number of the client.
        examples: `[n]` integers that tell the images apart, such as their indices in the dataset.

    Returns:
        Noisy images, of the same shape and type.

    Raises:
        ValueError: The images are integers, or shapes do not fit.

    Examples:
        >>> images = jnp.zeros((3, 8, 8, 1))
        >>> settings = {"key": jax.random.key(0), "client": 1}
        >>> noisy = add_noise(images, 0.1, examples=jnp.array([5, 6, 7]), **settings)
        >>> bool(jnp.std(noisy) < 0.2)
        True
        >>> alone = add_noise(images[2:], 0.1, examples=jnp.array([7]), **settings)
        >>> bool(jnp.array_equal(alone[0], noisy[2]))
        True
    """
    images, level, examples = jnp.asarray(images), jnp.asarray(level), jnp.asarray(examples)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images must be of a floating type, got {images.dtype}: normalise them first"
        )
    if images.ndim == 0 or examples.shape != images.shape[:1]:
        raise ValueError(
            f"images must be [n, ...] with examples [n], got {images.shape} and {examples.shape}"
        )
    if level.shape not in ((), images.shape[-1:]):
        raise ValueError(
            f"level must be [] or one number a channel, got {level.shape} for images {images.shape}"
        )
    own = jax.random.fold_in(key, client)

    def draw(example: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(own, example), images.shape[1:], jnp.float32)

    noise = jnp.broadcast_to(level.astype(jnp.float32), images.shape) * jax.vmap(draw)(examples)
    return (images + noise).astype(images.dtype)
