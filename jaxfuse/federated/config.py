"""How a federated round goes."""

import dataclasses
import math
from typing import Literal

Executor = Literal["vmap", "map", "shard_map"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundConfig:
    """Who takes part in a round, how clients train, and what the server weighs.

    The defaults are those of MOON and NIID-Bench (Li et al., 2021 and 2022) but for the length:
    batches of 64, SGD of learning rate 0.01 and momentum 0.9, weight decay 1e-5; they train ten
    epochs a round.

    Attributes:
        epochs: passes of a client over its examples in one round.
        batch_size: examples a step. The last batch of an epoch is filled up from its beginning.
        learning_rate: of the clients' gradient descent.
        decay: what the learning rate is multiplied with after every round.
        momentum: of the clients' velocity, which begins at zero in every round.
        weight_decay: factor of the weights that is added to their gradients.
        participation: share of the clients in a round, from above 0 to 1; at least one takes part.
        weighting: "examples" (as FedAvg) or "uniform" (as GAMF's comparison).
        statistics: of normalisation layers: "average" with the parameters, "local" (every client
            keeps its own; FedBN, Li et al., 2021, on the statistics) or "recompute" (averaged, then
            measured anew by the fused network on the first batch of every client of the round).
        augment: whether images are shifted by up to four pixels and mirrored, at random.

    Raises:
        ValueError: a number is out of its range, or a choice is unknown.

    Examples:
        >>> RoundConfig(participation=0.1).cohort(20)
        2
    """

    epochs: int = 1
    batch_size: int = 64
    learning_rate: float = 0.01
    decay: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-5
    participation: float = 1.0
    weighting: Literal["examples", "uniform"] = "examples"
    statistics: Literal["average", "local", "recompute"] = "average"
    augment: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        for name in ("learning_rate", "decay"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        if not 0 < self.participation <= 1:
            raise ValueError(f"participation must be above 0, at most 1: got {self.participation}")
        if self.weighting not in ("examples", "uniform"):
            raise ValueError(f"weighting={self.weighting!r} is neither 'examples' nor 'uniform'")
        if self.statistics not in ("average", "local", "recompute"):
            raise ValueError(
                f"statistics={self.statistics!r} is none of 'average', 'local', 'recompute'"
            )

    def cohort(self, clients: int) -> int:
        """Return how many of so many clients take part in a round."""
        return max(1, round(self.participation * clients))
