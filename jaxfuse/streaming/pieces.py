"""Cut the terms of the objective into pieces that are read, compared and dropped one at a time.

A term is cut along one axis of its tensor's view. The entries of a piece of A are neighbours, those
of B the ones that the permutations match with them, so that a term's scores are the sum of its
pieces' scores. Where the axis belongs to the group whose scores are wanted, all pairs of pieces are
compared, and each pair fills a block of the scores.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.affinity.edges import arrange, split_axes
from jaxfuse.affinity.linear import Linear
from jaxfuse.affinity.multilinear import multilinear_block
from jaxfuse.affinity.terms import Carrier, Term
from jaxfuse.matching.problem import slot_scores
from jaxfuse.symmetry.axes import TensorAxes, expand

# Others look at a whole tensor first, for its bandwidth or its scale.
_AFFINITY = Linear()


def cuttable_axes(term: Term) -> list[int]:
    """Return the axes of the view that may be cut: those that nothing on the tensor indexes.

    Examples:
        >>> tensor = TensorAxes("out", (2, 3, 5), ("heads", "units", "r"))
        >>> carriers = (Carrier("units", (), (0, 1)), Carrier("r", (), (2,)))
        >>> cuttable_axes(Term(tensor, (), carriers))
        [0, 2]
    """
    fixed = {axis for axis, _ in term.entries}
    inner = {axis for carrier in term.carriers for axis in carrier.axes[1:]}
    return [axis for axis in range(len(term.tensor.shape)) if axis not in fixed | inner]


def block_shape(term: Term, axis: int | None = None, count: int = 1) -> list[int]:
    """Return the shape of a term's view, of one axis only `count` entries."""
    shape = list(term.tensor.shape)
    for fixed, _ in term.entries:
        shape[fixed] = 1
    if axis is not None:
        shape[axis] = count
    return shape


def below(term: Term, carrier: Carrier) -> int:
    """Return how many units of a carrier hang on one entry of its first axis."""
    return math.prod(term.tensor.shape[axis] for axis in carrier.axes[1:])


def rows_of(entries: np.ndarray, width: int) -> np.ndarray:
    """Return the flat units of entries with `width` units each."""
    return (entries[:, None] * width + np.arange(width)).ravel()


def images(columns: np.ndarray, entries: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the entries that a flat permutation matches with some, and it among these alone.

    Examples:
        >>> images(np.array([5, 4, 0, 1, 3, 2]), np.array([0, 2]), 2)
        (array([2, 1]), array([1, 0, 3, 2]))
    """
    flat = columns.reshape(-1, width)[entries]
    return flat[:, 0] // width, (np.arange(len(entries))[:, None] * width + flat % width).ravel()


def positions(
    tensor: TensorAxes, shape: Sequence[int], select: Mapping[int, np.ndarray]
) -> dict[int, np.ndarray]:
    """Return which entries of a leaf's axes hold some entries of the axes of a view.

    Args:
        tensor: the view.
        shape: of the leaf.
        select: per axis of the view the entries.

    Examples:
        >>> half = TensorAxes("kernel", (2, 2, 3), (None, "heads", "h"), index=(None, ((6, 6, 1),)))
        >>> positions(half, (2, 12), {1: np.array([1])})
        {1: array([ 9, 10, 11])}
    """
    found = {}
    for axis, factors in enumerate(_factors(tensor, shape)):
        runs = tensor.index[axis] if tensor.index else None
        if runs is None and not any(factor in select for factor in factors):
            continue
        sizes = [tensor.shape[factor] for factor in factors]
        entries = [select.get(f, np.arange(n)) for f, n in zip(factors, sizes, strict=True)]
        flat = np.zeros(1, np.int64)
        for chosen, size in zip(entries, sizes, strict=True):
            flat = (flat[:, None] * size + chosen).ravel()
        found[axis] = flat if runs is None else expand(runs)[flat]
    return found


def _factors(tensor: TensorAxes, shape: Sequence[int]) -> list[list[int]]:
    """Return per axis of a leaf the axes of the view that make it up."""
    axis, found = 0, []
    for number, size in enumerate(shape):
        runs = tensor.index[number] if tensor.index else None
        size = size if runs is None else len(expand(runs))
        factors, product = [], 1
        while axis < len(tensor.shape) and (not factors or product != size):
            product *= tensor.shape[axis]
            factors.append(axis)
            axis += 1
        found.append(factors)
    if found:
        found[-1] += range(axis, len(tensor.shape))
    return found


def piece_scores(
    term: Term,
    slot: int,
    pieces: tuple[np.ndarray, np.ndarray],
    permutations: Sequence[np.ndarray],
) -> np.ndarray:
    """Return what two pieces add to the scores of one carrier, `[n, n]`.

    Args:
        term: which they are pieces of.
        slot: the carrier.
        pieces: of A and B, in one shape, that of the view.
        permutations: int32 `[n]` per carrier, among the entries of the pieces.
    """
    form = _form(term, pieces[0].shape)
    columns = [np.asarray(each, np.int32) for each in permutations]
    columns[slot] = columns[slot][:0]  # its own does not matter
    return np.asarray(_scores(*pieces, columns, term=form, slot=slot))


def piece_value(
    term: Term,
    pieces: tuple[np.ndarray, np.ndarray],
    permutations: Sequence[np.ndarray],
) -> float:
    """Return what two pieces add to the objective at permutations, as in `piece_scores`."""
    columns = [np.asarray(each, np.int32) for each in permutations]
    form = _form(term, pieces[0].shape)
    return float(_value(*pieces, columns, term=form))


def _form(term: Term, shape: Sequence[int]) -> Term:
    """Return a term without its names, so that all of one form share a compiled program."""
    tensor = replace(term.tensor, path="", shape=tuple(shape), groups=(), pins=(), index=())
    carriers = tuple(Carrier("", (), carrier.axes) for carrier in term.carriers)
    return Term(tensor, (), carriers)


def _edges(term: Term, *pieces: jax.Array) -> tuple[jax.Array, ...]:
    axes = split_axes(term.tensor, [carrier.axes for carrier in term.carriers])
    return tuple(arrange(piece, *axes) for piece in pieces)


@functools.partial(jax.jit, static_argnames=("term", "slot"))
def _scores(
    a: jax.Array,
    b: jax.Array,
    permutations: list[jax.Array],
    *,
    term: Term,
    slot: int,
) -> jax.Array:
    edges = _edges(term, a, b)
    if len(term.carriers) == 1:
        return _AFFINITY.node_scores(*edges)
    block = _AFFINITY.block(*edges)
    if not term.is_pairwise:
        block = multilinear_block(block, term)
    return slot_scores(block, slot, permutations)


@functools.partial(jax.jit, static_argnames=("term",))
def _value(a: jax.Array, b: jax.Array, permutations: list[jax.Array], *, term: Term) -> jax.Array:
    edges = _edges(term, a, b)
    block = _AFFINITY.block(*edges)
    if len(term.carriers) == 1:
        # Units that are matched to themselves.
        permutations = [*permutations, jnp.arange(edges[0].shape[1])]
    elif not term.is_pairwise:
        block = multilinear_block(block, term)
    return block.value_at(*permutations)
