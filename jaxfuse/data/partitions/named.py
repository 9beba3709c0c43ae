"""Partitions by the names of NIID-Bench."""

import re
from typing import Any

import jax
import numpy as np

from jaxfuse.data.partitions.client_dirichlet import client_dirichlet
from jaxfuse.data.partitions.dirichlet import dirichlet
from jaxfuse.data.partitions.iid import iid
from jaxfuse.data.partitions.label_skew import label_skew
from jaxfuse.data.partitions.mixed import mixed
from jaxfuse.data.partitions.noise import NoiseRule, noise_levels
from jaxfuse.data.partitions.quantity_skew import quantity_skew
from jaxfuse.data.partitions.record import Partition

_SCHEMES = {
    "homo": iid,
    "noniid-labeldir": dirichlet,
    "iid-diff-quantity": quantity_skew,
    "mixed": mixed,
    "client-dirichlet": client_dirichlet,
}
_ALIASES = {
    "iid": "homo",
    "dirichlet": "noniid-labeldir",
    "hetero": "noniid-labeldir",
    "hetero-dir": "noniid-labeldir",
    "quantity": "iid-diff-quantity",
    "hsu": "client-dirichlet",
}
_LABEL_SKEW = re.compile(r"(?:noniid-#label|label-)(\d+)")


def partition(
    name: str,
    labels: np.ndarray,
    *,
    clients: int,
    key: jax.Array,
    concentration: float = 0.5,
    minimum: int = 10,
    noise: float = 0.0,
    noise_rule: NoiseRule = "code",
) -> Partition:
    """Share out a dataset between clients, by the name of a scheme of NIID-Bench.

    The schemes are those of NIID-Bench (Li et al., 2022, and its released code), drawn from a key
    of JAX: parts follow the same distribution as there and are not the same parts, which a file
    brings (`Partition.load`).

    | name | other names | function |
    |---|---|---|
    | homo | iid | `iid` |
    | noniid-#label1, noniid-#label2, ... | label-1, ... | `label_skew` |
    | noniid-labeldir | dirichlet, hetero (FedML), hetero-dir (FedMA) | `dirichlet` |
    | iid-diff-quantity | quantity | `quantity_skew` |
    | mixed | | `mixed` |
    | client-dirichlet (not of NIID-Bench) | hsu | `client_dirichlet` |

    NIID-Bench's feature imbalance is homo with noise; each of the others can have noise too.

    Args:
        name: Name of the scheme.
        labels: `[n]` integer labels of the training examples.
        clients: Number of clients.
        key: Which split is drawn.
        concentration: Parameter of the Dirichlet distributions; a scheme without one ignores it.
            Default: 0.5, as in NIID-Bench (its beta).
        minimum: Smallest number of examples of a client in noniid-labeldir, iid-diff-quantity and
            mixed; the others ignore it, and leave no client without examples. Default: 10, as in
            NIID-Bench.
        noise: Noise of the noisiest client, as `noise_levels` takes it. Default: none.
        noise_rule: How much the others have; see `noise_levels`.

    Returns:
        The partition, with the settings that draw it again.

    Raises:
        ValueError: There is no such scheme, or it cannot share out these labels.

    Examples:
        >>> labels = np.repeat(np.arange(10), 20)
        >>> split = partition("noniid-#label2", labels, clients=5, key=jax.random.key(0))
        >>> (split.class_counts(labels) > 0).sum(axis=1)
        array([2, 2, 2, 2, 2])
        >>> again = partition(split.name, labels, key=split.key, **split.settings)
        >>> all(map(np.array_equal, again.clients, split.clients))
        True
    """
    name = _ALIASES.get(name, name)
    label_count = _LABEL_SKEW.fullmatch(name)
    settings: dict[str, Any] = {}
    if label_count:
        scheme, own = label_skew, {"classes_per_client": int(label_count[1])}
        name = f"noniid-#label{own['classes_per_client']}"
    elif name in _SCHEMES:
        scheme, own = _SCHEMES[name], {}
        if scheme is not iid:
            settings["concentration"] = float(concentration)
        if scheme in (dirichlet, quantity_skew, mixed):
            settings["minimum"] = int(minimum)
    else:
        raise ValueError(
            f"there is no partition {name!r}: take one of {', '.join([*_SCHEMES, *_ALIASES])}, or "
            "noniid-#labelK (label-K) for K classes a client"
        )
    parts = scheme(labels, key=key, clients=clients, **own, **settings)
    settings["clients"] = int(clients)
    levels = noise_levels(clients, noise, rule=noise_rule) if noise else None
    if levels is not None:
        settings |= {"noise": float(noise), "noise_rule": noise_rule}
    return Partition.of(labels, parts, name=name, noise=levels, key=key, settings=settings)
