"""How much memory the streamed matching of two networks needs, from their shapes alone."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfuse.affinity.terms import Term, list_terms
from jaxfuse.checkpoints.source import size_of
from jaxfuse.matching.nodes import list_nodes, node_name
from jaxfuse.matching.problem import Problem
from jaxfuse.streaming.pieces import below, block_shape, cuttable_axes, positions
from jaxfuse.symmetry.axes import TensorAxes
from jaxfuse.symmetry.spec import Symmetry
from jaxfuse.symmetry.tree import named_leaves

PyTree = Any
Shapes = Mapping[str, jax.ShapeDtypeStruct]
MEGABYTE = 2**20
# Arrays of float32 that a piece of either network becomes at most on its way through the kernels.
_COPIES = 2
# Bytes per pair of units of an assignment: the scores, two copies on the way, SciPy's float64.
_ASSIGNMENT = 4 + 16
# What pieces may take beyond the least, before the rest goes to the cache.
_COMFORT = 64 * MEGABYTE


class Need(NamedTuple):
    """Bytes that a step needs at least, and what for."""

    count: int
    what: str


class Cut(NamedTuple):
    """How a term is read.

    Attributes:
        axis: of the view that is cut.
        count: entries of a piece.
        keep: the networks whose tensor is held as a whole while the term is dealt with.
        bytes: what that takes.
    """

    axis: int
    count: int
    keep: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Plan:
    """The terms of two networks on disk, and what it takes to score them.

    Attributes:
        symmetry: which axes may be permuted together.
        leaves: of both networks shape and dtype of every tensor.
        whole: for both whether a tensor can only be read as a whole.
    """

    symmetry: Symmetry
    leaves: tuple[Shapes, Shapes]
    whole: tuple[bool, bool]

    @cached_property
    def terms(self) -> list[tuple[Term, tuple[str, ...]]]:
        """The terms of the objective, each with its nodes."""
        return [
            (term, tuple(node_name(carrier.group, carrier.entries) for carrier in term.carriers))
            for term in list_terms(self.symmetry)
        ]

    @cached_property
    def problem(self) -> Problem:
        """The nodes and links of the problem, without any values."""
        nodes = list_nodes(self.symmetry)
        sizes = {name: math.prod(node.shape) for name, node in nodes.items()}
        scores: dict[str, Any] = {
            name: jax.ShapeDtypeStruct((n, n), np.float32) for name, n in sizes.items()
        }
        parents = tuple((name, node.parent) for name, node in nodes.items() if node.parent)
        return Problem(scores, (), (tuple(link for _, link in self.terms),), "host", parents)

    def score_bytes(self, nodes: Sequence[str]) -> int:
        """Return what the scores of nodes take."""
        return sum(4 * self.problem.sizes[node] ** 2 for node in nodes)

    def assignment_bytes(self, nodes: Sequence[str]) -> int:
        """Return what the assignment of nodes takes, their scores included."""
        return sum(_ASSIGNMENT * self.problem.sizes[node] ** 2 for node in nodes)

    def cut(self, term: Term, slot: int | None, available: int) -> Cut | None:
        """Choose how to read a term, in as few pieces as fit, the outermost axis first.

        Args:
            term: the term.
            slot: the carrier that is scored, or None for the value.
            available: bytes.

        Returns:
            The cut, or None if nothing fits.
        """
        for axis in cuttable_axes(term):
            size = term.tensor.shape[axis]
            for keep in self._keeps(term, slot, axis):

                def taken(count: int, axis: int = axis, keep: tuple[int, ...] = keep) -> int:
                    return self._bytes(term, slot, axis, count, keep)

                if taken(1) <= available:
                    count = _largest(size, lambda count: taken(count) <= available)
                    count = -(-size // -(-size // count))  # pieces of about one size
                    return Cut(axis, count, keep, taken(count))
        return None

    def least(self, term: Term, slot: int | None) -> int:
        """Return the fewest bytes that a term can be read with."""
        return min(
            self._bytes(term, slot, axis, 1, self._keeps(term, slot, axis)[-1])
            for axis in cuttable_axes(term)
        )

    def needs(self, comfort: int = 0) -> Iterator[Need]:
        """Return what every step of the matching needs.

        Args:
            comfort: bytes that pieces may take beyond the least.
        """
        for term, _ in self.terms:
            yield Need(self.least(term, None) + comfort, f"a piece of leaf {term.tensor.path!r}")
        for tree in self.problem.trees:
            names = ", ".join(repr(node) for node in tree)
            yield Need(self.assignment_bytes(tree), f"the scores and the assignment of {names}")
            base = self.score_bytes(tree)
            for term, link in self.terms:
                for slot, node in enumerate(link):
                    if node in tree:
                        yield Need(
                            base + self.least(term, slot) + comfort,
                            f"the scores of {names} with a piece of leaf {term.tensor.path!r}",
                        )
        for name in self.leaves[1]:
            yield Need(self.write_bytes(name, 1), f"a piece of leaf {name!r} to write")

    def write_bytes(self, name: str, count: int) -> int:
        """Return what it takes to reorder and write some of the pieces of `rows`."""
        size, rows = size_of(self.leaves[1][name]), self.rows(name)
        # The piece as it was read, two copies on the way of each block, one of the result.
        return 5 * -(-size * min(count, rows) // rows) + (2 * size if self.whole[1] else 0)

    def rows(self, name: str) -> int:
        """Return into how many pieces along its first axis a leaf may be cut to be reordered."""
        shape = self.leaves[1][name].shape
        tensors = self.tensors(name)
        if not tensors:
            return max(shape[0], 1) if shape else 1
        first = {(tensor.groups[0], tensor.shape[0]) for tensor in tensors}
        (group, size), *others = first
        in_parts = any(tensor.index and tensor.index[0] is not None for tensor in tensors)
        nested = group is not None and self.symmetry.contexts(group)
        return 1 if in_parts or others or nested else size

    def tensors(self, name: str) -> list[TensorAxes]:
        """Return the views of a leaf that carry groups."""
        return self._tensors.get(name, [])

    @cached_property
    def _tensors(self) -> dict[str, list[TensorAxes]]:
        found: dict[str, list[TensorAxes]] = {}
        for tensor in self.symmetry.tensors:
            if any(tensor.groups):
                found.setdefault(tensor.path, []).append(tensor)
        return found

    def work(self, limit: int) -> int:
        """Return how much of a limit the steps may take at most; the rest is for the cache.

        Raises:
            ValueError: if a step needs more than the limit, with what it needs it for.
        """
        needed = max(self.needs(), default=Need(0, ""))
        if needed.count > limit:
            raise ValueError(
                f"memory={limit / MEGABYTE:.4g} MB is too little: {needed.what} take "
                f"{needed.count / MEGABYTE:.4g} MB. Raise memory, or pin a group (Symmetry.pin)"
            )
        largest = max(
            (size_of(leaf) for leaves in self.leaves for leaf in leaves.values()), default=0
        )
        comfort = max(self.needs(_COMFORT + largest), default=Need(0, ""))
        return min(limit, comfort.count)

    def _keeps(self, term: Term, slot: int | None, axis: int) -> list[tuple[int, ...]]:
        """Return the choices of what to hold as a whole, the best first."""
        must = tuple(k for k in (0, 1) if self.whole[k])
        # All pieces of B are compared with each of A.
        if slot is not None and is_own(term, slot, axis) and not self.whole[1]:
            return [(*must, 1), must]
        return [must]

    def _bytes(
        self, term: Term, slot: int | None, axis: int, count: int, keep: tuple[int, ...]
    ) -> int:
        """Return what two pieces take, from their reading to their scores."""
        entries = math.prod(block_shape(term, axis, count))
        total = 8 * _COPIES * entries
        for k, leaves in enumerate(self.leaves):
            leaf = leaves[term.tensor.path]
            bytes_each = np.dtype(leaf.dtype).itemsize
            if k in keep:
                # While a tensor is decoded it is there twice.
                total += (2 if self.whole[k] else 1) * size_of(leaf)
            else:
                total += bytes_each * _slab(term, leaf.shape, axis, count)
            total += bytes_each * entries
        if slot is None:
            return total
        carrier = term.carriers[slot]
        units = below(term, carrier)
        n = (count if axis in carrier.axes else term.tensor.shape[carrier.axes[0]]) * units
        shared = any(
            set(other.axes) & set(carrier.axes)
            for index, other in enumerate(term.carriers)
            if index != slot
        )
        return total + 4 * n * n * (3 if shared else 1)


def is_own(term: Term, slot: int, axis: int) -> bool:
    """Tell whether an axis belongs to one carrier of a term alone."""
    return all((axis in other.axes) == (index == slot) for index, other in enumerate(term.carriers))


def needed_memory(
    symmetry: Symmetry,
    params_a: PyTree,
    params_b: PyTree | None = None,
) -> float:
    """Return the least `memory` that `align_checkpoints` takes, in megabytes (2**20 bytes).

    Args:
        symmetry: which axes may be permuted together.
        params_a: the parameters of network A, or their shapes.
        params_b: those of B, where its dtypes are others.

    Returns:
        Megabytes, for checkpoints that can be read in pieces, as safetensors can.

    Raises:
        ValueError: for parameters that the symmetry does not describe.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.symmetry import infer_chain
        >>> shapes = [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in [(64, 1024), (1024, 10)]]
        >>> needed_memory(infer_chain(shapes), shapes)
        20.0
    """
    params_b = params_a if params_b is None else params_b
    for params in (params_a, params_b):
        symmetry.check(params)
    leaves = named_leaves(params_a), named_leaves(params_b)
    plan = Plan(symmetry, leaves, (False, False))
    return max(need.count for need in plan.needs()) / MEGABYTE


def _slab(term: Term, shape: Sequence[int], axis: int, count: int) -> int:
    """Return how many entries of a leaf are read at most to take a piece out of them."""
    cut = positions(term.tensor, shape, {axis: np.arange(count)})
    fixed = positions(term.tensor, shape, {a: np.array([entry]) for a, entry in term.entries})
    total, gaps = 1, False
    for number, size in enumerate(shape):
        in_parts = bool(term.tensor.index) and term.tensor.index[number] is not None
        if number in cut and not in_parts and not gaps:
            size = len(cut[number])
        elif number in fixed and len(fixed[number]) == 1:
            size = 1
        gaps |= in_parts
        total *= size
    return total


def _largest(high: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to high that fits, where one does."""
    low = 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
