"""The examples of all clients, on the device once."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.data import Dataset, Partition, add_noise


class Shard(NamedTuple):
    """Which examples one client has; with a leading axis, several clients.

    Attributes:
        indices: int32 `[most]` into the examples, of which the first `size` count.
        size: int32 scalar, the number of its examples; 0 for no client at all.
    """

    indices: jax.Array
    size: jax.Array


class Clients(NamedTuple):
    """Training examples and how the clients share them.

    Attributes:
        images: `[n, h, w, c]` as stored, uint8 where the dataset is.
        labels: int32 `[n]`.
        factor: float32 `[1, 1, 1, c]`; `images * factor - offset` are normalised.
        offset: float32 `[1, 1, 1, c]`.
        shards: `Shard` with a leading axis `[N]`.
    """

    images: jax.Array
    labels: jax.Array
    factor: jax.Array
    offset: jax.Array
    shards: Shard

    @classmethod
    def of(cls, dataset: Dataset, split: Partition | Sequence[np.ndarray]) -> Self:
        """Put the training examples of a dataset on the device.

        Args:
            dataset: the dataset; its test examples stay where they are.
            split: who has which training examples: a `jaxfuse.data.Partition`, or one index array
                `[k]` a client. With the feature noise of a partition images are held in float32.

        Raises:
            ValueError: a client has no example or one that the dataset has not, the partition is
                of another dataset, or two clients would put their noise on one image.

        Examples:
            >>> from jaxfuse.data import load_digits
            >>> clients = Clients.of(load_digits(), [np.arange(5), np.arange(5, 8)])
            >>> clients.shards.indices.tolist()
            [[0, 1, 2, 3, 4], [5, 6, 7, 0, 0]]
            >>> clients.shards.size.tolist(), clients.count
            ([5, 3], 2)
        """
        if not isinstance(split, Partition):
            split = Partition.of(dataset.train_labels, split, name="given")
        split.check(dataset.train_labels)
        for number, each in enumerate(split.clients):
            if not len(each):
                raise ValueError(f"client {number} has no example: give it one, or leave it out")
        sizes = split.sizes
        table = np.zeros((len(sizes), sizes.max()), np.int32)
        for row, each in zip(table, split.clients, strict=True):
            row[: len(each)] = each
        std = np.asarray(dataset.std, np.float32).reshape(1, 1, 1, -1)
        factor = 1 / (np.float32(dataset.scale) * std)
        offset = np.asarray(dataset.mean, np.float32).reshape(1, 1, 1, -1) / std
        images = jnp.asarray(dataset.train_images)
        if split.noise is not None:
            images = _noisy(dataset, split)
            factor, offset = np.ones_like(factor), np.zeros_like(offset)
        return cls(
            images,
            jnp.asarray(dataset.train_labels, jnp.int32),
            jnp.asarray(factor),
            jnp.asarray(offset),
            Shard(jnp.asarray(table), jnp.asarray(sizes, jnp.int32)),
        )

    @property
    def count(self) -> int:
        """The number of clients."""
        return len(self.shards.size)

    def take(self, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return normalised images and labels of some examples.

        Args:
            rows: int32 `[b]`.

        Returns:
            Images `[b, h, w, c]` float32 and labels `[b]`.
        """
        images = self.images[rows].astype(jnp.float32) * self.factor - self.offset
        return images, self.labels[rows]


def _noisy(dataset: Dataset, split: Partition) -> jax.Array:
    """Return the normalised images, each with the noise of the client that has it."""
    assert split.noise is not None
    if split.sizes.sum() > len(np.unique(np.concatenate(split.clients))):
        raise ValueError(
            "two clients have the same example, which cannot bear the noise of both: take a "
            "partition without overlap, or noise=0"
        )
    key = jax.random.key(0) if split.key is None else split.key
    images = jnp.asarray(dataset.normalise(dataset.train_images))
    for client, (examples, level) in enumerate(zip(split.clients, split.noise, strict=True)):
        own = level / np.asarray(dataset.std, np.float32)
        noisy = add_noise(images[examples], own, key=key, client=client, examples=examples)
        images = images.at[examples].set(noisy)
    return images
