import jax
import jax.numpy as jnp
import pytest

from jaxfuse.symmetry import Symmetry, infer_chain, verify
from tests.symmetry.networks import image, randomise

PARAMS = randomise({"in": jnp.zeros((3, 6)), "bias": jnp.zeros(6), "out": jnp.zeros((6, 2))})
RIGHT = {"in": (None, "h"), "bias": ("h",), "out": ("h", None)}


def apply_fn(p, x):
    return jnp.tanh(x @ p["in"] + p["bias"][None]) @ p["out"]


def test_right_symmetry_holds(key):
    result = verify(Symmetry.from_axes(RIGHT, PARAMS), apply_fn, PARAMS, image(5, 3), key=key)
    assert result.holds
    assert list(result.errors) == ["h"]
    assert result.errors["h"] < 1e-5


@pytest.mark.parametrize("missing", RIGHT)
def test_forgotten_leaf_is_caught(missing, key):
    axes = {path: entry for path, entry in RIGHT.items() if path != missing}
    result = verify(Symmetry.from_axes(axes, PARAMS), apply_fn, PARAMS, image(5, 3), key=key)
    assert not result.holds
    assert result.errors["h"] > 1e-2


def test_nan_outputs_do_not_hold(key):
    symmetry = Symmetry.from_axes(RIGHT, PARAMS)
    assert not verify(symmetry, apply_fn, PARAMS, jnp.nan * image(5, 3), key=key).holds


def test_tolerance_is_relative_to_the_outputs(key):
    axes = {path: entry for path, entry in RIGHT.items() if path != "bias"}
    symmetry, x = Symmetry.from_axes(axes, PARAMS), image(5, 3)
    large = verify(symmetry, lambda p, x: 1e6 * apply_fn(p, x), PARAMS, x, key=key)
    small = verify(symmetry, apply_fn, PARAMS, x, key=key, tolerance=10.0)
    assert large.errors["h"] == pytest.approx(small.errors["h"], rel=1e-3)
    assert small.holds
    assert not large.holds


def test_functions_and_counters_among_the_leaves(key):
    params = {**PARAMS, "act": jax.nn.relu, "power": 2, "step": jnp.int32(3)}

    def apply_fn(p, batch):
        x = p["act"](batch["x"] @ p["in"] + p["bias"][None]) ** p["power"]
        return x @ p["out"] + p["step"] * batch["shift"][0]

    x = {"x": image(5, 3), "shift": (jnp.float32(1),)}
    assert verify(Symmetry.from_axes(RIGHT, params), apply_fn, params, x, key=key).holds
    wrong = Symmetry.from_axes({"in": RIGHT["in"], "bias": RIGHT["bias"]}, params)
    assert not verify(wrong, apply_fn, params, x, key=key).holds


def test_equinox_module_is_its_own_function(key):
    eqx = pytest.importorskip("equinox")
    model = randomise(eqx.filter_eval_shape(eqx.nn.MLP, 3, 2, 5, 2, key=key))
    symmetry = infer_chain(model)
    result = verify(symmetry, lambda m, x: jax.vmap(m)(x), model, image(4, 3), key=key)
    assert result.holds
    assert list(result.errors) == list(symmetry.groups)


def test_parameters_are_compiled_once(key):
    traces = []

    def traced(p, x):
        traces.append(x)
        return apply_fn(p, x)

    verify(Symmetry.from_axes(RIGHT, PARAMS), traced, PARAMS, image(5, 3), key=key)
    assert len(traces) == 1
