import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfuse.symmetry import TensorAxes
from jaxfuse.symmetry.editing.view import common_factors, factors_of, narrow

sizes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@settings(deadline=None, max_examples=50)
@given(st.lists(sizes, min_size=1, max_size=3), st.data())
def test_narrowed_block_is_the_block_cut(parts, data):
    """Cutting the view of a block is cutting the block of the leaf, twice over."""
    shape = tuple(math.prod(part) for part in parts)
    view = tuple(size for part in parts for size in part)
    leaf = np.arange(math.prod(shape)).reshape(shape)
    tensor = TensorAxes("w", view, (None,) * len(view))
    expected = leaf.reshape(view)
    for _ in range(2):
        axis = data.draw(st.integers(0, len(view) - 1))
        stop = data.draw(st.integers(1, tensor.shape[axis]))
        start = data.draw(st.integers(0, stop - 1))
        tensor = narrow(tensor, shape, {axis: (start, stop)})
        expected = np.take(expected, np.arange(start, stop), axis=axis)
        assert tensor.fits(shape)
        np.testing.assert_array_equal(tensor.take(leaf), expected)
    changed = tensor.put(leaf, -1 - expected)
    assert np.sum(changed < 0) == expected.size
    np.testing.assert_array_equal(tensor.take(changed), -1 - expected)


@pytest.mark.parametrize(
    ("view", "shape", "factors"),
    [
        ((9, 4, 2), (36, 2), [[0, 1], [2]]),
        ((2, 3, 4, 1, 5), (6, 4, 5), [[0, 1], [2], [3, 4]]),
        ((4, 5, 1, 1), (4, 5), [[0], [1, 2, 3]]),
        ((1, 4), (1, 4), [[0], [1]]),
        ((), (), []),
    ],
    ids=str,
)
def test_factors_of_every_axis(view, shape, factors):
    assert factors_of(TensorAxes("w", view, (None,) * len(view)), shape) == factors


def test_factors_of_a_block():
    block = TensorAxes("w", (5, 2, 3), (None,) * 3, index=(None, ((0, 3, 1), (9, 3, 1))))
    assert factors_of(block, (5, 12)) == [[0], [1, 2]]


@settings(deadline=None, max_examples=100)
@given(sizes)
def test_common_factors_of_a_product_and_its_factors(parts):
    pieces = common_factors([math.prod(parts)], parts)
    assert pieces is not None
    assert [size for size, _, right in pieces if size > 1] == [s for s in parts if s > 1]
    assert math.prod(size for size, _, _ in pieces) == math.prod(parts)
    mirrored = common_factors(parts, [math.prod(parts)])
    assert [(size, i, j) for size, j, i in mirrored or ()] == pieces


@settings(deadline=None, max_examples=100)
@given(sizes, sizes)
def test_common_factors_refine_both(left, right):
    right = [*right, math.prod(left)]
    left = [*left, math.prod(right[:-1])]
    pieces = common_factors(left, right)
    if pieces is None:
        return
    for index, whole in ((1, left), (2, right)):
        assert [
            math.prod(piece[0] for piece in pieces if piece[index] == k) for k in range(len(whole))
        ] == whole
