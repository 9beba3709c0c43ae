"""Fit every layer of a fused network to what its parents compute: one regression a layer."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg

from jaxfuse.affinity.block import HIGHEST
from jaxfuse.fusion.repair.layer import (
    Axes,
    Regression,
    kernel_matrix,
    matrix_axes,
    put_matrix,
    regression_sums,
)
from jaxfuse.fusion.repair.protocol import Merger
from jaxfuse.fusion.repair.reset import measure, set_statistics
from jaxfuse.fusion.repair.survey import Survey, survey
from jaxfuse.networks import ApplyFunction
from jaxfuse.symmetry.trace.replay import Centring, Event, Layer, Named, replay

PyTree = Any


@jax.tree_util.register_static
@dataclass(frozen=True)
class LeastSquares:
    """Fit the weights of every layer, from input to output, to the mean of the parents' outputs.

    For a layer with inputs X in the fused network, as it is fitted so far, and pre-activations Y_k
    in the aligned parents, `W = argmin |X W - sum_k s_k Y_k|^2 + r |W - W_average|^2`, in closed
    form. The last layer is fitted to the mean of the parents' logits. No labels are used. This is
    the second step of PLeaS (Nasery et al., CVPR 2025), which trains all layers at once by gradient
    descent, and on the parents' inputs; here a layer sees, and corrects, what went wrong before it.

    Layers with a bias, or followed by running statistics, are fitted with an intercept; running
    statistics are measured anew. Kernels that are no plain matrices (grouped convolutions, products
    over heads, layers inside a loop) stay the average.

    Attributes:
        ridge: r relative to the mean square of the inputs' entries, summed over samples. Flat from
            0.001 to 0.03 on the MNIST pair with 1,000 images; more for fewer images.

    Examples:
        >>> from jaxfuse.symmetry import Symmetry
        >>> fn = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
        >>> a = {"in": jnp.eye(2), "out": jnp.ones((2, 1))}
        >>> spec = Symmetry.from_axes({"in": (None, "h"), "out": ("h", None)}, a)
        >>> worn = {"in": a["in"], "out": 0.2 * a["out"]}
        >>> merger = Merger(worn, (a, a), [0.5, 0.5], spec, fn, (jnp.array([[1.0, 2], [3, 1]]),))
        >>> LeastSquares(ridge=1e-6).repair(merger)["out"].round(2).tolist()
        [[1.0], [1.0]]
    """

    ridge: float = 0.01

    def __post_init__(self) -> None:
        if not self.ridge > 0:
            raise ValueError(f"ridge must be positive, got {self.ridge}")

    def repair(self, merger: Merger) -> PyTree:
        """Fit the average to its parents.

        Raises:
            ValueError: without a function and a batch.
        """
        apply_fn = merger.function("LeastSquares")
        networks = [*merger.parents, merger.fused]
        return _fit_layers(apply_fn, self.ridge, networks, list(merger.shares), merger.inputs)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _fit_layers(
    apply_fn: ApplyFunction,
    ridge: float,
    networks: list[PyTree],
    shares: list[Any],
    inputs: tuple[PyTree, ...],
) -> PyTree:
    visitor = _Fitting(ridge, shares, survey(apply_fn, networks[-1], inputs))
    return replay(apply_fn, networks, inputs, visitor)[1][-1]


@dataclass
class _Fitting:
    ridge: float
    shares: Sequence[Any]
    found: Survey
    fitted: set[str] = field(default_factory=set)

    def visit(self, event: Event, leaves: Sequence[Named]) -> None:
        fused = leaves[-1]
        if isinstance(event, Centring):
            set_statistics(fused, event, *measure(event, event.inputs[-1]))
        elif isinstance(event, Layer) and event.kernel.path not in self.fitted:
            # A kernel that is used twice is fitted where it is used first.
            self.fitted.add(event.kernel.path)
            axes = matrix_axes(event)
            if axes is not None:
                self._fit(event, axes, leaves)

    def _mixed(self, values: Sequence[jax.Array]) -> jax.Array:
        parts = [share * value for share, value in zip(self.shares, values, strict=True)]
        return functools.reduce(jnp.add, parts)

    def _fit(self, layer: Layer, axes: Axes, leaves: Sequence[Named]) -> None:
        path, fused = layer.kernel.path, leaves[-1]
        target = self._mixed(layer.outputs[:-1])
        sums = regression_sums(layer, axes, layer.inputs[-1], target)
        bias = self.found.biases.get(path)
        if bias is None and path not in self.found.norms:
            sums = _about_zero(sums)
        start = kernel_matrix(layer, axes, fused[path])
        matrix = _solve(sums, start, self.ridge)
        fused[path] = put_matrix(layer, axes, fused[path], matrix)
        if bias is not None:
            rest = sums.mean_y - jnp.dot(sums.mean_x, matrix, precision=HIGHEST)
            shifted = self._mixed([own[bias] for own in leaves[:-1]])
            shifted = shifted + rest.reshape(fused[bias].shape)
            fused[bias] = shifted.astype(fused[bias].dtype)


def _about_zero(sums: Regression) -> Regression:
    """Return the sums of products themselves, for a fit without an intercept."""
    gram = sums.gram + sums.count * jnp.outer(sums.mean_x, sums.mean_x)
    return sums._replace(
        gram=gram, cross=sums.cross + sums.count * jnp.outer(sums.mean_x, sums.mean_y)
    )


def _solve(sums: Regression, start: jax.Array, ridge: float) -> jax.Array:
    """Return the ridge regression that is drawn to the weights it starts from."""
    strength = ridge * jnp.trace(sums.gram) / len(sums.gram)
    strength = jnp.where(strength > 0, strength, 1.0)
    system = sums.gram + strength * jnp.eye(len(sums.gram))
    rest = sums.cross - jnp.dot(sums.gram, start, precision=HIGHEST)
    return start + jax.scipy.linalg.solve(system, rest, assume_a="pos")
