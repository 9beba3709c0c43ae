from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.symmetry import Symmetry, TensorAxes, permute, verify
from jaxfuse.symmetry.axes import Activation
from jaxfuse.symmetry.editing.split import split
from tests.symmetry.heads import X, attention, attention_params, attention_symmetry
from tests.symmetry.networks import image, randomise

PARAMS = randomise(
    {
        "in": jnp.zeros((3, 6)),
        "core": jnp.zeros((6, 6)),
        "flat": jnp.zeros((12, 2)),
        "mean": jnp.zeros(6),
    }
)
AXES = {"in": (None, "h"), "core": ("h", "h"), "flat": ((2, "h"), None), "mean": ("h",)}
WHOLE = Symmetry.from_axes(AXES, PARAMS)


HOST = {path: np.asarray(leaf) for path, leaf in PARAMS.items()}


def network(p, x):
    x = jnp.tanh(x @ p["in"] - p["mean"][None])
    x = jnp.tanh(x @ p["core"] + x)
    return jnp.concatenate([x, x**2], axis=-1) @ p["flat"]


@pytest.mark.parametrize("shapes", [False, True], ids=["arrays", "shapes"])
def test_parts_move_apart(shapes, key):
    parts = split(WHOLE, "h", (2, 4), jax.eval_shape(lambda: PARAMS) if shapes else PARAMS)
    assert parts == WHOLE.split("h", [2, 4], PARAMS)
    assert parts.groups == {"h.0": 2, "h.1": 4}
    blocks = [t for t in parts.tensors if t.path == "core"]
    assert [t.groups for t in blocks] == [
        (f"h.{row}", f"h.{column}") for row in (0, 1) for column in (0, 1)
    ]
    assert all(t.statistic == (t.path == "mean") for t in parts.tensors)
    result = verify(parts, network, PARAMS, image(4, 3), key=key)
    assert result.holds
    assert list(result.errors) == ["h.0", "h.1"]


def test_a_permutation_of_the_parts_is_one_of_the_whole():
    parts = split(WHOLE, "h", (2, 4), PARAMS)
    first, second = np.array([1, 0]), np.array([2, 0, 3, 1])
    moved = permute(HOST, parts, {"h.0": first, "h.1": second})
    expected = permute(HOST, WHOLE, {"h": np.concatenate([first, 2 + second])})
    for path, leaf in expected.items():
        np.testing.assert_array_equal(moved[path], leaf)


def test_a_part_is_split_again():
    parts = WHOLE.split("h", (2, 4), PARAMS).split("h.1", (1, 3), PARAMS)
    assert parts.groups == {"h.0": 2, "h.1.0": 1, "h.1.1": 3}
    order = np.array([2, 0, 1])
    moved = permute(HOST, parts, {"h.1.1": order})
    expected = permute(HOST, WHOLE, {"h": np.concatenate([np.arange(3), 3 + order])})
    for path, leaf in expected.items():
        np.testing.assert_array_equal(moved[path], leaf)


def test_order_and_the_other_groups_stay():
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 5)), "c": jnp.ones((5, 2))}
    axes = {"a": ("x", "y"), "b": ("y", "z"), "c": ("z", None)}
    symmetry = Symmetry.from_axes(axes, params)
    parts = symmetry.split("y", (1, 1, 2), params)
    assert parts.sizes == (("x", 3), ("y.0", 1), ("y.1", 1), ("y.2", 2), ("z", 5))
    assert parts.tensors[-1] == symmetry.tensors[-1]


def test_units_inside_the_heads_are_split_with_the_heads(key):
    params = attention_params()
    parts = split(attention_symmetry(), "heads", (1, 3), params)
    assert parts.groups == {
        **{"heads.0": 1, "heads.1": 3},
        **{"qk.0": 3, "qk.1": 3, "vo.0": 3, "vo.1": 3},
    }
    assert parts.contexts("vo.1") == ("heads.1",)
    assert parts.shape("qk.1") == (3, 3)
    result = verify(parts, attention, params, X, key=key)
    assert result.holds
    assert result.complete


def test_an_inner_group_is_split_in_every_head(key):
    params = attention_params()
    parts = split(attention_symmetry(), "qk", (1, 2), params)
    assert parts.over == (("qk.0", ("heads",)), ("qk.1", ("heads",)), ("vo", ("heads",)))
    assert verify(parts, attention, params, X, key=key).holds


def test_activations_of_the_group_are_left_out():
    kept = Activation("input", TensorAxes("tanh:1", (4, 3), (None, None)))
    gone = Activation("output", TensorAxes("dot_general:1", (4, 6), (None, "h")))
    parts = split(replace(WHOLE, activations=(kept, gone)), "h", (3, 3), PARAMS)
    assert parts.activations == (kept,)


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("k", (3, 3), r"no group 'k': the groups are \['h'\]"),
        ("h", (3, 2), r"'h' of 6 units can't be split in parts of \(3, 2\).*the sum 6"),
        ("h", (6,), "two or more"),
        ("h", (0, 6), "positive"),
        ("h", (), "two or more"),
    ],
    ids=["name", "sum", "one", "empty_part", "none"],
)
def test_what_can_not_be_split_is_refused(name, sizes, message):
    with pytest.raises(ValueError, match=message):
        split(WHOLE, name, sizes, PARAMS)


def test_a_name_that_is_taken_is_refused():
    params = {"w": jnp.ones((4, 3))}
    symmetry = Symmetry.from_axes({"w": ("h", "h.1")}, params)
    with pytest.raises(ValueError, match=r"'h\.1' of a part is taken"):
        split(symmetry, "h", (2, 2), params)


@pytest.mark.parametrize(
    ("shape", "groups"),
    [((4,), ("units",)), ((2, 2, 4), ("heads", "heads", "units"))],
    ids=["without", "twice"],
)
def test_units_of_no_one_head_are_refused(shape, groups):
    symmetry = Symmetry(
        (("heads", 2), ("units", 4)), (TensorAxes("w", shape, groups),), (("units", ("heads",)),)
    )
    with pytest.raises(ValueError, match=r"leaf 'w' carries group 'units'.*axes of 'heads'"):
        split(symmetry, "heads", (1, 1), {"w": jnp.ones(shape)})
