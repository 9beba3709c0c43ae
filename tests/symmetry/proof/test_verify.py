from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.symmetry import Symmetry, TensorAxes, infer_chain, verify
from tests.symmetry.heads import UNITS, X, attention, attention_params, attention_symmetry
from tests.symmetry.networks import image, nnx_mlp, randomise

PARAMS = randomise({"in": jnp.zeros((3, 6)), "bias": jnp.zeros(6), "out": jnp.zeros((6, 2))})
RIGHT = {"in": (None, "h"), "bias": ("h",), "out": ("h", None)}


def apply_fn(p, x):
    return jnp.tanh(x @ p["in"] + p["bias"][None]) @ p["out"]


def test_right_symmetry_holds(key):
    result = verify(Symmetry.from_axes(RIGHT, PARAMS), apply_fn, PARAMS, image(5, 3), key=key)
    assert result.holds
    assert list(result.errors) == ["h"]
    assert result.errors["h"] < 1e-14


@pytest.mark.parametrize("missing", RIGHT)
def test_forgotten_leaf_is_caught(missing, key):
    axes = {path: entry for path, entry in RIGHT.items() if path != missing}
    result = verify(Symmetry.from_axes(axes, PARAMS), apply_fn, PARAMS, image(5, 3), key=key)
    assert not result.holds
    assert result.errors["h"] > 1e-2


def test_method_is_the_function(key):
    symmetry = Symmetry.from_axes(RIGHT, PARAMS)
    x = image(5, 3)
    assert symmetry.verify(apply_fn, PARAMS, x, key=key) == verify(
        symmetry, apply_fn, PARAMS, x, key=key
    )


def test_all_groups_at_once(key):
    params = randomise([jnp.zeros((3, 5)), jnp.zeros((5, 4)), jnp.zeros((4, 2))])
    symmetry = Symmetry.from_axes({"0": (None, "a"), "1": ("a", "b"), "2": ("b", None)}, params)
    result = verify(
        symmetry,
        lambda p, x: jnp.sin(jnp.sin(x @ p[0]) @ p[1]) @ p[2],
        params,
        image(4, 3),
        key=key,
    )
    assert list(result.errors) == ["a", "b"]
    assert result.holds
    assert 0 < result.all < 1e-14


def test_nan_outputs_do_not_hold(key):
    symmetry = _pinned_network()
    result = verify(symmetry, apply_fn, PARAMS, jnp.nan * image(5, 3), key=key)
    assert not result.holds
    assert set(result.inconclusive) == {"features", "classes"}


def test_tolerance_is_relative_to_the_outputs(key):
    axes = {path: entry for path, entry in RIGHT.items() if path != "bias"}
    symmetry, x = Symmetry.from_axes(axes, PARAMS), image(5, 3)
    large = verify(symmetry, lambda p, x: 1e6 * apply_fn(p, x), PARAMS, x, key=key)
    small = verify(symmetry, apply_fn, PARAMS, x, key=key, tolerance=10.0)
    assert large.errors["h"] == pytest.approx(small.errors["h"], rel=1e-3)
    assert small.holds
    assert not large.holds


def test_functions_and_counters_among_the_leaves(key):
    params = {**PARAMS, "act": jax.nn.relu, "power": 2, "step": jnp.int32(3), "key": key}

    def apply_fn(p, batch):
        x = p["act"](batch["x"] @ p["in"] + p["bias"][None]) ** p["power"]
        noise = jax.random.uniform(p["key"]) + jax.random.uniform(batch["key"])
        return x @ p["out"] + p["step"] * batch["shift"][0] + noise

    x = {"x": image(5, 3), "shift": (jnp.float32(1),), "key": key}
    assert verify(Symmetry.from_axes(RIGHT, params), apply_fn, params, x, key=key).holds
    wrong = Symmetry.from_axes({"in": RIGHT["in"], "bias": RIGHT["bias"]}, params)
    assert not verify(wrong, apply_fn, params, x, key=key).holds


def test_inputs_that_are_no_arrays_are_static(key):
    def switched(p, x, train, activation):
        return activation(x @ p["in"] + p["bias"][None]) @ p["out"] if train else x

    symmetry = Symmetry.from_axes(RIGHT, PARAMS)
    result = verify(symmetry, switched, PARAMS, image(5, 3), True, jnp.tanh, key=key)
    assert result.holds


