"""What a method gets: the networks to align, their symmetry, and data where there is some."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxfuse.symmetry.spec import Symmetry

PyTree = Any
ApplyFunction = Callable[..., PyTree]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Networks:
    """K networks of one architecture, a pytree of their parameters and the data.

    Attributes:
        params: K parameter trees.
        symmetries: per network its symmetry: the same groups, in sizes of their own where the
            networks differ in width.
        inputs: a batch, as a tuple of the arguments that follow the parameters; empty where there
            is no data.
        targets: labels, `[samples]` integers or `[samples, classes]` probabilities, or None.
        apply_fn: `apply_fn(params, *inputs) -> outputs`, or None.
    """

    params: tuple[PyTree, ...]
    symmetries: tuple[Symmetry, ...] = field(metadata={"static": True})
    inputs: tuple[PyTree, ...] = ()
    targets: Any = None
    apply_fn: ApplyFunction | None = field(default=None, metadata={"static": True})

    @property
    def count(self) -> int:
        """Number K of networks."""
        return len(self.params)

    @property
    def symmetry(self) -> Symmetry:
        """The symmetry of the first network, which the others share unless widths differ."""
        return self.symmetries[0]

    @property
    def has_data(self) -> bool:
        """Whether there is a function and a batch to run it on."""
        return self.apply_fn is not None and bool(self.inputs)

    @property
    def has_one_width(self) -> bool:
        """Whether all networks have the same sizes."""
        return all(other.sizes == self.symmetry.sizes for other in self.symmetries)

    def function(self, method: str) -> ApplyFunction:
        """Return the function of the networks, for a method that can't do without data.

        Raises:
            ValueError: if there is no function or no batch.
        """
        if self.apply_fn is None or not self.inputs:
            raise ValueError(
                f"{method} looks at activations: pass apply_fn= and inputs=, a batch of about 100 "
                "unlabelled examples or more"
            )
        return self.apply_fn

    def check_one_width(self, method: str) -> None:
        """Refuse networks of different widths, for a method of permutations.

        Raises:
            ValueError: with the group and its sizes.
        """
        for index, other in enumerate(self.symmetries):
            for (group, size), (_, first) in zip(other.sizes, self.symmetry.sizes, strict=True):
                if size != first:
                    raise ValueError(
                        f"group {group!r} has {first} units in network 0 and {size} in network "
                        f"{index}: {method} finds permutations, which need one width. Methods for "
                        "different widths are 'ot_fusion', 'pfnm' and 'zip_it'"
                    )
