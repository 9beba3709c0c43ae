"""MLP-Mixer."""

import jax
import jax.numpy as jnp
from flax import nnx


class MixerBlock(nnx.Module):
    """One block of MLP-Mixer: an MLP across patches, then an MLP across channels.

    Parameter paths: `token_norm`, `token_up`, `token_down`, `channel_norm`, `channel_up`,
    `channel_down`.

    Args:
        patches: number of patches of an image.
        width: channels of a patch.
        token_hidden: hidden units of the MLP across patches.
        channel_hidden: hidden units of the MLP across channels.
        rngs: source of the initial weights.

    Examples:
        >>> block = MixerBlock(4, 8, token_hidden=8, channel_hidden=12, rngs=nnx.Rngs(0))
        >>> jax.eval_shape(block, jnp.ones((2, 4, 8))).shape
        (2, 4, 8)
    """

    def __init__(
        self, patches: int, width: int, *, token_hidden: int, channel_hidden: int, rngs: nnx.Rngs
    ):
        self.token_norm = nnx.LayerNorm(width, rngs=rngs)
        self.token_up = nnx.Linear(patches, token_hidden, rngs=rngs)
        self.token_down = nnx.Linear(token_hidden, patches, rngs=rngs)
        self.channel_norm = nnx.LayerNorm(width, rngs=rngs)
        self.channel_up = nnx.Linear(width, channel_hidden, rngs=rngs)
        self.channel_down = nnx.Linear(channel_hidden, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Mix patches, then channels.

        Args:
            x: patches `[n, patches, width]`.

        Returns:
            Patches `[n, patches, width]`.
        """
        y = jnp.swapaxes(self.token_norm(x), 1, 2)
        y = self.token_down(nnx.gelu(self.token_up(y)))
        x = x + jnp.swapaxes(y, 1, 2)
        return x + self.channel_down(nnx.gelu(self.channel_up(self.channel_norm(x))))


class MLPMixer(nnx.Module):
    """MLP-Mixer (Tolstikhin et al., 2021): dense layers across patches and across channels.

    The defaults are Mixer-B/16 for 224x224 images and the 1,000 classes of ImageNet: 59.88 million
    weights.

    Parameter paths: `patch/kernel`, `blocks/0/token_norm/scale`, `blocks/0/token_up/kernel` ...,
    `norm/scale`, `head/kernel` (each with its `bias`).

    Args:
        input_shape: `(h, w, c)` of one image.
        classes: number of outputs.
        patch: side of a patch; it divides both sides of the image.
        width: channels of a patch.
        layers: number of blocks.
        token_hidden: hidden units of the MLPs across patches.
        channel_hidden: hidden units of the MLPs across channels.
        rngs: source of the initial weights.

    Raises:
        ValueError: Patches do not divide the image.

    Examples:
        >>> sizes = {"width": 8, "layers": 1, "token_hidden": 8, "channel_hidden": 12}
        >>> model = MLPMixer((8, 8, 3), 5, patch=4, **sizes, rngs=nnx.Rngs(0))
        >>> jax.jit(model)(jnp.zeros((2, 8, 8, 3))).shape
        (2, 5)
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (224, 224, 3),
        classes: int = 1000,
        *,
        patch: int = 16,
        width: int = 768,
        layers: int = 12,
        token_hidden: int = 384,
        channel_hidden: int = 3072,
        rngs: nnx.Rngs,
    ):
        patches = count_patches(input_shape, patch)
        self.patch = nnx.Conv(
            input_shape[-1], width, (patch, patch), strides=patch, padding="VALID", rngs=rngs
        )
        self.blocks = nnx.List(
            [
                MixerBlock(
                    patches,
                    width,
                    token_hidden=token_hidden,
                    channel_hidden=channel_hidden,
                    rngs=rngs,
                )
                for _ in range(layers)
            ]
        )
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Compute logits.

        Args:
            x: images `[n, h, w, c]`.

        Returns:
            Logits `[n, classes]`.
        """
        x = self.patch(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(self.norm(x), axis=1))


def count_patches(input_shape: tuple[int, int, int], patch: int) -> int:
    """Count the square patches of an image.

    Args:
        input_shape: `(h, w, c)` of one image.
        patch: side of a patch.

    Returns:
        Their number.

    Raises:
        ValueError: Patches do not divide the image.

    Examples:
        >>> count_patches((224, 224, 3), 16)
        196
    """
    height, breadth, _ = input_shape
    if height % patch or breadth % patch:
        raise ValueError(
            f"patches of {patch}x{patch} do not tile an image of {height}x{breadth}: choose a "
            "divisor of both sides"
        )
    return (height // patch) * (breadth // patch)
