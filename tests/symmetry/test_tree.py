import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze

from jaxfuse.models import MLP
from jaxfuse.symmetry.tree import check_same_trees, is_weight, map_named, named_leaves


def test_state_and_pure_dict_have_the_same_paths():
    state = nnx.state(MLP(3, 2, hidden=(4,), bias=True, norm="batch", rngs=nnx.Rngs(0)))
    paths = list(named_leaves(state))
    assert paths == list(named_leaves(nnx.to_pure_dict(state)))
    assert "dense/0/kernel" in paths
    assert "norm/0/mean" in paths


def test_a_leaf_of_its_own_named_value_keeps_its_name():
    assert list(named_leaves({"attention": {"value": 1.0, "raw_value": 2.0}})) == [
        "attention/raw_value",
        "attention/value",
    ]


def test_paths_that_coincide_are_refused():
    with pytest.raises(ValueError, match="two leaves are named 'a/b'"):
        named_leaves({"a/b": 1.0, "a": {"b": 2.0}})


def test_map_named_gives_the_path():
    tree = {"a": [1, 2], "b": 3}
    assert map_named(lambda path, x, y: (path, x + y), tree, tree) == {
        "a": [("a/0", 2), ("a/1", 4)],
        "b": ("b", 6),
    }


@pytest.mark.parametrize(
    ("leaf", "want"),
    [
        (jnp.ones(2), True),
        (np.ones(2), True),
        (jnp.ones(2, jnp.bfloat16), True),
        (jax.ShapeDtypeStruct((2,), jnp.float32), True),
        (jnp.arange(2), False),
        (jnp.ones(2, jnp.complex64), False),
        (jnp.ones(2, bool), False),
        (np.zeros(2, jax.dtypes.float0), False),
        (jax.random.key(0), False),
        (jax.nn.relu, False),
        (1.0, False),
        ("relu", False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_is_weight(leaf, want):
    assert is_weight(leaf) is want


BASE = {"fc": {"kernel": jnp.ones((3, 4))}, "act": jax.nn.relu}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"fc": {"kernel": jnp.ones((3, 5))}, "act": 1}, r"'fc/kernel' has shape \(3, 4\) in a"),
        ({"fc": {}, "act": 1}, "leaf 'fc/kernel' is in a and not in b"),
        (BASE | {"bias": jnp.ones(4)}, "leaf 'bias' is in b and not in a"),
        (freeze({"fc": BASE["fc"], "act": 1}), "different containers"),
    ],
)
def test_unlike_trees_are_refused(other, message):
    check_same_trees(BASE, dict(BASE), ("a", "b"))
    with pytest.raises(ValueError, match=message):
        check_same_trees(BASE, other, ("a", "b"))
