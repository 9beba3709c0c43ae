from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.symmetry import Symmetry, TensorAxes, permute, verify
from jaxfuse.symmetry.axes import Activation
from jaxfuse.symmetry.editing.override import BY_HAND, add, pin
from tests.symmetry.heads import HEADS, UNITS, X, attention, attention_params, attention_symmetry
from tests.symmetry.networks import image, randomise

SHAPES = {"a": (3, 4), "b": (4, 5), "c": (5, 6), "d": (6, 2)}
PARAMS = randomise({path: jnp.zeros(shape) for path, shape in SHAPES.items()})
AXES = {"a": (None, "conv1"), "b": ("conv1", "conv2"), "c": ("conv2", "fc"), "d": ("fc", None)}
CHAIN = Symmetry.from_axes(AXES, PARAMS)


def network(p, x):
    for path in "abc":
        x = jnp.tanh(x @ p[path])
    return x @ p["d"]


# Pin.


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (("conv1",), ["conv2", "fc"]),
        (("conv*",), ["fc"]),
        (("conv?", "f[a-d]"), []),
        (("*1", "conv*"), ["fc"]),
        ((), ["conv1", "conv2", "fc"]),
    ],
    ids=["name", "star", "letters", "overlap", "none"],
)
def test_pin_by_pattern(patterns, left, key):
    symmetry = pin(CHAIN, *patterns)
    assert symmetry == CHAIN.pin(*patterns)
    assert list(symmetry.groups) == left
    gone = [group for group in CHAIN.groups if group not in left]
    assert symmetry.pinned == tuple((group, CHAIN.groups[group], BY_HAND) for group in gone)
    assert verify(symmetry, network, PARAMS, image(4, 3), key=key).holds


def test_pinned_axes_are_pins_and_the_others_stay_unknown():
    tensors = {tensor.path: tensor for tensor in pin(CHAIN, "conv1").tensors}
    assert (tensors["a"].groups, tensors["a"].pins) == ((None, None), (None, "conv1"))
    assert (tensors["b"].groups, tensors["b"].pins) == ((None, "conv2"), ("conv1", None))
    assert tensors["c"] == CHAIN.tensors[2]


def test_a_pattern_without_a_match_is_refused():
    with pytest.raises(ValueError, match=r"no group matches 'layer\*'.*'conv1', 'conv2', 'fc'"):
        CHAIN.pin("conv1", "layer*")


def test_a_pinned_context_still_indexes(key):
    symmetry = pin(attention_symmetry(), "heads")
    assert symmetry.groups == {"qk": UNITS, "vo": UNITS}
    assert symmetry.contexts("qk") == ("heads",)
    assert symmetry.shape("vo") == (HEADS, UNITS)
    result = verify(symmetry, attention, attention_params(), X, key=key)
    assert result.holds
    assert result.complete


def test_a_pinned_inner_group_leaves_its_context(key):
    symmetry = pin(attention_symmetry(), "?o", "qk")
    assert symmetry.groups == {"heads": HEADS}
    assert symmetry.over == ()
    assert verify(symmetry, attention, attention_params(), X, key=key).holds


def test_activations_are_pinned_too():
    seen = Activation("input", TensorAxes("tanh:1", (2, 4), (None, "conv1")))
    symmetry = pin(replace(CHAIN, activations=(seen,)), "conv1")
    assert symmetry.activations[0].tensor.groups == (None, None)
    assert symmetry.activations[0].tensor.pins == (None, "conv1")


# Add.


def test_add_what_was_pinned_by_hand(key):
    again = add(pin(CHAIN, "conv2"), {"b": (None, "new"), "c": ("new", None)}, PARAMS)
    assert again.groups == {"conv1": 4, "fc": 6, "new": 5}
    assert again.pinned == ()
    named = {group.replace("new", "conv2"): size for group, size in again.sizes}
    assert named == CHAIN.groups
    assert [t.groups for t in again.tensors] == [
        tuple("new" if group == "conv2" else group for group in t.groups) for t in CHAIN.tensors
    ]
    assert verify(again, network, PARAMS, image(4, 3), key=key).holds


def test_add_under_the_old_name_turns_pin_round():
    again = CHAIN.pin("conv2").add({"b": (None, "conv2"), "c": ("conv2", None)}, PARAMS)
    assert again.groups == CHAIN.groups
    assert again.pinned == ()


def test_add_to_leaves_that_were_left_out(key):
    first = Symmetry.from_axes({"a": AXES["a"], "b": ("conv1", None)}, PARAMS)
    rest = {"b": (None, "conv2"), "c": AXES["c"], "d": AXES["d"]}
    whole = add(first, rest, PARAMS)
    assert whole.groups == CHAIN.groups
    assert {t.path: t.groups for t in whole.tensors} == {t.path: t.groups for t in CHAIN.tensors}
    assert {t.path: t.output for t in whole.tensors} == {t.path: t.output for t in CHAIN.tensors}


def test_add_more_axes_to_a_group_that_exists():
    missed = Symmetry.from_axes({"a": AXES["a"]}, PARAMS)
    extended = add(missed, {"b": ("conv1", None)}, PARAMS)
    assert extended.sizes == (("conv1", 4),)
    assert {t.path: t.groups for t in extended.tensors} == {
        "a": (None, "conv1"),
        "b": ("conv1", None),
    }