def test_equinox_module_is_its_own_function(key):
    eqx = pytest.importorskip("equinox")
    model = randomise(eqx.filter_eval_shape(eqx.nn.MLP, 3, 2, 5, 2, key=key))
    symmetry = infer_chain(model)
    result = verify(symmetry, lambda m, x: jax.vmap(m)(x), model, image(4, 3), key=key)
    assert result.holds
    assert list(result.errors) == list(symmetry.groups)


def test_nnx_state(key):
    tree, network, x = nnx_mlp("layer")
    state = randomise(tree)
    assert verify(infer_chain(state), network, state, x, key=key).holds


def test_parameters_are_compiled_once(key):
    traces = []

    def traced(p, x):
        traces.append(x)
        return apply_fn(p, x)

    verify(_pinned_network(), traced, PARAMS, image(5, 3), key=key)
    assert len(traces) == 1


def test_same_key_same_result(key):
    x = image(5, 3)
    first, second = (verify(_pinned_network(), apply_fn, PARAMS, x, key=key) for _ in range(2))
    assert first == second


def test_settings_stay(key):
    verify(Symmetry.from_axes(RIGHT, PARAMS), apply_fn, PARAMS, image(5, 3), key=key)
    assert jnp.asarray(np.ones(2)).dtype == jnp.float32


@pytest.mark.parametrize("seed", range(6))
def test_two_units_are_always_exchanged(seed):
    params = randomise({"in": jnp.zeros((3, 2)), "out": jnp.zeros((2, 2))})
    wrong = Symmetry.from_axes({"in": (None, "h")}, params)
    result = verify(
        wrong, lambda p, x: x @ p["in"] @ p["out"], params, image(4, 3), key=jax.random.key(seed)
    )
    assert not result.holds


# Freshly initialised parameters.


def normalised(p, x):
    x = x @ p["in"]
    x = (x - p["mean"][None]) / jnp.sqrt(p["var"][None] + 1e-5) * p["scale"][None]
    return jnp.tanh(x + p["bias"][None]) @ p["out"]


@pytest.mark.parametrize("missing", ["mean", "var", "scale", "bias", None])
def test_fresh_constants_do_not_hide_a_forgotten_leaf(missing, key):
    start = {"mean": jnp.zeros(6), "var": jnp.ones(6), "scale": jnp.ones(6), "bias": jnp.zeros(6)}
    params = {**start, "in": PARAMS["in"], "out": PARAMS["out"]}
    axes = {**RIGHT, "mean": ("h",), "var": ("h",), "scale": ("h",)}
    axes.pop(missing, None)
    result = verify(Symmetry.from_axes(axes, params), normalised, params, image(5, 3), key=key)
    assert result.holds == (missing is None)
    assert np.isfinite(result.errors["h"])


def test_a_gate_of_zero_is_opened(key):
    params = {**randomise({"in": jnp.zeros((3, 6))}), "gate": jnp.zeros(())}
    symmetry = Symmetry.from_axes({"in": (None, "h")}, params)
    result = verify(symmetry, lambda p, x: p["gate"] * (x @ p["in"]), params, image(4, 3), key=key)
    assert not result.holds


# Outputs.


def test_outputs_may_be_a_tree_with_infinities_and_integers(key):
    def outputs(p, x):
        y = apply_fn(p, x)
        masked = jnp.where(jnp.arange(2)[None] == 0, -jnp.inf, y)
        return {"masked": masked, "best": (jnp.argmax(y, -1), y > 0), "none": None}

    result = verify(Symmetry.from_axes(RIGHT, PARAMS), outputs, PARAMS, image(5, 3), key=key)
    assert result.holds
    wrong = Symmetry.from_axes({"in": (None, "h")}, PARAMS)
    assert verify(wrong, outputs, PARAMS, image(5, 3), key=key).errors["h"] > 1e-2


def test_a_small_output_array_counts_by_itself(key):
    def outputs(p, x):
        right = jnp.tanh(x @ p["in"] + p["bias"][None]) @ p["out"]
        return right, 1e-6 * (x @ p["in"])

    result = verify(Symmetry.from_axes(RIGHT, PARAMS), outputs, PARAMS, image(5, 3), key=key)
    assert not result.holds


