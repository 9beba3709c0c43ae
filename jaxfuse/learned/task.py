"""What a network between two others is asked: the labels, or the mean opinion of its parents."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxfuse.activations.batches import count_examples, map_batches
from jaxfuse.networks import ApplyFunction, Networks
from jaxfuse.symmetry.tree import is_weight

PyTree = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Task:
    """Examples and what a network should say of them, as a loss of its parameters.

    The loss is the cross entropy of the logits, over the last axis of what the function returns.

    Attributes:
        inputs: the examples, as in `Networks`.
        targets: labels `[samples, ...]`, or probabilities `[samples, ..., classes]`.
        apply_fn: `apply_fn(params, *inputs) -> logits [samples, ..., classes]`.
        batch_size: examples that are in flight at once; None for all inputs as they are.
    """

    inputs: tuple[PyTree, ...]
    targets: jax.Array
    apply_fn: ApplyFunction = field(metadata={"static": True})
    batch_size: int | None = field(default=None, metadata={"static": True})

    @classmethod
    def of(cls, networks: Networks, other: PyTree, batch_size: int | None, method: str) -> "Task":
        """Take the targets of the networks, or the mean probabilities of the first and another.

        Raises:
            ValueError: without a function and data, where the inputs disagree on the number of
                examples, and where the function returns more than one array.
        """
        apply_fn, inputs = networks.function(method), networks.inputs
        if networks.targets is not None:
            return cls(inputs, jnp.asarray(networks.targets), apply_fn, batch_size)
        parents = (networks.params[0], other)

        def opinion(part: tuple[PyTree, ...], parents: tuple[PyTree, PyTree]) -> jax.Array:
            said = [jax.nn.softmax(_logits(apply_fn, params, part), axis=-1) for params in parents]
            return (said[0] + said[1]) / 2

        return cls(inputs, map_batches(opinion, inputs, batch_size, parents), apply_fn, batch_size)

    @property
    def is_whole(self) -> bool:
        """Whether a batch holds all examples."""
        return self.batch_size is None or self.batch_size >= count_examples(self.inputs)

    def draw(self, key: jax.Array) -> "Task":
        """Return the task on a random batch, drawn without replacement."""
        if self.batch_size is None or self.is_whole:
            return self
        total = count_examples(self.inputs)
        rows = jax.random.choice(key, total, (self.batch_size,), replace=False)
        inputs, targets = jax.tree.map(lambda x: x[rows], (self.inputs, self.targets))
        return replace(self, inputs=inputs, targets=targets)

    def loss(self, params: PyTree) -> jax.Array:
        """Return the mean cross entropy over all examples. Differentiable in the parameters."""

        def losses(part: tuple[PyTree, ...], params: PyTree) -> jax.Array:
            *inputs, targets = part
            logits = _logits(self.apply_fn, params, inputs)
            if jnp.issubdtype(targets.dtype, jnp.integer):
                return optax.softmax_cross_entropy_with_integer_labels(logits, targets)
            return optax.softmax_cross_entropy(logits, targets)

        return jnp.mean(map_batches(losses, (*self.inputs, self.targets), self.batch_size, params))


def _logits(apply_fn: ApplyFunction, params: PyTree, inputs: Sequence[PyTree]) -> jax.Array:
    logits = apply_fn(params, *inputs)
    if not isinstance(logits, jax.Array):
        raise ValueError(
            f"apply_fn must return logits `[samples, ..., classes]`, got {type(logits).__name__}: "
            "wrap it in a function that returns one array"
        )
    return logits


def between(params_a: PyTree, params_b: PyTree, t: float | jax.Array) -> PyTree:
    """Return the network at t on the line from A to B; what is no weight is taken from A."""
    return jax.tree.map(lambda a, b: a + t * (b - a) if is_weight(a) else a, params_a, params_b)
