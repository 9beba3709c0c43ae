"""Vision transformer."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfuse.models.attention import attention, check_heads, run_layers
from jaxfuse.models.mixer import count_patches

_NORMAL = nnx.initializers.normal(0.02)
_ZEROS = nnx.initializers.zeros_init()


class ViTBlock(nnx.Module):
    """One pre-norm encoder block; queries, keys and values come from one dense layer.

    The fused output is read as `(3, heads, head_dim)`, as in timm.

    Parameter paths: `attention_norm`, `qkv`, `out`, `mlp_norm`, `up`, `down`.

    Args:
        width: units of the residual stream.
        heads: number of heads; it divides the width.
        hidden: hidden units of the MLP.
        rngs: source of the initial weights.

    Raises:
        ValueError: The heads do not divide the width.

    Examples:
        >>> block = ViTBlock(8, 2, 12, rngs=nnx.Rngs(0))
        >>> jax.eval_shape(block, jnp.ones((2, 5, 8))).shape
        (2, 5, 8)
    """

    def __init__(self, width: int, heads: int, hidden: int, *, rngs: nnx.Rngs):
        self.heads, self.head_dim = heads, check_heads(width, heads)
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Attend, then transform each token.

        Args:
            x: tokens `[n, t, width]`.

        Returns:
            Tokens `[n, t, width]`.
        """
        n, t, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).reshape(n, t, 3, self.heads, self.head_dim)
        q, k, v = jnp.unstack(qkv, axis=2)
        x = x + self.out(attention(q, k, v).reshape(n, t, width))
        return x + self.down(nnx.gelu(self.up(self.mlp_norm(x)), approximate=False))


class ViT(nnx.Module):
    """Vision transformer (Dosovitskiy et al., 2021) with learned position embeddings.

    The defaults are ViT-B/16 for 224x224 images and the 1,000 classes of ImageNet: 86.57 million
    weights.

    Parameter paths: `patch/kernel`, `class_token`, `position`, `blocks/0/qkv/kernel` ...,
    `norm/scale`, `head/kernel` (layers with their `bias`).

    Args:
        input_shape: `(h, w, c)` of one image.
        classes: number of outputs.
        patch: side of a patch; it divides both sides of the image.
        width: units of the residual stream.
        layers: number of blocks.
        heads: number of heads; it divides the width.
        hidden: hidden units of the MLPs.
        pool: what the head reads: a class token, or the mean of all patches without such a token
            (Beyer et al., 2022).
        rngs: source of the initial weights.

    Raises:
        ValueError: Patches do not divide the image, heads do not divide the width, or the pooling
            is unknown.

    Examples:
        >>> sizes = {"width": 8, "layers": 1, "heads": 2, "hidden": 12}
        >>> model = ViT((8, 8, 3), 5, patch=4, **sizes, rngs=nnx.Rngs(0))
        >>> jax.jit(model)(jnp.zeros((2, 8, 8, 3))).shape
        (2, 5)
        >>> model.position.shape
        (1, 5, 8)
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (224, 224, 3),
        classes: int = 1000,
        *,
        patch: int = 16,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        pool: Literal["token", "mean"] = "token",
        rngs: nnx.Rngs,
    ):
        if pool not in ("token", "mean"):
            raise ValueError(f"pool must be 'token' or 'mean', got {pool!r}")
        tokens = count_patches(input_shape, patch) + (pool == "token")
        self.pool = pool
        self.patch = nnx.Conv(
            input_shape[-1], width, (patch, patch), strides=patch, padding="VALID", rngs=rngs
        )
        if pool == "token":
            self.class_token = nnx.Param(_ZEROS(rngs.params(), (1, 1, width)))
        self.position = nnx.Param(_NORMAL(rngs.params(), (1, tokens, width)))
        self.blocks = nnx.List([ViTBlock(width, heads, hidden, rngs=rngs) for _ in range(layers)])
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
        n, _, _, width = x.shape
        x = x.reshape(n, -1, width)
        if self.pool == "token":
            token = jnp.broadcast_to(self.class_token[...], (n, 1, width))
            x = jnp.concatenate([token, x], axis=1)
        x = self.norm(run_layers(self.blocks, x + self.position[...]))
        return self.head(x[:, 0] if self.pool == "token" else jnp.mean(x, axis=1))
