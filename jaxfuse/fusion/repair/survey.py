"""What follows each kernel of a network: a normalisation by running statistics, or a bias."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxfuse.networks import ApplyFunction
from jaxfuse.symmetry.trace.replay import Centring, Event, Layer, Named, Shift, replay

PyTree = Any


@dataclass
class Survey:
    """The kernels of a network in the order of its program.

    Attributes:
        kernels: their paths, each once.
        norms: per kernel the normalisation that follows it directly.
        biases: per kernel the bias that follows it directly.
    """

    kernels: list[str] = field(default_factory=list)
    norms: dict[str, Centring] = field(default_factory=dict)
    biases: dict[str, str] = field(default_factory=dict)

    def visit(self, event: Event, leaves: Sequence[Named]) -> None:
        """Note what follows what."""
        del leaves
        if isinstance(event, Layer):
            if event.kernel.path not in self.kernels:
                self.kernels.append(event.kernel.path)
        elif event.kernel is not None:
            if isinstance(event, Centring):
                self.norms.setdefault(event.kernel, event)
            elif isinstance(event, Shift):
                self.biases.setdefault(event.kernel, event.bias.path)


def survey(apply_fn: ApplyFunction, params: PyTree, inputs: tuple[PyTree, ...]) -> Survey:
    """Read a network on shapes alone."""
    found = Survey()
    jax.eval_shape(lambda own, batch: replay(apply_fn, [own], batch, found)[0], params, inputs)
    return found
