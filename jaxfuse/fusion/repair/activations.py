"""REPAIR: give the units of a fused network the mean and the spread that their parents' had."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxfuse.fusion.repair.layer import kernel_matrix, matrix_axes, output_matrix, put_matrix
from jaxfuse.fusion.repair.protocol import Merger
from jaxfuse.fusion.repair.reset import measure, set_statistics
from jaxfuse.fusion.repair.survey import Survey, survey
from jaxfuse.networks import ApplyFunction
from jaxfuse.symmetry.trace.replay import Centring, Event, Layer, Named, replay

PyTree = Any


@jax.tree_util.register_static
@dataclass(frozen=True)
class RepairActivations:
    """Rescale and shift the units of every hidden layer to the statistics of the parents.

    The mean of matched units that agree only in part varies less than either: the variance
    collapse. REPAIR (Jordan et al., ICLR 2023) sets the mean and the standard deviation of every
    pre-activation to the weighted mean of the parents' (eq. 2), here folded into the kernel and,
    where the layer has one, the bias, so that the architecture stays. Where running statistics
    follow a layer, they are set in its place (`ResetStatistics`). Any number of networks. Kernels
    that are no plain matrices (grouped convolutions, products over heads, layers inside a loop)
    stay the average.

    Attributes:
        kind: "repair" for both, "rescale" for the spread alone, "reshift" for the mean alone.
        closed_form: take the statistics of the fused network from the parents' activations, whose
            weighted mean its own would be if nothing were lost before (section 3.3 of the paper),
            instead of running it. Cheaper, and worse in deep networks.

    Examples:
        >>> from jaxfuse.symmetry import Symmetry
        >>> fn = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
        >>> a = {"in": jnp.array([[1.0], [0.0]]), "out": jnp.ones((1, 1))}
        >>> b = {"in": jnp.array([[0.0], [1.0]]), "out": jnp.ones((1, 1))}
        >>> mean = jax.tree.map(lambda x, y: (x + y) / 2, a, b)
        >>> spec = Symmetry.from_axes({"in": (None, "h"), "out": ("h", None)}, a)
        >>> x = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> merger = Merger(mean, (a, b), [0.5, 0.5], spec, fn, (x,))
        >>> RepairActivations().repair(merger)["in"].round(3)
        Array([[0.707],
               [0.707]], dtype=float32)
    """

    kind: Literal["repair", "rescale", "reshift"] = "repair"
    closed_form: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("repair", "rescale", "reshift"):
            raise ValueError(f"kind={self.kind!r} is none of 'repair', 'rescale' and 'reshift'")

    def repair(self, merger: Merger) -> PyTree:
        """Repair the average.

        Raises:
            ValueError: without a function and a batch.
        """
        apply_fn = merger.function("RepairActivations")
        tensors = merger.symmetry.tensors
        hidden = {t.path for t in tensors if t.output is not None and t.groups[t.output]}
        networks = [*merger.parents, merger.fused]
        return _repair_layers(
            apply_fn, self, frozenset(hidden), networks, list(merger.shares), merger.inputs
        )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _repair_layers(
    apply_fn: ApplyFunction,
    settings: RepairActivations,
    hidden: frozenset[str],
    networks: list[PyTree],
    shares: list[Any],
    inputs: tuple[PyTree, ...],
) -> PyTree:
    found = survey(apply_fn, networks[-1], inputs)
    visitor = _Repairing(settings, shares, found, set(hidden))
    return replay(apply_fn, networks, inputs, visitor)[1][-1]


@dataclass
class _Repairing:
    settings: RepairActivations
    shares: Sequence[Any]
    found: Survey
    hidden: set[str]

    def visit(self, event: Event, leaves: Sequence[Named]) -> None:
        fused = leaves[-1]
        if isinstance(event, Centring):
            data = self._mixed(event.inputs) if self.settings.closed_form else event.inputs[-1]
            set_statistics(fused, event, *measure(event, data))
        elif isinstance(event, Layer) and event.kernel.path in self.hidden:
            self._correct(event, leaves)

    def _mixed(self, values: Sequence[jax.Array]) -> jax.Array:
        """Return the weighted mean of the parents' activations."""
        parts = [share * value for share, value in zip(self.shares, values[:-1], strict=True)]
        return functools.reduce(jnp.add, parts)

    def _correct(self, layer: Layer, leaves: Sequence[Named]) -> None:
        path, axes, fused = layer.kernel.path, matrix_axes(layer), leaves[-1]
        # A kernel that is used twice is corrected once.
        self.hidden.discard(path)
        if axes is None or path in self.found.norms:
            return
        parents = [output_matrix(axes, each) for each in layer.outputs[:-1]]
        own = self._mixed([*parents, parents[0]])
        if not self.settings.closed_form:
            own = output_matrix(axes, layer.outputs[-1])
        mean, deviation = jnp.mean(own, axis=0), jnp.std(own, axis=0)
        goal_mean = self._mixed([*(jnp.mean(each, axis=0) for each in parents), mean])
        goal_deviation = self._mixed([*(jnp.std(each, axis=0) for each in parents), mean])
        factor = jnp.ones_like(mean)
        if self.settings.kind != "reshift":
            alive = deviation > 1e-6 * jnp.max(deviation)
            factor = jnp.where(alive, goal_deviation / jnp.where(alive, deviation, 1.0), 1.0)
        matrix = kernel_matrix(layer, axes, fused[path]) * factor[None, :]
        fused[path] = put_matrix(layer, axes, fused[path], matrix)
        bias = self.found.biases.get(path)
        if bias is not None and self.settings.kind != "rescale":
            shift = (goal_mean - factor * mean).reshape(fused[bias].shape)
            goal = self._mixed([own[bias] for own in leaves])
            fused[bias] = (goal + shift).astype(fused[bias].dtype)
