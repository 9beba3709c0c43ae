"""What a repair gets and gives."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax

from jaxfuse.networks import ApplyFunction
from jaxfuse.symmetry.spec import Symmetry

PyTree = Any


class Merger(NamedTuple):
    """An average that is to be repaired, with all that is known of it.

    Attributes:
        fused: the average.
        parents: the K aligned networks.
        shares: their weights, with sum one.
        symmetry: their symmetry.
        apply_fn: their function, or None.
        inputs: a batch, as a tuple; empty where there is none.
    """

    fused: PyTree
    parents: tuple[PyTree, ...]
    shares: Sequence[float | jax.Array]
    symmetry: Symmetry
    apply_fn: ApplyFunction | None = None
    inputs: tuple[PyTree, ...] = ()

    def function(self, repair: str) -> ApplyFunction:
        """Return the function, for a repair that runs the networks.

        Raises:
            ValueError: if there is no function or no batch.
        """
        if self.apply_fn is None or not self.inputs:
            raise ValueError(
                f"{repair} runs the networks: pass apply_fn= and inputs=, a batch of about 100 "
                "unlabelled examples or more, or its shape (jax.ShapeDtypeStruct) for noise"
            )
        return self.apply_fn


class Repair(Protocol):
    """Corrects an average within its architecture. Frozen and hashable, so static under `jit`."""

    def repair(self, merger: Merger) -> PyTree:
        """Return the corrected network, of the structure and shapes of the average."""
        ...