def test_integers_compare_exactly_and_move_no_pin(key):
    def outputs(p, x):
        return jnp.argmax(apply_fn(p, x), axis=-1)

    right = verify(_pinned_network(), outputs, PARAMS, image(9, 3), key=key)
    assert (right.errors, right.all) == ({"h": 0.0}, 0.0)
    assert right.complete
    assert set(right.changes) | set(right.inconclusive) == {"features", "classes"}
    wrong = Symmetry.from_axes({"in": (None, "h")}, PARAMS)
    assert verify(wrong, outputs, PARAMS, image(99, 3), key=key).errors == {"h": 1.0}


def test_a_function_without_outputs_is_refused(key):
    with pytest.raises(ValueError, match="returns no array"):
        verify(Symmetry.from_axes(RIGHT, PARAMS), lambda p, x: None, PARAMS, image(5, 3), key=key)


# Precision.


def _round_inside(p, x):
    hidden = jnp.tanh((x @ p["in"] + p["bias"][None]).astype(jnp.float32))
    return hidden.astype(x.dtype) @ p["out"]


def _round_in_a_loop(p, x):
    def step(total, row):
        return (total + row).astype(jnp.float32), None

    start = jnp.zeros((5, 2), jnp.float32)
    hidden = jnp.tanh(x @ p["in"] + p["bias"][None])
    return jax.lax.scan(step, start, jnp.moveaxis(hidden[..., None] * p["out"][None], 1, 0))[0]


def _insist_on_a_carry(p, x):
    def step(total, row):
        return total + row, None

    hidden = jnp.tanh(x @ p["in"] + p["bias"][None])
    start = jnp.zeros((5, 2), jnp.float32)
    return jax.lax.scan(step, start, jnp.moveaxis(hidden[..., None] * p["out"][None], 1, 0))[0]


def _constant(p, x):
    return apply_fn(p, x) * jnp.sin(jnp.arange(2, dtype=jnp.float32))[None]


@pytest.mark.parametrize(
    ("function", "tolerance"),
    [
        (apply_fn, 2.46e-9),
        (jax.jit(apply_fn), 2.46e-9),
        (_constant, 2.46e-9),
        (_round_inside, 1.56e-4),
        (jax.jit(_round_inside), 1.56e-4),
        (_round_in_a_loop, 1.56e-4),
        (_insist_on_a_carry, 1.56e-4),
        (lambda p, x: apply_fn(p, x).astype(jnp.bfloat16), 6.9e-2),
    ],
    ids=["wide", "jit", "constant", "cast", "jit_cast", "loop_cast", "carry", "bfloat16"],
)
def test_tolerance_follows_the_coarsest_dtype(function, tolerance, key):
    result = verify(Symmetry.from_axes(RIGHT, PARAMS), function, PARAMS, image(5, 3), key=key)
    assert result.holds
    assert result.tolerance == pytest.approx(tolerance, rel=0.01)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_parameters_of_every_dtype_are_proved_in_float64(dtype, key):
    params = {path: np.asarray(leaf).astype(dtype) for path, leaf in PARAMS.items()}
    result = verify(Symmetry.from_axes(RIGHT, params), apply_fn, params, image(5, 3), key=key)
    assert result.errors["h"] < 1e-14


def test_an_error_of_the_function_is_raised(key):
    def broken(p, x):
        raise RuntimeError("out of ideas")

    with pytest.raises(RuntimeError, match="out of ideas"):
        verify(Symmetry.from_axes(RIGHT, PARAMS), broken, PARAMS, image(5, 3), key=key)


# Refused.


def test_shapes_are_refused(key):
    shapes = jax.eval_shape(lambda: PARAMS)
    symmetry = Symmetry.from_axes(RIGHT, shapes)
    with pytest.raises(ValueError, match="'bias' of params is a shape without values"):
        verify(symmetry, apply_fn, shapes, image(5, 3), key=key)
    x = jax.ShapeDtypeStruct((5, 3), jnp.float32)
    with pytest.raises(ValueError, match="leaf '0' of inputs is a shape without values"):
        verify(symmetry, apply_fn, PARAMS, x, key=key)


def test_traced_parameters_are_refused(key):
    symmetry = Symmetry.from_axes(RIGHT, PARAMS)
    with pytest.raises(ValueError, match=r"is traced.*outside of jit"):
        jax.jit(lambda p: verify(symmetry, apply_fn, p, image(5, 3), key=key).holds)(PARAMS)


def test_parameters_without_weights_are_refused(key):
    with pytest.raises(ValueError, match="no array of real numbers"):
        verify(Symmetry((), ()), lambda p: p["n"], {"n": jnp.int32(3)}, key=key)


