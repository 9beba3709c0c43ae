"""Buffers given away: the aligned parameters take those of the networks."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest

from jaxfuse import align_many, align_pairs, align_params, fuse
from tests.align.networks import batch, item

FIRST, SECOND = item(batch(2), 0), item(batch(2), 1)
CALLS = {
    "align_params": (align_params, (FIRST, SECOND), 1),
    "align_pairs": (align_pairs, (batch(2), batch(2, seed=1)), 1),
    "align_many": (align_many, ([FIRST, SECOND, FIRST],), 0),
}


def size(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", CALLS)
def test_all_buffers_are_taken(name):
    call, arguments, index = CALLS[name]
    call = functools.partial(call, method="coordinate_ascent")
    want = jax.jit(call)(*arguments)
    given = jax.tree.map(jnp.array, arguments)
    donating = jax.jit(call, donate_argnums=index)
    compiled = donating.lower(*given).compile()
    assert compiled.memory_analysis().alias_size_in_bytes == size(arguments[index])
    found = donating(*given)
    chex.assert_trees_all_equal(found.params, want.params)
    for position, tree in enumerate(given):
        for leaf in jax.tree.leaves(tree):
            assert leaf.is_deleted() == (position == index)


def test_a_fused_network_takes_those_of_one():
    call = functools.partial(fuse, method="coordinate_ascent", repair=None)

    def of_first(first, others):
        return call([first, *others])

    first, others = jax.tree.map(jnp.array, (FIRST, [SECOND, SECOND]))
    want = call([first, *others])
    donating = jax.jit(of_first, donate_argnums=0)
    compiled = donating.lower(first, others).compile()
    assert compiled.memory_analysis().alias_size_in_bytes == size(FIRST)
    chex.assert_trees_all_close(donating(first, others), want, atol=1e-6)
    assert all(leaf.is_deleted() for leaf in first)