def test_restating_a_group_changes_nothing():
    assert add(CHAIN, {"b": ("conv1", "conv2")}, PARAMS) == CHAIN


FLAT = randomise({"flat": jnp.zeros((12, 5)), "bias": jnp.zeros(4), "next": jnp.zeros((5, 2))})


def flat_network(p, x):
    y = jnp.tanh(x + p["bias"][None, None])
    return jnp.tanh(y.reshape(len(x), -1) @ p["flat"]) @ p["next"]


def test_add_a_factor_of_a_pinned_axis(key):
    found = Symmetry(
        (("h", 5),),
        (
            TensorAxes("flat", (12, 5), (None, "h"), output=1, pins=("flat[0]", None)),
            TensorAxes("bias", (4,), (None,), pins=("bias[0]",)),
            TensorAxes("next", (5, 2), ("h", None), pins=(None, "output")),
        ),
        pinned=(("flat[0]", 12, "unsure"), ("bias[0]", 4, "unsure"), ("output", 2, "output")),
    )
    x = jnp.broadcast_to(image(4, 3, 1), (4, 3, 4))
    missed = verify(found, flat_network, FLAT, x, key=key)
    assert missed.complete
    whole = add(found, {"flat": ((3, "c"), None), "bias": ("c",)}, FLAT)
    assert whole.groups == {"h": 5, "c": 4}
    flat = whole.tensors[0]
    assert (flat.shape, flat.groups, flat.edge) == ((3, 4, 5), (None, "c", "h"), (0,))
    assert flat.output == 2
    assert flat.pins == ("flat[0].3x4.0", None, None)
    assert whole.pinned == (("flat[0].3x4.0", 3, "unsure"), ("output", 2, "output"))
    result = verify(whole, flat_network, FLAT, x, key=key)
    assert result.holds
    assert result.complete


def test_add_to_an_axis_beside_blocks(key):
    """The input of a fused projection joins a group that was missed."""
    params = {**attention_params(), "in": jnp.asarray(np.eye(5), jnp.float32)}
    old = attention_symmetry()
    new = add(old, {"qkv": ("stream", None), "in": (None, "stream")}, params)
    assert new.groups == {**old.groups, "stream": 5}
    assert all(t.groups[0] == "stream" for t in new.tensors if t.path == "qkv")
    assert [name for name, _, _ in new.pinned] == ["output"]

    def whole(p, x):
        return attention(p, jnp.tanh(x @ p["in"]))

    assert verify(new, whole, params, X, key=key).holds


@pytest.mark.parametrize(
    ("symmetry", "axes", "message"),
    [
        (CHAIN, {"a": (None, "x")}, "axis 1 of leaf 'a'.*carries group 'conv1' already"),
        (
            CHAIN,
            {"a": ("x", ("y", "z")), "b": ("y", None)},
            "size of group 'z' in leaf 'a'",
        ),
        (CHAIN, {"d": (None, "fc")}, "group 'fc' exists with the shape"),
        (CHAIN, {"a": ("w", None), "e": ("w",)}, "no leaf 'e'"),
        (pin(CHAIN, "conv2"), {"b": (None, "conv2")}, "'conv2' is that of a pinned axis"),
        (
            Symmetry((("g", 2),), (TensorAxes("c", (5, 2, 3), (None, "g", None)),)),
            {"c": (None, "x")},
            "axis 1 of leaf 'c'.*carries group 'g' already",
        ),
        (
            Symmetry((), (TensorAxes("c", (5, 2, 3), (None, None, None)),)),
            {"c": (None, "x")},
            "'x' is given an axis of leaf 'c' that is a product",
        ),
    ],
    ids=["carried", "unknown", "size", "leaf", "pin", "cuts_a_group", "product"],
)
def test_add_is_refused(symmetry, axes, message):
    with pytest.raises(ValueError, match=message):
        add(symmetry, axes, PARAMS)


def test_add_to_a_direct_sum_is_refused():
    params = attention_params()
    with pytest.raises(ValueError, match="axis 1 of leaf 'qkv' is a direct sum of blocks"):
        add(attention_symmetry(), {"qkv": (None, "x")}, params)
    with pytest.raises(ValueError, match=r"group 'qk' exists with the shape \(4, 3\)"):
        add(attention_symmetry(), {"out": (None, "qk")}, params)


def test_views_that_disagree_are_refused():
    params = {"w": jnp.ones((12, 2)), "x": jnp.ones(4), "y": jnp.ones(3)}
    symmetry = Symmetry.from_axes({"w": ((3, "x"), None), "x": ("x",)}, params)
    with pytest.raises(ValueError, match=r"product \[3, 4\], which the table's \[4, 3\]"):
        add(symmetry, {"w": ((4, "y"), None), "y": ("y",)}, params)


def test_added_group_moves_with_permute():
    symmetry = CHAIN.pin("fc").add({"c": (None, "late"), "d": ("late", None)}, PARAMS)
    order = jnp.array([3, 1, 2, 0, 5, 4])
    moved = permute(PARAMS, symmetry, {"late": order})
    np.testing.assert_array_equal(moved["c"], PARAMS["c"][:, order])
    np.testing.assert_array_equal(moved["d"], PARAMS["d"][order])
