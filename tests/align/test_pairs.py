"""A batch of pairs in one call: what it gives and what it refuses."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import Status, align_pairs, align_params
from tests.align.networks import batch, item

ascend = functools.partial(align_pairs, method="coordinate_ascent")
A, B = batch(4), batch(4, seed=1)


def apply_fn(params, x):
    *hidden, head = params
    for kernel in hidden:
        x = jnp.tanh(x @ kernel)
    return x @ head


def test_one_reference_with_activations():
    inputs = jnp.asarray(np.random.default_rng(2).standard_normal((20, 4)), jnp.float32)
    data = {"apply_fn": apply_fn, "inputs": inputs}
    found = ascend(item(A, 0), B, one_reference=True, **data)
    for index in range(4):
        want = align_params(item(A, 0), item(B, index), method="coordinate_ascent", **data)
        chex.assert_trees_all_equal(item(found.permutations, index), want.permutations)


def test_one_broken_pair_leaves_the_others():
    broken = [B[0].copy(), *B[1:]]
    broken[0][2, 0, 0] = np.nan
    found, want = ascend(A, broken), ascend(A, B)
    assert found.status.tolist() == [*want.status[:2], Status.NON_FINITE, *want.status[3:]]
    for index in (0, 1, 3):
        chex.assert_trees_all_equal(item(found.params, index), item(want.params, index))
    chex.assert_trees_all_equal(item(found.params, 2), item(broken, 2))


def test_maps_of_all_pairs():
    found = align_pairs(A, B, method="ot_fusion")
    for index in range(4):
        want = align_params(item(A, index), item(B, index), method="ot_fusion")
        chex.assert_trees_all_close(item(found.params, index), want.params, atol=1e-5)


def test_gradients_flow_to_b_alone():
    def loss(a, b):
        return sum(jnp.sum(leaf**3) for leaf in ascend(a, b).params)

    of_a, of_b = jax.jit(jax.grad(loss, argnums=(0, 1)))(A, B)
    chex.assert_trees_all_equal(of_a, jax.tree.map(jnp.zeros_like, of_a))
    chex.assert_trees_all_close(of_b, [3 * leaf**2 for leaf in B], rtol=1e-5)


def test_one_compilation_serves_all_values():
    calls = []

    def counted(params, x):
        calls.append(x)
        return apply_fn(params, x)

    x = jnp.ones((3, 4))
    found = [ascend(batch(4, s), B, apply_fn=counted, inputs=x).objective[0] for s in (0, 2)]
    traced = len(calls)
    ascend(batch(4, 3), B, apply_fn=counted, inputs=x)
    assert len(calls) == traced > 0
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("trees", "options", "message"),
    [
        ((A, batch(3)), {}, r"leaf '0' of params_a has shape \(4, 4, 6\), leaf '0' of params_b"),
        ((item(A, 0), B), {}, "one_reference=True"),
        ((A, [B[0], B[1], jnp.float32(1)]), {}, r"leaf '2' of params_b has shape \(\)"),
        ((batch(0), batch(0)), {}, "one or more"),
        (([], []), {}, "nothing to align"),
        ((A, B[:2]), {}, "not the same kind of network"),
        ((A, B), {"mesh": jax.make_mesh((1,), ("devices",))}, r"has the axes \('devices',\) and"),
    ],
    ids=["counts", "single", "scalar", "none", "empty", "names", "axis"],
)
@pytest.mark.parametrize("jit", [False, True])
def test_what_does_not_fit_is_refused(trees, options, message, jit):
    call = functools.partial(ascend, **options)
    with pytest.raises(ValueError, match=message):
        (jax.jit(call) if jit else call)(*trees)
