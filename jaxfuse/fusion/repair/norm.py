"""Restore the norm of the incoming weights of every unit: a repair without any data."""

from dataclasses import dataclass
from typing import Any

import jax

from jaxfuse.fusion.repair.protocol import Merger
from jaxfuse.fusion.rescale import rescale_units

PyTree = Any


@jax.tree_util.register_static
@dataclass(frozen=True)
class RestoreNorms:
    """Scale the incoming weights of every hidden unit to the mean norm of its parents'.

    `jaxfuse.rescale_units` as a repair; it needs no data.
    """

    def repair(self, merger: Merger) -> PyTree:
        """Rescale the average.

        Raises:
            ValueError: for a group of which the symmetry names no leaf that computes its units.
        """
        _check_outputs(merger)
        return rescale_units(merger.fused, merger.parents, merger.shares, merger.symmetry)


def _check_outputs(merger: Merger) -> None:
    """Refuse groups that no leaf computes: their units have no norm to give back."""
    symmetry = merger.symmetry
    computed = {t.groups[t.output] for t in symmetry.tensors if t.output is not None}
    # What moves as a whole, such as a head, is computed with the units inside it.
    computed |= {context for group, over in symmetry.over if group in computed for context in over}
    for group in symmetry.groups:
        if group not in computed:
            raise ValueError(
                f"no leaf has the units of group {group!r} as its outputs (TensorAxes.output), so "
                "their norm can't be restored: pass repair=None, or a symmetry that tells"
            )
