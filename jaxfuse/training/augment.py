"""Random changes of training images."""

import jax
import jax.numpy as jnp


def shift_and_mirror(images: jax.Array, *, key: jax.Array, pixels: int = 4) -> jax.Array:
    """Shift each image at random and mirror every second one, on average.

    The usual augmentation of CIFAR: zero padding, a random crop, a horizontal flip.

    Args:
        images: `[n, h, w, c]`.
        key: Key of the shifts and mirrorings.
        pixels: Largest shift in each direction. Default: 4, as in OTFusion.

    Returns:
        Images of the same shape and dtype. Differentiable in `images`.

    Examples:
        >>> shift_and_mirror(jnp.ones((2, 8, 8, 3)), key=jax.random.key(0)).shape
        (2, 8, 8, 3)
    """
    count, _, _, _ = images.shape
    shift_key, mirror_key = jax.random.split(key)
    corners = jax.random.randint(shift_key, (count, 2), 0, 2 * pixels + 1)
    mirrored = jax.random.bernoulli(mirror_key, shape=(count, 1, 1, 1))
    padded = jnp.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        start = (corner[0], corner[1], jnp.zeros_like(corner[0]))
        return jax.lax.dynamic_slice(image, start, images.shape[1:])

    cropped = jax.vmap(crop)(padded, corners)
    return jnp.where(mirrored, cropped[:, :, ::-1], cropped)
