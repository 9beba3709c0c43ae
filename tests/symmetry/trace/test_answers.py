"""What is said where there is no symmetry, no pure function, or no rule."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive

from jaxfuse.symmetry import UnknownPrimitiveWarning, infer_symmetry, register_rule
from jaxfuse.symmetry.trace.registry import RULES
from tests.symmetry.trace.cases import normal, prove, weights

PARAMS = weights(a=(3, 6), b=(6, 2))
X = normal(4, 3)


def mlp(p, x):
    return jnp.tanh(x @ p["a"]) @ p["b"]


def reasons(symmetry):
    return {name: reason for name, _, reason in symmetry.pinned}


def test_a_linear_model_has_no_symmetry_and_says_why():
    params = {"w": normal(3, 6), "b": normal(1, 6)}
    symmetry = infer_symmetry(lambda p, x: x @ p["w"] + p["b"], params, X)
    assert symmetry.groups == {}
    assert reasons(symmetry) == {"w[0]": "input", "w[1]": "output"}
    assert "input" in symmetry.table()


@pytest.mark.parametrize(
    ("mix", "shape"),
    [
        (lambda h, p: h.T @ h, (6, 2)),
        (lambda h, p: h.T @ p["b"], (4, 2)),
        (lambda h, p: h.T.reshape(4, 6) @ p["b"], (6, 2)),
    ],
    ids=["gram", "transpose", "reshape"],
)
def test_batch_and_features_mixed(mix, shape):
    params = weights(a=(3, 6), b=shape)

    def network(p, x):
        return mix(jnp.tanh(x @ p["a"]), p)

    symmetry = infer_symmetry(network, params, X)
    assert symmetry.groups == {}
    assert reasons(symmetry)["a[1]"]
    prove(symmetry, network, params, (X,))


def test_a_sum_of_an_array_and_its_transpose_pins_the_units_as_input():
    def network(p, x):
        h = jnp.tanh(x @ p["a"])
        return (h + h.T) @ p["b"]

    symmetry = infer_symmetry(network, PARAMS, normal(6, 3))
    assert symmetry.groups == {}
    assert reasons(symmetry)["a[1]"] == "input"


class Counter:
    """Functions that count their calls in different places of the program."""

    def __init__(self):
        self.calls = 0

    def _next(self):
        self.calls += 1
        return self.calls

    def factor(self, p, x):
        return mlp(p, x) * self._next()

    def operations(self, p, x):
        h = x @ p["a"]
        for _ in range(self._next()):
            h = jnp.tanh(h)
        return h @ p["b"]

    def slices(self, p, x):
        start = self._next() % 3
        return jnp.tanh(x @ p["a"])[:, start : start + 3].sum(-1)

    def axes(self, p, x):
        return jnp.tanh(x @ p["a"]).sum(self._next() % 2).sum()

    def branches(self, p, x):
        number = self._next()
        return lax.cond(x[0, 0] > 0, lambda y: y * number, lambda y: y, mlp(p, x))

    def steps(self, p, x):
        number = self._next()
        return lax.scan(lambda c, row: (c, row * number), 0.0, mlp(p, x))[1]

    def compiled(self, p, x):
        number = self._next()
        return jax.jit(lambda y: y * number)(mlp(p, x))

    def random(self, p, x):
        return jnp.tanh(x @ p["a"]) * np.random.default_rng(self._next()).normal(size=(4, 6))


@pytest.mark.parametrize(
    "place",
    ["factor", "operations", "slices", "axes", "branches", "steps", "compiled", "random"],
)
def test_side_effects_on_the_program(place):
    with pytest.raises(ValueError, match="side effect"):
        infer_symmetry(getattr(Counter(), place), PARAMS, X)


def test_a_function_that_keeps_a_log_stays_fine():
    log = []

    def logged(p, x):
        h = jnp.tanh(x @ p["a"])
        log.append(h.shape)
        return h @ p["b"]

    assert infer_symmetry(logged, PARAMS, X).groups == {"a": 6}


def test_an_array_kept_from_the_call_before():
    kept = []

    def leaking(p, x):
        h = jnp.tanh(x @ p["a"])
        kept.append(h)
        return (h + kept[0]) @ p["b"]

    with pytest.raises(ValueError, match="side effect"):
        infer_symmetry(leaking, PARAMS, X)


@pytest.mark.parametrize(
    "function",
    [
        lambda p, x: x if x.sum() > 0 else -x,
        lambda p, x: [x for _ in range(int(x.sum()))],
        lambda p, x: x[x > 0],
        lambda p, x: jnp.arange(x.sum()),
        lambda p, x: np.tanh(x @ p["a"]),
    ],
    ids=["if", "for", "boolean-index", "range", "numpy"],
)
def test_programs_that_depend_on_values(function):
    with pytest.raises(ValueError, match="values"):
        infer_symmetry(function, PARAMS, X)


@pytest.fixture
def doubling():
    primitive = Primitive("doubling")
    primitive.def_impl(lambda x: 2 * x)
    primitive.def_abstract_eval(lambda x: x)
    return lambda p, x: primitive.bind(jnp.tanh(x @ p["a"])) @ p["b"]


def pass_on(site):
    return site.inputs[0].at(*site.inputs[0].axes)


def test_an_unknown_primitive_pins_and_is_named(doubling):
    with pytest.warns(UnknownPrimitiveWarning, match=re.escape("'doubling'")) as caught:
        symmetry = infer_symmetry(doubling, PARAMS, X)
    assert symmetry.groups == {}
    assert "doubling" in reasons(symmetry)["a[1]"]
    assert "doubling" in reasons(symmetry)["b[0]"]
    assert caught[0].filename == __file__


def test_a_rule_for_one_call(doubling):
    assert infer_symmetry(doubling, PARAMS, X, rules={"doubling": pass_on}).groups == {"a": 6}
    with pytest.warns(UnknownPrimitiveWarning):
        infer_symmetry(doubling, PARAMS, X)


def test_a_rule_for_all_calls(doubling):
    register_rule("doubling")(pass_on)
    try:
        assert infer_symmetry(doubling, PARAMS, X).groups == {"a": 6}
    finally:
        RULES.pop("doubling")


def test_a_rule_that_leaves_an_axis_out(doubling):
    with pytest.raises(ValueError, match=r"'doubling'.*every axis"):
        infer_symmetry(
            doubling, PARAMS, X, rules={"doubling": lambda s: s.inputs[0].at(s.inputs[0].axes[1])}
        )


def test_a_rule_replaces_that_of_the_library():
    symmetry = infer_symmetry(
        mlp, PARAMS, X, rules={"tanh": lambda site: site.opaque("not to be moved")[0]}
    )
    assert symmetry.groups == {}
    assert reasons(symmetry)["a[1]"] == "not to be moved"


def test_a_change_of_type_that_adds_an_axis():
    def network(p, x):
        bits = lax.bitcast_convert_type(x @ p["a"], jnp.uint8)
        return bits.sum(-1).astype(jnp.float32) @ p["b"]

    infer_symmetry(network, PARAMS, X)


def test_printing_from_the_program_changes_nothing():
    def network(p, x):
        jax.debug.print("{}", x)
        return mlp(p, x)

    assert infer_symmetry(network, PARAMS, X).groups == {"a": 6}


def test_outputs_may_be_trees():
    symmetry = infer_symmetry(lambda p, x: {"y": mlp(p, x), "none": None, "number": 3}, PARAMS, X)
    assert symmetry.groups == {"a": 6}


def test_parameters_as_outputs_are_pinned():
    symmetry = infer_symmetry(lambda p, x: p, PARAMS, X)
    assert symmetry.groups == {}
    assert set(reasons(symmetry).values()) == {"output"}


def test_a_partial_function_is_a_function():
    scaled = jax.tree_util.Partial(lambda scale, p, x: scale * mlp(p, x), jnp.ones(()))
    assert infer_symmetry(scaled, PARAMS, X).groups == {"a": 6}


@pytest.mark.parametrize(
    "arguments",
    [(None, PARAMS, X), (PARAMS, mlp, X), ("mlp", PARAMS, X), (mlp,)],
    ids=["none", "parameters-first", "text", "no-parameters"],
)
def test_bad_first_arguments(arguments):
    with pytest.raises(ValueError, match=r"function|parameters"):
        infer_symmetry(*arguments)


def test_two_calls_agree():
    first, second = (infer_symmetry(mlp, PARAMS, X) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert infer_symmetry(jax.jit(mlp), PARAMS, X) == first


def test_the_batch_size_does_not_matter():
    assert infer_symmetry(mlp, PARAMS, normal(9, 3)) == infer_symmetry(mlp, PARAMS, X)
