"""The examples of all clients, on the device once."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.data import Dataset


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
    def of(
        cls,
        dataset: Dataset,
        indices: Sequence[np.ndarray],
        images: np.ndarray | None = None,
    ) -> Self:
        """Put the training examples of a dataset on the device.

        Args:
            dataset: the dataset; its test examples stay where they are.
            indices: one array `[k]` of indices into the training examples a client, as a
                partition gives them.
            images: normalised float32 images that take the place of the dataset's, such as those
                with the feature noise of a partition.

        Raises:
            ValueError: there is no client, or a client has no example or one that the dataset has
                not.

        Examples:
            >>> from jaxfuse.data import load_digits
            >>> clients = Clients.of(load_digits(), [np.arange(5), np.arange(5, 8)])
            >>> clients.shards.indices.tolist()
            [[0, 1, 2, 3, 4], [5, 6, 7, 0, 0]]
            >>> clients.shards.size.tolist(), clients.count
            ([5, 3], 2)
        """
        if not len(indices):
            raise ValueError("there are no clients: give one index array or more")
        count = len(dataset.train_labels)
        for number, each in enumerate(indices):
            if not len(each) or np.min(each) < 0 or np.max(each) >= count:
                raise ValueError(
                    f"client {number} must have one example or more, of the {count} that "
                    f"{dataset.name!r} has for training; got {len(each)} indices"
                )
        table = np.zeros((len(indices), max(map(len, indices))), np.int32)
        for row, each in zip(table, indices, strict=True):
            row[: len(each)] = each
        std = np.asarray(dataset.std, np.float32).reshape(1, 1, 1, -1)
        factor = 1 / (np.float32(dataset.scale) * std)
        offset = np.asarray(dataset.mean, np.float32).reshape(1, 1, 1, -1) / std
        if images is not None:
            factor, offset = np.ones_like(factor), np.zeros_like(offset)
        return cls(
            jnp.asarray(dataset.train_images if images is None else images),
            jnp.asarray(dataset.train_labels, jnp.int32),
            jnp.asarray(factor),
            jnp.asarray(offset),
            Shard(jnp.asarray(table), jnp.asarray([len(each) for each in indices], jnp.int32)),
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