# The opposite probe.


def _pinned_network(hidden="h"):
    """Return the symmetry of the network with its pins; without a group where hidden is None."""
    groups = ((hidden, 6),) if hidden else ()
    pin = None if hidden else "hidden"
    tensors = (
        TensorAxes("in", (3, 6), (None, hidden), pins=("features", pin)),
        TensorAxes("bias", (6,), (hidden,), pins=(pin,)),
        TensorAxes("out", (6, 2), (hidden, None), pins=(pin, "classes")),
    )
    pinned = (("features", 3, "input"), ("classes", 2, "output"))
    return Symmetry(groups, tensors, pinned=pinned + ((("hidden", 6, "why"),) if pin else ()))


def test_right_pins_are_needed(key):
    result = verify(_pinned_network(), apply_fn, PARAMS, image(5, 3), key=key)
    assert result.holds
    assert result.complete
    assert set(result.changes) == {"features", "classes"}
    assert min(result.changes.values()) > 1e-2
    assert (result.movable, result.inconclusive, result.unknown) == ({}, (), ())


def test_a_needless_pin_is_found_movable(key):
    result = verify(_pinned_network(None), apply_fn, PARAMS, image(5, 3), key=key)
    assert result.holds
    assert result.errors == {}
    assert not result.complete
    assert list(result.movable) == ["hidden"]
    assert len(result.movable["hidden"]) == 3
    assert result.changes["hidden"] < 1e-14


def test_a_needless_pin_is_found_where_the_function_rounds(key):
    result = verify(_pinned_network(None), _round_inside, PARAMS, image(5, 3), key=key)
    assert list(result.movable) == ["hidden"]


def test_an_axis_pinned_in_part_for_nothing(key):
    params = randomise({"w": jnp.zeros(3)})
    symmetry = Symmetry((), (TensorAxes("w", (3,), (None,), pins=("w",)),), (), (("w", 3, "?"),))
    result = verify(
        symmetry, lambda p, x: p["w"][0] * p["w"][2] - p["w"][1] + x, params, 1.0, key=key
    )
    assert result.movable == {"w": ((0, 2),)}


def test_leaves_without_named_pins_are_unknown(key):
    result = verify(Symmetry.from_axes(RIGHT, PARAMS), apply_fn, PARAMS, image(5, 3), key=key)
    assert result.unknown == ("in", "out")
    assert not result.complete
    left_out = Symmetry.from_axes({"in": (None, "h")}, PARAMS)
    result = verify(left_out, apply_fn, PARAMS, image(5, 3), key=key)
    assert result.unknown == ("bias", "in", "out")


def test_pins_by_hand_are_not_probed(key):
    result = verify(_pinned_network().pin("h"), apply_fn, PARAMS, image(5, 3), key=key)
    assert result.complete
    assert set(result.changes) == {"features", "classes"}


def _embedding(rows):
    return Symmetry(
        (),
        (TensorAxes("table", (rows, 4), (None, None), pins=("words", "units")),),
        pinned=(("words", rows, "indexed"), ("units", 4, "output")),
    )


@pytest.mark.parametrize(("rows", "token"), [(3, 0), (3, 2), (500, 0), (500, 123), (500, 499)])
def test_a_row_that_occurs_settles_the_vocabulary(rows, token, key):
    params = randomise({"table": jnp.zeros((rows, 4))})
    tokens = jnp.array([token, token])
    result = verify(_embedding(rows), lambda p, t: p["table"][t], params, tokens, key=key)
    assert result.complete
    assert result.changes["words"] > 1e-3
    assert result.inconclusive == ()


def test_rows_that_never_occur_are_inconclusive(key):
    params = randomise({"table": jnp.zeros((50, 4))})
    result = verify(
        _embedding(50), lambda p, t: 0.0 * p["table"][t] + 1.0, params, jnp.array([3, 4]), key=key
    )
    assert set(result.inconclusive) == {"words", "units"}
    assert result.complete
    assert result.changes == {}


