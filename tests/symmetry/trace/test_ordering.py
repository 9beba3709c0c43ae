"""Sorting, cumulative operations, numbering, and units that are treated apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.symmetry.trace.cases import Case, check, table

silu = jax.nn.silu
DENSE = {"a": (3, 6), "b": (6, 2)}
X = ((4, 3),)


def on_hidden(name, use, groups, *inputs, complete=True, **shapes):
    def network(p, x, *rest):
        return use(silu(x @ p["a"]), p, *rest) @ p["b"]

    return Case(name, network, {**DENSE, **shapes}, (*X, *inputs), groups, complete=complete)


MOVABLE = {"a": 6}
ORDERED = (
    on_hidden("sorted", lambda h, p: jnp.sort(h, -1), MOVABLE),
    on_hidden("largest", lambda h, p: lax.top_k(h, 6)[0], MOVABLE),
    on_hidden("cumulative-sum", lambda h, p: jnp.cumsum(h, -1), {}),
    on_hidden("cumulative-maximum", lambda h, p: lax.cummax(h, 1), {}, complete=False),
    on_hidden("cumulative-over-the-batch", lambda h, p: jnp.cumsum(h, 0), MOVABLE),
    on_hidden("identity-by-numbers", lambda h, p: h @ jnp.eye(6), MOVABLE),
    on_hidden("lower-triangle", lambda h, p: h @ jnp.tri(6), {}),
    on_hidden("numbers-added", lambda h, p: h + lax.iota(jnp.float32, 6)[None].astype(h.dtype), {}),
    on_hidden("first-three", lambda h, p: h * (jnp.arange(6) < 3)[None], None),
    on_hidden("first-few", lambda h, p, n: h * (jnp.arange(6) < n)[None], None, np.array(3)),
    on_hidden("the-second", lambda h, p: jnp.where((jnp.arange(6) == 2)[None], 1.0, h), None),
    on_hidden("turned-round", lambda h, p: h * h[:, ::-1], None),
    on_hidden("shifted", lambda h, p: h * jnp.roll(h, 1, -1), {}),
    on_hidden("shifted-by-an-input", lambda h, p, n: h * jnp.roll(h, n, -1), {}, np.array(2)),
    on_hidden("random", lambda h, p, k: h * jax.random.normal(k, (4, 6)), {}, jax.random.key(0)),
)

APART = (
    on_hidden("set", lambda h, p: h.at[:, 0].set(1.0), None),
    on_hidden("set-in-the-middle", lambda h, p: h.at[:, 3].set(1.0), None),
    on_hidden("added-to", lambda h, p: h.at[:, 5].add(1.0), None),
    on_hidden("a-slice-set", lambda h, p: h.at[:, :2].multiply(2.0), None),
    on_hidden("added-to-all", lambda h, p: h + h[:, :1], {"a": 5}),
    on_hidden("one-column", lambda h, p: h * jnp.tanh(h[:, 3:4]), None),
    on_hidden(
        "constant-bias",
        lambda h, p: h + jnp.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0])[None],
        None,
    ),
    on_hidden("numpy-mask", lambda h, p: h * np.array([[1.0, 1, 0, 1, 1, 1]]), None),
    on_hidden("two-dead", lambda h, p: h * np.array([[1.0, 1, 0, 0, 1, 1]]), None),
    on_hidden(
        "bias-on-one",
        lambda h, p: jnp.concatenate([h[:, :3], h[:, 3:4] + p["s"], h[:, 4:]], -1),
        None,
        s=(1, 1),
    ),
)


@pytest.mark.parametrize(**table(*ORDERED))
def test_order(case):
    check(case)


@pytest.mark.parametrize(**table(*APART))
def test_a_unit_that_is_treated_apart_is_pinned_or_split_off(case):
    symmetry = check(case)
    assert 6 not in symmetry.groups.values()
