"""A split as a value, and its file."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.atomic import write_text
from jaxfuse.data.partitions.draws import checked

FORMAT = "jaxfuse partition 1"

# {0: [5, 7], ...}, as Python, JSON and FedML's files write it, with or without quotes and commas.
_CLIENT = re.compile(r"""["']?(\d+)["']?\s*:\s*\[([\d\s,]*)\]\s*,?""")


@dataclass(frozen=True, eq=False)
class Partition:
    """Which examples of a dataset each client has, and how that came about.

    Attributes:
        name: Name of the scheme, NIID-Bench's where it has one.
        clients: One index array int64 a client.
        examples: Number of examples of the dataset.
        digest: SHA-256 of its labels, by which another dataset is told.
        noise: `[clients]` float32, standard deviation of the noise that each client adds to its
            images (`add_noise`), or none.
        key: The key that it was drawn from, or none where it is not known.
        settings: The other arguments of `jaxfuse.data.partition` that draw it again.

    Raises:
        ValueError: Indices are no examples of the dataset, or occur twice at one client; or the
            noise does not fit.

    Examples:
        >>> labels = np.repeat(np.arange(3), 4)
        >>> split = Partition.of(labels, [np.arange(6), np.arange(6, 12)], name="halves")
        >>> split.sizes.tolist(), split.class_counts(labels).tolist()
        ([6, 6], [[4, 2, 0], [0, 2, 4]])
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     split.save(f"{folder}/split.json")
        ...     Partition.load(f"{folder}/split.json", labels).sizes.tolist()
        [6, 6]
    """

    name: str
    clients: tuple[np.ndarray, ...]
    examples: int
    digest: str
    noise: np.ndarray | None = None
    key: jax.Array | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        clients = tuple(_indices(each, client) for client, each in enumerate(self.clients))
        if not clients:
            raise ValueError("there must be one client or more, got none")
        for client, each in enumerate(clients):
            if len(each) and not 0 <= each.min() <= each.max() < self.examples:
                raise ValueError(
                    f"client {client} has examples {each.min()} to {each.max()}, outside of the "
                    f"{self.examples} examples of the dataset"
                )
            if len(np.unique(each)) != len(each):
                raise ValueError(f"client {client} has an example twice: give each index once")
        object.__setattr__(self, "clients", clients)
        if self.noise is not None:
            noise = np.asarray(self.noise, np.float32)
            if noise.shape != (len(clients),) or not (np.isfinite(noise) & (noise >= 0)).all():
                raise ValueError(
                    f"noise must be one finite number, 0 or more, for each of {len(clients)} "
                    f"clients, got {noise.tolist()}"
                )
            object.__setattr__(self, "noise", noise)

    @classmethod
    def of(
        cls,
        labels: np.ndarray,
        clients: Sequence[np.ndarray],
        *,
        name: str,
        noise: np.ndarray | None = None,
        key: jax.Array | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make a partition of the dataset that has these labels.

        Args:
            labels: `[n]` integer labels of the dataset.
            clients: One integer index array a client.
            name: What the split is called.
            noise: `[clients]` standard deviations, or none.
            key: The key that it was drawn from.
            settings: What else draws it again.

        Returns:
            The partition.

        Raises:
            ValueError: Labels are not `[n]` integers, or indices or noise do not fit.
        """
        labels = checked(labels, len(clients))
        digest = labels_digest(labels)
        return cls(name, tuple(clients), len(labels), digest, noise, key, settings or {})

    @property
    def sizes(self) -> np.ndarray:
        """Number of examples of every client, `[clients]`."""
        return np.array([len(each) for each in self.clients])

    def class_counts(self, labels: np.ndarray, classes: int | None = None) -> np.ndarray:
        """Count the examples of every class at every client.

        Args:
            labels: `[n]` labels of the dataset, 0 or more.
            classes: Number of classes. Default: one more than the largest label.

        Returns:
            `[clients, classes]` numbers of examples.

        Raises:
            ValueError: The labels are those of another dataset, or not in `range(classes)`.
        """
        self.check(labels)
        labels = np.asarray(labels)
        classes = int(labels.max()) + 1 if classes is None else classes
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"labels must be in range({classes}), got {labels.min()} to {labels.max()}"
            )
        return np.stack([np.bincount(labels[each], minlength=classes) for each in self.clients])

    def check(self, labels: np.ndarray) -> None:
        """Refuse the labels of another dataset.

        Args:
            labels: `[n]` integer labels.

        Raises:
            ValueError: They are more or fewer than the partition is of, or others.
        """
        labels = checked(labels, len(self.clients))
        if len(labels) != self.examples:
            raise ValueError(
                f"the partition {self.name} is of {self.examples} examples, and these labels are "
                f"{len(labels)}: take the dataset and the split that it was made for"
            )
        if labels_digest(labels) != self.digest:
            raise ValueError(
                f"the partition {self.name} was made for other labels: take the dataset that it "
                "was made for, with its examples in the same order, or draw a new partition"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the partition as JSON, atomically.

        The file has the indices themselves, since neither NumPy nor JAX promises the same draws
        from a key in every version.

        Args:
            path: Where to; a file that is there is replaced.
        """
        content = {
            "format": FORMAT,
            "name": self.name,
            "settings": dict(self.settings),
            "key": None if self.key is None else _key_to_json(self.key),
            "noise": None if self.noise is None else self.noise.tolist(),
            "examples": self.examples,
            "labels_sha256": self.digest,
            "clients": [each.tolist() for each in self.clients],
        }
        write_text(path, json.dumps(content, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str], labels: np.ndarray | None = None) -> Self:
        """Read a partition from a file.

        Args:
            path: A file of `save`; or a map of clients to indices, `{0: [5, 7], 1: [6]}` as JSON
                or as Python writes it, such as NIID-Bench's `net_dataidx_map` and FedML's files of
                that name. The partition then has the name "net_dataidx_map".
            labels: `[n]` labels of the dataset it is to be used for. A map needs them; without
                them a partition is checked later, by `check` and `class_counts`.

        Returns:
            The partition.

        Raises:
            ValueError: The file is no partition, or one of another dataset.
            FileNotFoundError: There is no such file.
        """
        data = Path(path).read_bytes()
        try:
            text = data.decode()
            content = _parse_json(text)
            if isinstance(content, dict) and "format" in content:
                partition = cls._from_json(content)
            elif labels is None:
                raise ValueError("a map of clients has no labels to be checked by: give labels")
            else:
                partition = cls.of(labels, _parse_map(text), name="net_dataidx_map")
            if labels is not None:
                partition.check(labels)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"cannot read a partition from {path}: {reason}") from error
        return partition

    @classmethod
    def _from_json(cls, content: dict[str, Any]) -> Self:
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {FORMAT!r}")
        return cls(
            name=content["name"],
            clients=tuple(np.asarray(each) for each in content["clients"]),
            examples=content["examples"],
            digest=content["labels_sha256"],
            noise=content["noise"],
            key=None if content["key"] is None else _key_from_json(content["key"]),
            settings=content["settings"],
        )


def labels_digest(labels: np.ndarray) -> str:
    """Return the SHA-256 of labels, the same for every integer type.

    Examples:
        >>> labels_digest(np.arange(3, dtype=np.uint8)) == labels_digest(np.arange(3))
        True
    """
    return hashlib.sha256(np.asarray(labels).astype("<i8").tobytes()).hexdigest()


def _indices(indices: np.ndarray, client: int) -> np.ndarray:
    array = np.asarray(indices)
    if array.ndim != 1 or not (array.size == 0 or np.issubdtype(array.dtype, np.integer)):
        raise ValueError(
            f"client {client} must have an array [k] of integer indices, got "
            f"{array.dtype}{list(array.shape)}"
        )
    return array.astype(np.int64)


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _parse_map(text: str) -> list[np.ndarray]:
    clients: dict[int, np.ndarray] = {}
    for match in _CLIENT.finditer(text):
        client = int(match[1])
        if client in clients:
            raise ValueError(f"client {client} occurs twice")
        clients[client] = np.array(match[2].replace(",", " ").split(), np.int64)
    rest = _CLIENT.sub("", text).strip()
    if not clients or not re.fullmatch(r"\{\s*\}", rest):
        raise ValueError(
            f"it is neither of the format {FORMAT!r} nor a map of clients to lists of indices, "
            "such as {0: [5, 7], 1: [6]}"
        )
    if set(clients) != set(range(len(clients))):
        raise ValueError(f"its clients must be 0 to {len(clients) - 1}, got {sorted(clients)}")
    return [clients[client] for client in range(len(clients))]


def _key_to_json(key: jax.Array) -> dict[str, Any]:
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    return {
        "impl": str(jax.random.key_impl(key)),
        "data": np.asarray(jax.random.key_data(key)).tolist(),
    }


def _key_from_json(content: Mapping[str, Any]) -> jax.Array:
    return jax.random.wrap_key_data(jnp.array(content["data"], jnp.uint32), impl=content["impl"])