def test_taps_that_only_see_padding_are_inconclusive(key):
    params = randomise({"kernel": jnp.zeros((3, 1, 1, 1))})
    symmetry = Symmetry(
        (),
        (TensorAxes("kernel", (3, 1, 1, 1), (None,) * 4, (0, 1), pins=("taps", None, None, None)),),
        pinned=(("taps", 3, "window of a convolution"),),
    )

    def convolve(p, x):
        padding = [(2, 0), (0, 0)]
        return jax.lax.conv_general_dilated(
            x, p["kernel"], (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    seen = verify(symmetry, convolve, params, image(2, 1, 1, 1), key=key)
    assert list(seen.changes) == ["taps"]
    assert seen.complete
    unseen = verify(symmetry, lambda p, x: convolve(p, 0 * x), params, image(2, 1, 1, 1), key=key)
    assert unseen.inconclusive == ("taps",)


def test_tied_pins_are_swapped_together(key):
    """Units that one factor scales and the next undoes move only together."""
    params = randomise({"a": jnp.zeros((3, 4)), "b": jnp.zeros((4, 2))})

    def network(p, x):
        return jnp.tanh(x @ p["a"]) @ p["b"]

    def symmetry(*names):
        return Symmetry(
            (),
            (
                TensorAxes("a", (3, 4), (None, None), pins=("in", names[0])),
                TensorAxes("b", (4, 2), (None, None), pins=(names[1], "out")),
            ),
            pinned=tuple((name, 4, "?") for name in dict.fromkeys(names)),
        )

    tied = verify(symmetry("h", "h"), network, params, image(5, 3), key=key)
    loose = verify(symmetry("h", "k"), network, params, image(5, 3), key=key)
    assert list(tied.movable) == ["h"]
    assert loose.complete


def test_pins_in_blocks_of_a_leaf(key):
    """The second half of a fused projection is a group, the first half pinned for nothing."""
    params = randomise({"in": jnp.zeros((3, 8)), "out": jnp.zeros((8, 2))})
    first, second = ((0, 4, 1),), ((4, 4, 1),)
    symmetry = Symmetry(
        (("h", 4),),
        (
            TensorAxes("in", (3, 4), (None, None), pins=("x", "k"), index=(None, first)),
            TensorAxes("in", (3, 4), (None, "h"), pins=("x", None), index=(None, second)),
            TensorAxes("out", (4, 2), (None, None), pins=("k", "y"), index=(first, None)),
            TensorAxes("out", (4, 2), ("h", None), pins=(None, "y"), index=(second, None)),
        ),
        pinned=(("x", 3, "input"), ("k", 4, "?"), ("y", 2, "output")),
    )
    result = verify(
        symmetry, lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"], params, image(5, 3), key=key
    )
    assert list(result.movable) == ["k"]
    assert set(result.changes) == {"x", "k", "y"}
    assert result.unknown == ()


# Nested groups.


def test_heads_and_their_units(key):
    result = verify(attention_symmetry(), attention, attention_params(), X, key=key)
    assert list(result.errors) == ["heads", "qk", "vo"]
    assert result.holds
    assert result.complete
    assert set(result.changes) == {"input", "output"}


@pytest.mark.parametrize("wrong", ["tied", "loose", "forgotten"])
def test_wrong_nested_groups_are_caught(wrong, key):
    right = attention_symmetry()
    tensors = list(right.tensors)
    if wrong == "tied":  # values taken for queries and keys
        tensors[2] = replace(tensors[2], groups=(None, "heads", "qk"))
    elif wrong == "loose":  # keys that do not follow the queries
        tensors[1] = replace(tensors[1], groups=(None, "heads", "vo"))
    else:  # an output projection that stays
        del tensors[3]
    result = verify(
        replace(right, tensors=tuple(tensors)), attention, attention_params(), X, key=key
    )
    assert not result.holds
    assert max(result.errors.values()) > 1e-3


@pytest.mark.parametrize("inner", ["qk", "vo"])
def test_a_coarse_symmetry_of_the_heads_is_found_movable(inner, key):
    right = attention_symmetry()
    coarse = replace(
        right,
        sizes=tuple(pair for pair in right.sizes if pair[0] != inner),
        tensors=tuple(
            replace(
                tensor,
                groups=tuple(None if g == inner else g for g in tensor.groups),
                pins=tuple(
                    inner if g == inner else pin
                    for g, pin in zip(tensor.groups, tensor.pins, strict=True)
                ),
            )
            for tensor in right.tensors
        ),
        over=tuple(pair for pair in right.over if pair[0] != inner),
        pinned=(*right.pinned, (inner, UNITS, "?")),
    )
    result = verify(coarse, attention, attention_params(), X, key=key)
    assert result.holds
    assert set(result.movable) == {inner}
